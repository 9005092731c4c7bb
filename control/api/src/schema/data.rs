//! Loads the embedded schemas of the built-in kinds into an arena: once, on first use, in a few milliseconds.

use super::types::{Arena, Field, Kind, ListType, Node, NodeId, Str, Struct, StructId, smallpath::Tags};
use crate::GroupVersionKind;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

static STRUCTURE: &str = include_str!(concat!(env!("OUT_DIR"), "/structure.txt"));
static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| read(STRUCTURE));

/// The built-in kinds.
pub(crate) struct Builtin {
    pub arena: Arc<Arena>,
    /// Definition names and their nodes, sorted.
    definitions: Vec<(&'static str, NodeId)>,
    /// `group/version/Kind` and their nodes, sorted.
    kinds: Vec<(&'static str, NodeId)>,
    /// The same for kinds that only answers have.
    answers: Vec<(&'static str, NodeId)>,
}

/// The built-in kinds, loaded on the first call.
pub(crate) fn builtin() -> &'static Builtin {
    &BUILTIN
}

impl Builtin {
    pub(crate) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<NodeId> {
        let wanted = group.chars().chain("/".chars()).chain(version.chars()).chain("/".chars()).chain(kind.chars());
        let found = self.kinds.binary_search_by(|(key, _)| key.chars().cmp(wanted.clone())).ok()?;
        Some(self.kinds[found].1)
    }

    /// A kind that is no body of a request, as `PartialObjectMetadata`.
    pub(crate) fn answer(&self, gvk: &GroupVersionKind) -> Option<NodeId> {
        let wanted = format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind);
        self.answers.iter().find(|(key, _)| *key == wanted).map(|(_, node)| *node)
    }

    pub(crate) fn definition(&self, name: &str) -> Option<NodeId> {
        let found = self.definitions.binary_search_by(|(key, _)| (*key).cmp(name)).ok()?;
        Some(self.definitions[found].1)
    }

    /// The OpenAPI name of a kind's definition.
    pub(crate) fn definition_of(&self, group: &str, version: &str, kind: &str) -> Option<&'static str> {
        let node = self.kind(group, version, kind)?;
        self.definitions.iter().find(|(_, n)| *n == node).map(|(name, _)| *name)
    }

    /// Every `group/version/Kind`.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.iter().map(|(key, _)| *key)
    }
}

fn read(text: &'static str) -> Builtin {
    let mut reader = Reader::default();
    // Definitions refer to later ones, so that each gets its node first.
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("D\t") {
            reader.declare(rest);
        }
    }
    reader.wrap();
    let mut current = None;
    for line in text.lines() {
        let mut columns = line.split('\t');
        match columns.next() {
            Some("D") => current = columns.next().and_then(|name| reader.structs.get(name).copied()),
            Some("F") => {
                let (Some(name), Some(shape), Some(attributes)) = (columns.next(), columns.next(), columns.next())
                else {
                    unreachable!("the generator writes four columns");
                };
                let id = current.expect("fields stand below a struct");
                let field = reader.field(name, shape, attributes);
                reader.arena.structs[id as usize].fields.push(field);
            }
            _ => unreachable!("the build keeps D and F lines only"),
        }
    }
    let mut definitions: Vec<_> = reader.definitions.into_iter().collect();
    definitions.sort_unstable();
    reader.kinds.sort_unstable();
    let mut arena = reader.arena;
    arena.seal();
    Builtin { arena: Arc::new(arena), definitions, kinds: reader.kinds, answers: reader.answers }
}

