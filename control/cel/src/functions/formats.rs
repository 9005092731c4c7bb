//! Named formats of texts.

use super::{Implementation, urls::request_uri};
use crate::{
    budget::Error,
    declarations::FORMATS,
    opaque::{Format, Opaque},
    time::{parse_date, parse_timestamp},
    value::Value,
};
use api::names::{dns1123_label, dns1123_subdomain, label_value, qualified_name};
use base64::{Engine, engine::general_purpose::STANDARD};

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "format.named" => |args, _| match args {
            [Value::String(name)] => Ok(Value::optional(named(name).map(|of| Value::opaque(Opaque::Format(of))))),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "validate" => |args, budget| match args {
            [Value::Opaque(opaque), Value::String(text)] => {
                let Opaque::Format(format) = &**opaque else { return Err(Error::NO_SUCH_OVERLOAD) };
                let causes = (format.validate)(text);
                budget.allocate(causes.iter().map(String::len).sum())?;
                if causes.is_empty() {
                    return Ok(Value::Optional(None));
                }
                Ok(Value::optional(Some(Value::list(causes.into_iter().map(Value::string).collect()))))
            }
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "format.dns1123Label" => |_, _| constant("dns1123Label"),
        "format.dns1123Subdomain" => |_, _| constant("dns1123Subdomain"),
        "format.dns1035Label" => |_, _| constant("dns1035Label"),
        "format.qualifiedName" => |_, _| constant("qualifiedName"),
        "format.dns1123LabelPrefix" => |_, _| constant("dns1123LabelPrefix"),
        "format.dns1123SubdomainPrefix" => |_, _| constant("dns1123SubdomainPrefix"),
        "format.dns1035LabelPrefix" => |_, _| constant("dns1035LabelPrefix"),
        "format.labelValue" => |_, _| constant("labelValue"),
        "format.uri" => |_, _| constant("uri"),
        "format.uuid" => |_, _| constant("uuid"),
        "format.byte" => |_, _| constant("byte"),
        "format.date" => |_, _| constant("date"),
        "format.datetime" => |_, _| constant("datetime"),
        _ => return None,
    })
}

fn constant<'a>(name: &str) -> Result<Value<'a>, Error> {
    named(name).map(|format| Value::opaque(Opaque::Format(format))).ok_or(Error::NO_SUCH_OVERLOAD)
}

/// The text of a failed check, if it failed.
fn unless(holds: bool, cause: &str) -> Vec<String> {
    if holds { Vec::new() } else { vec![cause.to_owned()] }
}

/// A prefix of a name may end in a dash, behind which a server adds letters.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-').filter(|_| text.len() > 1) {
        Some(head) => format!("{}a", head.get(..head.len() - 1).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn dns1035_label(text: &str) -> Vec<String> {
    let right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let matches = text.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && text.bytes().last().is_some_and(right)
        && text.bytes().all(|byte| right(byte) || byte == b'-');
    let mut causes = unless(text.len() <= 63, "must be no more than 63 characters");
    causes.extend(unless(
        matches,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
    ));
    causes
}

fn is_uuid(text: &str) -> bool {
    let digits = text.bytes().filter(|byte| *byte != b'-');
    let hex = digits.clone().all(|byte| byte.is_ascii_hexdigit()) && digits.count() == 32;
    let dashes: Vec<usize> = text.bytes().enumerate().filter(|(_, byte)| *byte == b'-').map(|(at, _)| at).collect();
    // Each of the four dashes may be left out.
    let places = dashes.iter().enumerate().all(|(before, at)| [8, 12, 16, 20].contains(&(at - before)));
    let distinct = dashes.windows(2).all(|pair| pair.first().map(|at| at + 1) != pair.last().copied());
    hex && places && distinct
}

/// A format by its name. Sizes are those of the regular expressions that upstream reckons with.
fn named(name: &str) -> Option<Format> {
    let name = FORMATS.iter().find(|known| **known == name)?;
    let (name, validate, regex_size): (_, fn(&str) -> Vec<String>, _) = match *name {
        "dns1123Label" => ("DNS1123Label", dns1123_label, 30),
        "dns1123Subdomain" => ("DNS1123Subdomain", dns1123_subdomain, 60),
        "dns1035Label" => ("DNS1035Label", dns1035_label, 30),
        "qualifiedName" => ("QualifiedName", qualified_name, 60),
        "dns1123LabelPrefix" => ("DNS1123LabelPrefix", |text| dns1123_label(&prefix(text)), 30),
        "dns1123SubdomainPrefix" => ("DNS1123SubdomainPrefix", |text| dns1123_subdomain(&prefix(text)), 60),
        "dns1035LabelPrefix" => ("DNS1035LabelPrefix", |text| dns1035_label(&prefix(text)), 30),
        "labelValue" => ("LabelValue", label_value, 40),
        "uri" => ("URI", |text| request_uri(text).err().into_iter().collect(), 1103),
        "uuid" => ("uuid", |text| unless(is_uuid(text), "does not match the UUID format"), 70),
        "byte" => ("byte", |text| unless(STANDARD.decode(text).is_ok(), "invalid base64"), 84),
        "date" => ("date", |text| unless(parse_date(text).is_some(), "invalid date"), 71),
        "datetime" => {
            ("datetime", |text| unless(parse_timestamp(&text.to_uppercase()).is_some(), "invalid datetime"), 71)
        }
        _ => return None,
    };
    Some(Format { name, validate, regex_size })
}
