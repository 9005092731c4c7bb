//! What field ownership asks of a schema, with structured-merge-diff's rules for places that the schema does not know: objects are
//! granular, lists are atomic.

use super::set;
use crate::schema::{Arena, ListType, NodeId, Schema, Shape as Kind};
use serde_json::Value;
use std::borrow::Cow;

/// How a value is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape<'a> {
    /// As a whole: scalars and everything atomic.
    Leaf,
    /// Field by field.
    Map,
    /// Scalar by scalar.
    Set,
    /// Item by item, which these fields identify.
    Keyed(&'a [String]),
}

/// The type of a value; of what the schema does not know when it has no node.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    arena: &'a Arena,
    node: Option<NodeId>,
}

/// Types that Go always embeds by value, so that they exist in every object that has their parent.
const VALUES: &[&str] = &[
    "v1.ObjectMeta",
    "v1.PodTemplateSpec",
    "v1.JobTemplateSpec",
    "v1.DeploymentStrategy",
    "v1.DaemonSetUpdateStrategy",
    "v1.StatefulSetUpdateStrategy",
    "v1.LoadBalancerStatus",
    "v1.IngressLoadBalancerStatus",
    "v1.NodeSystemInfo",
    "v1.NodeDaemonEndpoints",
    "v1.DaemonEndpoint",
    "v1.EventSource",
    "v1.ResourceRequirements",
    "v1.VolumeResourceRequirements",
    "v1.CustomResourceDefinitionNames",
    "v1.VolumeAttachmentSource",
    "v1.PriorityLevelConfigurationReference",
    "v1.DeviceClaim",
    "v1.ResourcePool",
];

/// Where one of those is behind a pointer after all.
const POINTERS: &[(&str, &str)] = &[("v1.ReplicationControllerSpec", "template"), ("v1.PodSpec", "resources")];

impl<'a> Type<'a> {
    pub(super) fn of(schema: &'a Schema) -> Self {
        Self { arena: &schema.arena, node: Some(schema.node) }
    }

    fn at(self, node: Option<NodeId>) -> Self {
        Self { node, ..self }
    }

    /// How this value is owned.
    pub(super) fn shape(self, value: &Value) -> Shape<'a> {
        let node = self.node.map(|id| (id, self.arena.node(id)));
        match (value, node) {
            (Value::Object(_), Some((id, _))) if self.arena.is_atomic(id) => Shape::Leaf,
            (Value::Object(_), _) => Shape::Map,
            (Value::Array(_), Some((_, node))) => match &node.list {
                ListType::Atomic => Shape::Leaf,
                ListType::Set => Shape::Set,
                ListType::Map(keys) => Shape::Keyed(keys),
            },
            _ => Shape::Leaf,
        }
    }

    /// What kind of value the schema wants here.
    pub(super) fn wants(self) -> Kind {
        self.node.map_or(Kind::Any, |id| self.arena.shape(id))
    }

    /// Whether an object here may not have this field.
    pub(super) fn forbids(self, name: &str) -> bool {
        let Some(id) = self.node else { return false };
        let known = self.arena.child(id, name).is_some();
        self.arena.shape(id) == Kind::Object && !known && !self.arena.preserves_unknown(id)
    }

    /// The type of a field.
    pub(super) fn child(self, name: &str) -> Self {
        self.at(self.node.and_then(|id| self.arena.child(id, name)))
    }

    /// The type of a field, and whether the schema declares it by name.
    pub(super) fn child_declared(self, name: &str) -> (Self, bool) {
        let fields = self.node.map_or(&[][..], |id| self.arena.fields(id));
        match fields.binary_search_by(|field| (*field.name).cmp(name)) {
            Ok(at) => (self.at(Some(fields[at].node)), true),
            Err(_) => (self.child(name), false),
        }
    }

    /// Whether Go's type always has this field, a struct or list, whatever is written.
    pub(super) fn always_has(self, name: &str) -> bool {
        let Some(id) = self.node else { return false };
        let fields = self.arena.fields(id);
        let Ok(at) = fields.binary_search_by(|field| (*field.name).cmp(name)) else { return false };
        let field = &fields[at];
        let shape = self.arena.shape(field.node);
        if matches!(name, "reportingComponent" | "reportingInstance") && self.arena.go_type(id) == "v1.Event" {
            return true; // optional, and yet written when empty
        }
        if !matches!(shape, Kind::Object | Kind::Map | Kind::List) && !field.required {
            return false;
        }
        let parent = self.arena.go_type(id);
        if parent.starts_with("map[") {
            return false; // a custom resource: no Go type
        }
        if shape != Kind::Object {
            return field.required;
        }
        let own = self.arena.go_type(field.node);
        (matches!(name, "spec" | "status") || VALUES.contains(&own.as_str())) && !POINTERS.contains(&(&parent, name))
    }

    /// Whether Go leaves this field out when it is empty: maps, and the lists of the metadata. (Of other lists the schema does not
    /// tell; a few are written even when empty, as the ports of an EndpointSlice.)
    pub(super) fn omits_empty(self, name: &str) -> bool {
        let Some(id) = self.node else { return false };
        let fields = self.arena.fields(id);
        let Ok(at) = fields.binary_search_by(|field| (*field.name).cmp(name)) else { return false };
        let parent = self.arena.go_type(id);
        match self.arena.shape(fields[at].node) {
            Kind::Map => !fields[at].required && !parent.starts_with("map["), // a custom resource: no Go type
            Kind::List => parent == "v1.ObjectMeta",
            _ => false,
        }
    }

    /// The type of a list's items.
    pub(super) fn item(self) -> Self {
        self.at(self.node.and_then(|id| self.arena.element(id)))
    }

    /// The path element of an item of this list; an error says why it has none.
    pub(super) fn element(self, shape: Shape<'_>, item: &Value) -> Result<String, String> {
        let Shape::Keyed(keys) = shape else {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                scalar => Ok(set::value(scalar)),
            };
        };
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let kind = self.item();
        let mut pairs = Vec::with_capacity(keys.len());
        for name in keys {
            if let Some(value) = map.get(name).map(Cow::Borrowed).or_else(|| kind.default_of(name)) {
                pairs.push((name.as_str(), value));
            }
        }
        if pairs.is_empty() {
            return Err(format!(
                "associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default values for any key fields)"
            ));
        }
        Ok(set::key(pairs))
    }

    /// What a key that is left out stands for: its default, or the zero that Go's type has where it always writes the field.
    fn default_of(self, name: &str) -> Option<Cow<'a, Value>> {
        let id = self.node?;
        let fields = self.arena.fields(id);
        let field = &fields[fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?];
        if let Some(default) = self.arena.node(field.node).default.as_deref() {
            return Some(Cow::Borrowed(default));
        }
        // Of a custom resource no Go type is known; a reference's name is the one optional key with a default upstream.
        let written = field.required || self.arena.go_type(id) == "v1.LocalObjectReference";
        if !written || self.arena.go_type(id).starts_with("map[") {
            return None;
        }
        match self.arena.shape(field.node) {
            Kind::String if !field.pointer => Some(Cow::Owned(Value::from(""))),
            Kind::Integer => Some(Cow::Owned(Value::from(0))),
            _ => None,
        }
    }
}
