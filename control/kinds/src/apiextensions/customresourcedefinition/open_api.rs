//! The rules of OpenAPI schemas in definitions, whether structural or not: what is not supported, list and map types, and the form of
//! validation rules.

use super::{
    code::{self, Costs, Scope},
    path::Path,
    structural,
};
use crate::{apiextensions::rule::rules_of, at::At};
use api::Cause;
use serde_json::{Value, json};
use std::collections::HashSet;

/// The types of OpenAPI v3.
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// The reasons that a validation rule may give.
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn set<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get(name).filter(|value| !value.is_null())
}

fn listed<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Calls `each` for a schema and all schemas within it.
fn visit<'a>(schema: &'a Value, each: &mut impl FnMut(&'a Value)) {
    if !schema.is_object() {
        return;
    }
    each(schema);
    for name in ["items", "additionalProperties", "additionalItems", "not"] {
        match schema.get(name) {
            Some(Value::Array(all)) => all.iter().for_each(|one| visit(one, each)),
            Some(one) => visit(one, each),
            None => {}
        }
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        listed(schema, name).iter().for_each(|one| visit(one, each));
    }
    for name in ["properties", "patternProperties", "definitions", "dependencies"] {
        let all = schema.get(name).and_then(Value::as_object).into_iter().flatten();
        all.for_each(|(_, one)| visit(one, each));
    }
}

/// The formats in a schema that are not checked.
pub(super) fn unrecognized_formats(schema: &Value) -> Vec<String> {
    const OF_TEXTS: [&str; 26] = [
        "bsonobjectid",
        "uri",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "cidr",
        "mac",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
        "isbn",
        "isbn10",
        "isbn13",
        "creditcard",
        "ssn",
        "hexcolor",
        "rgbcolor",
        "byte",
        "password",
        "date",
        "duration",
        "datetime",
        "k8sshortname",
        "k8slongname",
    ];
    let mut out = Vec::new();
    visit(schema, &mut |schema| {
        let format = text(schema, "format");
        let known = match text(schema, "type") {
            "" | "string" => OF_TEXTS.contains(&format.replace('-', "").as_str()),
            "integer" => matches!(format, "int32" | "int64"),
            "number" => matches!(format, "float" | "double"),
            _ => false,
        };
        if !format.is_empty() && !known {
            out.push(format.to_owned());
        }
    });
    out
}

/// Whether a schema has any default.
pub(super) fn has_defaults(schema: &Value) -> bool {
    let mut found = false;
    visit(schema, &mut |schema| found |= set(schema, "default").is_some());
    found
}

/// Rules that came later: a definition that broke them before may go on doing so.
pub(super) struct Ratchet {
    types: bool,
    atomic_sets: bool,
    keys: bool,
}

impl Ratchet {
    /// All rules for a new definition, those that the old one keeps for a change.
    pub(super) fn of(old: Option<At<'_>>) -> Self {
        let mut made = Self { types: true, atomic_sets: true, keys: true };
        for version in old.into_iter().flat_map(At::items) {
            visit(version.down(&["schema", "openAPIV3Schema"]).value(), &mut |schema| {
                let mut causes = Vec::new();
                let root = api::FieldPath::default();
                keys(schema, &Path::new(&root), &mut causes);
                made.keys &= causes.is_empty();
                causes.clear();
                atomic_set(schema, &Path::new(&root), &mut causes);
                made.atomic_sets &= causes.is_empty();
                let kind = text(schema, "type");
                made.types &= kind.is_empty() || TYPES.contains(&kind);
            });
        }
        made
    }
}

/// Where a schema is.
#[derive(Clone, Default)]
struct Place<'a> {
    root: bool,
    /// Why there may be no defaults.
    no_defaults: Option<&'a str>,
    in_metadata: bool,
    /// For rules; `None` where they are not compiled.
    scope: Option<Scope<'a>>,
}

/// All violations. `sound`: the schema is structural, with sound defaults, so that rules can be compiled against it. `known`: the schema was
/// accepted before, and its rules may cost what they did.
pub(super) fn validate(
    schema: &Value,
    at: &Path<'_>,
    sound: bool,
    known: bool,
    ratchet: &Ratchet,
    out: &mut Vec<Cause>,
) {
    let mut has_rules = false;
    visit(schema, &mut |schema| has_rules |= !rules_of(schema).is_empty());
    let scope = (sound && has_rules).then(|| Scope::root(schema));
    let mut costs = Costs::new(known);
    one(schema, at, Place { root: true, scope, ..Place::default() }, ratchet, &mut costs, out);
    costs.finish(at, out);
}

