//! URLs as Go's `net/url` reads them, with its errors, which upstream shows to users.

use std::net::Ipv6Addr;

/// The parts of a URL that rules speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Url {
    /// `https`, in lower case.
    pub(crate) scheme: String,
    /// What is before `@`, if there is an `@`.
    pub(crate) user: Option<String>,
    /// The host with its port.
    pub(crate) host: String,
    /// What is after `?`.
    pub(crate) query: String,
    /// What is after `#`.
    pub(crate) fragment: String,
}

/// What a percent sign and other characters mean in a part of a URL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Zone,
    Other,
}

/// Parses a URL; the error is Go's.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    let (whole, fragment) = text.split_once('#').unwrap_or((text, ""));
    let failed = |shown: &str, error: String| format!("parse {shown:?}: {error}");
    let mut url = without_fragment(whole).map_err(|error| failed(whole, error))?;
    url.fragment = unescape(fragment, Part::Other).map_err(|error| failed(text, error))?;
    Ok(url)
}

fn without_fragment(text: &str) -> Result<Url, String> {
    let mut url = Url::default();
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text == "*" {
        return Ok(url);
    }
    let (scheme, rest) = scheme(text)?;
    url.scheme = scheme.to_ascii_lowercase();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    url.query = query.to_owned();
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok(url);
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let mut path = rest;
    if let Some(after) = rest.strip_prefix("//").filter(|after| !scheme.is_empty() || !after.starts_with('/')) {
        let end = after.find('/').unwrap_or(after.len());
        let (authority, of_host) = after.split_at(end);
        path = of_host;
        let (user, name) = authority.rsplit_once('@').map_or((None, authority), |(user, name)| (Some(user), name));
        url.host = host(&url.scheme, name)?;
        if let Some(user) = user {
            let right = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
            if !user.chars().all(right) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            unescape(user, Part::Other)?;
            url.user = Some(user.to_owned());
        }
    }
    unescape(path, Part::Other)?;
    Ok(url)
}

/// The scheme, empty if there is none, and what follows it.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn host(scheme: &str, text: &str) -> Result<String, String> {
    match text.rfind('[') {
        Some(at) if at > 0 => return Err("invalid IP-literal".to_owned()),
        Some(_) => return ip_literal(text),
        None => {}
    }
    if let (Some(first), Some(last)) = (text.find(':'), text.rfind(':')) {
        let strict = first == last || matches!(scheme, "http" | "https");
        port(&text[if strict { first } else { last }..])?;
    }
    unescape(text, Part::Host)
}

/// `[::1]:80`.
fn ip_literal(text: &str) -> Result<String, String> {
    let end = text.rfind(']').ok_or_else(|| "missing ']' in host".to_owned())?;
    let (inner, after) = (text.get(1..end).unwrap_or_default(), &text[end + 1..]);
    port(after)?;
    let (address, zone) = match inner.find("%25") {
        Some(at) => (unescape(&inner[..at], Part::Host)?, unescape(&inner[at..], Part::Zone)?),
        None => (unescape(inner, Part::Host)?, String::new()),
    };
    if address.parse::<Ipv6Addr>().is_err() {
        if address.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err("invalid IP-literal".to_owned());
        }
        return Err(format!("invalid host: ParseAddr({:?}): unable to parse IP", format!("{address}{zone}")));
    }
    Ok(format!("[{address}{zone}]{after}"))
}

/// Nothing, or a colon and digits.
fn port(text: &str) -> Result<(), String> {
    let right = text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if text.is_empty() || right { Ok(()) } else { Err(format!("invalid port {text:?} after host")) }
}

fn unescape(text: &str, part: Part) -> Result<String, String> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16)).map(|digit| digit as u8);
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at).copied() {
        if byte != b'%' {
            if part != Part::Other && byte < 0x80 && !right_in_host(byte) {
                return Err(format!("invalid character {:?} in host name", char::from(byte).to_string()));
            }
            out.push(byte);
            at += 1;
            continue;
        }
        let shown = || String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]).into_owned();
        let bad = || Err(format!("invalid URL escape {:?}", shown()));
        let (Some(high), Some(low)) = (hex(at + 1), hex(at + 2)) else { return bad() };
        let value = high << 4 | low;
        let allowed = match part {
            Part::Host => high >= 8 || value == b'%',
            Part::Zone => value == b'%' || value == b' ' || right_in_host(value),
            Part::Other => true,
        };
        if !allowed {
            return bad();
        }
        out.push(value);
        at += 3;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn right_in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let url = parse("HTTPS://me:x@example.com:8443/a%20b?q=1#f%41").unwrap();
        let Url { scheme, user, host, query, fragment } = url;
        assert_eq!((&*scheme, user.as_deref(), &*host), ("https", Some("me:x"), "example.com:8443"));
        assert_eq!((&*query, &*fragment), ("q=1", "fA"));
        assert_eq!(parse("https://[::1]:443/x").unwrap().host, "[::1]:443");
        for (text, scheme, host) in [("", "", ""), ("a/b", "", ""), ("mailto:x", "mailto", ""), ("//h/x", "", "h")] {
            let url = parse(text).unwrap();
            assert_eq!((&*url.scheme, &*url.host), (scheme, host), "{text}");
        }
    }

    #[test]
    fn errors_are_gos() {
        for (text, error) in [
            ("https://a b", r#"parse "https://a b": invalid character " " in host name"#),
            ("https://a:b", r#"parse "https://a:b": invalid port ":b" after host"#),
            ("https://a:1:2", r#"parse "https://a:1:2": invalid port ":1:2" after host"#),
            ("https://a/%zz", r#"parse "https://a/%zz": invalid URL escape "%zz""#),
            ("https://a/%é", r#"parse "https://a/%é": invalid URL escape "%é""#),
            ("https://%41", r#"parse "https://%41": invalid URL escape "%41""#),
            ("https://[::1", r#"parse "https://[::1": missing ']' in host"#),
            ("https://[1.2.3.4]", r#"parse "https://[1.2.3.4]": invalid IP-literal"#),
            ("https://x[::1]", r#"parse "https://x[::1]": invalid IP-literal"#),
            ("https://ü:x@h", r#"parse "https://ü:x@h": net/url: invalid userinfo"#),
            (":a", r#"parse ":a": missing protocol scheme"#),
            ("1:2/a", r#"parse "1:2/a": first path segment in URL cannot contain colon"#),
            ("a\n", r#"parse "a\n": net/url: invalid control character in URL"#),
            ("https://a#%", r##"parse "https://a#%": invalid URL escape "%""##),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
    }
}
