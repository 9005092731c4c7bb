//! The rules of a definition as a whole. What all versions have in common is at the top level in upstream's internal type, which its errors
//! name: `spec.validation` is the schema of a definition with one version.

use super::{
    approval,
    conditions::is_true,
    conversion,
    open_api::{self, Ratchet},
    version,
};
use crate::{at::At, edit};
use api::{Cause, FieldPath, Object, names};
use serde_json::{Value, json};
use std::collections::HashSet;

/// What all versions have in common.
struct Shared<'a> {
    schema: Option<&'a Value>,
    subresources: Option<&'a Value>,
    columns: Option<&'a Value>,
    fields: Option<&'a Value>,
}

impl<'a> Shared<'a> {
    fn of(versions: At<'a>) -> Self {
        static NULL: Value = Value::Null;
        let same = |name: &str| {
            let mut all = versions.items().map(|version| version.value().get(name).unwrap_or(&NULL));
            let first = all.next()?;
            all.all(|other| edit::deep_equal(first, other)).then_some(first)
        };
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            fields: same("selectableFields"),
        }
    }
}

/// What was known before a change.
pub(super) struct Known;

impl Known {
    /// The formats in schemas that nobody checks.
    pub(super) fn formats(object: &Object) -> Vec<String> {
        let mut out = Vec::new();
        let mut seen = HashSet::new();
        for version in object.list_at(&["spec", "versions"]) {
            let Some(schema) = version.pointer("/schema/openAPIV3Schema") else { continue };
            for format in super::open_api::unrecognized_formats(schema) {
                if seen.insert(format.clone()) {
                    out.push(format);
                }
            }
        }
        out
    }
}

/// All violations of a new or changed definition.
pub(super) fn definition(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    if old.is_none() {
        let wanted = format!("{}.{}", spec.down(&["names", "plural"]).str(), spec.get("group").str());
        for (name, given) in [
            ("generateName", object.str_at(&["metadata", "generateName"]).unwrap_or_default()),
            ("name", object.name()),
        ] {
            if !given.is_empty() && given != wanted {
                let field = FieldPath::new("metadata").child(name);
                out.push(Cause::invalid(&field, &json!(given), "must be spec.names.plural+\".\"+spec.group"));
            }
        }
    }
    let before = old.map(|old| At::of(old, "spec"));
    specification(spec, before, &mut out);
    if let (Some(old), Some(before)) = (old, before) {
        if is_true(old, "Established") {
            spec.get("scope").immutable(before.get("scope"), &mut out);
            spec.down(&["names", "kind"]).immutable(before.down(&["names", "kind"]), &mut out);
        }
        spec.get("group").immutable(before.get("group"), &mut out);
        spec.down(&["names", "plural"]).immutable(before.down(&["names", "plural"]), &mut out);
    }
    let status = At::of(object, "status");
    names(status.get("acceptedNames"), &mut out);
    stored_versions(status.get("storedVersions"), spec.get("versions"), &mut out);
    approval::validate(object, old, &mut out);
    let preserve = spec.get("preserveUnknownFields");
    if preserve.bool() && !before.is_some_and(|before| before.get("preserveUnknownFields").bool()) {
        out.push(preserve.invalid(
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
    out
}

fn specification(spec: At<'_>, old: Option<At<'_>>, out: &mut Vec<Cause>) {
    let group = spec.get("group");
    let problems = names::dns1123_subdomain(group.str());
    if group.is_empty() {
        out.push(group.required(""));
    } else if !problems.is_empty() {
        out.push(group.invalid(&problems.join(",")));
    } else if !group.str().contains('.') {
        out.push(group.invalid("should be a domain with at least one dot"));
    }
    spec.get("scope").one_of(&["Cluster", "Namespaced"], out);
    let versions = spec.get("versions");
    let shared = Shared::of(versions);
    // What was stored without a schema may stay so.
    if old.is_none_or(|old| schemas(old.get("versions")).all(At::is_set)) {
        out.extend(schemas(versions).filter(|schema| !schema.is_set()).map(|schema| schema.required("")));
    }
    let preserve = spec.get("preserveUnknownFields");
    if preserve.bool() && schemas(versions).any(|schema| open_api::has_defaults(schema.value())) {
        out.push(preserve.invalid("must be false in order to use defaults in the schema"));
    }
    let ratchet = Ratchet::of(old.map(|old| old.get("versions")));
    // Rules of a schema that is as it was may cost what they did.
    let is_known = |version: At<'_>| {
        let mut before = old.into_iter().flat_map(|old| old.get("versions").items());
        before.any(|old| {
            old.get("name").str() == version.get("name").str()
                && edit::deep_equal(old.get("schema").value(), version.get("schema").value())
        })
    };
    for each in versions.items() {
        one_version(each, &shared, (is_known(each), &ratchet), out);
    }
    storage(versions, &shared, out);
    let first = versions.index(0).get("name");
    let problems = names::dns1035_label(first.str());
    if !first.is_empty() && !problems.is_empty() {
        out.push(Cause::invalid(&spec.get("version").field(), first.value(), &problems.join(",")));
    }
    let called = spec.get("names");
    for name in ["plural", "singular", "kind", "listKind"] {
        if called.get(name).is_empty() {
            out.push(called.get(name).required(""));
        }
    }
    names(called, out);
    common(spec, &shared, (is_known(versions.index(0)), &ratchet), out);
    let strategy = spec.down(&["conversion", "strategy"]);
    if preserve.bool() && spec.get("conversion").is_set() && strategy.str() != "None" {
        out.push(strategy.or_empty().invalid("must be None if spec.preserveUnknownFields is true"));
    }
    conversion::validate(spec.get("conversion"), old.map(|old| old.get("conversion")), out);
}

/// A version, without what all have in common.
fn one_version(each: At<'_>, shared: &Shared<'_>, (known, ratchet): (bool, &Ratchet), out: &mut Vec<Cause>) {
    let name = each.get("name");
    let problems = names::dns1035_label(name.str());
    if !problems.is_empty() {
        out.push(name.or_empty().invalid(&problems.join(",")));
    }
    let has_status = each.down(&["subresources", "status"]).is_set();
    version::deprecation(each, out);
    if shared.schema.is_none() {
        let schema = each.get("schema");
        version::schema((schema.value(), known), &schema.field(), has_status, ratchet, out);
    }
    if shared.subresources.is_none() {
        version::subresources(each.get("subresources").value(), &each.get("subresources").field(), out);
    }
    if shared.columns.is_none() {
        let columns = each.get("additionalPrinterColumns");
        version::columns(columns.value(), &columns.field(), out);
    }
    if shared.fields.is_none() {
        let fields = each.get("selectableFields");
        let schema = each.down(&["schema", "openAPIV3Schema"]);
        let schema = if shared.schema.is_none() { schema.value() } else { &Value::Null };
        let without = "may only be set when `version.schema.openAPIV3Schema` is not included";
        version::selectable(fields.value(), schema, without, &fields.field(), out);
    }
}

/// Names of versions are unique, and one is the storage version.
fn storage(versions: At<'_>, shared: &Shared<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    let unique = versions.items().all(|version| seen.insert(version.get("name").str()));
    if !unique {
        let text = "must contain unique version names";
        out.push(Cause::invalid_shown(&versions.field(), &printed(versions, shared), text));
    }
    if versions.items().filter(|version| version.get("storage").bool()).count() != 1 {
        let text = "must have exactly one version marked as storage version";
        out.push(Cause::invalid_shown(&versions.field(), &printed(versions, shared), text));
    }
}

/// What all versions have in common.
fn common(spec: At<'_>, shared: &Shared<'_>, (known, ratchet): (bool, &Ratchet), out: &mut Vec<Cause>) {
    let (versions, field) = (spec.get("versions"), spec.field());
    if let Some(schema) = shared.schema {
        let has_status = versions.items().any(|version| version.down(&["subresources", "status"]).is_set());
        version::schema((schema, known), &field.child("validation"), has_status, ratchet, out);
    }
    if let Some(subresources) = shared.subresources {
        version::subresources(subresources, &field.child("subresources"), out);
    }
    if let Some(columns) = shared.columns {
        version::columns(columns, &field.child("additionalPrinterColumns"), out);
    }
    if let Some(fields) = shared.fields.filter(|fields| fields.as_array().is_some_and(|all| !all.is_empty())) {
        let schema = shared.schema.and_then(|schema| schema.get("openAPIV3Schema")).unwrap_or(&Value::Null);
        let without = "may only be set when validations.schema is included";
        version::selectable(fields, schema, without, &field.child("selectableFields"), out);
    }
}

/// The schema of each version.
fn schemas<'a>(versions: At<'a>) -> impl Iterator<Item = At<'a>> {
    versions.items().map(|version| version.down(&["schema", "openAPIV3Schema"]))
}

