//! Whether somebody may do something: SubjectAccessReview of anybody, LocalSubjectAccessReview in a namespace, SelfSubjectAccessReview of the
//! caller. Validation and texts are upstream's.

use crate::{at::At, rules};
use api::{
    Cause, GroupVersionKind, Object, Status, invalid,
    selector::{FieldSelector, Selector},
};
use serde_json::{Value, json};
use server::{
    Context, User,
    authz::{Attributes, Authorizer, Decision},
};

/// Whom a review is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// Who asks.
    Caller,
    /// Whom it names.
    User,
    /// Whom it names, in the namespace of the review.
    UserIn,
}

/// The status of a review.
///
/// # Errors
/// The review is invalid.
pub(crate) async fn status(
    authorizer: &dyn Authorizer,
    about: About,
    cx: &Context,
    review: &Object,
) -> Result<Value, Status> {
    let causes = validate(about, review);
    if !causes.is_empty() {
        // Upstream has no kind here.
        let kind = GroupVersionKind { kind: String::new(), ..cx.resource.gvk() };
        return Err(invalid(&kind, "", &causes));
    }
    let named = (about != About::Caller).then(|| named(review));
    let user = named.as_ref().unwrap_or(&cx.user);
    let resource = review.at(&["spec", "resourceAttributes"]).is_some_and(Value::is_object);
    let part = if resource { "resourceAttributes" } else { "nonResourceAttributes" };
    let at = |field: &str| review.str_at(&["spec", part, field]).unwrap_or_default();
    let version = if at("version").is_empty() { "*" } else { at("version") };
    let wanted = match resource {
        true => Attributes {
            verb: at("verb"),
            group: at("group"),
            version,
            resource: at("resource"),
            subresource: at("subresource"),
            namespace: at("namespace"),
            name: at("name"),
            path: "",
        },
        false => Attributes { verb: at("verb"), path: at("path"), ..Attributes::default() },
    };
    let (mut status, mut reason) = match authorizer.authorize(&*cx.objects, user, &wanted).await {
        Decision::Allow => (json!({"allowed": true}), String::new()),
        Decision::NoOpinion => (json!({"allowed": false}), String::new()),
        Decision::Deny(reason) => (json!({"allowed": false, "denied": true}), reason),
    };
    if reason.is_empty() {
        reason = authorizer.reason(&*cx.objects, user, &wanted).await;
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    let attributes = At::of(review, "spec").get("resourceAttributes");
    let unread = ["fieldSelector", "labelSelector"].map(|kind| unread(attributes.get(kind), kind));
    let unread: Vec<String> = unread.into_iter().flatten().collect();
    if !unread.is_empty() {
        status["evaluationError"] = json!(unread.join("; "));
    }
    Ok(status)
}

/// What of a selector cannot be read, which does not make a review invalid.
fn unread(selector: At<'_>, kind: &str) -> Option<String> {
    let labels = kind == "labelSelector";
    let raw = selector.get("rawSelector");
    let (mut read, mut failed) = (0, 0);
    let wrong = |text: &str| match labels {
        true => Selector::parse(text).is_err(),
        false => FieldSelector::parse(text).is_err(),
    };
    if !raw.is_empty() && wrong(raw.str()) {
        failed += 1;
    }
    for requirement in selector.get("requirements").items() {
        let known = match requirement.get("operator").str() {
            "In" | "NotIn" => labels || requirement.get("values").len() == 1,
            "Exists" | "DoesNotExist" => labels,
            _ => false,
        };
        *(if known { &mut read } else { &mut failed }) += 1;
    }
    let how = if read > 0 { "partially ignored" } else { "ignored" };
    (failed > 0).then(|| format!("spec.resourceAttributes.{kind} {how} due to parse error"))
}

/// The user that a review names.
fn named(review: &Object) -> User {
    let text = |field: &str| review.str_at(&["spec", field]).unwrap_or_default().to_owned();
    let texts = |list: &[Value]| list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let extra = review.at(&["spec", "extra"]).and_then(Value::as_object).into_iter().flatten();
    User {
        name: text("user"),
        uid: text("uid"),
        groups: texts(review.list_at(&["spec", "groups"])),
        extra: extra.map(|(key, all)| (key.clone(), texts(all.as_array().map_or(&[], Vec::as_slice)))).collect(),
    }
}

fn validate(about: About, review: &Object) -> Vec<Cause> {
    let (spec, mut out) = (At::of(review, "spec"), Vec::new());
    let (resource, document) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    if resource.is_set() && document.is_set() {
        out.push(shown(
            document,
            "NonResourceAttributes",
            "cannot be specified in combination with resourceAttributes",
        ));
    }
    if !resource.is_set() && !document.is_set() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        out.push(Cause::invalid_shown(&resource.field(), "null", why));
    }
    if about != About::Caller && spec.get("user").is_empty() && spec.get("groups").is_empty() {
        out.push(spec.get("user").or_empty().invalid("at least one of user or group must be specified"));
    }
    for selector in ["fieldSelector", "labelSelector"] {
        self::selector(resource.get(selector), selector, &mut out);
    }
    let metadata = At::of(review, "metadata");
    let given = metadata.entries().filter(|(key, value)| {
        let own = *key == "namespace" && about == About::UserIn;
        !own && *key != "managedFields" && *key != "creationTimestamp" && !value.is_empty()
    });
    if given.count() > 0 {
        let why = if about == About::UserIn { "must be empty except for namespace" } else { "must be empty" };
        out.push(metadata.invalid(why));
    }
    if about == About::UserIn {
        let namespace = resource.get("namespace");
        if resource.is_set() && namespace.str() != review.namespace() {
            out.push(namespace.or_empty().invalid("must match metadata.namespace"));
        }
        if document.is_set() {
            out.push(shown(document, "NonResourceAttributes", "disallowed on this kind of request"));
        }
    }
    out
}

