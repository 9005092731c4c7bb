//! The structural schema: one machine for decoding, pruning, defaulting, strategic merge, server-side apply and OpenAPI.
//!
//! A [`Schema`] is a cheap handle on a place in a schema: a kind, a field, an element. Built-in kinds come from the embedded data
//! file (`data/kubernetes.txt`, made by `data/generate.py`), which is read once, on first use; a custom resource's
//! schema is built by [`Schema::from_open_api`].
//! Value validation (ranges, patterns, required fields) is not done here: it is a strategy's.
//!
//! Follows <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy> and
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation>.

mod data;
mod decode;
mod defaults;
mod empty;
mod internal;
pub mod openapi;
mod structural;
mod types;
mod zeros;

use crate::GroupVersionKind;
use serde_json::{Map, Value};
use std::{fmt, sync::Arc};

pub(crate) use data::builtin;
pub use decode::kind_of as json_kind;
pub(crate) use empty::zero;
pub(crate) use types::{Arena, Field, Kind, Node, NodeId, StructId};
pub use types::{ListType, PatchStrategy, Shape};

/// A place in a structural schema. Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    pub(crate) arena: Arc<Arena>,
    pub(crate) node: NodeId,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.arena.go_type(self.node))
    }
}

impl Schema {
    /// The schema of a built-in kind, lists and options (`DeploymentList`, `DeleteOptions`) included.
    pub fn for_kind(gvk: &GroupVersionKind) -> Option<Self> {
        let data = builtin();
        let node = data.kind(&gvk.group, &gvk.version, &gvk.kind)?;
        Some(Self { arena: data.arena.clone(), node })
    }

    /// The schema of a built-in definition by its OpenAPI name, as `io.k8s.api.core.v1.PodSpec`.
    pub fn named(definition: &str) -> Option<Self> {
        let data = builtin();
        let node = data.definition(definition)?;
        Some(Self { arena: data.arena.clone(), node })
    }

    /// The schema of a custom resource from its `openAPIV3Schema`, with the type and metadata that every object has. Values are pruned
    /// and defaulted by it but not type-checked: that is validation's.
    pub fn from_open_api(schema: &Value) -> Self {
        structural::build(schema)
    }

    /// A schema that knows nothing: any value, no field is unknown, every list atomic.
    pub fn any() -> Self {
        let arena = Arena { nodes: vec![Node::new(types::Kind::Any)], ..Arena::default() };
        Self { arena: Arc::new(arena), node: 0 }
    }

    fn with(&self, node: NodeId) -> Self {
        Self { arena: self.arena.clone(), node }
    }

    pub(crate) fn facts(&self) -> &Node {
        self.arena.node(self.node)
    }

    /// What kind of value stands here.
    pub fn shape(&self) -> Shape {
        self.arena.shape(self.node)
    }

    /// The schema of a field of this object; of the value of this key, where this is a map.
    pub fn field(&self, name: &str) -> Option<Self> {
        self.arena.child(self.node, name).map(|node| self.with(node))
    }

