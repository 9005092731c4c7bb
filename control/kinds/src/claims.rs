//! The spec of a PersistentVolumeClaim, which templates of StatefulSets and ephemeral volumes contain too, and what claims and volumes share.

use crate::{
    at::At,
    edit::{self, Fields},
    quantities, rules,
};
use api::{Cause, FieldPath, Object, names};
use serde_json::{Value, json};

/// The annotation that named the class before `spec.storageClassName`. It takes precedence.
pub(crate) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const SNAPSHOTS: &str = "snapshot.storage.k8s.io";

/// Defaults of a claim's spec.
pub(crate) fn default_spec(spec: &mut Fields) {
    edit::fill(spec, "volumeMode", "Filesystem");
    for list in ["requests", "limits"] {
        if let Some(amounts) = edit::object_if(spec, "resources").and_then(|all| all.get_mut(list)) {
            quantities::canonicalize(amounts);
        }
    }
}

/// Removes a data source of another kind than claims and snapshots, unless `dataSourceRef` is set or `old` has one, and makes `dataSource` and
/// `dataSourceRef` equal where one is absent (KEP-1495).
pub(crate) fn settle_data_sources(spec: &mut Fields, old: Option<&Object>) {
    let is_set = |spec: &Fields, name: &str| spec.get(name).is_some_and(|source| !source.is_null());
    // The feature gate of references to other namespaces is off by default.
    let old_ref = old.is_some_and(|old| old.at(&["spec", "dataSourceRef"]).is_some());
    let elsewhere = spec.get("dataSourceRef").is_some_and(|r| r["namespace"].as_str().is_some_and(|n| !n.is_empty()));
    if elsewhere && !old_ref {
        spec.remove("dataSourceRef");
    }
    let had = old_ref || old.is_some_and(|old| old.at(&["spec", "dataSource"]).is_some());
    if !had && !is_set(spec, "dataSourceRef") && is_set(spec, "dataSource") {
        let source = &spec["dataSource"];
        let known = matches!(
            (source["kind"].as_str().unwrap_or_default(), source["apiGroup"].as_str().unwrap_or_default()),
            ("PersistentVolumeClaim", "") | ("VolumeSnapshot", SNAPSHOTS)
        );
        if !known {
            spec.remove("dataSource");
        }
    }
    match (is_set(spec, "dataSource"), is_set(spec, "dataSourceRef")) {
        (true, false) => drop(spec.insert("dataSourceRef".to_owned(), spec["dataSource"].clone())),
        (false, true) if spec["dataSourceRef"]["namespace"].as_str().is_none_or(str::is_empty) => {
            let mut source = spec["dataSourceRef"].clone();
            source.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("namespace")));
            spec.insert("dataSource".to_owned(), source);
        }
        _ => {}
    }
}

/// Validates a claim's spec.
pub(crate) fn validate_spec(spec: At<'_>, out: &mut Vec<Cause>) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        out.push(modes.required("at least 1 access mode is required"));
    }
    rules::label_selector(spec.get("selector"), out);
    access_modes(modes, out);
    let requested = spec.down(&["resources", "requests", "storage"]);
    // Upstream's errors leave `requests` out.
    let shown = spec.get("resources").key("storage").with(requested.value());
    match quantities::parse(requested.value()) {
        None => out.push(shown.required("")),
        Some(amount) if amount.signum() <= 0 => out.push(shown.invalid("must be greater than zero")),
        Some(_) => {}
    }
    class_name(spec.get("storageClassName"), out);
    volume_mode(spec.get("volumeMode"), out);
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for source in [source, reference].into_iter().filter(|source| source.is_set()) {
        data_source(source, out);
    }
    let namespace = reference.get("namespace");
    if !namespace.is_empty() {
        let problems = names::dns1123_label(namespace.str());
        namespace.invalid_all(problems, out);
    }
    let name = json!(source.field().to_string());
    if source.is_set() && !namespace.is_empty() {
        let text = "may not be specified when dataSourceRef.namespace is specified";
        out.push(Cause::invalid(&spec.field(), &name, text));
    } else if source.is_set() && reference.is_set() && !edit::deep_equal(source.value(), reference.value()) {
        out.push(Cause::invalid(&spec.field(), &name, "must match dataSourceRef"));
    }
    class_name(spec.get("volumeAttributesClassName"), out);
}

fn data_source(source: At<'_>, out: &mut Vec<Cause>) {
    for name in ["name", "kind"] {
        if source.get(name).is_empty() {
            out.push(source.get(name).required(""));
        }
    }
    let (group, kind) = (source.get("apiGroup"), source.get("kind"));
    if group.is_empty() && kind.str() != "PersistentVolumeClaim" {
        let text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        out.push(Cause::invalid(&source.field(), &json!(kind.str()), text));
    } else if !group.is_empty() {
        rules::subdomain_name(group, out);
    }
}

/// Access modes of a claim or volume.
pub(crate) fn access_modes(modes: At<'_>, out: &mut Vec<Cause>) {
    let (mut alone, mut others) = (false, false);
    for mode in modes.items() {
        if rules::full(out) {
            return;
        }
        if !MODES.contains(&mode.str()) {
            // Upstream's error names the list.
            out.push(modes.with(mode.value()).not_supported(MODES));
        } else if mode.str() == "ReadWriteOncePod" {
            alone = true;
        } else {
            others = true;
        }
    }
    if alone && others {
        out.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

/// The name of a class, where it is not empty.
pub(crate) fn class_name(at: At<'_>, out: &mut Vec<Cause>) {
    if !at.is_empty() {
        rules::subdomain_name(at, out);
    }
}

/// `Block` or `Filesystem`.
pub(crate) fn volume_mode(at: At<'_>, out: &mut Vec<Cause>) {
    if at.is_set() && !["Block", "Filesystem"].contains(&at.str()) {
        out.push(at.not_supported(&["Block", "Filesystem"]));
    }
}

/// Warnings about amounts that are no whole bytes.
pub(crate) fn fractions(field: &FieldPath, spec: At<'_>, out: &mut Vec<String>) {
    for list in ["requests", "limits"] {
        let at = spec.down(&["resources", list]).key("storage");
        if let Some(amount) = quantities::parse(at.value()).filter(quantities::is_fractional) {
            let shown = amount.to_string();
            let field = field.child("resources").child(list).key("storage");
            out.push(format!("{field}: fractional byte value {shown:?} is invalid, must be an integer"));
        }
    }
}

/// The warning about the annotation with the class.
pub(crate) fn class_annotation_warning(object: &Object, out: &mut Vec<String>) {
    if object.annotation(CLASS_ANNOTATION).is_some() {
        let field = FieldPath::new("metadata").child("annotations").key(CLASS_ANNOTATION);
        out.push(format!("{field}: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
}

/// The class of a claim or volume; empty if it has none.
pub(crate) fn class_of(object: &Object) -> &str {
    object.annotation(CLASS_ANNOTATION).or_else(|| object.str_at(&["spec", "storageClassName"])).unwrap_or_default()
}

/// Access modes as tables show them: `RWO,ROX`.
pub(crate) fn modes_text(modes: &[Value]) -> String {
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown: Vec<&str> = short.into_iter().filter(|(mode, _)| has(mode)).map(|(_, text)| text).collect();
    shown.join(",")
}

/// The value of a field as tables show it.
pub(crate) fn or_unset(object: &Object, path: &[&str]) -> String {
    object.str_at(path).unwrap_or("<unset>").to_owned()
}
