//! The versions in which the same objects are served, for plugins that look at an object in another version than the client sent, or that
//! let somebody else change it.

use api::{GroupVersionKind, GroupVersionResource, Object, Status};

/// What is served, as admission needs it.
#[async_trait::async_trait]
pub trait Versions: Send + Sync + 'static {
    /// The resources that serve the same objects as this one, itself left out, in the order of discovery, each with the kind of its bodies.
    /// With a subresource: those that have it.
    fn others(
        &self,
        resource: &GroupVersionResource,
        subresource: &str,
    ) -> Vec<(GroupVersionResource, GroupVersionKind)>;

    /// Where the objects of a kind are served, and whether they are in namespaces.
    fn serving(&self, kind: &GroupVersionKind) -> Option<(GroupVersionResource, bool)>;

    /// An object of one resource, as another one that serves the same objects has it.
    ///
    /// # Errors
    /// One of them is not served, or the conversion failed.
    async fn convert(
        &self,
        object: Object,
        from: &GroupVersionResource,
        to: &GroupVersionResource,
    ) -> Result<Object, Status>;

    /// An object of a kind after somebody else has changed it: of the right types, without fields that the kind does not have, with its
    /// defaults. managedFields that cannot be read are those from before, with a warning.
    ///
    /// # Errors
    /// It is not an object of the kind.
    fn accept(
        &self,
        before: &Object,
        after: Object,
        resource: &GroupVersionResource,
        kind: &GroupVersionKind,
    ) -> Result<(Object, Option<String>), Status>;

    /// An object of a kind after an applied configuration was merged into it, without ownership: what is not in the configuration stays.
    ///
    /// # Errors
    /// The configuration is not of the kind, or would replace an atomic list or map.
    fn merge(
        &self,
        before: &Object,
        configuration: &Object,
        resource: &GroupVersionResource,
        kind: &GroupVersionKind,
    ) -> Result<Object, String>;
}
