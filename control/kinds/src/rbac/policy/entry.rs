//! A role and a binding of the policy, as data and as objects.

use crate::rbac::rule::Rule;
use serde_json::{Value, json};
use std::borrow::Cow;

/// The role of nodes.
pub(super) const NODE: &str = "system:node";
/// Who records events may do this.
pub(super) const EVENTS: &str = "create,change core,events.k8s.io events";
/// The namespace of the accounts of controllers.
const SYSTEM: &str = "kube-system";
const GROUP: &str = "rbac.authorization.k8s.io";

/// Who has a role.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    User(&'static str),
    Group(&'static str),
    /// A ServiceAccount of `kube-system`.
    Account(&'static str),
}

impl Holder {
    fn to_value(self) -> Value {
        match self {
            Self::User(name) => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
            Self::Group(name) => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
            Self::Account(name) => json!({"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}),
        }
    }
}

/// A Role or ClusterRole that exists in every cluster.
#[derive(Debug)]
pub(crate) struct RoleEntry {
    /// Empty for a ClusterRole.
    pub(crate) namespace: &'static str,
    pub(crate) name: Cow<'static, str>,
    /// It has the rules of the roles that say so, and none of its own.
    pub(crate) collects: bool,
    /// The role that collects its rules, or empty.
    pub(super) collected_by: &'static str,
    pub(super) rules: &'static [&'static str],
}

impl RoleEntry {
    pub(crate) fn rules(&self) -> Box<[Rule]> {
        self.rules.iter().map(|rule| Rule::parse(rule)).collect()
    }

    /// The object.
    pub(crate) fn object(&self) -> Value {
        let kind = if self.namespace.is_empty() { "ClusterRole" } else { "Role" };
        let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": metadata(self.namespace, &self.name)});
        if !self.collected_by.is_empty() {
            object["metadata"]["labels"][collected(self.collected_by)] = json!("true");
        }
        if self.collects {
            let selector = json!({"matchLabels": {collected(&self.name): "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        } else {
            object["rules"] = self.rules().iter().map(Rule::to_value).collect();
        }
        object
    }
}

/// A RoleBinding or ClusterRoleBinding that exists in every cluster.
#[derive(Debug)]
pub(crate) struct BindingEntry {
    /// Empty for a ClusterRoleBinding.
    pub(crate) namespace: &'static str,
    pub(crate) name: Cow<'static, str>,
    pub(super) role: Cow<'static, str>,
    pub(super) holders: Cow<'static, [Holder]>,
}

impl BindingEntry {
    /// Kind and name of the role.
    pub(crate) fn role(&self) -> (&'static str, &str) {
        (if self.namespace.is_empty() { "ClusterRole" } else { "Role" }, &self.role)
    }

    /// Kind, namespace and name of who has it.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.holders.iter().map(|holder| match *holder {
            Holder::User(name) => ("User", "", name),
            Holder::Group(name) => ("Group", "", name),
            Holder::Account(name) => ("ServiceAccount", SYSTEM, name),
        })
    }

    /// The object.
    pub(crate) fn object(&self) -> Value {
        let (role_kind, role) = self.role();
        let kind = format!("{role_kind}Binding");
        let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": metadata(self.namespace, &self.name),
            "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role}});
        if !self.holders.is_empty() {
            object["subjects"] = self.holders.iter().map(|holder| holder.to_value()).collect();
        }
        object
    }
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn collected(by: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{by}")
}
