//! URLs, as Go's `net/url` reads them.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    opaque::{Opaque, Url},
    value::{Key, Map, Text, Value},
};
use std::{collections::BTreeMap, sync::Arc};

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "url" => |args, budget| match args {
            [Value::String(text)] => {
                budget.allocate(text.len().saturating_mul(4))?;
                let prefix = "URL parse error during conversion from string";
                request_uri(text).map_err(|cause| Error::new(format!("{prefix}: {cause}")))?;
                let url = parse(text).map_err(|cause| Error::new(format!("{prefix}: {cause}")))?;
                Ok(Value::opaque(Opaque::Url(url)))
            }
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "isURL" => |args, budget| match args {
            [Value::String(text)] => {
                budget.read(text.len())?;
                Ok(Value::Bool(request_uri(text).is_ok()))
            }
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "getScheme" => |args, budget| part(args, budget, |url| url.scheme.clone()),
        "getHost" => |args, budget| part(args, budget, |url| url.host.clone()),
        "getHostname" => |args, budget| part(args, budget, |url| host_and_port(&url.host).0.to_owned()),
        "getPort" => |args, budget| part(args, budget, |url| host_and_port(&url.host).1.to_owned()),
        "getEscapedPath" => |args, budget| part(args, budget, |url| url.escaped_path.clone()),
        "getQuery" => |args, budget| query(url_of(args)?, budget),
        _ => return None,
    })
}

fn url_of<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, Error> {
    if let [Value::Opaque(opaque)] = args
        && let Opaque::Url(url) = &**opaque
    {
        return Ok(url);
    }
    Err(Error::NO_SUCH_OVERLOAD)
}

fn part<'a>(args: &[Value<'a>], budget: &mut Budget<'_>, of: fn(&Url) -> String) -> Result<Value<'a>, Error> {
    let url = url_of(args)?;
    budget.pass(url.text.len())?;
    Ok(Value::string(of(url)))
}

/// Whether it is an absolute URI or an absolute path, as HTTP requests have it.
pub(super) fn request_uri(text: &str) -> Result<(), String> {
    read(text, true).map(drop).map_err(|cause| format!("parse {text:?}: {cause}"))
}

/// A URL with its fragment cut off.
fn parse(text: &str) -> Result<Url, String> {
    let (before, _) = text.split_once('#').unwrap_or((text, ""));
    let url = read(before, false).map_err(|cause| format!("parse {text:?}: {cause}"))?;
    Ok(Url { text: text.to_owned(), ..url })
}

/// The scheme before a colon, and the rest.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, letter) in text.char_indices() {
        match letter {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default())),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn read(text: &str, is_request: bool) -> Result<Url, String> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && is_request {
        return Err("empty url".to_owned());
    }
    let mut url = Url {
        scheme: String::new(),
        host: String::new(),
        escaped_path: String::new(),
        query: String::new(),
        text: text.to_owned(),
    };
    if text == "*" {
        text.clone_into(&mut url.escaped_path);
        return Ok(url);
    }
    let (scheme, rest) = scheme(text)?;
    url.scheme = scheme.to_lowercase();
    let (mut rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    query.clone_into(&mut url.query);
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok(url); // What has a scheme and no slash is opaque.
        }
        if is_request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let has_authority = !scheme.is_empty() || !is_request && !rest.starts_with("///");
    if let Some(after) = rest.strip_prefix("//").filter(|_| has_authority) {
        let end = after.find('/').unwrap_or(after.len());
        let (authority, path) = after.split_at_checked(end).unwrap_or((after, ""));
        url.host = host(authority)?;
        rest = path;
    }
    url.escaped_path = path(rest)?;
    Ok(url)
}

/// The host of an authority, with its port and without who asks.
fn host(authority: &str) -> Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        host.get(end + 1..).unwrap_or_default()
    } else {
        host.rfind(':').and_then(|colon| host.get(colon..)).unwrap_or_default()
    };
    let digits = port.strip_prefix(':').map_or(port.is_empty(), |port| port.bytes().all(|b| b.is_ascii_digit()));
    if !digits {
        return Err(format!("invalid port {port:?} after host"));
    }
    if let Some(bad) = host.chars().find(|letter| " \"<>\\^`{|}".contains(*letter)) {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    let plain = unescape(host, false)?;
    Ok(plain)
}

/// The name and the port of a host.
fn host_and_port(host: &str) -> (&str, &str) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    };
    (name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port)
}

/// Takes percent signs away; a plus is a space in queries.
fn unescape(text: &str, is_query: bool) -> Result<String, String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let digit = |index: usize| after.get(index).and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let shown = String::from_utf8_lossy(after.get(..after.len().min(2)).unwrap_or_default());
                    return Err(format!("invalid URL escape {:?}", format!("%{shown}")));
                };
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = after.get(2..).unwrap_or_default();
            }
            b'+' if is_query => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A path as it is escaped: as it was written if that is right.
fn path(text: &str) -> Result<String, String> {
    let plain = unescape(text, false)?;
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    if text.bytes().all(|byte| kept(byte) || b"!'()*[]%".contains(&byte)) {
        return Ok(text.to_owned());
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for byte in plain.bytes() {
        if kept(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(escaped)
}

/// The values of each name of a query. What is malformed is left out.
fn query<'a>(url: &Url, budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    budget.allocate(url.query.len().saturating_mul(8))?;
    let mut found: BTreeMap<Key<'a>, Vec<Value<'a>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Ok(name), Ok(value)) = (unescape(name, true), unescape(value, true)) {
            budget.allocate(4 * size_of::<Value<'_>>())?;
            found.entry(Key::String(Text::Shared(name.into()))).or_default().push(Value::string(value));
        }
    }
    let found = found.into_iter().map(|(name, values)| (name, Value::list(values))).collect();
    Ok(Value::Map(Map::Owned(Arc::new(found))))
}
