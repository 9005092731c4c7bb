//! The self reviews: who am I, may I, what may I. Answered by the authorizer, never stored.

use crate::{
    Context, Resource, User,
    authz::{self, Attributes},
    resource::Review,
};
use api::{Object, Status};
use serde_json::{Value, json};
use std::sync::Arc;

/// The reviews as resources.
pub(crate) fn all() -> Vec<Resource> {
    vec![
        Resource::reviewed("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", Arc::new(WhoAmI)),
        Resource::reviewed(
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            Arc::new(MayI),
        ),
        Resource::reviewed(
            "authorization.k8s.io",
            "v1",
            "selfsubjectrulesreviews",
            "SelfSubjectRulesReview",
            Arc::new(WhatMayI),
        ),
    ]
}

struct WhoAmI;

#[async_trait::async_trait]
impl Review for WhoAmI {
    async fn review(&self, cx: &Context, mut object: Object) -> Result<Object, Status> {
        object.set(&["metadata", "creationTimestamp"], api::time::rfc3339(cx.now));
        object.set(&["status"], json!({"userInfo": user_info(&cx.user)}));
        Ok(object)
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

struct MayI;

#[async_trait::async_trait]
impl Review for MayI {
    async fn review(&self, cx: &Context, mut object: Object) -> Result<Object, Status> {
        let text = |path: &[&str]| object.str_at(path).unwrap_or_default().to_owned();
        let resource = object.at(&["spec", "resourceAttributes"]).is_some_and(Value::is_object);
        let document = object.at(&["spec", "nonResourceAttributes"]).is_some_and(Value::is_object);
        if resource == document {
            let text = "spec.resourceAttributes: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(Status::new(
                api::Reason::Invalid,
                format!("SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: {text}"),
            ));
        }
        let (verb, group, name, path) = if resource {
            let at = |field: &str| text(&["spec", "resourceAttributes", field]);
            (at("verb"), at("group"), at("resource"), String::new())
        } else {
            let at = |field: &str| text(&["spec", "nonResourceAttributes", field]);
            (at("verb"), String::new(), String::new(), at("path"))
        };
        let wanted = Attributes { verb: &verb, group: &group, resource: &name, path: &path };
        object.set(&["status"], json!({"allowed": authz::allowed(&cx.user, &wanted)}));
        object.set(&["metadata", "creationTimestamp"], Value::Null);
        Ok(object)
    }
}

struct WhatMayI;

#[async_trait::async_trait]
impl Review for WhatMayI {
    async fn review(&self, cx: &Context, mut object: Object) -> Result<Object, Status> {
        let documents = |paths: &[&str], verbs: &[&str]| json!({"nonResourceURLs": paths, "verbs": verbs});
        let health = documents(&["/healthz", "/livez", "/readyz", "/version", "/version/"], &["get"]);
        let (resources, documents) = if authz::unrestricted(&cx.user) {
            (vec![json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})], vec![documents(&["*"], &["*"])])
        } else if cx.user.in_group("system:serviceaccounts") {
            let create = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["create"]});
            let selves = vec![
                create("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
                create("authentication.k8s.io", &["selfsubjectreviews"]),
            ];
            let paths: Vec<String> =
                authz::DISCOVERY.iter().flat_map(|p| [(*p).to_owned(), format!("{p}/*")]).collect();
            (selves, vec![json!({"nonResourceURLs": paths, "verbs": ["get"]}), health])
        } else {
            (Vec::new(), vec![health])
        };
        object
            .set(&["status"], json!({"resourceRules": resources, "nonResourceRules": documents, "incomplete": false}));
        object.set(&["metadata", "creationTimestamp"], Value::Null);
        Ok(object)
    }
}
