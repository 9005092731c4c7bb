//! A schema, compiled: what is asked of a value at each place. Regular expressions are compiled when they are used first.

use super::{
    formats::{self, Check},
    numbers::{Range, Rules as NumberRules},
    pattern::Pattern,
};
use serde_json::Value;
use std::sync::Arc;

/// How deep a schema may nest. A body has at most 64 levels, and one of a schema takes at least one of it.
const MAX_DEPTH: usize = 128;

/// Which constructs of a schema are read, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As objects are validated: formats that are unknown for the type are none, an int-or-string has two types.
    Objects,
    /// As upstream validates defaults: without these two.
    Defaults,
}

/// A place of the schema.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The types as errors name them: `integer,string`. Empty: any.
    pub types: Box<str>,
    pub nullable: bool,
    pub format: Box<str>,
    pub check: Option<Check>,
    pub range: Range,
    pub number: Option<Box<NumberRules>>,
    pub text: Option<Box<TextRules>>,
    pub list: Option<Box<ListRules>>,
    pub object: Option<Box<ObjectRules>>,
    pub choices: Box<[Value]>,
    pub logic: Option<Box<Logic>>,
    /// Sorted by name.
    pub properties: Box<[(Box<str>, Arc<Node>)]>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub merge: Merge,
    /// Whether unknown fields are kept.
    pub preserve: bool,
    /// Whether the value is a whole object of Kubernetes.
    pub embedded: bool,
    /// Whether there is such an object here or below.
    pub has_embedded: bool,
    /// Whether there is a list of sets or maps here or below.
    pub has_merges: bool,
    /// Whether there are rules in CEL here or below.
    pub has_rules: bool,
}

/// What is asked of a string.
#[derive(Debug, Default)]
pub(super) struct TextRules {
    pub most: Option<i64>,
    pub least: Option<i64>,
    pub pattern: Option<Pattern>,
}

/// What is asked of a list.
#[derive(Debug, Default)]
pub(super) struct ListRules {
    pub most: Option<i64>,
    pub least: Option<i64>,
    pub unique: bool,
}

/// What is asked of an object.
#[derive(Debug, Default)]
pub(super) struct ObjectRules {
    pub most: Option<i64>,
    pub least: Option<i64>,
    pub required: Box<[Box<str>]>,
}

/// Alternatives and negations.
#[derive(Debug, Default)]
pub(super) struct Logic {
    pub any_of: Box<[Node]>,
    pub one_of: Box<[Node]>,
    pub all_of: Box<[Node]>,
    pub not: Option<Node>,
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub(super) enum Additional {
    /// Nothing is said; or that any value is allowed.
    #[default]
    Unsaid,
    Allowed,
    Forbidden,
    Schema(Box<Node>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Default)]
pub(super) enum Merge {
    #[default]
    Atomic,
    Set,
    /// With the keys.
    Map(Box<[Box<str>]>),
}

impl Node {
    pub(super) fn compile(schema: &Value, reading: Reading) -> Result<Self, String> {
        Compiler { reading }.node(schema, 0)
    }

    pub(super) fn property(&self, name: &str) -> Option<&Arc<Node>> {
        let at = self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.properties.get(at).map(|(_, node)| node)
    }

    /// The schema of a field or of an entry.
    pub(super) fn child(&self, name: &str) -> Option<&Node> {
        match (self.property(name), &self.additional) {
            (Some(node), _) => Some(node),
            (None, Additional::Schema(node)) => Some(node),
            _ => None,
        }
    }

    /// The places below this one.
    fn below(&self) -> impl Iterator<Item = &Node> {
        let entry = match &self.additional {
            Additional::Schema(entry) => Some(&**entry),
            _ => None,
        };
        self.properties.iter().map(|(_, node)| &**node).chain(entry).chain(self.items.as_deref())
    }

