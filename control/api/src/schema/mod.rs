//! The structural schema, for decoding, pruning, defaulting, strategic merge, server-side apply and OpenAPI.
//!
//! A [`Schema`] is a cheap handle on a node of a schema: a kind, a field, an element. Built-in kinds come from the embedded data file
//! (`data/kubernetes.txt`, made by `data/generate.py`), which is loaded once, on first use; [`Schema::from_open_api`] builds the schema of a
//! custom resource. Value validation (ranges, patterns, required fields) is the work of strategies.
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
pub mod validate;
mod zeros;

use crate::GroupVersionKind;
use serde_json::{Map, Value};
use std::{fmt, sync::Arc};

pub(crate) use data::builtin;
pub use decode::kind_of as json_kind;
pub(crate) use empty::zero;
pub(crate) use types::{Arena, Field, Kind, Node, NodeId, StructId};
pub use types::{ListType, PatchStrategy, Shape};
pub use validate::{Validator, check_pattern, validate_defaults, validate_defaults_and};

/// A node of a structural schema. Cheap to clone.
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

    /// As [`Schema::for_kind`], kinds that only answers have included: `PartialObjectMetadata`, the documents of discovery.
    pub fn for_answer(gvk: &GroupVersionKind) -> Option<Self> {
        let data = builtin();
        let answer = || data.answer(gvk).map(|node| Self { arena: data.arena.clone(), node });
        Self::for_kind(gvk).or_else(answer)
    }

    /// The schema of a built-in definition by its OpenAPI name, as `io.k8s.api.core.v1.PodSpec`.
    pub fn named(definition: &str) -> Option<Self> {
        let data = builtin();
        let node = data.definition(definition)?;
        Some(Self { arena: data.arena.clone(), node })
    }

    /// The schema of a custom resource from its `openAPIV3Schema`, with the type and metadata of every object. It prunes and defaults
    /// values, but does not check their types, which validation does.
    pub fn from_open_api(schema: &Value) -> Self {
        structural::build(schema)
    }

    /// The schema of any value: no field is unknown, every list is atomic.
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

    /// The kind of value.
    pub fn shape(&self) -> Shape {
        self.arena.shape(self.node)
    }

    /// The schema of a field of this object, or of a value of this map.
    pub fn field(&self, name: &str) -> Option<Self> {
        self.arena.child(self.node, name).map(|node| self.with(node))
    }

    /// The declared fields of this object by name; nothing for other shapes.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Self)> {
        self.arena.fields(self.node).iter().map(|field| (&*field.name, self.with(field.node)))
    }

    /// Whether this object requires the field. The schema does not enforce it.
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

    /// Whether this object or map is atomic for server-side apply (`x-kubernetes-map-type: atomic`), or has no schema inside.
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

    /// Whether unknown fields are kept (`x-kubernetes-preserve-unknown-fields`, or no schema).
    pub fn preserves_unknown(&self) -> bool {
        self.arena.preserves_unknown(self.node)
    }

    /// Checks the types of a parsed value as Go's decoder does, and converts it to the form of Go's types: nulls and unknown fields are dropped,
    /// quantities and times are canonical.
    ///
    /// Returns the problems of strict decoding: `unknown field "spec.foo"`, at most 100, each once, sorted within an object.
    /// [`crate::json::in_document_order`] sorts them by their position in a JSON document.
    ///
    /// # Errors
    /// The error of Go's decoder: `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
    pub fn decode_check(&self, value: &mut Value) -> Result<Vec<String>, String> {
        decode::check(&self.arena, self.node, value, decode::Source::Sorted)
    }

    /// As [`Schema::decode_check`], for a value that was parsed from this JSON document: of several errors it returns that of Go.
    ///
    /// # Errors
    /// As [`Schema::decode_check`].
    pub fn decode_check_in(&self, value: &mut Value, document: &[u8]) -> Result<Vec<String>, String> {
        decode::check(&self.arena, self.node, value, decode::Source::Json(document))
    }

    /// As [`Schema::decode_check`], for a map that upstream converts without JSON in between: a strategic merge patch.
    ///
    /// # Errors
    /// The error of upstream's converter: `unrecognized type: int32`, `cannot restore struct from: string`.
    pub fn convert_check(&self, value: &mut Value) -> Result<Vec<String>, String> {
        decode::check(&self.arena, self.node, value, decode::Source::Map)
    }

    /// Removes what Go's JSON omits in built-in kinds: empty strings that are not pointers, zeros and `false` of fields with `omitempty`,
    /// empty lists and maps. Fields that Go always writes stay, and are added where they are missing: a scalar as its zero, a struct that
    /// is not a pointer as `{}`, a list, map, time or pointer as null. Empty labels stay until [`Schema::forget_empty`].
    pub fn leave_out_empty(&self, value: &mut Value) {
        empty::leave_out(&self.arena, self.node, value);
    }

    /// Removes what upstream's protobuf storage cannot distinguish from absent: an empty list that Go always writes becomes null, and empty
    /// labels, which [`Schema::leave_out_empty`] keeps for error messages, are removed.
    pub fn forget_empty(&self, object: &mut Map<String, Value>) {
        empty::forget(&self.arena, self.node, object);
    }

    /// The JSON of a value as upstream's errors print internal Go types: `{"Kind":"Pod","Namespace":"",…}`.
    pub fn internal_form(&self, value: &Value) -> String {
        let mut text = String::new();
        internal::write(&self.arena, self.node, value, &mut text);
        text
    }

    /// As [`Schema::internal_form`], for one field of an object of this type; a missing field is its zero.
    pub fn internal_field(&self, object: &Map<String, Value>, name: &str) -> String {
        let mut text = String::new();
        for field in self.arena.fields(self.node).iter().filter(|field| field.name == name) {
            internal::write_field(&self.arena, field, object, &mut text);
        }
        text
    }

    /// Makes a stored value decodable for Rust types, which refuse values that Go accepts: a null is dropped, a null element becomes zero,
    /// a missing required time becomes Go's zero time `0001-01-01T00:00:00Z`, and the type of an object within another one is dropped.
    pub fn fill_zeros(&self, value: &mut Value) {
        zeros::fill(&self.arena, self.node, value);
    }

    /// Sets the defaults of the schema: keys of list maps for built-in kinds (`protocol: TCP`), `default` for custom resources, of which nulls
    /// that are not allowed are removed, too. The defaults in Kubernetes' code are set by strategies.
    pub fn default(&self, value: &mut Value) {
        defaults::apply(&self.arena, self.node, value);
    }
}
