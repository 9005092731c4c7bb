//! Optional values.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    value::{Map, Value},
};

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "optional.of" => |args, _| match args {
            [value] => Ok(Value::optional(Some(value.clone()))),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "optional.ofNonZeroValue" => |args, _| match args {
            [value] => Ok(Value::optional((!is_zero(value)).then(|| value.clone()))),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "optional.none" => |_, _| Ok(Value::Optional(None)),
        "value" => |args, _| match args {
            [Value::Optional(Some(value))] => Ok((**value).clone()),
            [Value::Optional(None)] => Err(Error::Eval("optional.none() dereference".into())),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "hasValue" => |args, _| match args {
            [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "first" => |args, budget| match args {
            [Value::List(list)] => Ok(Value::optional(list.get(0, budget)?)),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "last" => |args, budget| match args {
            [Value::List(list)] => {
                let last = list.len().checked_sub(1).map(|last| list.get(last, budget)).transpose()?;
                Ok(Value::optional(last.flatten()))
            }
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "optional.unwrap" | "unwrapOpt" => unwrap,
        _ => return None,
    })
}

fn unwrap<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [Value::List(list)] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    let mut found = Vec::new();
    for element in list.elements(budget)? {
        match element {
            Value::Optional(Some(value)) => found.push((*value).clone()),
            Value::Optional(None) => {}
            other => return Err(Error::new(format!("value {} is not optional", other.type_name()))),
        }
    }
    Ok(Value::list(found))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
        Value::Optional(value) => value.is_none(),
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(Map::Object(_, fields)) => fields.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Timestamp(stamp) => stamp.seconds() == -62_135_596_800 && stamp.nanos() == 0,
        _ => false,
    }
}
