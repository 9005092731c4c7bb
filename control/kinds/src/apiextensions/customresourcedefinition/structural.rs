//! Whether a schema is structural: every field has a type, and what is below `allOf`, `anyOf`, `oneOf` and `not` only restricts values.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.

use super::path::Path;
use api::{Cause, FieldPath, schema::validate::Pattern};
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
}

/// A member that is set: `additionalProperties: false` counts, null and `items: []` do not.
fn set<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get(name).filter(|value| !value.is_null() && !value.as_array().is_some_and(Vec::is_empty))
}

fn listed<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a schema has nothing that cannot be structural at all, such as `$ref`: other errors name it.
pub(super) fn is_supported(schema: &Value) -> bool {
    const UNSUPPORTED: [&str; 8] =
        ["id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions", ""];
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let own = UNSUPPORTED.iter().all(|name| schema.get(*name).is_none_or(empty));
    let items = set(schema, "items").is_none_or(|items| !items.is_array());
    own && items
        && schema.get("x-kubernetes-preserve-unknown-fields") != Some(&Value::Bool(false))
        && below(schema).all(is_supported)
}

/// All schemas directly within a schema.
fn below(schema: &Value) -> impl Iterator<Item = &Value> {
    let many = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|name| listed(schema, name));
    let one = ["items", "additionalProperties", "not"].into_iter().filter_map(|name| schema.get(name));
    many.chain(one.filter(|value| value.is_object())).chain(properties(schema).map(|(_, value)| value))
}

/// The causes, sorted by their text.
pub(super) fn validate(schema: &Value, at: &FieldPath) -> Vec<Cause> {
    let mut out = Vec::new();
    let path = Path::new(at);
    invariants(schema, Level::Root, &path, &mut out);
    complete(schema, Some(schema), &path, &path, &mut out);
    out.sort_by_cached_key(ToString::to_string);
    out
}

