//! API paths of collections, objects and subresources.

use k8s_openapi::Resource;
use std::fmt::Write;

/// `/api/v1/namespaces/ns/pods/name/subresource`; empty parts are left out.
pub(crate) fn path<K: Resource>(namespace: &str, name: &str, subresource: &str) -> String {
    join(&root(K::GROUP, K::VERSION), namespace, [K::URL_PATH_SEGMENT, name, subresource])
}

/// The path of a group version.
pub(crate) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The path of parts below a group version and a namespace.
pub(crate) fn join(root: &str, namespace: &str, parts: [&str; 3]) -> String {
    let mut url = root.to_owned();
    if !namespace.is_empty() {
        url.push_str("/namespaces/");
        url.push_str(&escape(namespace));
    }
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        url.push('/');
        url.push_str(&escape(part));
    }
    url
}

/// Percent-encodes everything but RFC 3986's unreserved characters, for a part of a path or query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};

    #[test]
    fn paths_are_the_servers() {
        assert_eq!(path::<Pod>("default", "a", "status"), "/api/v1/namespaces/default/pods/a/status");
        assert_eq!(path::<Deployment>("", "", ""), "/apis/apps/v1/deployments");
        assert_eq!(path::<Pod>("a/b", "..", ""), "/api/v1/namespaces/a%2Fb/pods/..");
    }
}
