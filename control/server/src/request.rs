//! Verb, group, version, namespace, resource, name and subresource of a request, parsed from its method and path. Follows upstream's
//! `RequestInfo`, including the legacy `/watch/` prefix.

use api::Status;
use axum::extract::Query as AxumQuery;
use http::{Method, Uri};
use std::num::{IntErrorKind, ParseIntError};

/// Query parameters in the order sent.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The query of a request; a parameter that cannot be decoded counts as absent.
    pub fn of(uri: &Uri) -> Self {
        Self(AxumQuery::try_from_uri(uri).map(|AxumQuery(pairs)| pairs).unwrap_or_default())
    }

    /// The first value of a parameter, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// The first value of a parameter, even an empty one.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A number as Go's conversion parses it.
    ///
    /// # Errors
    /// 400 with the text of Go's `ParseInt`.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.given(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error: ParseIntError| {
            let why = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        })
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A flag as Go's conversion parses it: true if present and neither `false` nor `0`, even if it is empty.
    pub fn flag(&self, name: &str) -> bool {
        self.given(name).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }
}

/// The target of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The whole decoded path.
    pub path: String,
    /// Whether the target is a resource, not a document such as `/version`.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for others the lower-case method.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// Empty for cluster-scoped requests.
    pub namespace: String,
    /// `pods`.
    pub resource: String,
    /// `status`.
    pub subresource: String,
    /// Name of one object, from the path or from `fieldSelector=metadata.name=x`.
    pub name: String,
    /// The object's name is in the path.
    pub named: bool,
    /// The path after the subresource (proxies).
    pub rest: String,
}