fn shown(at: At<'_>, kind: &str, why: &str) -> Cause {
    Cause::invalid_shown(&at.field(), &at.printed(&format!("io.k8s.api.authorization.v1.{kind}")), why)
}

/// A selector that narrows what is asked for. Roles do not look at it.
fn selector(selector: At<'_>, kind: &str, out: &mut Vec<Cause>) {
    if !selector.is_set() {
        return;
    }
    let (raw, requirements) = (selector.get("rawSelector"), selector.get("requirements"));
    if !raw.is_empty() && !requirements.is_empty() {
        out.push(raw.invalid("may not specified at the same time as requirements"));
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {} is specified, requirements or rawSelector is required", selector.field());
        out.push(requirements.required(&why));
    }
    for requirement in requirements.items() {
        if rules::full(out) {
            return;
        }
        let (operator, values) = (requirement.get("operator"), requirement.get("values"));
        rules::set_values(operator.str(), values, out);
        let key = requirement.get("key");
        if kind == "labelSelector" {
            rules::qualified(key, out);
            for value in values.items() {
                value.invalid_all(api::names::label_value(value.str()), out);
            }
        } else if key.is_empty() {
            out.push(key.required("must be specified"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rbac::authorizer::Rbac, testing};
    use server::{Resource, authz::Union, strategy::Plain};
    use std::sync::Arc;

    async fn ask(about: About, spec: &str) -> Result<Value, String> {
        let stored = testing::Stored::default()
            .with("rbac.authorization.k8s.io", "roles", "{metadata: {name: r, namespace: ns}, rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]}")
            .with("rbac.authorization.k8s.io", "rolebindings", "{metadata: {name: b, namespace: ns}, roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: u}]}")
            .with("rbac.authorization.k8s.io", "clusterrolebindings", "{metadata: {name: b}, roleRef: {kind: ClusterRole, name: gone}, subjects: [{kind: User, name: v}]}");
        let kind = Resource::new("authorization.k8s.io", "v1", "reviews", "Review", Plain);
        let mut cx = testing::context_for(kind, stored);
        cx.user = Arc::new(User::new("u", &[]));
        let rbac = Rbac::default();
        rbac.reconciled();
        let review = testing::parse(&format!("{{metadata: {{namespace: ns}}, spec: {{{spec}}}}}"));
        let union = Union::new(vec![Arc::new(rbac)]);
        let mut review = review;
        if about != About::UserIn {
            review.remove(&["metadata", "namespace"]);
        }
        status(&union, about, &cx, &review).await.map_err(|status| status.message)
    }

    #[tokio::test]
    async fn the_answer_says_why() {
        let pods = "resourceAttributes: {verb: get, resource: pods, namespace: ns}";
        let why = "RBAC: allowed by RoleBinding \"b/ns\" of Role \"r\" to User \"u\"";
        let allowed = json!({"allowed": true, "reason": why});
        assert_eq!(ask(About::Caller, pods).await, Ok(allowed.clone()));
        assert_eq!(ask(About::User, &format!("user: u, {pods}")).await, Ok(allowed.clone()));
        assert_eq!(ask(About::UserIn, &format!("user: u, {pods}")).await, Ok(allowed));
        let missing = "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found";
        let refused = json!({"allowed": false, "reason": missing});
        assert_eq!(ask(About::User, &format!("user: v, {pods}")).await, Ok(refused));
        assert_eq!(ask(About::User, &format!("groups: [g], {pods}")).await, Ok(json!({"allowed": false})));
    }

    #[tokio::test]
    async fn each_fault_has_upstreams_text() {
        let pods = "resourceAttributes: {verb: get, resource: pods, namespace: ns}";
        let head = ".authorization.k8s.io \"\" is invalid: ";
        for (about, spec, text) in [
            (
                About::Caller,
                "",
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ),
            (About::User, pods, "spec.user: Invalid value: \"\": at least one of user or group must be specified"),
            (
                About::UserIn,
                "user: u, resourceAttributes: {verb: get, resource: pods, namespace: other}",
                "spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace",
            ),
            (
                About::Caller,
                "resourceAttributes: {labelSelector: {}}",
                "spec.resourceAttributes.labelSelector.requirements: Required value: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required",
            ),
        ] {
            assert_eq!(ask(about, spec).await, Err(format!("{head}{text}")), "{spec}");
        }
    }
}
