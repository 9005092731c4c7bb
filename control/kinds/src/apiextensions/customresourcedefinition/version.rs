//! The rules of one version: schema, subresources, columns, selectable fields.

use super::{
    open_api::{self, Ratchet},
    path::Path,
    structural,
};
use crate::{apiextensions::rules::Rules, at::At};
use api::{
    Cause, FieldPath,
    schema::validate::{Validator, validate_defaults_and},
};
use serde_json::{Value, json};
use std::collections::HashSet;

/// The most selectable fields of a version.
const MAX_FIELDS: usize = 8;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// `deprecated` and `deprecationWarning`.
pub(super) fn deprecation(version: At<'_>, out: &mut Vec<Cause>) {
    let warning = version.get("deprecationWarning");
    let Some(text) = warning.value().as_str() else { return };
    if !version.get("deprecated").bool() {
        out.push(warning.invalid("can only be set for deprecated versions"));
        return;
    }
    if text.len() > 256 {
        out.push(warning.invalid("must be <= 256 characters long"));
    }
    if text.is_empty() {
        out.push(warning.invalid("must not be an empty string"));
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        out.push(warning.invalid(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        )));
    }
}

/// Fields that the root of a schema may have where there is `/status`: the schema of the status is taken out of it. Go names them so.
const AT_ROOT: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

/// The Go name of a field of a schema.
fn go_name(name: &str) -> String {
    match name {
        "x-kubernetes-preserve-unknown-fields" => "XPreserveUnknownFields".to_owned(),
        "x-kubernetes-validations" => "XValidations".to_owned(),
        name => {
            let mut chars = name.chars();
            chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
        }
    }
}

/// `schema`, of which `field` is the place. `known`: it is as it was before.
pub(super) fn schema(
    (schema, known): (&Value, bool),
    field: &FieldPath,
    has_status: bool,
    ratchet: &Ratchet,
    out: &mut Vec<Cause>,
) {
    let Some(root) = schema.get("openAPIV3Schema").filter(|schema| schema.is_object()) else { return };
    let at = field.child("openAPIV3Schema");
    let before = out.len();
    if has_status {
        root_with_status(root, field, &at, out);
    }
    if root["nullable"] == true {
        out.push(Cause::forbidden(&field.child("openAPIV3Schema.nullable"), "nullable cannot be true at the root"));
    }
    let mut sound = false;
    if structural::is_supported(root) {
        let causes = structural::validate(root, &at);
        let defaults = if causes.is_empty() { defaults(&at, root) } else { Vec::new() };
        sound = causes.is_empty() && defaults.is_empty();
        out.extend(causes);
        out.extend(defaults);
    }
    open_api::validate(root, &Path::new(&at), sound, known, ratchet, out);
    if out.len() == before && !structural::is_supported(root) {
        // All else that cannot be structural is named by its place.
        out.push(Cause::invalid(&at, &json!(""), "OpenAPIV3Schema 'schema' is not supported"));
    }
    if out.len() == before
        && let Err(error) = Validator::new(root)
    {
        out.push(Cause::invalid(field, &json!(""), &format!("error building validator: {error}")));
    }
}

/// The causes of the defaults of a schema, those of its rules in CEL among them.
fn defaults(at: &FieldPath, root: &Value) -> Vec<Cause> {
    let mut left = cel::RUNTIME_BUDGET;
    validate_defaults_and(at, root, &mut |at, schema, default| {
        let rules = if std::ptr::eq(schema, root) { Rules::new(schema) } else { Rules::of_part(schema) };
        rules.map(|rules| rules.validate_default(at, default, &mut left)).unwrap_or_default()
    })
}

/// The first field in Go's order that may not be at the root of a schema.
fn root_with_status(root: &Value, field: &FieldPath, at: &FieldPath, out: &mut Vec<Cause>) {
    let kind = text(root, "type");
    let set = root.as_object().into_iter().flatten().filter(|(_, value)| !crate::edit::is_empty_value(value));
    let mut odd = set.map(|(name, _)| name.as_str()).filter(|name| !AT_ROOT.contains(&go_name(name).as_str()));
    // These are declared before the type.
    let first = ["id", "$schema", "$ref"].iter().any(|name| !text(root, name).is_empty());
    if !first && !kind.is_empty() && kind != "object" {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        out.push(Cause::invalid(&field.child("openAPIV3Schema.type"), &json!(kind), why));
    } else if odd.next().is_some() {
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            AT_ROOT.join(" ")
        );
        let schema =
            api::schema::Schema::named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        let shown = schema.map_or_else(|| root.to_string(), |schema| schema.internal_form(root));
        out.push(Cause::invalid_shown(at, &shown, &why));
    }
}

