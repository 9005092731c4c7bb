//! Admission: plugins that change or refuse a write for reasons outside of its own object. The server gets them as an ordered list; they read
//! other objects from memory ([`crate::Objects`]), never from disk.

use crate::{Context, DeleteOptions, Reservation};
pub use crate::{context::Operation, notes::Notes, versions::Versions};
use api::{GroupVersionKind, Object, Status};
use http::Extensions;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The attributes of a request. The object is the deleted one where [`Operation::Delete`] is validated, and the options of the connection for
/// [`Operation::Connect`].
pub struct Attributes {
    /// User, time, operation and resource.
    pub context: Context,
    /// The stored object, for updates and deletes.
    pub old: Option<Arc<Object>>,
    /// The kind of the object where it is not that of the resource: a Scale, an Eviction.
    pub kind: Option<GroupVersionKind>,
    /// What the client gave besides the object.
    pub given: Given,
    /// The versions in which objects are served; none outside of a server.
    pub versions: Option<Arc<dyn Versions>>,
    changed: AtomicBool,
    again: AtomicBool,
    state: Mutex<Extensions>,
}

/// The options of a request that a client gave.
#[derive(Clone, Debug, Default)]
pub enum Given {
    /// None.
    #[default]
    Nothing,
    /// Those of a create, an update or a patch.
    Write {
        /// `fieldManager`.
        manager: Option<String>,
        /// `fieldValidation`.
        validation: Option<&'static str>,
    },
    /// Those of a deletion.
    Deletion(DeleteOptions),
}

impl Attributes {
    /// Those of a request for an object of the resource itself.
    pub fn new(context: Context, old: Option<Arc<Object>>) -> Self {
        Self {
            context,
            old,
            kind: None,
            given: Given::Nothing,
            versions: None,
            changed: AtomicBool::new(false),
            again: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Whether the request is about the main resource `resource.group`, not a subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        let gvr = &self.context.resource.gvr;
        gvr.group == group && gvr.resource == resource && self.context.subresource.is_empty()
    }

    /// Whether this is an update of `resource.group/subresource`.
    pub fn updates(&self, group: &str, resource: &str, subresource: &str) -> bool {
        let (gvr, cx) = (&self.context.resource.gvr, &self.context);
        let is_it = gvr.group == group && gvr.resource == resource && cx.subresource == subresource;
        is_it && cx.operation == Operation::Update
    }

    /// Whether this is a create of `resource.group`.
    pub fn creates(&self, group: &str, resource: &str) -> bool {
        self.context.operation == Operation::Create && self.is(group, resource)
    }

    /// The kind of the object.
    pub fn kind(&self) -> GroupVersionKind {
        self.kind.clone().unwrap_or_else(|| self.context.resource.gvk())
    }

    /// The options of the operation that is performed, which a patch has as an update; null for a connection.
    pub fn options(&self) -> Value {
        let kind = match self.context.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                options[name] = value;
            }
        };
        match &self.given {
            Given::Nothing => {}
            Given::Write { manager, validation } => {
                set("fieldManager", manager.clone().map(Value::from));
                set("fieldValidation", validation.map(Value::from));
            }
            Given::Deletion(deletion) => {
                set("gracePeriodSeconds", deletion.grace.map(Value::from));
                set("propagationPolicy", deletion.propagation.clone().map(Value::from));
                let mut preconditions = json!({});
                for (name, value) in [("uid", &deletion.uid), ("resourceVersion", &deletion.revision)] {
                    if let Some(value) = value {
                        preconditions[name] = json!(value);
                    }
                }
                set("preconditions", Some(preconditions).filter(|all| *all != json!({})));
            }
        }
        set("dryRun", self.context.dry_run.then(|| json!(["All"])));
        options
    }

    /// Notes that somebody outside of the server has changed the object. All plugins are then asked once more, and what only the server sets is
    /// set again.
    pub fn mark_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Whether somebody outside of the server has changed the object.
    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Whether the plugins are asked for the second time.
    pub fn is_second_round(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }

    /// Begins the second round if there is to be one.
    pub(crate) fn begin_second_round(&self) -> bool {
        self.is_changed() && !self.again.swap(true, Ordering::Relaxed)
    }

    /// Takes what a plugin has kept of this request, by its type.
    pub fn take<T: Any + Clone + Send + Sync>(&self) -> Option<T> {
        self.state.lock().remove()
    }

    /// Keeps something for the second round.
    pub fn keep<T: Any + Clone + Send + Sync>(&self, state: T) {
        self.state.lock().insert(state);
    }
}

/// One admission plugin.
#[async_trait::async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Upstream's name: `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether the plugin handles such requests.
    fn handles(&self, attributes: &Attributes) -> bool;

    /// Mutates or refuses the object, which is empty for a deletion and holds the options of a connection. Called a second time where
    /// [`Attributes::mark_changed`] was.
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
