//! Authorization until RBAC comes: `system:masters` and the components may do everything; ServiceAccounts may discover the API and ask
//! about themselves; everybody else sees health and version. The texts are upstream's.

use crate::{User, request::RequestInfo};
use api::{GroupVersionResource, Status};

/// Users of the cluster's own components.
const COMPONENTS: [&str; 3] = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];

/// Whether the user may do everything.
pub fn unrestricted(user: &User) -> bool {
    user.in_group("system:masters") || COMPONENTS.contains(&user.name.as_str()) || is_node(user)
}

fn is_node(user: &User) -> bool {
    user.in_group("system:nodes") && user.name.starts_with("system:node:")
}

/// What somebody wants to do with a resource or a document.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// `get`, `create` and so on; for documents the lower-case method.
    pub verb: &'a str,
    /// Group of the resource.
    pub group: &'a str,
    /// Resource, empty for documents.
    pub resource: &'a str,
    /// Path, for documents.
    pub path: &'a str,
}

/// Whether the user may do it.
pub fn allowed(user: &User, wanted: &Attributes<'_>) -> bool {
    if unrestricted(user) {
        return true;
    }
    let service_account = user.in_group("system:serviceaccounts");
    if wanted.resource.is_empty() {
        let reads = matches!(wanted.verb, "get" | "head");
        return reads && (public(wanted.path) || (service_account && discovery(wanted.path)));
    }
    let about_self = matches!(
        (wanted.group, wanted.resource),
        ("authentication.k8s.io", "selfsubjectreviews")
            | ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
    );
    service_account && about_self && wanted.verb == "create"
}

/// What everybody may read.
fn public(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    ["/healthz", "/livez", "/readyz"].iter().any(|p| path == *p || path.starts_with(&format!("{p}/")))
        || path == "/version"
}

/// What a ServiceAccount may read besides.
pub(crate) const DISCOVERY: &[&str] =
    &["/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks"];

fn discovery(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    DISCOVERY.iter().any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')))
}

/// Allows the request or answers 403.
pub(crate) fn authorize(user: &User, info: &RequestInfo) -> Result<(), Status> {
    let resource = if info.is_resource { info.resource.as_str() } else { "" };
    let wanted = Attributes { verb: &info.verb, group: &info.group, resource, path: &info.path };
    if allowed(user, &wanted) {
        return Ok(());
    }
    let gvr = GroupVersionResource::new(&info.group, &info.version, resource);
    Err(Status::forbidden(&gvr, if info.is_resource { &info.name } else { "" }, &refusal(user, info)))
}

fn refusal(user: &User, info: &RequestInfo) -> String {
    let name = quote(&user.name);
    if !info.is_resource {
        return format!("User {name} cannot {} path {}", info.verb, quote(&info.path));
    }
    let resource = match info.subresource.as_str() {
        "" => info.resource.clone(),
        sub => format!("{}/{sub}", info.resource),
    };
    let scope = match info.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {}", quote(namespace)),
    };
    format!(
        "User {name} cannot {} resource {} in API group {} {scope}",
        info.verb,
        quote(&resource),
        quote(&info.group)
    )
}

/// Quoted, and safe inside HTML.
fn quote(text: &str) -> String {
    format!("{text:?}").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;
    use http::Uri;

    fn decide(user: &User, method: &str, target: &str) -> Result<(), Status> {
        let uri: Uri = target.parse().expect("a target");
        authorize(user, &RequestInfo::of(&method.parse().expect("a method"), &uri, &Query::of(&uri)))
    }

    #[test]
    fn who_may_do_what() {
        let admin = User::new("admin", &["system:masters"]);
        let node = User::new("system:node:n", &["system:nodes"]);
        let fake = User::new("system:node:n", &[]);
        let account = User::new("system:serviceaccount:a:b", &["system:serviceaccounts"]);
        let anonymous = User::new("system:anonymous", &["system:unauthenticated"]);
        for (user, method, target, ok) in [
            (&admin, "DELETE", "/api/v1/nodes/x", true),
            (&node, "PATCH", "/api/v1/nodes/x/status", true),
            (&fake, "GET", "/api/v1/nodes/x", false),
            (&account, "GET", "/api/v1/namespaces/a/pods", false),
            (&account, "GET", "/apis/apps/v1", true),
            (&account, "GET", "/openapi/v3", true),
            (&account, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", true),
            (&account, "GET", "/metrics", false),
            (&anonymous, "GET", "/readyz/ping", true),
            (&anonymous, "GET", "/version", true),
            (&anonymous, "POST", "/version", false),
            (&anonymous, "GET", "/apis", false),
        ] {
            assert_eq!(decide(user, method, target).is_ok(), ok, "{} {method} {target}", user.name);
        }
    }

    #[test]
    fn refusals_use_upstreams_words() {
        let user = User::new("u<x>", &[]);
        for (method, target, text) in [
            (
                "GET",
                "/api/v1/namespaces/ns/pods",
                r#"pods is forbidden: User "u&lt;x&gt;" cannot list resource "pods" in API group "" in the namespace "ns""#,
            ),
            (
                "GET",
                "/api/v1/namespaces/ns/pods/p/log",
                r#"pods "p" is forbidden: User "u&lt;x&gt;" cannot get resource "pods/log" in API group "" in the namespace "ns""#,
            ),
            (
                "GET",
                "/api/v1/nodes",
                r#"nodes is forbidden: User "u&lt;x&gt;" cannot list resource "nodes" in API group "" at the cluster scope"#,
            ),
            ("GET", "/metrics", r#"forbidden: User "u&lt;x&gt;" cannot get path "/metrics""#),
        ] {
            assert_eq!(decide(&user, method, target).expect_err("forbidden").message, text);
        }
    }
}
