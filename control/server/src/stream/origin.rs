//! Who may open a stream from a browser. A page of any site can make a browser open a WebSocket, with the client certificate that the user
//! once gave to it, and no rule of browsers keeps the page from reading. Clients that are no browser say nothing of where they come from.
//!
//! As for node ports: `Sec-Fetch-Site` is believed first, since pages can neither set nor remove it; what the API's own pages and pages of
//! this machine ask passes, what another site's page asks does not.

use api::{Reason, Status};
use http::{HeaderMap, Uri, header};

/// # Errors
/// 403 for a page of another site.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Status> {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if matches!(site, Some(b"same-origin" | b"none")) {
        return Ok(());
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return if site.is_some() { Err(refusal("")) } else { Ok(()) };
    };
    let text = origin.to_str().unwrap_or_default();
    let uri: Option<Uri> = text.parse().ok();
    let authority = uri.as_ref().and_then(|uri| uri.authority().filter(|_| uri.scheme().is_some()));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let allowed = authority.is_some_and(|authority| {
        // Of the machine itself, or the very host that is asked. An authority with a user in it is nobody's.
        !authority.as_str().contains('@')
            && (is_loopback(authority.host()) || authority.as_str().eq_ignore_ascii_case(host))
    });
    if allowed { Ok(()) } else { Err(refusal(text)) }
}

fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn refusal(origin: &str) -> Status {
    let who = if origin.is_empty() { "a page of another site".to_owned() } else { format!("a page of {origin:?}") };
    Status::new(Reason::Forbidden, format!("{who} may not open a stream here"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn pages_of_other_sites_open_no_streams() {
        for (headers, allowed) in [
            (&[][..], true),
            (&[("origin", "http://localhost")], true),
            (&[("origin", "http://app.localhost:3000")], true),
            (&[("origin", "https://127.0.0.1:8443")], true),
            (&[("origin", "http://[::1]:3000")], true),
            (&[("origin", "https://cluster.example:6443")], true),
            (&[("origin", "https://CLUSTER.example:6443")], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://cluster.example:6443")], true),
            (&[("origin", "https://cluster.example")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "https://localhost.evil.example")], false),
            (&[("origin", "https://127.0.0.1.evil.example")], false),
            (&[("origin", "https://cluster.example:6443@evil.example")], false),
            (&[("origin", "https://localhost@evil.example")], false),
            (&[("origin", "https://evil@localhost")], false),
            (&[("origin", "null")], false),
            (&[("origin", "")], false),
            (&[("origin", "file://")], false),
            (&[("origin", "localhost")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site"), ("origin", "https://www.cluster.example")], false),
        ] {
            let mut map = HeaderMap::new();
            map.insert(header::HOST, HeaderValue::from_static("cluster.example:6443"));
            for (name, value) in headers {
                map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(check(&map).is_ok(), allowed, "{headers:?}");
        }
    }
}
