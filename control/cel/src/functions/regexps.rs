//! Regular expressions: the syntax of RE2, in time that the budget bounds.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    value::Value,
};
use api::regexp::Regexp;

/// How large a compiled expression may be: one that is written in an expression, and one that is made when it runs.
const CONSTANT_LIMIT: usize = 2 << 20;
const DYNAMIC_LIMIT: usize = 256 << 10;

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "matches" => |args, budget| dynamic("matches", args, budget),
        "find" => |args, budget| dynamic("find", args, budget),
        "findAll" => |args, budget| dynamic("findAll", args, budget),
        _ => return None,
    })
}

fn dynamic<'a>(name: &str, args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [_, Value::String(pattern), ..] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    let illegal = name != "matches";
    let regexp = budget.regexp(pattern, |pattern| {
        Regexp::new(pattern, DYNAMIC_LIMIT)
            .map_err(|cause| if illegal { format!("Illegal regex: {cause}") } else { cause })
    })?;
    call(name, &regexp, args, budget)
}

/// A function on an expression that is compiled.
pub(crate) fn call<'a>(
    name: &str,
    regexp: &Regexp,
    args: &[Value<'a>],
    budget: &mut Budget<'_>,
) -> Result<Value<'a>, Error> {
    match (name, args) {
        ("matches", [Value::String(text), _]) => regexp.is_match(text, budget).map(Value::Bool),
        ("find", [Value::String(text), _]) => {
            let found = regexp.find_at(text, 0, budget)?.and_then(|found| text.get(found)).unwrap_or_default();
            budget.allocate(found.len())?;
            Ok(Value::string(found))
        }
        ("findAll", [Value::String(text), _, rest @ ..]) => {
            let most = match rest {
                [] => usize::MAX,
                [Value::Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => return Err(Error::NO_SUCH_OVERLOAD),
            };
            let mut all = Vec::new();
            if most > 0 {
                regexp.find_each(text, budget, |found, budget| {
                    budget.allocate(found.len().saturating_add(3 * size_of::<Value<'_>>()))?;
                    all.push(Value::string(found));
                    Ok(all.len() < most)
                })?;
            }
            Ok(Value::list(all))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

/// Compiles an expression of RE2.
///
/// # Errors
/// It is none, or too large.
pub(crate) fn compile(pattern: &str) -> Result<Regexp, String> {
    Regexp::new(pattern, CONSTANT_LIMIT)
}