/// Decodes `%XX`; a malformed sequence stays as it is.
pub(crate) fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            // `from_str_radix` takes a sign as well
            .filter(|h| h.iter().all(u8::is_ascii_hexdigit))
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl RequestInfo {
    /// Reads method, path and query.
    pub fn of(method: &Method, uri: &Uri, query: &Query) -> Self {
        // Decoded first, as upstream: an escaped slash is a separator like any other, and no name can contain one.
        let path = percent_decode(uri.path());
        let segments: Vec<String> = path.trim_matches('/').split('/').map(str::to_owned).collect();
        let mut info = Self { path, verb: method.as_str().to_lowercase(), ..Self::default() };
        // No resource path has an empty segment; the path after `proxy` belongs to another server.
        if segments.iter().take_while(|part| *part != "proxy").any(String::is_empty) {
            return info;
        }
        let parts = match segments.first().map(String::as_str) {
            Some("api") if segments.len() >= 3 => {
                info.version = segments[1].clone();
                &segments[2..]
            }
            Some("apis") if segments.len() >= 4 => {
                info.group = segments[1].clone();
                info.version = segments[2].clone();
                &segments[3..]
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        let watched = parts.first().is_some_and(|p| p == "watch") && parts.len() > 1;
        info.read_parts(if watched { &parts[1..] } else { parts });
        info.finish_verb(query, watched);
        info
    }

    fn read_parts(&mut self, mut parts: &[String]) {
        if parts.first().is_some_and(|p| p == "namespaces") && parts.len() > 1 {
            self.namespace = parts[1].clone();
            // `/namespaces/x`, `/namespaces/x/status` and `/namespaces/x/finalize` are paths of the Namespace itself.
            let itself = parts.len() == 2 || (parts.len() == 3 && matches!(parts[2].as_str(), "status" | "finalize"));
            if !itself {
                parts = &parts[2..];
            }
        }
        self.resource = parts.first().cloned().unwrap_or_default();
        self.name = parts.get(1).cloned().unwrap_or_default();
        self.named = !self.name.is_empty();
        self.subresource = parts.get(2).cloned().unwrap_or_default();
        self.rest = parts.get(3..).unwrap_or_default().join("/");
        if self.is_namespace() {
            self.namespace = self.name.clone();
        }
    }

    fn finish_verb(&mut self, query: &Query, watched: bool) {
        if self.verb == "get" && (watched || (query.flag("watch") && self.subresource.is_empty())) {
            self.verb = "watch".into();
        } else if self.verb == "get" && !self.named {
            self.verb = "list".into();
        } else if self.verb == "delete" && !self.named {
            self.verb = "deletecollection".into();
        }
        if !self.named && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            let selector = query.get("fieldSelector").unwrap_or_default();
            let name =
                selector.split(',').find_map(|r| r.strip_prefix("metadata.name=")).map(|n| n.trim_start_matches('='));
            self.name = name.unwrap_or_default().to_owned();
        }
    }

    /// Whether the path is below `/api/v1/namespaces/NAME` and about that Namespace itself, which upstream counts as a request within it.
    pub fn is_namespace(&self) -> bool {
        self.resource == "namespaces" && self.group.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, target: &str) -> RequestInfo {
        let uri: Uri = target.parse().expect("a target");
        RequestInfo::of(&method.parse().expect("a method"), &uri, &Query::of(&uri))
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        for (method, target, verb, group, namespace, resource, name, subresource) in [
            ("GET", "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
            ("GET", "/api/v1/namespaces/a", "get", "", "a", "namespaces", "a", ""),
            ("PUT", "/api/v1/namespaces/a/finalize", "update", "", "a", "namespaces", "a", "finalize"),
            ("GET", "/api/v1/namespaces/a/pods", "list", "", "a", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods?watch=true", "watch", "", "a", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods?watch=0", "list", "", "a", "pods", "", ""),
            ("GET", "/api/v1/watch/namespaces/a/pods/b", "watch", "", "a", "pods", "b", ""),
            ("GET", "/api/v1/watch/pods", "watch", "", "", "pods", "", ""),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list", "", "", "pods", "x", ""),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "get", "", "a", "pods", "b", "log"),
            ("POST", "/apis/apps/v1/namespaces/a/deployments", "create", "apps", "a", "deployments", "", ""),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch",
                "apps",
                "a",
                "deployments",
                "d",
                "scale",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "delete", "apps", "a", "deployments", "d", ""),
            ("GET", "/api/v1/namespaces/a/pods/b%2Flog", "get", "", "a", "pods", "b", "log"),
            ("GET", "/api/v1/namespaces/%2e%2e/pods", "list", "", "..", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods?watch=", "watch", "", "a", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods?watch=FALSE", "list", "", "a", "pods", "", ""),
            ("GET", "/api/v1/nodes/system%3Anode", "get", "", "", "nodes", "system:node", ""),
        ] {
            let i = info(method, target);
            assert!(i.is_resource, "{target}");
            let got = (
                i.verb.as_str(),
                i.group.as_str(),
                i.namespace.as_str(),
                i.resource.as_str(),
                i.name.as_str(),
                i.subresource.as_str(),
            );
            assert_eq!(got, (verb, group, namespace, resource, name, subresource), "{method} {target}");
        }
    }

    #[test]
    fn only_two_hexadecimal_digits_are_a_byte() {
        for (text, decoded) in
            [("%41%2f", "A/"), ("%+5%-1", "%+5%-1"), ("%4", "%4"), ("%", "%"), ("%4g%%41", "%4g%A"), ("% 5", "% 5")]
        {
            assert_eq!(percent_decode(text), decoded, "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("", Ok(None)),
            ("n=5", Ok(Some(5))),
            ("n=%2B5", Ok(Some(5))),
            ("n=-1", Ok(Some(-1))),
            ("n=", Err("strconv.ParseInt: parsing \"\": invalid syntax")),
            ("n=abc", Err("strconv.ParseInt: parsing \"abc\": invalid syntax")),
            ("n=1.5", Err("strconv.ParseInt: parsing \"1.5\": invalid syntax")),
            ("n=99999999999999999999", Err("strconv.ParseInt: parsing \"99999999999999999999\": value out of range")),
        ] {
            let uri: Uri = format!("/x?{text}").parse().expect("a target");
            let got = Query::of(&uri).number("n").map_err(|status| (status.code, status.message));
            assert_eq!(got, wanted.map_err(|text: &str| (400, text.to_owned())), "{text}");
        }
    }

    #[test]
    fn documents_are_not_resources() {
        for target in ["/version", "/api", "/api/v1", "/apis/apps/v1", "/openapi/v3/api/v1", "/readyz"] {
            assert!(!info("GET", target).is_resource, "{target}");
        }
    }
}