/// A path such as `.spec.replicas`.
fn simple_path(path: &str, field: &FieldPath, out: &mut Vec<Cause>) -> bool {
    if path.is_empty() {
        out.push(Cause::invalid(field, &json!(path), "must not be empty"));
    } else if !path.starts_with('.') {
        out.push(Cause::invalid(field, &json!(path), "must be a simple json path starting with ."));
    }
    path.starts_with('.')
}

/// `subresources`.
pub(super) fn subresources(subresources: &Value, field: &FieldPath, out: &mut Vec<Cause>) {
    let Some(scale) = subresources.get("scale").filter(|scale| scale.is_object()) else { return };
    for (name, parent) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (path, at) = (text(scale, name), field.child(&format!("scale.{name}")));
        if path.is_empty() {
            out.push(Cause::required(&at, ""));
        } else if simple_path(path, &at, out) && !path.starts_with(parent) {
            let why = format!("should be a json path under {}", parent.trim_end_matches('.'));
            out.push(Cause::invalid(&at, &json!(path), &why));
        }
    }
    let (path, at) = (text(scale, "labelSelectorPath"), field.child("scale.labelSelectorPath"));
    if !path.is_empty() && simple_path(path, &at, out) && !path.starts_with(".spec.") && !path.starts_with(".status.") {
        out.push(Cause::invalid(&at, &json!(path), "should be a json path under either .spec or .status"));
    }
}

const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// `additionalPrinterColumns`.
pub(super) fn columns(columns: &Value, field: &FieldPath, out: &mut Vec<Cause>) {
    for (index, column) in columns.as_array().into_iter().flatten().enumerate() {
        let at = field.index(index);
        if text(column, "name").is_empty() {
            out.push(Cause::required(&at.child("name"), ""));
        }
        let (kind, known) = (text(column, "type"), format!("must be one of {}", TYPES.join(",")));
        if kind.is_empty() {
            out.push(Cause::required(&at.child("type"), &known));
        } else if !TYPES.contains(&kind) {
            out.push(Cause::invalid(&at.child("type"), &json!(kind), &known));
        }
        let format = text(column, "format");
        if !format.is_empty() && !FORMATS.contains(&format) {
            let known = format!("must be one of {}", FORMATS.join(","));
            out.push(Cause::invalid(&at.child("format"), &json!(format), &known));
        }
        // Upstream's internal type writes it so.
        let (path, at) = (text(column, "jsonPath"), at.child("JSONPath"));
        if path.is_empty() {
            out.push(Cause::required(&at, ""));
        } else {
            simple_path(path, &at, out);
        }
    }
}

/// `selectableFields`, of a schema at the same place: upstream takes no other. `without` is said where there is none.
pub(super) fn selectable(fields: &Value, schema: &Value, without: &str, field: &FieldPath, out: &mut Vec<Cause>) {
    let Some(fields) = fields.as_array().filter(|fields| !fields.is_empty()) else { return };
    if !schema.is_object() {
        let why = without;
        out.push(Cause::invalid(field, &json!(""), why));
        return;
    }
    let mut seen = HashSet::new();
    for (index, one) in fields.iter().enumerate() {
        let (path, at) = (text(one, "jsonPath"), field.index(index).child("jsonPath"));
        if path.is_empty() {
            out.push(Cause::required(&at, ""));
            continue;
        }
        let found = match structural::field_at(schema, path, false) {
            Ok(found) => found,
            Err(why) => {
                out.push(Cause::invalid(&at, &json!(path), &format!("is an invalid path: {why}")));
                continue;
            }
        };
        if path.split('.').nth(1) == Some("metadata") {
            out.push(Cause::invalid(&at, &json!(path), "must not point to fields in metadata"));
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            out.push(Cause::invalid(&at, &json!(path), why));
        }
        if !seen.insert(path) {
            out.push(Cause::duplicate(&at, &json!(path)));
        }
    }
    if seen.len() > MAX_FIELDS {
        out.push(Cause::too_many(field, seen.len(), MAX_FIELDS));
    }
}
