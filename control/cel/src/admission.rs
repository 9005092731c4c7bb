//! What expressions of admission may name: match conditions, and the expressions of policies. The plugins of the API server compile with it, and
//! the controller that checks policies against schemas. Follows upstream's `apiserver/pkg/admission/plugin/cel`.

use crate::{AUTHORIZER as AUTHORIZER_TYPE, Env, ObjectType, RESOURCE_CHECK, Type};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// The variable that asks the authorizer.
pub const AUTHORIZER: &str = "authorizer";

/// The variable that asks it about the resource of the request.
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";

/// `object`, `oldObject`, `request`, `namespaceObject` and `authorizer`. `object` is the type of the first two.
pub fn env(object: &Type) -> Env {
    env_without_authorizer(object)
        .with_variable(AUTHORIZER, AUTHORIZER_TYPE)
        .with_variable(REQUEST_RESOURCE, RESOURCE_CHECK)
}

/// The same without `authorizer`, as messages have it.
pub fn env_without_authorizer(object: &Type) -> Env {
    Env::kubernetes()
        .with_variable("object", object.clone())
        .with_variable("oldObject", object.clone())
        .with_variable("request", request())
        .with_variable("namespaceObject", namespace())
}

/// The variables of a policy, which are declared one after the other. Clones are the same variables.
#[derive(Clone, Default)]
pub struct Variables(Arc<RwLock<BTreeMap<String, Type>>>);

impl Variables {
    /// Declares them as `variables`; those that are added later too.
    pub fn of(&self, env: Env) -> Env {
        env.with_variable("variables", Type::object("kubernetes.variables", Arc::new(self.clone())))
    }

    /// Adds a variable by the type of its expression, which is none if that is wrong.
    pub fn add(&self, name: &str, of: Option<&Type>) {
        let of = of.map_or(Type::Dyn, kept);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), of);
    }
}

impl ObjectType for Variables {
    fn field(&self, _: &str, field: &str) -> Option<Type> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(field).cloned()
    }
}

/// As much of a type as upstream keeps for a variable.
fn kept(of: &Type) -> Type {
    match of {
        Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => of.clone(),
        Type::List(of) => Type::list(kept(of)),
        Type::Map(of) => Type::map(kept(&of.0), kept(&of.1)),
        _ => Type::Dyn,
    }
}

/// The type of `request`.
fn request() -> Type {
    let texts = |name: &str, fields: [&'static str; 3]| Type::fields(name, fields.map(|field| (field, Type::String)));
    let kind = texts("kubernetes.GroupVersionKind", ["group", "version", "kind"]);
    let resource = texts("kubernetes.GroupVersionResource", ["group", "version", "resource"]);
    let list = Type::list(Type::String);
    let user = Type::fields(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", list.clone()),
            ("extra", Type::map(Type::String, list)),
        ],
    );
    Type::fields(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

/// The simple fields of a Namespace's metadata that expressions see.
pub const NAMESPACE_METADATA: [(&str, Type); 8] = [
    ("name", Type::String),
    ("generateName", Type::String),
    ("namespace", Type::String),
    ("creationTimestamp", Type::Timestamp),
    ("deletionGracePeriodSeconds", Type::Int),
    ("deletionTimestamp", Type::Timestamp),
    ("generation", Type::Int),
    ("resourceVersion", Type::String),
];

/// The type of `namespaceObject`.
fn namespace() -> Type {
    let map = || Type::map(Type::String, Type::String);
    let metadata = NAMESPACE_METADATA.into_iter().chain([
        ("labels", map()),
        ("annotations", map()),
        // Upstream's name of the field, which no value has.
        ("UID", Type::String),
        ("finalizers", Type::list(Type::String)),
    ]);
    let condition = Type::fields(
        "kubernetes.NamespaceCondition",
        [
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    let spec = Type::fields("kubernetes.NamespaceSpec", [("finalizers", Type::list(Type::String))]);
    let status = [("conditions", Type::list(condition)), ("phase", Type::String)];
    Type::fields(
        "kubernetes.Namespace",
        [
            ("metadata", Type::fields("kubernetes.NamespaceMetadata", metadata)),
            ("spec", spec),
            ("status", Type::fields("kubernetes.NamespaceStatus", status)),
        ],
    )
}