fn invariants(schema: &Value, level: Level, at: &Path<'_>, out: &mut Vec<Cause>) {
    let kind = text(schema, "type");
    let (embedded, preserve, either) = (
        flag(schema, "x-kubernetes-embedded-resource"),
        flag(schema, "x-kubernetes-preserve-unknown-fields"),
        flag(schema, "x-kubernetes-int-or-string"),
    );
    // Go reads anything else than an object or a list as nothing.
    match set(schema, "items").filter(|items| items.is_object() || items.is_array()) {
        None if kind == "array" => out.push(Cause::required(&at.child("items").field(), "must be specified")),
        None => {}
        Some(items) => invariants(items, Level::Item, &at.child("items"), out),
    }
    for (name, property) in properties(schema) {
        invariants(property, Level::Field, &at.child("properties").key(name), out);
    }
    if let Some(additional) = set(schema, "additionalProperties") {
        if level == Level::Root {
            out.push(Cause::forbidden(&at.child("additionalProperties").field(), "must not be used at the root"));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &at.child("additionalProperties"), out);
        }
    }
    for (other, name) in
        [(preserve, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")]
    {
        if either && other {
            let text = "must be false if x-kubernetes-int-or-string is true";
            out.push(Cause::invalid(&at.child(name).field(), &json!(true), text));
        }
    }
    let first = listed(schema, "allOf").first();
    value_rules(schema, is_int_or_string(schema), first.is_some_and(is_int_or_string), level, at, out);
    typed(schema, level, (kind, embedded, preserve, either), at, out);
    metadata(schema, level, embedded, at, out);
    if embedded && !preserve && properties(schema).next().is_none() {
        let text =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        out.push(Cause::required(&at.child("properties").field(), text));
    }
}

fn typed(
    schema: &Value,
    level: Level,
    (kind, embedded, preserve, either): (&str, bool, bool, bool),
    at: &Path<'_>,
    out: &mut Vec<Cause>,
) {
    let field = || at.child("type").field();
    if embedded && kind != "object" {
        let text = "must be object if x-kubernetes-embedded-resource is true";
        out.push(if kind.is_empty() {
            Cause::required(&field(), text)
        } else {
            Cause::invalid(&field(), &json!(kind), text)
        });
    } else if kind.is_empty() && !either && !preserve {
        let text = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        out.push(Cause::required(&field(), text));
    }
    if embedded && set(schema, "additionalProperties").is_some() {
        let text = "must not be used if x-kubernetes-embedded-resource is set";
        out.push(Cause::forbidden(&at.child("additionalProperties").field(), text));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        out.push(Cause::invalid(&field(), &json!(kind), "must be object at the root"));
    }
}

/// The metadata of an object is known: a schema may only restrict names.
fn metadata(schema: &Value, level: Level, embedded: bool, at: &Path<'_>, out: &mut Vec<Cause>) {
    let checked = level == Level::Root || embedded;
    let Some(all) = schema.get("properties") else { return };
    let all_at = at.child("properties");
    for name in ["kind", "apiVersion"] {
        if let Some(property) = all.get(name).filter(|property| checked && text(property, "type") != "string") {
            let kind = json!(text(property, "type"));
            out.push(Cause::invalid(&all_at.key(name).child("type").field(), &kind, "must be string"));
        }
    }
    let Some(property) = all.get("metadata") else { return };
    let here = all_at.key("metadata");
    if checked && text(property, "type") != "object" {
        out.push(Cause::invalid(&here.child("type").field(), &json!(text(property, "type")), "must be object"));
    }
    if level == Level::Root {
        let only_names = properties(property).all(|(name, _)| matches!(name, "name" | "generateName"));
        let other = property.as_object().into_iter().flatten().any(|(name, value)| {
            let schema = matches!(name.as_str(), "items" | "additionalProperties" | "not") && !value.is_null();
            !matches!(name.as_str(), "type" | "default" | "properties")
                && (schema || !crate::edit::is_empty_value(value))
        });
        if !only_names || other {
            let text =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            out.push(Cause::forbidden(&here.field(), text));
        }
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, which an int-or-string may have.
fn is_int_or_string(schema: &Value) -> bool {
    match listed(schema, "anyOf") {
        [first, second] => *first == json!({"type": "integer"}) && *second == json!({"type": "string"}),
        _ => false,
    }
}

fn value_rules(
    schema: &Value,
    skip_any: bool,
    skip_first_all: bool,
    level: Level,
    at: &Path<'_>,
    out: &mut Vec<Cause>,
) {
    if !skip_any {
        for (index, one) in listed(schema, "anyOf").iter().enumerate() {
            nested(one, false, level, &at.child("anyOf").index(index), out);
        }
    }
    for (index, one) in listed(schema, "allOf").iter().enumerate() {
        nested(one, skip_first_all && index == 0, level, &at.child("allOf").index(index), out);
    }
    for (index, one) in listed(schema, "oneOf").iter().enumerate() {
        nested(one, false, level, &at.child("oneOf").index(index), out);
    }
    if let Some(not) = set(schema, "not") {
        nested(not, false, level, &at.child("not"), out);
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Some(error) = Pattern::problem(pattern)
    {
        let text = format!("must be a valid regular expression, but isn't: {error}");
        out.push(Cause::invalid(&at.child("pattern").field(), &json!(pattern), &text));
    }
}

/// A schema below a junctor, which may only restrict values.
fn nested(schema: &Value, skip_any: bool, level: Level, at: &Path<'_>, out: &mut Vec<Cause>) {
    value_rules(schema, skip_any, false, level, at, out);
    if let Some(items) = set(schema, "items") {
        nested(items, false, level, &at.child("items"), out);
    }
    for (name, property) in properties(schema) {
        nested(property, false, Level::Field, &at.child("properties").key(name), out);
    }
    let mut forbid = |name: &str, text: &str| out.push(Cause::forbidden(&at.child(name).field(), text));
    let is_text = |name: &str| !text(schema, name).is_empty();
    if is_text("type") {
        forbid("type", "must be empty to be structural");
    }
    if set(schema, "additionalProperties").is_some() {
        forbid("additionalProperties", "must be undefined to be structural");
    }
    if set(schema, "default").is_some() {
        forbid("default", "must be undefined to be structural");
    }
    for name in ["title", "description"] {
        if is_text(name) {
            forbid(name, "must be empty to be structural");
        }
    }
    let flags = [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ];
    for name in flags {
        if flag(schema, name) {
            forbid(name, "must be false to be structural");
        }
    }
    if !listed(schema, "x-kubernetes-list-map-keys").is_empty() {
        forbid("x-kubernetes-list-map-keys", "must be empty to be structural");
    }
    for name in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if set(schema, name).is_some() {
            forbid(name, "must be undefined to be structural");
        }
    }
    if !listed(schema, "x-kubernetes-validations").is_empty() {
        forbid("x-kubernetes-validations", "must be empty to be structural");
    }
    if schema.pointer("/properties/metadata").is_some() {
        let all = at.child("properties");
        out.push(Cause::forbidden(&all.key("metadata").field(), "must not be specified in a nested context"));
    }
}

/// Each place that a junctor restricts must be specified outside of it.
fn complete(rules: &Value, schema: Option<&Value>, at: &Path<'_>, rules_at: &Path<'_>, out: &mut Vec<Cause>) {
    let mut each = |one: &Value, rules_at: &Path<'_>| nested_complete(one, schema, at, rules_at, out);
    if let Some(not) = set(rules, "not") {
        each(not, &rules_at.child("not"));
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, one) in listed(rules, name).iter().enumerate() {
            each(one, &rules_at.child(name).index(index));
        }
    }
}

fn nested_complete(rules: &Value, schema: Option<&Value>, at: &Path<'_>, rules_at: &Path<'_>, out: &mut Vec<Cause>) {
    let Some(known) = schema else {
        out.push(Cause::required(&at.field(), &format!("because it is defined in {}", rules_at.field())));
        return;
    };
    complete(rules, schema, at, rules_at, out);
    if let Some(items) = set(rules, "items") {
        nested_complete(items, set(known, "items"), &at.child("items"), &rules_at.child("items"), out);
    }
    for (name, property) in properties(rules) {
        let (all, rules_all) = (at.child("properties"), rules_at.child("properties"));
        let (here, rules_here) = (all.key(name), rules_all.key(name));
        match known.get("properties").and_then(|all| all.get(name)) {
            None => {
                let text = format!("because it is defined in {}", rules_here.field());
                out.push(Cause::required(&here.field(), &text));
            }
            found => nested_complete(property, found, &here, &rules_here, out),
        }
    }
}

/// The schema of a field by a path such as `.spec.size` or `.spec['a.b']`, which only rules of values may write so.
pub(super) fn field_at<'a>(schema: &'a Value, path: &str, brackets: bool) -> Result<&'a Value, String> {
    let (mut schema, mut rest) = (schema, path);
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('[') {
            if !brackets {
                return Err("array notation is not allowed".to_owned());
            }
            let quoted = after.strip_prefix('\'').ok_or_else(|| {
                let end = after.find(['.', '[', ']']).unwrap_or(after.len()).max(1).min(after.len());
                format!("expected single quoted string but got {}", after.get(..end).unwrap_or(after))
            })?;
            let (text, after) = unquote(quoted).ok_or("unexpected end of JSON path")?;
            name = text;
            rest = after.strip_prefix(']').ok_or("unexpected end of JSON path")?;
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[', ']']).unwrap_or(after.len());
            if after.is_empty() {
                return Err("unexpected end of JSON path".to_owned());
            }
            name = after[..end].to_owned();
            rest = &after[end..];
        } else {
            let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
            return Err(format!("expected [ or . but got: {}", rest.get(..end).unwrap_or(rest)));
        }
        let next = match schema.get("properties").filter(|all| all.as_object().is_some_and(|all| !all.is_empty())) {
            Some(all) => all.get(&name),
            None => schema.get("additionalProperties").filter(|value| value.is_object()),
        };
        schema = next.ok_or("does not refer to a valid field")?;
    }
    Ok(schema)
}

/// A text up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[at + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}
