//! Admission: plugins that change or refuse a write for reasons outside of its own object. The server gets them as an ordered list; they read
//! other objects from memory ([`crate::Objects`]), never from disk.

pub use crate::context::Operation;
use crate::{Context, Reservation};
use api::{Object, Status};
use std::sync::Arc;

/// The attributes of a request. The object is the deleted one for [`Operation::Delete`], and empty for [`Operation::Connect`].
pub struct Attributes {
    /// User, time, operation and resource.
    pub context: Context,
    /// The stored object, for updates and deletes.
    pub old: Option<Arc<Object>>,
}

impl Attributes {
    /// Whether the request is about the main resource `resource.group`, not a subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        let gvr = &self.context.resource.gvr;
        gvr.group == group && gvr.resource == resource && self.context.subresource.is_empty()
    }

    /// Whether this is a create of `resource.group`.
    pub fn creates(&self, group: &str, resource: &str) -> bool {
        self.context.operation == Operation::Create && self.is(group, resource)
    }
}

/// One admission plugin.
#[async_trait::async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Upstream's name: `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether the plugin handles such requests.
    fn handles(&self, attributes: &Attributes) -> bool;

    /// Mutates or refuses the object. Called for creates and updates.
    async fn admit(&self, _attributes: &Attributes, _object: &mut Object) -> Result<(), Status> {
        Ok(())
    }

    /// Validates the final object. For deletes `object` is the last state.
    async fn validate(&self, _attributes: &Attributes, _object: &Object) -> Result<(), Status> {
        Ok(())
    }

    /// Takes what an admitted create or update needs from a common budget, after all other checks. What is taken is given back unless the write
    /// is stored; that of a dry run at once.
    ///
    /// # Errors
    /// There is not enough.
    async fn reserve(&self, _attributes: &Attributes, _object: &Object) -> Result<Reservation, Status> {
        Ok(Reservation::none())
    }

    /// `Warning` headers for an admitted create or update. The write waits for them.
    async fn warnings(&self, _attributes: &Attributes, _object: &Object) -> Vec<String> {
        Vec::new()
    }
}

/// The 403 of a plugin. An object without a name is named by its `generateName`.
pub fn forbidden(attributes: &Attributes, object: &Object, why: &str) -> Status {
    let context = &attributes.context;
    let generated = object.str_at(&["metadata", "generateName"]).unwrap_or_default();
    let name = [context.name.as_str(), object.name(), generated].into_iter().find(|name| !name.is_empty());
    Status::forbidden(&context.resource.gvr, name.unwrap_or("Unknown"), why)
}
