//! The arena of schemas: a node is a field or an element, structs are shared definitions.

use serde_json::Value;
use std::borrow::Cow;

/// Text that is a slice of the embedded data, or owned for custom resources.
pub(crate) type Str = Cow<'static, str>;
pub(crate) type NodeId = u32;
pub(crate) type StructId = u32;

/// How server-side apply merges a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value, owned as a whole.
    #[default]
    Atomic,
    /// Scalars, each owned separately.
    Set,
    /// Objects with these keys.
    Map(Box<[String]>),
}

/// How strategic merge patch treats a field (`x-kubernetes-patch-strategy`). All false: a list or scalar is replaced, an object
/// merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Elements are merged: by merge key, or as a set of scalars.
    pub merge: bool,
    /// The value is replaced as a whole, even an object.
    pub replace: bool,
    /// The patch may name the keys to keep (`$retainKeys`).
    pub retain_keys: bool,
}

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Anything, without a schema inside.
    Any,
    /// An object with declared fields.
    Object,
    /// An object with free keys.
    Map,
    /// A list.
    List,
    /// A string, base64 bytes and times included.
    String,
    /// An integer.
    Integer,
    /// Any number.
    Number,
    /// A boolean.
    Boolean,
    /// A quantity: a string or a number.
    Quantity,
    /// An integer or a string.
    IntOrString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    /// `runtime.RawExtension`: any object, unchanged; in protobuf raw JSON.
    Raw,
    /// `metav1.FieldsV1`.
    Fields,
    /// `apiextensions.JSON`.
    Json,
    /// `JSONSchemaPropsOrArray`, `…OrBool`, `…OrStringArray` around the node.
    SchemaOrArray(NodeId),
    SchemaOrBool(NodeId),
    SchemaOrStrings(NodeId),
    Struct(StructId),
    List(NodeId),
    Map(NodeId),
}

/// A node: its type and its own facts.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub kind: Kind,
    pub list: ListType,
    pub atomic: bool,
    pub preserve: bool,
    pub nullable: bool,
    /// Custom resources: validation refuses a value of a wrong type, not decoding.
    pub lenient: bool,
    /// Custom resources: a value without a schema (`additionalProperties: true`), whose objects have no known fields.
    pub bare: bool,
    pub strategy: PatchStrategy,
    pub merge_key: Option<Str>,
    pub default: Option<Box<Value>>,
    /// Go's name of a named scalar or map type.
    pub go: Option<Str>,
}

impl Node {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            list: ListType::Atomic,
            atomic: false,
            preserve: false,
            nullable: false,
            lenient: false,
            bare: false,
            strategy: PatchStrategy::default(),
            merge_key: None,
            default: None,
            go: None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub name: Str,
    pub node: NodeId,
    pub required: bool,
    /// Go's protobuf writes the zero of this number or boolean, and JSON omits it.
    pub omit_zero: bool,
    /// A pointer to a string ("" is a value), or another pointer without `omitempty`: null if unset.
    pub pointer: bool,
    /// Go's JSON writes the field even if it is empty.
    pub always: bool,
    /// The path of protobuf tags: those of inline messages first, the field's own tag last. Empty: not in protobuf.
    pub tags: smallpath::Tags,
}

/// A path of at most three protobuf tags, without an allocation.
pub(crate) mod smallpath {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Tags([u16; 3], u8);

    impl Tags {
        pub(crate) fn parse(text: &str) -> Option<Self> {
            let mut tags = Self::default();
            for part in text.split('.') {
                *tags.0.get_mut(tags.1 as usize)? = part.parse().ok()?;
                tags.1 += 1;
            }
            Some(tags)
        }

