//! Names of drivers, pools, devices, requests and attributes.

use crate::{at::At, rules};
use api::{Cause, FieldPath, names};
use serde_json::json;

/// The longest name of a driver, and the longest domain of an attribute.
const MAX_DRIVER: usize = 63;
/// The longest name of an attribute without its domain.
const MAX_ID: usize = 32;
/// The longest name of an attribute.
pub(super) const MAX_QUALIFIED: usize = MAX_DRIVER + 1 + MAX_ID;
/// The longest name of a pool.
const MAX_POOL: usize = 253;

/// The name of a driver.
pub(super) fn driver(at: At<'_>, out: &mut Vec<Cause>) {
    driver_at(&at.field(), at.str(), out);
}

fn driver_at(field: &FieldPath, name: &str, out: &mut Vec<Cause>) {
    if name.is_empty() {
        out.push(Cause::required(field, ""));
        return;
    }
    if name.len() > MAX_DRIVER {
        out.push(Cause::too_long(field, MAX_DRIVER));
    }
    let problems = names::dns1123_subdomain(&name.to_lowercase());
    out.extend(problems.iter().map(|text| Cause::invalid(field, &json!(name), text)));
}

/// The name of a pool: subdomains with slashes between them.
pub(super) fn pool(at: At<'_>, out: &mut Vec<Cause>) {
    if at.is_empty() {
        out.push(at.required(""));
        return;
    }
    if at.str().len() > MAX_POOL {
        out.push(Cause::too_long(&at.field(), MAX_POOL));
    }
    for part in at.str().split('/') {
        if rules::full(out) {
            return;
        }
        let problems = names::dns1123_subdomain(part);
        out.extend(problems.iter().map(|text| Cause::invalid(&at.field(), &json!(part), text)));
    }
}

/// The name of an attribute or capacity, with a domain or without.
pub(super) fn qualified(at: At<'_>, name: &str, out: &mut Vec<Cause>) {
    let field = at.field();
    let mut parts = name.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(id), None, None) => identifier(&field, id, out),
        (Some(domain), Some(id), None) => {
            if domain.is_empty() {
                out.push(Cause::invalid(&field, &json!(""), "the domain must not be empty"));
            } else {
                driver_at(&field, domain, out);
            }
            if id.is_empty() {
                out.push(Cause::invalid(&field, &json!(""), "the name must not be empty"));
            } else {
                identifier(&field, id, out);
            }
        }
        // Upstream accepts more parts.
        _ => {}
    }
}

/// The name of an attribute with its domain.
pub(super) fn fully_qualified(at: At<'_>, out: &mut Vec<Cause>) {
    qualified(at, at.str(), out);
    if !at.str().contains('/') {
        out.push(at.invalid("a fully qualified name must be a domain and a name separated by a slash"));
    }
}

/// An identifier of the language C.
fn identifier(field: &FieldPath, id: &str, out: &mut Vec<Cause>) {
    if id.len() > MAX_ID {
        out.push(Cause::too_long(field, MAX_ID));
    }
    let right = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !right {
        let text = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        out.push(Cause::invalid(field, &json!(id), text));
    }
}

/// The name of a counter, which is the key of a map.
pub(super) fn counter(map: At<'_>, name: &str, out: &mut Vec<Cause>) {
    let problems = names::dns1123_label(name);
    out.extend(problems.iter().map(|text| Cause::invalid(&map.field(), &json!(name), text)));
}

/// The id of a share of a device: a UUID in its normal form.
pub(super) fn share(at: At<'_>, out: &mut Vec<Cause>) {
    if !at.is_set() {
        return;
    }
    let text = at.str();
    if let Err(problem) = uuid(text) {
        out.push(at.invalid(&format!("error validating uid: {problem}")));
    } else if text.len() != 36 || text != text.to_lowercase() {
        out.push(at.invalid("uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters"));
    }
}

/// Whether a text is a UUID in any of its forms; the errors are those of upstream's library.
fn uuid(text: &str) -> Result<(), String> {
    const WRONG: &str = "invalid UUID format";
    let plain = match text.len() {
        36 => text,
        45 => match text.split_at_checked(9) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("urn:uuid:") => rest,
            _ => return Err(format!("invalid urn prefix: {:?}", String::from_utf8_lossy(&text.as_bytes()[..9]))),
        },
        38 => match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(inner) => inner,
            None => return Err("invalid bracketed UUID format".to_owned()),
        },
        32 if text.bytes().all(|b| b.is_ascii_hexdigit()) => return Ok(()),
        32 => return Err(WRONG.to_owned()),
        length => return Err(format!("invalid UUID length: {length}")),
    };
    let right = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    if plain.bytes().enumerate().all(right) { Ok(()) } else { Err(WRONG.to_owned()) }
}

/// The name of a node.
pub(super) fn node(at: At<'_>, out: &mut Vec<Cause>) {
    rules::subdomain_name(at, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_four_forms() {
        for (text, expected) in [
            ("4f1b1b0e-5a52-4a5e-8f7e-0123456789ab", Ok(())),
            ("{4f1b1b0e-5a52-4a5e-8f7e-0123456789ab}", Ok(())),
            ("URN:uuid:4f1b1b0e-5a52-4a5e-8f7e-0123456789ab", Ok(())),
            ("4f1b1b0e5a524a5e8f7e0123456789ab", Ok(())),
            ("4f1b1b0e5a524a5e8f7e0123456789ax", Err("invalid UUID format")),
            ("4f1b1b0e-5a52-4a5e-8f7e+0123456789ab", Err("invalid UUID format")),
            ("(4f1b1b0e-5a52-4a5e-8f7e-0123456789ab)", Err("invalid bracketed UUID format")),
            ("urn:uuix:4f1b1b0e-5a52-4a5e-8f7e-0123456789ab", Err("invalid urn prefix: \"urn:uuix:\"")),
            ("x", Err("invalid UUID length: 1")),
        ] {
            assert_eq!(uuid(text), expected.map_err(str::to_owned), "{text}");
        }
        let split = format!("{}é{}", "a".repeat(8), "b".repeat(35));
        assert!(uuid(&split).is_err(), "the prefix ends within a letter");
    }
}
