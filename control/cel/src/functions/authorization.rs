//! Questions to the authorizer, which the caller brings.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    opaque::{Attributes, Check, Decision, Opaque},
    value::Value,
};
use api::names::{dns1123_label, dns1123_subdomain};

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "path" => |args, budget| {
            let (check, [path]) = authorizer(args)?;
            if path.trim().is_empty() {
                return Err(Error::Eval("path must not be empty".into()));
            }
            made(check, path, budget, Opaque::PathCheck, |to| to.path = Some(path.to_owned()))
        },
        "group" => |args, budget| {
            let (check, [group]) = authorizer(args)?;
            made(check, group, budget, Opaque::GroupCheck, |to| group.clone_into(&mut to.group))
        },
        "serviceAccount" => |args, budget| {
            let (check, [namespace, name]) = authorizer(args)?;
            if !dns1123_subdomain(name).is_empty() {
                return Err(Error::Eval("Invalid service account name".into()));
            }
            if !dns1123_label(namespace).is_empty() {
                return Err(Error::Eval("Invalid service account namespace".into()));
            }
            let account = Some((namespace.to_owned(), name.to_owned()));
            made(check, name, budget, Opaque::Authorizer, |to| to.service_account = account)
        },
        "resource" => |args, budget| {
            let (Opaque::GroupCheck(check), [resource]) = target(args)? else { return Err(Error::NO_SUCH_OVERLOAD) };
            if resource.trim().is_empty() {
                return Err(Error::Eval("resource must not be empty".into()));
            }
            made(check, resource, budget, Opaque::ResourceCheck, |to| resource.clone_into(&mut to.resource))
        },
        "subresource" => |args, budget| narrowed(args, budget, |to| &mut to.subresource),
        "namespace" => |args, budget| narrowed(args, budget, |to| &mut to.namespace),
        "name" => |args, budget| narrowed(args, budget, |to| &mut to.name),
        "fieldSelector" => |args, budget| narrowed(args, budget, |to| &mut to.field_selector),
        "labelSelector" => |args, budget| narrowed(args, budget, |to| &mut to.label_selector),
        "check" => |args, _| {
            let (Opaque::PathCheck(check) | Opaque::ResourceCheck(check), [verb]) = target(args)? else {
                return Err(Error::NO_SUCH_OVERLOAD);
            };
            let attributes = Attributes { verb: verb.to_owned(), ..check.attributes.clone() };
            Ok(Value::opaque(Opaque::Decision(check.authorizer.authorize(&attributes))))
        },
        "allowed" => |args, _| decision(args).map(|decision| Value::Bool(decision.allowed)),
        "reason" => |args, _| decision(args).map(|decision| Value::string(decision.reason.as_str())),
        "errored" => |args, _| decision(args).map(|decision| Value::Bool(decision.error.is_some())),
        "error" => {
            |args, _| decision(args).map(|decision| Value::string(decision.error.as_deref().unwrap_or_default()))
        }
        _ => return None,
    })
}

/// The target and its arguments, which are strings.
fn target<'v, const N: usize>(args: &'v [Value<'_>]) -> Result<(&'v Opaque, [&'v str; N]), Error> {
    let Some((Value::Opaque(target), rest)) = args.split_first() else { return Err(Error::NO_SUCH_OVERLOAD) };
    let texts: Option<Vec<&str>> = rest.iter().map(Value::as_str).collect();
    let texts = texts.and_then(|texts| texts.try_into().ok());
    texts.map(|texts| (&**target, texts)).ok_or(Error::NO_SUCH_OVERLOAD)
}

fn authorizer<'v, const N: usize>(args: &'v [Value<'_>]) -> Result<(&'v Check, [&'v str; N]), Error> {
    match target(args)? {
        (Opaque::Authorizer(check), texts) => Ok((check, texts)),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

/// A check with `more` in it. It has copies of all its texts.
fn made<'a>(
    check: &Check,
    more: &str,
    budget: &mut Budget<'_>,
    kind: fn(Check) -> Opaque,
    change: impl FnOnce(&mut Attributes),
) -> Result<Value<'a>, Error> {
    budget.allocate(size_of::<Check>().saturating_add(check.attributes.len()).saturating_add(more.len()))?;
    let mut check = check.clone();
    change(&mut check.attributes);
    Ok(Value::opaque(kind(check)))
}

fn narrowed<'a>(
    args: &[Value<'a>],
    budget: &mut Budget<'_>,
    field: fn(&mut Attributes) -> &mut String,
) -> Result<Value<'a>, Error> {
    let (Opaque::ResourceCheck(check), [text]) = target(args)? else { return Err(Error::NO_SUCH_OVERLOAD) };
    made(check, text, budget, Opaque::ResourceCheck, |to| text.clone_into(field(to)))
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, Error> {
    match target::<0>(args)? {
        (Opaque::Decision(decision), []) => Ok(decision),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}