/// Checks a schema and all below it; what is wrong with the code of rules is kept in `costs`, for it comes after all other causes.
fn one(schema: &Value, at: &Path<'_>, place: Place<'_>, ratchet: &Ratchet, costs: &mut Costs, out: &mut Vec<Cause>) {
    if !schema.is_object() {
        return;
    }
    let before = out.len();
    unsupported(schema, at, &place, ratchet, out);
    if schema["uniqueItems"] == true {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        out.push(Cause::forbidden(&at.child("uniqueItems").field(), text));
    }
    children(schema, at, &place, ratchet, costs, out);
    if set(schema, "x-kubernetes-preserve-unknown-fields").is_some_and(|value| *value == false) {
        let field = at.child("x-kubernetes-preserve-unknown-fields").field();
        out.push(Cause::invalid(&field, &json!(false), "must be true or undefined"));
    }
    map_type(schema, at, out);
    list_type(schema, at, ratchet, out);
    if ratchet.keys {
        keys(schema, at, out);
    }
    rules(schema, at, out);
    if let Some(scope) = place.scope.as_ref().filter(|_| out.len() == before) {
        // Rules are compiled once their schema and all below it are right.
        code::check(schema, at, scope, costs);
    }
}

fn unsupported(schema: &Value, at: &Path<'_>, place: &Place<'_>, ratchet: &Ratchet, out: &mut Vec<Cause>) {
    let kind = text(schema, "type");
    if ratchet.types && !kind.is_empty() && !TYPES.contains(&kind) {
        out.push(Cause::not_supported(&at.child("type").field(), &json!(kind), &TYPES));
    }
    if let Some(reason) = place.no_defaults.filter(|_| set(schema, "default").is_some()) {
        out.push(Cause::forbidden(&at.child("default").field(), &format!("must not be set {reason}")));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let used = set(schema, name).is_some_and(|value| match value {
            Value::Object(map) => !map.is_empty() || name == "dependencies",
            Value::String(text) => !text.is_empty() || name == "$ref",
            _ => true,
        });
        if used {
            out.push(Cause::forbidden(&at.child(name).field(), &format!("{name} is not supported")));
        }
    }
    if kind == "null" {
        let text = "type cannot be set to null, use nullable as an alternative";
        out.push(Cause::forbidden(&at.child("type").field(), text));
    }
    if schema.get("items").is_some_and(|items| items.as_array().is_some_and(|all| !all.is_empty())) {
        out.push(Cause::forbidden(&at.child("items").field(), "items must be a schema object and not an array"));
    }
    if place.in_metadata && schema["x-kubernetes-embedded-resource"] == true {
        let field = at.child("x-kubernetes-embedded-resource").field();
        out.push(Cause::forbidden(&field, "must not be used inside of resource meta"));
    }
}

fn children(
    schema: &Value,
    at: &Path<'_>,
    place: &Place<'_>,
    ratchet: &Ratchet,
    costs: &mut Costs,
    out: &mut Vec<Cause>,
) {
    let outer = place.scope.as_ref();
    let inner = || Place { root: false, scope: None, ..*place };

    let properties = schema.get("properties").and_then(Value::as_object);
    if let Some(additional) = set(schema, "additionalProperties") {
        if properties.is_some_and(|all| !all.is_empty()) && (additional.is_object() || *additional == false) {
            let field = at.child("additionalProperties").field();
            out.push(Cause::forbidden(&field, "additionalProperties and properties are mutual exclusive"));
        }
        let mut place = inner();
        if place.in_metadata {
            place.no_defaults = Some("inside additionalProperties applying to object metadata");
        }
        let scope = outer.map(|scope| scope.values(additional, schema));
        one(additional, &at.child("additionalProperties"), Place { scope, ..place }, ratchet, costs, out);
    }
    let place_is_root = place.root;
    let of_object = place_is_root || schema["x-kubernetes-embedded-resource"] == true;
    let all = at.child("properties");
    for (name, property) in properties.into_iter().flatten() {
        let mut place = Place { scope: outer.map(|scope| scope.property(name, property, schema)), ..inner() };
        let reason;
        if of_object && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            place.in_metadata = true;
            if place_is_root {
                reason = format!("in top-level {name}");
                one(property, &all.key(name), Place { no_defaults: Some(&reason), ..place }, ratchet, costs, out);
                continue;
            }
        }
        one(property, &all.key(name), place, ratchet, costs, out);
    }
    if let Some(not) = set(schema, "not") {
        one(not, &at.child("not"), inner(), ratchet, costs, out);
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (index, each) in listed(schema, name).iter().enumerate() {
            one(each, &at.child(name).index(index), inner(), ratchet, costs, out);
        }
    }
    for name in ["definitions", "dependencies"] {
        for (key, each) in schema.get(name).and_then(Value::as_object).into_iter().flatten() {
            one(each, &at.child(name).key(key), inner(), ratchet, costs, out);
        }
    }
    match schema.get("items") {
        Some(Value::Array(items)) => {
            for (index, each) in items.iter().enumerate() {
                one(each, &at.child("items").index(index), inner(), ratchet, costs, out);
            }
        }
        Some(items) => {
            let scope = outer.map(|scope| scope.elements(items, schema, at));
            one(items, &at.child("items"), Place { scope, ..inner() }, ratchet, costs, out);
        }
        None => {}
    }
}