    /// The declared fields of this object by name; nothing for other shapes.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Self)> {
        self.arena.fields(self.node).iter().map(|field| (&*field.name, self.with(field.node)))
    }

    /// Whether this object must have that field. The engine does not enforce it.
    pub fn is_required(&self, name: &str) -> bool {
        self.arena.fields(self.node).iter().any(|field| field.name == name && field.required)
    }

    /// The schema of an element of this list, or of a value of this map.
    pub fn items(&self) -> Option<Self> {
        self.arena.element(self.node).map(|node| self.with(node))
    }

    /// How server-side apply merges this list.
    pub fn list_type(&self) -> &ListType {
        &self.facts().list
    }

    /// Whether this object or map is one value for server-side apply (`x-kubernetes-map-type: atomic`), or is not known inside.
    pub fn is_atomic(&self) -> bool {
        self.arena.is_atomic(self.node)
    }

    /// The key by which strategic merge patch finds an element of this list of objects.
    pub fn patch_merge_key(&self) -> Option<&str> {
        self.facts().merge_key.as_deref()
    }

    /// How strategic merge patch treats this field.
    pub fn patch_strategy(&self) -> PatchStrategy {
        self.facts().strategy
    }

    /// The default that this schema gives an absent field.
    pub fn default_value(&self) -> Option<&Value> {
        self.facts().default.as_deref()
    }

    /// Whether unknown fields are kept here (`x-kubernetes-preserve-unknown-fields`, or a place without a schema).
    pub fn preserves_unknown(&self) -> bool {
        self.arena.preserves_unknown(self.node)
    }

    /// Checks the types of a freshly parsed value as Go's decoder does, and brings it into the form that Go would hold: nulls and
    /// unknown fields are dropped, quantities and times are in canonical form.
    ///
    /// Returns what strict decoding complains about: `unknown field "spec.foo"`, at most 100, each once, sorted within an object.
    /// Use [`crate::json::in_document_order`] to order them as a JSON document has them.
    ///
    /// # Errors
    /// The text of Go's decoder: `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
    pub fn decode_check(&self, value: &mut Value) -> Result<Vec<String>, String> {
        decode::check(&self.arena, self.node, value, decode::Source::Sorted)
    }

    /// As [`Schema::decode_check`], for a value that was parsed from this JSON document: of several errors the one that Go meets there.
    ///
    /// # Errors
    /// As [`Schema::decode_check`].
    pub fn decode_check_in(&self, value: &mut Value, document: &[u8]) -> Result<Vec<String>, String> {
        decode::check(&self.arena, self.node, value, decode::Source::Json(document))
    }

    /// As [`Schema::decode_check`], for a map that upstream converts without writing it as JSON in between: a strategic merge patch.
    ///
    /// # Errors
    /// The text of upstream's converter: `unrecognized type: int32`, `cannot restore struct from: string`.
    pub fn convert_check(&self, value: &mut Value) -> Result<Vec<String>, String> {
        decode::check(&self.arena, self.node, value, decode::Source::Map)
    }

    /// Leaves out what Go's JSON leaves out of the built-in kinds: empty texts that are not behind a pointer, zeroes and `false` of fields
    /// with `omitempty`, empty lists and maps. Fields that Go always writes stay, and are written where they are missing: a scalar as its
    /// zero, a structure that is not behind a pointer as `{}`, a list, map, time or pointer as null. Empty labels stay until
    /// [`Schema::forget_empty`].
    pub fn leave_out_empty(&self, value: &mut Value) {
        empty::leave_out(&self.arena, self.node, value);
    }

    /// Forgets what upstream's storage, which is protobuf, cannot tell from nothing: a list that Go always writes is null where it is
    /// empty; empty labels, which [`Schema::leave_out_empty`] leaves since messages print them, are gone.
    pub fn forget_empty(&self, object: &mut Map<String, Value>) {
        empty::forget(&self.arena, self.node, object);
    }

    /// The JSON of a value as error texts of upstream print its own Go types: `{"Kind":"Pod","Namespace":"",…}`.
    pub fn internal_form(&self, value: &Value) -> String {
        let mut text = String::new();
        internal::write(&self.arena, self.node, value, &mut text);
        text
    }

    /// As [`Schema::internal_form`], of one field of an object of this type, which may be missing: then its zero.
    pub fn internal_field(&self, object: &Map<String, Value>, name: &str) -> String {
        let mut text = String::new();
        for field in self.arena.fields(self.node).iter().filter(|field| field.name == name) {
            internal::write_field(&self.arena, field, object, &mut text);
        }
        text
    }

    /// Makes a stored value readable for typed decoders in Rust, which refuse what Go reads: a null is dropped, an element that is null
    /// becomes zero, a required time that is missing becomes Go's zero time, `0001-01-01T00:00:00Z`, and the type of an object within
    /// another is dropped.
    pub fn fill_zeros(&self, value: &mut Value) {
        zeros::fill(&self.arena, self.node, value);
    }

    /// Fills in the defaults that the schema carries: the keys of list maps for built-ins (`protocol: TCP`), `default` for custom
    /// resources. Not the defaults that Kubernetes' code sets: those are a strategy's.
    pub fn default(&self, value: &mut Value) {
        defaults::apply(&self.arena, self.node, value);
    }
}
