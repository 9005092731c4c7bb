//! Authorization by a chain of authorizers. The texts are upstream's.

use crate::{Objects, User, request::RequestInfo};
use api::{GroupVersionResource, Status};
use serde_json::{Value, json};
use std::{borrow::Cow, sync::Arc};

/// What a user wants to do with a resource or a document.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// `get`, `create` and so on; for documents the lower-case method.
    pub verb: &'a str,
    /// Group of the resource.
    pub group: &'a str,
    /// Version of the resource.
    pub version: &'a str,
    /// Resource, empty for documents.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace, empty at the cluster scope.
    pub namespace: &'a str,
    /// Name of one object, if the request names it.
    pub name: &'a str,
    /// Path, for documents.
    pub path: &'a str,
}

impl Attributes<'_> {
    /// Whether this is about a resource, not a document.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }
}

/// The decision of an authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed.
    Allow,
    /// Denied for this reason, whatever later authorizers decide.
    Deny(String),
    /// Later authorizers decide. Without any that allows it, the request is denied.
    NoOpinion,
}

/// What a user may do, for `SelfSubjectRulesReview`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// About resources.
    pub resources: Vec<ResourceRule>,
    /// About documents.
    pub documents: Vec<DocumentRule>,
    /// An authorizer cannot list its rules.
    pub incomplete: bool,
    /// What went wrong meanwhile; the rules are those that could be found.
    pub error: String,
}

/// Verbs on resources. `*` is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceRule {
    /// `get`.
    pub verbs: Vec<Cow<'static, str>>,
    /// `apps`.
    pub groups: Vec<Cow<'static, str>>,
    /// `deployments`, `pods/log`.
    pub resources: Vec<Cow<'static, str>>,
    /// Names of objects; none for all of them.
    pub names: Vec<Cow<'static, str>>,
}

/// Verbs on paths. `*` at the end is everything below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentRule {
    /// `get`.
    pub verbs: Vec<Cow<'static, str>>,
    /// `/healthz`.
    pub paths: Vec<Cow<'static, str>>,
}

impl Rules {
    /// The status of a `SelfSubjectRulesReview`.
    pub fn status(&self) -> Value {
        let resource = |r: &ResourceRule| {
            let mut rule = json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources});
            if !r.names.is_empty() {
                rule["resourceNames"] = json!(r.names);
            }
            rule
        };
        let resources: Vec<Value> = self.resources.iter().map(resource).collect();
        let document = |r: &DocumentRule| json!({"verbs": r.verbs, "nonResourceURLs": r.paths});
        let documents: Vec<Value> = self.documents.iter().map(document).collect();
        let mut status =
            json!({"resourceRules": resources, "nonResourceRules": documents, "incomplete": self.incomplete});
        if !self.error.is_empty() {
            status["evaluationError"] = json!(self.error);
        }
        status
    }
}

/// Decides what users may do.
#[async_trait::async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Decides about a request of the user. `objects` are those of the server.
    async fn authorize(&self, objects: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> Decision;

    /// Why [`Authorizer::authorize`] decides so, for reviews and refusals; empty where there is nothing to say. Requests that are allowed do not
    /// ask for it.
    async fn reason(&self, _objects: &dyn Objects, _user: &User, _wanted: &Attributes<'_>) -> String {
        String::new()
    }

    /// What the user may do in a namespace and at the cluster scope.
    async fn rules_for(&self, objects: &dyn Objects, user: &User, namespace: &str) -> Rules;
}

/// A chain of authorizers: the first that has an opinion decides.
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// A chain in this order.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