fn map_type(schema: &Value, at: &Path<'_>, out: &mut Vec<Cause>) {
    let Some(given) = set(schema, "x-kubernetes-map-type") else { return };
    of_type(schema, "object", "x-kubernetes-map-type", at, out);
    if !matches!(given.as_str(), Some("atomic" | "granular")) {
        out.push(Cause::not_supported(&at.child("x-kubernetes-map-type").field(), given, &["atomic", "granular"]));
    }
}

/// Whether the type is that which an extension needs.
fn of_type(schema: &Value, wanted: &str, extension: &str, at: &Path<'_>, out: &mut Vec<Cause>) -> bool {
    let (kind, field) = (text(schema, "type"), at.child("type"));
    let why = format!("must be {wanted} if {extension} is specified");
    match kind {
        kind if kind == wanted => return true,
        "" => out.push(Cause::required(&field.field(), &why)),
        other => out.push(Cause::invalid(&field.field(), &json!(other), &why)),
    }
    false
}

fn list_type(schema: &Value, at: &Path<'_>, ratchet: &Ratchet, out: &mut Vec<Cause>) {
    let list = set(schema, "x-kubernetes-list-type");
    let (name, field) = (list.and_then(Value::as_str), at.child("x-kubernetes-list-type"));
    if list.is_some() && of_type(schema, "array", "x-kubernetes-list-type", at, out) && ratchet.atomic_sets {
        atomic_set(schema, at, out);
    }
    if let Some(given) = list.filter(|_| !matches!(name, Some("atomic" | "set" | "map"))) {
        out.push(Cause::not_supported(&field.field(), given, &["atomic", "set", "map"]));
    }
    let keys = listed(schema, "x-kubernetes-list-map-keys");
    if !keys.is_empty() && name != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        out.push(match list {
            None => Cause::required(&field.field(), why),
            Some(given) => Cause::invalid(&field.field(), given, why),
        });
    }
    if name == Some("map") {
        map_list(schema, keys, at, out);
    }
}

fn map_list(schema: &Value, keys: &[Value], at: &Path<'_>, out: &mut Vec<Cause>) {
    let keys_at = at.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        out.push(Cause::required(&keys_at.field(), "must not be empty if x-kubernetes-list-type is map"));
    }
    let items_at = at.child("items");
    let Some(items) = set(schema, "items") else {
        out.push(Cause::required(&items_at.field(), "must have a schema if x-kubernetes-list-type is map"));
        return;
    };
    if !items.is_object() {
        let why = "must only have a single schema if x-kubernetes-list-type is map";
        let kind = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let shown = api::schema::Schema::named(kind).zip(schema.as_object());
        let shown = shown.map_or_else(String::new, |(kind, schema)| kind.internal_field(schema, "items"));
        out.push(Cause::invalid_shown(&items_at.field(), &shown, why));
        return;
    }
    if text(items, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        out.push(Cause::invalid(&items_at.child("type").field(), &json!(text(items, "type")), why));
        return;
    }
    let (mut seen, all) = (HashSet::new(), json!(keys));
    for key in keys.iter().filter_map(Value::as_str) {
        match items.get("properties").and_then(|all| all.get(key)) {
            Some(property) if matches!(text(property, "type"), "array" | "object") => {
                let (properties, why) = (
                    items_at.child("properties"),
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                );
                let field = properties.key(key).child("type").field();
                out.push(Cause::invalid(&field, &json!(text(items, "type")), why));
            }
            Some(_) => {}
            None => {
                out.push(Cause::invalid(&keys_at.field(), &all, "entries must all be names of item properties"));
            }
        }
        if !seen.insert(key) {
            out.push(Cause::invalid(&keys_at.field(), &all, "must not contain duplicate entries"));
        }
    }
}