        pub(crate) fn as_slice(&self) -> &[u16] {
            &self.0[..self.1 as usize]
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Struct {
    /// The full definition name, or empty for custom resources.
    pub name: Str,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Indexes of the fields that have a default.
    pub defaulted: Vec<u16>,
    pub atomic: bool,
    /// The schema of undeclared keys (`additionalProperties` beside `properties`).
    pub additional: Option<NodeId>,
}

#[derive(Debug, Default)]
pub(crate) struct Arena {
    pub nodes: Vec<Node>,
    pub structs: Vec<Struct>,
}

impl Arena {
    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId::try_from(self.nodes.len() - 1).expect("a schema has fewer than 2^32 places")
    }

    /// Records which fields have defaults, once all fields are added.
    pub(crate) fn seal(&mut self) {
        let Self { nodes, structs } = self;
        for structure in structs {
            let defaulted =
                structure.fields.iter().enumerate().filter(|(_, f)| nodes[f.node as usize].default.is_some());
            structure.defaulted = defaulted.filter_map(|(i, _)| u16::try_from(i).ok()).collect();
            structure.fields.shrink_to_fit();
        }
        nodes.shrink_to_fit();
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn structure(&self, id: StructId) -> &Struct {
        &self.structs[id as usize]
    }

    pub(crate) fn fields(&self, id: NodeId) -> &[Field] {
        match self.node(id).kind {
            Kind::Struct(s) => &self.structure(s).fields,
            _ => &[],
        }
    }

    pub(crate) fn field(&self, id: StructId, name: &str) -> Option<&Field> {
        let fields = &self.structure(id).fields;
        fields.binary_search_by(|f| (*f.name).cmp(name)).ok().map(|i| &fields[i])
    }

    /// The name of the embedded Go struct with this field, for decoding errors. In protobuf an embedded struct is a message of its own, so
    /// that the tags lead through it.
    pub(crate) fn embedded(&self, id: StructId, field: &Field) -> Option<&'static str> {
        if field.tags.as_slice().len() < 2 {
            return None;
        }
        Some(match self.struct_name(id) {
            "Volume" => "VolumeSource",
            "PersistentVolumeSpec" => "PersistentVolumeSource",
            "Probe" => "ProbeHandler",
            "EphemeralContainer" => "EphemeralContainerCommon",
            "IngressRule" => "IngressRuleValue",
            "RuleWithOperations" => "Rule",
            "NamedRuleWithOperations" => "RuleWithOperations",
            "DeviceClassConfiguration" | "DeviceClaimConfiguration" | "DeviceAllocationConfiguration" => {
                "DeviceConfiguration"
            }
            _ => "LocalObjectReference",
        })
    }

    pub(crate) fn child(&self, id: NodeId, name: &str) -> Option<NodeId> {
        match self.node(id).kind {
            Kind::Struct(s) => self.field(s, name).map(|f| f.node).or(self.structure(s).additional),
            Kind::Map(value) => Some(value),
            Kind::SchemaOrArray(s) | Kind::SchemaOrBool(s) | Kind::SchemaOrStrings(s) => self.child(s, name),
            _ => None,
        }
    }

    pub(crate) fn element(&self, id: NodeId) -> Option<NodeId> {
        match self.node(id).kind {
            Kind::List(item) | Kind::Map(item) => Some(item),
            Kind::SchemaOrArray(s) => Some(s),
            _ => None,
        }
    }

    pub(crate) fn is_atomic(&self, id: NodeId) -> bool {
        let node = self.node(id);
        match node.kind {
            Kind::Struct(s) => node.atomic || self.structure(s).atomic,
            Kind::Raw | Kind::Fields | Kind::Json => true,
            Kind::SchemaOrArray(_) | Kind::SchemaOrBool(_) | Kind::SchemaOrStrings(_) => true,
            _ => node.atomic,
        }
    }

    pub(crate) fn preserves_unknown(&self, id: NodeId) -> bool {
        let node = self.node(id);
        node.preserve || matches!(node.kind, Kind::Any | Kind::Raw | Kind::Fields | Kind::Json)
    }

    pub(crate) fn shape(&self, id: NodeId) -> Shape {
        match self.node(id).kind {
            Kind::Any | Kind::Raw | Kind::Fields | Kind::Json => Shape::Any,
            Kind::SchemaOrArray(_) | Kind::SchemaOrBool(_) | Kind::SchemaOrStrings(_) => Shape::Any,
            Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime => Shape::String,
            Kind::Bool => Shape::Boolean,
            Kind::Int32 | Kind::Int64 => Shape::Integer,
            Kind::Double => Shape::Number,
            Kind::Quantity => Shape::Quantity,
            Kind::IntOrString => Shape::IntOrString,
            Kind::Struct(_) => Shape::Object,
            Kind::List(_) => Shape::List,
            Kind::Map(_) => Shape::Map,
        }
    }

    /// The type as Go prints it: `int32`, `[]v1.Container`, `map[string]string`.
    pub(crate) fn go_type(&self, id: NodeId) -> String {
        let node = self.node(id);
        if let Some(name) = &node.go {
            return name.to_string();
        }
        match node.kind {
            Kind::Any => "interface {}".into(),
            Kind::String => "string".into(),
            Kind::Bool => "bool".into(),
            Kind::Int32 => "int32".into(),
            Kind::Int64 => "int64".into(),
            Kind::Double => "float64".into(),
            Kind::Bytes => "[]uint8".into(),
            Kind::Quantity => "resource.Quantity".into(),
            Kind::Time => "v1.Time".into(),
            Kind::MicroTime => "v1.MicroTime".into(),
            Kind::IntOrString => "intstr.IntOrString".into(),
            Kind::Raw => "runtime.RawExtension".into(),
            Kind::Fields => "v1.FieldsV1".into(),
            Kind::Json => "v1.JSON".into(),
            Kind::SchemaOrArray(_) => "v1.JSONSchemaPropsOrArray".into(),
            Kind::SchemaOrBool(_) => "v1.JSONSchemaPropsOrBool".into(),
            Kind::SchemaOrStrings(_) => "v1.JSONSchemaPropsOrStringArray".into(),
            Kind::Struct(s) => {
                let name = &self.structure(s).name;
                let start = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
                if name.is_empty() { "map[string]interface {}".into() } else { name[start..].to_owned() }
            }
            Kind::List(item) => format!("[]{}", self.go_type(item)),
            Kind::Map(item) => format!("map[string]{}", self.go_type(item)),
        }
    }

    /// The Go struct's name without its package: `PodSpec`.
    pub(crate) fn struct_name(&self, id: StructId) -> &str {
        let name = &self.structure(id).name;
        name.rsplit('.').next().unwrap_or_default()
    }
}
