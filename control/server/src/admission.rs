//! Admission: what changes or refuses a write on grounds that reach beyond its own object. The plugins and their order are given to the
//! server as a list; they read the other objects from memory ([`crate::Objects`]), never from disk.

use crate::Context;
pub use crate::context::Operation;
use api::{Object, Status};
use std::sync::Arc;

/// What admission decides on. For [`Operation::Delete`] the object is the one that goes, for [`Operation::Connect`] it is empty.
pub struct Attributes {
    /// Who, when, what.
    pub context: Context,
    /// The stored object, for updates and deletes.
    pub old: Option<Arc<Object>>,
}

impl Attributes {
    /// Whether this is about the main resource `resource.group` (no subresource).
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

    /// Whether it looks at such a request at all.
    fn handles(&self, attributes: &Attributes) -> bool;

    /// Changes or refuses. Called for creates and updates.
    async fn admit(&self, _attributes: &Attributes, _object: &mut Object) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses, when nothing changes the object any more. `object` is the last state for deletes.
    async fn validate(&self, _attributes: &Attributes, _object: &Object) -> Result<(), Status> {
        Ok(())
    }

    /// `Warning` headers for a create or update that is going to be stored.
    fn warnings(&self, _attributes: &Attributes, _object: &Object) -> Vec<String> {
        Vec::new()
    }
}

/// The 403 of a plugin. An object that has no name yet is named by its `generateName`.
pub fn forbidden(attributes: &Attributes, object: &Object, why: &str) -> Status {
    let context = &attributes.context;
    let generated = object.str_at(&["metadata", "generateName"]).unwrap_or_default();
    let name = [context.name.as_str(), object.name(), generated].into_iter().find(|name| !name.is_empty());
    Status::forbidden(&context.resource.gvr, name.unwrap_or("Unknown"), why)
}