    pub(super) fn has_type(&self, name: &str) -> bool {
        self.types.split(',').any(|known| known == name)
    }
}

struct Compiler {
    reading: Reading,
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn float(schema: &Value, name: &str) -> Option<f64> {
    schema.get(name).and_then(Value::as_f64)
}

fn count(schema: &Value, name: &str) -> Option<i64> {
    schema.get(name).and_then(Value::as_i64)
}

fn texts(schema: &Value, name: &str) -> Box<[Box<str>]> {
    let list = schema.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
}

impl Compiler {
    fn node(&self, schema: &Value, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err(format!("the schema nests deeper than {MAX_DEPTH} levels"));
        }
        let mixed = flag(schema, "x-kubernetes-int-or-string") && self.reading == Reading::Objects;
        let types = if mixed { "integer,string" } else { text(schema, "type") };
        let format = self.format(types, text(schema, "format"));
        let mut properties = Vec::new();
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            properties.push((name.as_str().into(), Arc::new(self.node(property, depth + 1)?)));
        }
        properties.sort_by(|(a, _): &(Box<str>, _), (b, _)| a.cmp(b));
        let additional = match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => Additional::Allowed,
            Some(Value::Bool(false)) => Additional::Forbidden,
            Some(child @ Value::Object(_)) => Additional::Schema(Box::new(self.node(child, depth + 1)?)),
            _ => Additional::Unsaid,
        };
        let items = match schema.get("items") {
            Some(child @ Value::Object(_)) => Some(Box::new(self.node(child, depth + 1)?)),
            _ => None,
        };
        let merge = match text(schema, "x-kubernetes-list-type") {
            "set" => Merge::Set,
            "map" => Merge::Map(texts(schema, "x-kubernetes-list-map-keys")),
            _ => Merge::Atomic,
        };
        let choices = schema.get("enum").and_then(Value::as_array).map(|list| list.as_slice().into());
        let mut node = Node {
            types: types.into(),
            nullable: flag(schema, "nullable"),
            check: formats::check(format),
            range: range(types, format),
            format: format.into(),
            number: number_rules(schema),
            text: text_rules(schema),
            list: list_rules(schema),
            object: object_rules(schema),
            choices: choices.unwrap_or_default(),
            logic: self.logic(schema, depth)?,
            properties: properties.into(),
            additional,
            items,
            merge,
            preserve: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded: flag(schema, "x-kubernetes-embedded-resource"),
            ..Node::default()
        };
        node.has_embedded = node.embedded || node.below().any(|child| child.has_embedded);
        node.has_merges = !matches!(node.merge, Merge::Atomic) || node.below().any(|child| child.has_merges);
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        node.has_rules = rules.is_some_and(|rules| !rules.is_empty()) || node.below().any(|child| child.has_rules);
        Ok(node)
    }

    /// The format, if the type has it.
    fn format<'a>(&self, types: &str, format: &'a str) -> &'a str {
        let known = match types {
            "" | "string" | "integer,string" => formats::check(format).is_some(),
            "integer" => matches!(format, "int32" | "int64"),
            "number" => matches!(format, "float" | "double"),
            _ => false,
        };
        if known || self.reading == Reading::Defaults { format } else { "" }
    }

    fn nodes(&self, schema: &Value, name: &str, depth: usize) -> Result<Box<[Node]>, String> {
        let list = schema.get(name).and_then(Value::as_array);
        list.into_iter().flatten().map(|branch| self.node(branch, depth + 1)).collect()
    }

    fn logic(&self, schema: &Value, depth: usize) -> Result<Option<Box<Logic>>, String> {
        let logic = Logic {
            any_of: self.nodes(schema, "anyOf", depth)?,
            one_of: self.nodes(schema, "oneOf", depth)?,
            all_of: self.nodes(schema, "allOf", depth)?,
            not: schema.get("not").filter(|not| not.is_object()).map(|not| self.node(not, depth + 1)).transpose()?,
        };
        let empty = logic.any_of.is_empty() && logic.one_of.is_empty() && logic.all_of.is_empty();
        Ok((!empty || logic.not.is_some()).then(|| Box::new(logic)))
    }
}

fn range(types: &str, format: &str) -> Range {
    match (types, format) {
        ("integer", "int32") => Range::Int32,
        ("integer", "int64") => Range::Int64,
        ("integer", _) => Range::Integer,
        ("number", "float") => Range::Float,
        _ => Range::Any,
    }
}

fn number_rules(schema: &Value) -> Option<Box<NumberRules>> {
    let rules = NumberRules {
        multiple_of: float(schema, "multipleOf"),
        maximum: float(schema, "maximum"),
        minimum: float(schema, "minimum"),
        exclusive_maximum: flag(schema, "exclusiveMaximum"),
        exclusive_minimum: flag(schema, "exclusiveMinimum"),
    };
    let empty = rules.multiple_of.is_none() && rules.maximum.is_none() && rules.minimum.is_none();
    (!empty).then(|| Box::new(rules))
}

fn text_rules(schema: &Value) -> Option<Box<TextRules>> {
    let pattern = text(schema, "pattern");
    let rules = TextRules {
        most: count(schema, "maxLength"),
        least: count(schema, "minLength"),
        pattern: (!pattern.is_empty()).then(|| Pattern::new(pattern)),
    };
    let empty = rules.most.is_none() && rules.least.is_none() && rules.pattern.is_none();
    (!empty).then(|| Box::new(rules))
}

fn list_rules(schema: &Value) -> Option<Box<ListRules>> {
    let rules = ListRules {
        most: count(schema, "maxItems"),
        least: count(schema, "minItems"),
        unique: flag(schema, "uniqueItems"),
    };
    (rules.most.is_some() || rules.least.is_some() || rules.unique).then(|| Box::new(rules))
}

fn object_rules(schema: &Value) -> Option<Box<ObjectRules>> {
    let rules = ObjectRules {
        most: count(schema, "maxProperties"),
        least: count(schema, "minProperties"),
        required: texts(schema, "required"),
    };
    (rules.most.is_some() || rules.least.is_some() || !rules.required.is_empty()).then(|| Box::new(rules))
}
