//! A request, and which requests a rule is for.

use crate::at::At;
use api::{GroupVersionKind, GroupVersionResource, Object};

/// A version in which objects are served: where, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Group, version and resource.
    pub resource: GroupVersionResource,
    /// The kind, that of the subresource for a request of one.
    pub kind: GroupVersionKind,
}

/// A request, as admission knows it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'a str,
    /// Resource and kind of the request.
    pub served: &'a Served,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace of the request. A request for a namespace has the name of that.
    pub namespace: &'a str,
    /// The object's name; empty for a create whose name is not made yet.
    pub name: &'a str,
    /// The new object; none for a delete.
    pub object: Option<&'a Object>,
    /// The stored object, for updates and deletes.
    pub old: Option<&'a Object>,
    /// The namespace of the request as it is stored.
    pub stored_namespace: Option<&'a Object>,
}

const CONFIGURATIONS: [&str; 6] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// Whether no webhook is asked about a kind: one that is broken could not be taken out of the way then.
pub fn is_exempt(kind: &GroupVersionKind) -> bool {
    kind.group == "admissionregistration.k8s.io" && CONFIGURATIONS.contains(&kind.kind.as_str())
}

const REVIEWS: [(&str, &str); 6] = [
    ("authentication.k8s.io", "SelfSubjectReview"),
    ("authentication.k8s.io", "TokenReview"),
    ("authorization.k8s.io", "LocalSubjectAccessReview"),
    ("authorization.k8s.io", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "SelfSubjectRulesReview"),
    ("authorization.k8s.io", "SubjectAccessReview"),
];

/// Whether no policy judges a kind. Besides the configurations these are reviews, without which nobody gets in any more.
pub(crate) fn is_exempt_from_policies(kind: &GroupVersionKind) -> bool {
    is_exempt(kind) || REVIEWS.contains(&(kind.group.as_str(), kind.kind.as_str()))
}

/// A rule of a webhook or policy.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
}

fn listed(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    pub(crate) fn of(rule: At<'_>) -> Self {
        let texts = |name: &'static str| rule.get(name).items().map(|one| one.str().to_owned()).collect();
        let resources = rule.get("resources").items().map(|one| {
            let (resource, subresource) = one.str().split_once('/').unwrap_or((one.str(), ""));
            (resource.to_owned(), subresource.to_owned())
        });
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: resources.collect(),
            scope: rule.get("scope").str().to_owned(),
        }
    }

    pub(crate) fn matches(&self, request: &Request<'_>, resource: &GroupVersionResource) -> bool {
        let GroupVersionResource { group, version, resource: name } = resource;
        // A request for a namespace has a namespace, but the object is of the cluster.
        let is_namespace = group.is_empty() && version == "v1" && name == "namespaces";
        let in_namespace = !is_namespace && !request.namespace.is_empty();
        let in_scope = match self.scope.as_str() {
            "" | "*" => true,
            "Namespaced" => in_namespace,
            "Cluster" => !in_namespace,
            _ => false,
        };
        let fits = |(resource, subresource): &(String, String)| {
            (resource == "*" || resource == name) && (subresource == "*" || subresource == request.subresource)
        };
        in_scope
            && listed(&self.operations, request.operation)
            && listed(&self.groups, group)
            && listed(&self.versions, version)
            && self.resources.iter().any(fits)
    }
}