/// Elements of a set are compared as a whole.
fn atomic_set(schema: &Value, at: &Path<'_>, out: &mut Vec<Cause>) {
    let Some(items) = schema.get("items").filter(|items| items.is_object()) else { return };
    if text(schema, "x-kubernetes-list-type") != "set" {
        return;
    }
    let given = |name: &str| set(items, name).and_then(Value::as_str);
    let (list, map) = (given("x-kubernetes-list-type"), given("x-kubernetes-map-type"));
    let extension = match text(items, "type") {
        "array" if list.is_some_and(|list| list != "atomic") => "x-kubernetes-list-type",
        "object" if map != Some("atomic") => "x-kubernetes-map-type",
        _ => return,
    };
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    out.push(Cause::invalid(&at.child("items").child(extension).field(), &json!(list), why));
}

/// Elements of maps and sets are not null, and keys are always there.
fn keys(schema: &Value, at: &Path<'_>, out: &mut Vec<Cause>) {
    let Some(items) = schema.get("items").filter(|items| items.is_object()) else { return };
    let list = text(schema, "x-kubernetes-list-type");
    if !matches!(list, "set" | "map") {
        return;
    }
    let items_at = at.child("items");
    if items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        out.push(Cause::forbidden(&items_at.child("nullable").field(), &why));
    }
    if list == "set" {
        return;
    }
    let required: HashSet<&str> = listed(items, "required").iter().filter_map(Value::as_str).collect();
    let all = items_at.child("properties");
    for key in listed(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
        let Some(property) = items.get("properties").and_then(|all| all.get(key)) else { continue };
        let here = all.key(key);
        if !required.contains(key) && set(property, "default").is_none() {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            out.push(Cause::required(&here.child("default").field(), why));
        }
        if property["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            out.push(Cause::forbidden(&here.child("nullable").field(), why));
        }
    }
}

/// The form of validation rules.
fn rules(schema: &Value, at: &Path<'_>, out: &mut Vec<Cause>) {
    let all = at.child("x-kubernetes-validations");
    for (index, rule) in listed(schema, "x-kubernetes-validations").iter().enumerate() {
        let here = all.index(index);
        let member = |name| (text(rule, name), text(rule, name).trim(), here.child(name));
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let ((_, code, code_at), (message, said, message_at)) = (member("rule"), member("message"));
        if code.is_empty() {
            out.push(Cause::required(&code_at.field(), "rule is not specified"));
        } else if !message.is_empty() && said.is_empty() {
            out.push(Cause::invalid(&message_at.field(), &json!(message), "must be non-empty if specified"));
        } else if breaks(said) {
            out.push(Cause::invalid(&message_at.field(), &json!(message), "must not contain line breaks"));
        } else if breaks(code) && said.is_empty() {
            out.push(Cause::required(&message_at.field(), "message must be specified if rule contains line breaks"));
        }
        let (expression, trimmed, expression_at) = member("messageExpression");
        if !expression.is_empty() && trimmed.is_empty() {
            out.push(Cause::required(&expression_at.field(), "messageExpression must be non-empty if specified"));
        }
        if let Some(reason) =
            set(rule, "reason").filter(|reason| !REASONS.contains(&reason.as_str().unwrap_or_default()))
        {
            out.push(Cause::not_supported(&here.child("reason").field(), reason, &REASONS));
        }
        let (path, trimmed, path_at) = member("fieldPath");
        if !path.is_empty() && trimmed.is_empty() {
            out.push(Cause::invalid(&path_at.field(), &json!(path), "must be non-empty if specified"));
        }
        if breaks(path) {
            out.push(Cause::invalid(&path_at.field(), &json!(path), "must not contain line breaks"));
        }
        if !path.is_empty() && structural::is_supported(schema) && structural::field_at(schema, path, true).is_err() {
            out.push(Cause::invalid(&path_at.field(), &json!(path), "must be a valid path"));
        }
    }
}
