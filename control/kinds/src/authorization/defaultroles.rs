//! The permissions of all users, as in upstream's default roles: health and version are public, service accounts may use discovery and self
//! reviews.

use super::privileged::is_privileged;
use server::{
    User,
    authz::{Attributes, Authorizer, Decision, DocumentRule, ResourceRule, Rules},
};

const ACCOUNTS: &str = "system:serviceaccounts";

/// The self reviews, by group.
const SELF_REVIEWS: [(&str, &[&str]); 2] = [
    ("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
    ("authentication.k8s.io", &["selfsubjectreviews"]),
];

/// Allows public documents to all users, and discovery and self reviews to service accounts.
pub(crate) struct DefaultRoles;

#[async_trait::async_trait]
impl Authorizer for DefaultRoles {
    async fn authorize(&self, user: &User, wanted: &Attributes<'_>) -> Decision {
        let account = user.in_group(ACCOUNTS);
        let allowed = if wanted.is_resource() {
            let about_self =
                |(group, resources): &(&str, &[&str])| *group == wanted.group && resources.contains(&wanted.resource);
            account && wanted.verb == "create" && SELF_REVIEWS.iter().any(about_self)
        } else {
            let reads = matches!(wanted.verb, "get" | "head");
            reads && (public(wanted.path) || (account && discovery(wanted.path)))
        };
        if allowed { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn rules_for(&self, user: &User, _: &str) -> Rules {
        // The rules of a privileged user come from `Privileged`.
        if is_privileged(user) {
            return Rules::default();
        }
        let mut rules = Rules::default();
        if user.in_group(ACCOUNTS) {
            let create = |(group, resources): (&'static str, &[&'static str])| ResourceRule {
                verbs: vec!["create".into()],
                groups: vec![group.into()],
                resources: resources.iter().map(|r| (*r).into()).collect(),
            };
            rules.resources = SELF_REVIEWS.map(create).into();
            let paths = DISCOVERY.iter().flat_map(|p| [(*p).into(), format!("{p}/*").into()]).collect();
            rules.documents.push(DocumentRule { verbs: vec!["get".into()], paths });
        }
        let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"].map(Into::into);
        rules.documents.push(DocumentRule { verbs: vec!["get".into()], paths: health.into() });
        rules
    }
}

/// Whether all users may read a path.
fn public(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    ["/healthz", "/livez", "/readyz"].iter().any(|p| path == *p || path.starts_with(&format!("{p}/")))
        || path == "/version"
}

/// Further paths that service accounts may read.
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks"];

fn discovery(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    DISCOVERY.iter().any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::privileged::Privileged;
    use server::authz::Union;
    use std::sync::Arc;

    async fn decide(user: &User, verb: &str, (group, resource): (&str, &str), path: &str) -> bool {
        let union = Union::new(vec![Arc::new(Privileged), Arc::new(DefaultRoles)]);
        let wanted = Attributes { verb, group, resource, path, ..Attributes::default() };
        union.authorize(user, &wanted).await == Decision::Allow
    }

    #[tokio::test]
    async fn who_may_do_what() {
        let admin = User::new("admin", &["system:masters"]);
        let node = User::new("system:node:n", &["system:nodes"]);
        let fake = User::new("system:node:n", &[]);
        let account = User::new("system:serviceaccount:a:b", &["system:serviceaccounts"]);
        let anonymous = User::new("system:anonymous", &["system:unauthenticated"]);
        for (user, verb, resource, ok) in [
            (&admin, "delete", ("", "nodes"), true),
            (&node, "patch", ("", "nodes"), true),
            (&fake, "get", ("", "nodes"), false),
            (&account, "list", ("", "pods"), false),
            (&account, "create", ("authorization.k8s.io", "selfsubjectaccessreviews"), true),
            (&account, "create", ("", "selfsubjectaccessreviews"), false),
            (&anonymous, "create", ("authorization.k8s.io", "selfsubjectaccessreviews"), false),
        ] {
            assert_eq!(decide(user, verb, resource, "").await, ok, "{} {verb} {resource:?}", user.name);
        }
        for (user, verb, path, ok) in [
            (&account, "get", "/apis/apps/v1", true),
            (&account, "get", "/openapi/v3", true),
            (&account, "get", "/metrics", false),
            (&admin, "get", "/metrics", true),
            (&anonymous, "get", "/readyz/ping", true),
            (&anonymous, "get", "/version", true),
            (&anonymous, "post", "/version", false),
            (&anonymous, "get", "/apis", false),
        ] {
            assert_eq!(decide(user, verb, ("", ""), path).await, ok, "{} {verb} {path}", user.name);
        }
    }
}