#[async_trait::async_trait]
impl Authorizer for Union {
    async fn authorize(&self, objects: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> Decision {
        for authorizer in &self.0 {
            match authorizer.authorize(objects, user, wanted).await {
                Decision::NoOpinion => {}
                decision => return decision,
            }
        }
        Decision::NoOpinion
    }

    /// That of the authorizer who decides, or those of all.
    async fn reason(&self, objects: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> String {
        let mut all = Vec::new();
        for authorizer in &self.0 {
            let reason = authorizer.reason(objects, user, wanted).await;
            if authorizer.authorize(objects, user, wanted).await != Decision::NoOpinion {
                return reason;
            }
            if !reason.is_empty() {
                all.push(reason);
            }
        }
        all.join("\n")
    }

    async fn rules_for(&self, objects: &dyn Objects, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for authorizer in &self.0 {
            let rules = authorizer.rules_for(objects, user, namespace).await;
            all.resources.extend(rules.resources);
            all.documents.extend(rules.documents);
            all.incomplete |= rules.incomplete;
            if !rules.error.is_empty() {
                let comma = if all.error.is_empty() { "" } else { ", " };
                all.error = format!("{}{comma}{}", all.error, rules.error);
            }
        }
        all
    }
}

/// Allows the request or answers 403.
pub(crate) async fn require(
    authorizer: &dyn Authorizer,
    objects: &dyn Objects,
    user: &User,
    info: &RequestInfo,
) -> Result<(), Status> {
    let wanted = match info.is_resource {
        true => Attributes {
            verb: &info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: "",
        },
        false => Attributes { verb: &info.verb, path: &info.path, ..Attributes::default() },
    };
    let reason = match authorizer.authorize(objects, user, &wanted).await {
        Decision::Allow => return Ok(()),
        Decision::Deny(reason) => reason,
        Decision::NoOpinion => authorizer.reason(objects, user, &wanted).await,
    };
    let mut why = refusal(user, info);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let gvr = GroupVersionResource::new(&info.group, &info.version, wanted.resource);
    Err(Status::forbidden(&gvr, wanted.name, &why))
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
pub(crate) mod tests {
    use super::*;
    use crate::request::Query;
    use http::Uri;

    /// Nothing is stored.
    pub(crate) struct NoObjects;

    impl Objects for NoObjects {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<api::Object>> {
            None
        }
        fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<api::Object>> {
            Vec::new()
        }
        fn changes(&self, _: &str, _: &str) -> store::Changes {
            store::Changes::default()
        }
    }

    /// Says the same to everybody.
    struct Says(Decision);

    #[async_trait::async_trait]
    impl Authorizer for Says {
        async fn authorize(&self, _: &dyn Objects, _: &User, _: &Attributes<'_>) -> Decision {
            self.0.clone()
        }
        async fn reason(&self, _: &dyn Objects, _: &User, _: &Attributes<'_>) -> String {
            format!("says {:?}", self.0)
        }
        async fn rules_for(&self, _: &dyn Objects, _: &User, _: &str) -> Rules {
            Rules { incomplete: self.0 == Decision::NoOpinion, ..Rules::default() }
        }
    }

    async fn decide(said: &[Decision], method: &str, target: &str) -> Result<(), Status> {
        let all = said.iter().map(|d| Arc::new(Says(d.clone())) as Arc<dyn Authorizer>).collect();
        let uri: Uri = target.parse().expect("a target");
        let info = RequestInfo::of(&method.parse().expect("a method"), &uri, &Query::of(&uri));
        require(&Union::new(all), &NoObjects, &User::new("u<x>", &[]), &info).await
    }

    #[tokio::test]
    async fn the_first_opinion_counts_and_none_is_a_refusal() {
        let deny = || Decision::Deny("closed".to_owned());
        for (said, allowed) in [
            (vec![], false),
            (vec![Decision::NoOpinion], false),
            (vec![Decision::NoOpinion, Decision::Allow], true),
            (vec![Decision::Allow, deny()], true),
            (vec![deny(), Decision::Allow], false),
        ] {
            let got = decide(&said, "GET", "/version").await;
            assert_eq!(got.is_ok(), allowed, "{said:?}");
            if said.first() == Some(&deny()) {
                let text = "forbidden: User \"u&lt;x&gt;\" cannot get path \"/version\": closed";
                assert_eq!(got.expect_err("denied").message, text);
            }
        }
        let union = Union::new(vec![Arc::new(Says(Decision::Allow)), Arc::new(Says(Decision::NoOpinion))]);
        assert!(union.rules_for(&NoObjects, &User::default(), "").await.incomplete);
        let (nobody, wanted) = (User::default(), Attributes::default());
        assert_eq!(union.reason(&NoObjects, &nobody, &wanted).await, "says Allow");
        let nothing = || Arc::new(Says(Decision::NoOpinion)) as Arc<dyn Authorizer>;
        let union = Union::new(vec![nothing(), nothing()]);
        assert_eq!(union.reason(&NoObjects, &nobody, &wanted).await, "says NoOpinion\nsays NoOpinion");
        let refused = decide(&[Decision::NoOpinion], "GET", "/version").await.expect_err("no opinion");
        assert!(refused.message.ends_with(": says NoOpinion"), "{}", refused.message);
    }

    #[tokio::test]
    async fn refusals_use_upstreams_words() {
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
            assert_eq!(decide(&[], method, target).await.expect_err("forbidden").message, text);
        }
    }
}