#[derive(Default)]
struct Reader {
    arena: Arena,
    definitions: HashMap<&'static str, NodeId>,
    structs: HashMap<&'static str, StructId>,
    kinds: Vec<(&'static str, NodeId)>,
    answers: Vec<(&'static str, NodeId)>,
    /// Shared nodes without facts of their own, by their shape.
    plain: HashMap<&'static str, NodeId>,
    wrappers: Vec<(NodeId, &'static str)>,
}

impl Reader {
    fn declare(&mut self, line: &'static str) {
        let mut columns = line.split('\t');
        let (Some(name), Some(form), Some(attributes)) = (columns.next(), columns.next(), columns.next()) else {
            unreachable!("the generator writes four columns");
        };
        let kind = match form {
            "struct" => {
                let id = StructId::try_from(self.arena.structs.len()).expect("fewer than 2^32 structs");
                let atomic = attributes.split(' ').any(|a| a == "map:atomic");
                self.arena.structs.push(Struct { name: Str::Borrowed(name), atomic, ..Struct::default() });
                self.structs.insert(name, id);
                Kind::Struct(id)
            }
            "quantity" => Kind::Quantity,
            "time" => Kind::Time,
            "microtime" => Kind::MicroTime,
            "intorstring" => Kind::IntOrString,
            "raw" => Kind::Raw,
            "fields" => Kind::Fields,
            "json" => Kind::Json,
            _ => Kind::Any,
        };
        let node = self.arena.add(Node::new(kind));
        if form.starts_with("schemaor") {
            self.wrappers.push((node, form));
        }
        self.definitions.insert(name, node);
        for attribute in attributes.split(' ') {
            if let Some(key) = attribute.strip_prefix("gvk:") {
                self.kinds.push((key, node));
            }
            if let Some(key) = attribute.strip_prefix("answer:") {
                self.answers.push((key, node));
            }
        }
    }

    /// `JSONSchemaPropsOr…` are wrappers around JSONSchemaProps.
    fn wrap(&mut self) {
        let props = self.definitions.get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        let props = *props.expect("the data has JSONSchemaProps");
        for (node, form) in self.wrappers.drain(..) {
            self.arena.nodes[node as usize].kind = match form {
                "schemaorarray" => Kind::SchemaOrArray(props),
                "schemaorbool" => Kind::SchemaOrBool(props),
                _ => Kind::SchemaOrStrings(props),
            };
        }
    }

    fn field(&mut self, name: &'static str, shape: &'static str, attributes: &'static str) -> Field {
        let plain = self.place(shape);
        let mut node = Node::new(self.arena.node(plain).kind);
        let mut special = false;
        let mut field = Field {
            name: Str::Borrowed(name),
            node: plain,
            required: false,
            omit_zero: false,
            pointer: false,
            always: false,
            tags: Tags::default(),
        };
        let mut keys = None;
        for attribute in attributes.split(' ').filter(|a| !a.is_empty()) {
            let (key, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            match key {
                "required" => (field.required, field.always) = (true, true),
                "always" => field.always = true,
                "omitted" => field.always = false,
                "omitzero" => field.omit_zero = true,
                "pointer" => field.pointer = true,
                "tag" => field.tags = Tags::parse(value).expect("the generator writes short tag paths"),
                _ => {
                    special = true;
                    match key {
                        "list" => node.list = list_type(value),
                        "keys" => keys = Some(value.split(',').map(str::to_owned).collect()),
                        "map" => node.atomic = value == "atomic",
                        "key" => node.merge_key = Some(Str::Borrowed(value)),
                        "go" => self.name_types(&mut node, value),
                        "default" => node.default = Some(Box::new(Value::from(value))),
                        "strategy" => {
                            for strategy in value.split(',') {
                                match strategy {
                                    "merge" => node.strategy.merge = true,
                                    "replace" => node.strategy.replace = true,
                                    _ => node.strategy.retain_keys = true,
                                }
                            }
                        }
                        _ => {} // enum: for OpenAPI only
                    }
                }
            }
        }
        if let (ListType::Map(_), Some(keys)) = (&node.list, keys) {
            node.list = ListType::Map(keys);
        }
        if special {
            field.node = self.arena.add(node);
        }
        field
    }

    /// Sets the Go type name of a node, and of its elements: `[]v1.IPFamily`.
    fn name_types(&mut self, node: &mut Node, name: &'static str) {
        let inner = name.strip_prefix("[]").or_else(|| Some(name.strip_prefix("map[")?.split_once(']')?.1));
        if let (Some(inner), Kind::List(item) | Kind::Map(item)) = (inner, node.kind) {
            let mut element = Node::new(self.arena.node(item).kind);
            self.name_types(&mut element, inner);
            let element = self.arena.add(element);
            node.kind = if matches!(node.kind, Kind::List(_)) { Kind::List(element) } else { Kind::Map(element) };
        }
        node.go = Some(Str::Borrowed(name));
    }

    /// The shared node of a shape: `s`, `[X`, `{X`, `@name`.
    fn place(&mut self, shape: &'static str) -> NodeId {
        if let Some(name) = shape.strip_prefix('@') {
            return *self.definitions.get(name).expect("the generator writes every definition that is referred to");
        }
        if let Some(id) = self.plain.get(shape) {
            return *id;
        }
        let kind = match shape.split_at(1) {
            ("[", item) => Kind::List(self.place(item)),
            ("{", value) => Kind::Map(self.place(value)),
            ("s", _) => Kind::String,
            ("b", _) => Kind::Bool,
            ("i", _) => Kind::Int32,
            ("l", _) => Kind::Int64,
            ("d", _) => Kind::Double,
            ("y", _) => Kind::Bytes,
            _ => Kind::Any,
        };
        let id = self.arena.add(Node::new(kind));
        self.plain.insert(shape, id);
        id
    }
}

fn list_type(text: &str) -> ListType {
    match text {
        "set" => ListType::Set,
        "map" => ListType::Map(Box::default()),
        _ => ListType::Atomic,
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
