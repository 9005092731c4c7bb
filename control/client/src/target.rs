//! What an informer lists and watches: a collection of one resource, in all namespaces or one, with or without selectors.

use crate::{Kind, ListOptions, discovered::Resource, paths};
use std::borrow::Cow;

/// Objects of one resource. There is one informer for equal targets (see [`crate::Informers`]).
///
/// ```
/// use client::Target;
/// use k8s_openapi::api::core::v1::{Pod, Secret};
///
/// let own_pods = Target::of::<Pod>().fields("spec.nodeName=n1");
/// let one_secret = Target::of::<Secret>().named("default", "password");
/// assert_ne!(own_pods, Target::of::<Pod>());
/// assert!(one_secret.is_named());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    kind: Cow<'static, str>,
    /// Path of the group version.
    root: Cow<'static, str>,
    plural: Cow<'static, str>,
    namespace: String,
    labels: String,
    fields: String,
}

impl Target {
    /// All objects of a typed kind.
    pub fn of<K: Kind>() -> Self {
        Self {
            kind: K::KIND.into(),
            root: paths::root(K::GROUP, K::VERSION).into(),
            plural: K::URL_PATH_SEGMENT.into(),
            namespace: String::new(),
            labels: String::new(),
            fields: String::new(),
        }
    }

    /// All objects of a resource that discovery found.
    pub fn resource(resource: &Resource) -> Self {
        Self {
            kind: resource.kind.clone().into(),
            root: paths::root(&resource.group, &resource.version).into(),
            plural: resource.resource.clone().into(),
            namespace: String::new(),
            labels: String::new(),
            fields: String::new(),
        }
    }

    /// Only those of a namespace.
    pub fn within(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Only those that a label selector selects.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = selector.into();
        self
    }

    /// Only those that a field selector selects.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = selector.into();
        self
    }

    /// Only one object; the namespace of a cluster-scoped one is empty. Nodes may watch Secrets and ConfigMaps only in this way.
    pub fn named(self, namespace: &str, name: &str) -> Self {
        self.within(namespace).fields(format!("{NAME}{name}"))
    }

    /// Whether it selects by name.
    pub fn is_named(&self) -> bool {
        self.fields.starts_with(NAME)
    }

    /// The kind of its objects.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn path(&self) -> String {
        paths::join(&self.root, &self.namespace, [&self.plural, "", ""])
    }

    pub(crate) fn options(&self) -> ListOptions {
        ListOptions { labels: self.labels.clone(), fields: self.fields.clone(), ..ListOptions::default() }
    }
}

const NAME: &str = "metadata.name=";