/// The versions as upstream prints them, without what they have in common.
fn printed(versions: At<'_>, shared: &Shared<'_>) -> String {
    let mut all = versions.value().clone();
    for version in all.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for (name, common) in [
            ("schema", shared.schema),
            ("subresources", shared.subresources),
            ("additionalPrinterColumns", shared.columns),
            ("selectableFields", shared.fields),
        ] {
            if common.is_some() {
                version.remove(name);
            }
        }
    }
    let kind = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion";
    versions.with(&all).printed(kind)
}

/// `spec.names` and `status.acceptedNames`.
pub(super) fn names(names: At<'_>, out: &mut Vec<Cause>) {
    let check = |at: At<'_>, mixed: bool, out: &mut Vec<Cause>| {
        let problems =
            if mixed { names::dns1035_label(&at.str().to_lowercase()) } else { names::dns1035_label(at.str()) };
        if !at.is_empty() && !problems.is_empty() {
            let before = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            out.push(at.invalid(&format!("{before}{}", problems.join(","))));
        }
    };
    check(names.get("plural"), false, out);
    check(names.get("singular"), false, out);
    check(names.get("kind"), true, out);
    check(names.get("listKind"), true, out);
    let listed = |name: &'static str, out: &mut Vec<Cause>| {
        for one in names.get(name).items() {
            let problems = names::dns1035_label(one.str());
            if !problems.is_empty() {
                out.push(one.invalid(&problems.join(",")));
            }
        }
    };
    listed("shortNames", out);
    let (kind, list) = (names.get("kind"), names.get("listKind"));
    if !kind.is_empty() && kind.str() == list.str() {
        out.push(list.invalid("kind and listKind may not be the same"));
    }
    listed("categories", out);
}

fn stored_versions(stored: At<'_>, versions: At<'_>, out: &mut Vec<Cause>) {
    if stored.is_empty() {
        out.push(Cause::invalid(&stored.field(), stored.value(), "must have at least one stored version"));
        return;
    }
    let names: HashSet<&str> = versions.items().map(|version| version.get("name").str()).collect();
    let mut known: HashSet<&str> = stored.items().map(At::str).collect();
    for version in versions.items() {
        let name = version.get("name").str();
        // Of two versions with one name only the first one is found.
        if !known.remove(name) && version.get("storage").bool() {
            out.push(stored.invalid(&format!("must have the storage version {name}")));
        }
    }
    for one in stored.items().filter(|one| !names.contains(one.str())) {
        let name = one.str();
        out.push(one.invalid(&format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        )));
    }
}
