//! Absolute URIs and absolute paths, as Go's `url.ParseRequestURI` takes them.

use std::net::{IpAddr, Ipv6Addr};

pub(super) fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let Some((scheme, rest)) = split_scheme(text) else { return false };
    let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(after) if !scheme.is_empty() => after.split_at(after.find('/').unwrap_or(after.len())),
        _ => ("", rest),
    };
    is_authority(scheme, authority) && is_escaped(path)
}

/// The scheme, which may be none, and the rest; nothing if it begins with a colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return None,
            b':' => return text.split_once(':'),
            _ => break,
        }
    }
    Some(("", text))
}

/// Whether each `%` has two hexadecimal digits behind it.
fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|part| {
        let bytes = part.as_bytes();
        bytes.iter().take(2).filter(|b| b.is_ascii_hexdigit()).count() == 2
    })
}

fn is_authority(scheme: &str, authority: &str) -> bool {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (user, host),
        None => ("", authority),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    is_host(scheme, host) && user.bytes().all(plain) && is_escaped(user)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

fn is_host(scheme: &str, host: &str) -> bool {
    match (host.rfind('['), host.rsplit_once(']')) {
        (Some(0), Some((name, port))) => is_port(port) && is_literal(name.strip_prefix('[').unwrap_or_default()),
        (Some(_), _) => false,
        (None, _) => {
            let strict = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
            let colon = if strict { host.find(':') } else { host.rfind(':') };
            is_port(colon.and_then(|at| host.get(at..)).unwrap_or_default()) && unescape(host, false).is_some()
        }
    }
}

/// An address of version 6, with a zone behind `%25`.
fn is_literal(name: &str) -> bool {
    let zone = name.find("%25").unwrap_or(name.len());
    let (address, zone) = name.split_at(zone);
    let (Some(address), Some(zone)) = (unescape(address, false), unescape(zone, true)) else { return false };
    let whole = [address, zone].concat();
    let Ok(whole) = String::from_utf8(whole) else { return false };
    match whole.split_once('%') {
        Some((address, zone)) => !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok(),
        None => whole.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
    }
}

/// Whether a byte may stand in a host as it is.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$&'()*+,;=:[]<>\"-_.~".contains(&byte)
}

/// The bytes of a host, or of its zone; nothing if it has what must not stand there.
fn unescape(text: &str, zone: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            if byte.is_ascii() && !is_host_byte(byte) {
                return None;
            }
            out.push(byte);
            continue;
        }
        let hex = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).and_then(|n| u8::try_from(n).ok());
        let value = hex(bytes.next())? << 4 | hex(bytes.next())?;
        let allowed = value == b'%' || if zone { value == b' ' || is_host_byte(value) } else { value >= 0x80 };
        if !allowed {
            return None;
        }
        out.push(value);
    }
    Some(out)
}
