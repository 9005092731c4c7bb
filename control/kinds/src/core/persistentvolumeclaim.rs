//! PersistentVolumeClaim: a request for storage that outlives pods.

use crate::{at::At, cells, claims, edit, quantities};
use api::{Cause, FieldPath, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Status", "phase represents the current phase of PersistentVolumeClaim."),
    Column::new("Volume", "volumeName is the binding reference to the PersistentVolume backing this claim."),
    Column::new("Capacity", "capacity represents the actual resources of the underlying volume."),
    Column::new("Access Modes", "accessModes contains the actual access modes the volume backing the PVC has. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1"),
    Column::new("StorageClass", "StorageClass of the pvc"),
    Column::new("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
    Column::age(),
    Column::new("VolumeMode", "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.").wide(),
];

/// States of an expansion (`status.allocatedResourceStatuses`), sorted as upstream lists them.
const RESIZE: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

struct Claims;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", Claims).short(&["pvc"]).with_status()
}

impl Strategy for Claims {
    fn default(&self, object: &mut Object) {
        claims::default_spec(edit::object(&mut object.0, "spec"));
        let status = edit::object(&mut object.0, "status");
        edit::fill_str(status, "phase", "Pending");
        for list in ["capacity", "allocatedResources"] {
            status.get_mut(list).into_iter().for_each(quantities::canonicalize);
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"phase": "Pending"}));
        claims::settle_data_sources(edit::object(&mut object.0, "spec"), None);
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        claims::settle_data_sources(edit::object(&mut object.0, "spec"), Some(old));
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_subdomain(&server::context::maybe_prefix(name, prefix))
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        claims::validate_spec(At::of(object, "spec"), &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        class_annotation(object, old, &mut out);
        if !edit::deep_equal(&fixed(object, object, old), &fixed(old, object, old)) {
            out.push(At::of(object, "spec").forbidden("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"));
        }
        let size = |object: &Object, path: &[&str]| object.at(path).and_then(quantities::parse).unwrap_or_default();
        let requested = ["spec", "resources", "requests", "storage"];
        let new = size(object, &requested);
        if new < size(old, &requested) && new <= size(old, &["status", "capacity", "storage"]) {
            let field = FieldPath::new("spec").child("resources").child("requests").child("storage");
            out.push(Cause::forbidden(&field, "field can not be less than status.capacity"));
        }
        let mode = |object| At::of(object, "spec").get("volumeMode");
        if !edit::deep_equal(mode(object).value(), mode(old).value()) {
            out.push(Cause::immutable(&FieldPath::new("volumeMode"), mode(object).value()));
        }
        let class_of = |object| At::of(object, "spec").get("volumeAttributesClassName");
        // A claim that is as it was may stay so, whatever its status says.
        let changes_class = !edit::deep_equal(class_of(object).value(), class_of(old).value());
        if changes_class && old.str_at(&["status", "currentVolumeAttributesClassName"]).is_some() {
            let class = class_of(object);
            let what = if !class.is_set() { "nil" } else { "empty string" };
            if class.is_empty() {
                let text =
                    format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
                out.push(class.forbidden(&text));
            }
        }
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let (mut out, status) = (Vec::new(), At::of(object, "status"));
        for list in ["capacity", "allocatedResources"] {
            for (name, _) in status.get(list).entries() {
                let at = status.get(list).key(name);
                let at = at.with(status.get(list).value().get(name).unwrap_or(&Value::Null));
                if let Some(amount) = quantities::parse(at.value()).filter(|amount| amount.signum() < 0) {
                    let text = "must be a valid resource quantity";
                    out.push(Cause::invalid(&at.field(), &json!(amount.value()), text));
                }
            }
        }
        let states = status.get("allocatedResourceStatuses");
        for (name, state) in states.entries() {
            if !RESIZE.contains(&state.str()) {
                out.push(Cause::not_supported(&states.field(), &json!(name), RESIZE));
            }
        }
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        claims::class_annotation_warning(object, &mut out);
        claims::fractions(&FieldPath::new("spec"), At::of(object, "spec"), &mut out);
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["name"]
    }

    fn field(&self, object: &Object, _label: &str) -> String {
        object.name().to_owned()
    }
}

/// The annotation with the class stays, unless the class moves to the spec.
fn class_annotation(object: &Object, old: &Object, out: &mut Vec<Cause>) {
    let of = |object: &Object| object.annotation(claims::CLASS_ANNOTATION).unwrap_or_default().to_owned();
    let (new, was) = (of(object), of(old));
    if new != was && !moves_class(object, old) {
        let field = FieldPath::new("metadata").child("annotations").child(claims::CLASS_ANNOTATION);
        out.push(Cause::immutable(&field, &json!(new)));
    }
}

/// Whether the class moves from the annotation to the spec.
fn moves_class(object: &Object, old: &Object) -> bool {
    let class = |object: &Object| object.str_at(&["spec", "storageClassName"]).map(str::to_owned);
    let was = old.annotation(claims::CLASS_ANNOTATION);
    let now = object.annotation(claims::CLASS_ANNOTATION);
    was.is_some() && class(old).is_none() && class(object).as_deref() == was && (now.is_none() || now == was)
}

/// The spec without what may change between `new` and `old`: the volume once, the class if there was none, and of a bound claim the requested
/// size and the attributes.
fn fixed(object: &Object, new: &Object, old: &Object) -> Value {
    let mut spec = object.at(&["spec"]).cloned().unwrap_or_default();
    let Some(fields) = spec.as_object_mut() else { return spec };
    if old.str_at(&["spec", "volumeName"]).is_none_or(str::is_empty) {
        fields.remove("volumeName");
    }
    let class = |object: &Object| object.str_at(&["spec", "storageClassName"]).map(str::to_owned);
    let was = old.annotation(claims::CLASS_ANNOTATION);
    let gets_class = class(old).is_none() && class(new).is_some_and(|new| was.is_none_or(|was| was == new));
    if gets_class || moves_class(new, old) {
        fields.remove("storageClassName");
    }
    if new.str_at(&["status", "phase"]) == Some("Bound") {
        fields.remove("volumeAttributesClassName");
        let requests = edit::object_if(fields, "resources").and_then(|all| edit::object_if(all, "requests"));
        requests.into_iter().for_each(|requests| drop(requests.remove("storage")));
    }
    // Stored claims may be older than the rule that fills both.
    claims::settle_data_sources(fields, Some(old));
    spec
}

impl TableConvertor for Claims {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let volume = cells::text(object, &["spec", "volumeName"]);
        let phase = if object.at(&["metadata", "deletionTimestamp"]).is_some() {
            "Terminating"
        } else {
            cells::text(object, &["status", "phase"])
        };
        let (capacity, modes) = match volume {
            "" => (String::new(), String::new()),
            _ => (
                object
                    .at(&["status", "capacity", "storage"])
                    .and_then(quantities::parse)
                    .unwrap_or_default()
                    .to_string(),
                claims::modes_text(object.list_at(&["status", "accessModes"])),
            ),
        };
        vec![
            json!(object.name()),
            json!(phase),
            json!(volume),
            json!(capacity),
            json!(modes),
            json!(claims::class_of(object)),
            json!(claims::or_unset(object, &["spec", "volumeAttributesClassName"])),
            cells::age(object, now),
            json!(claims::or_unset(object, &["spec", "volumeMode"])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, row, update_errors};
    use expect_test::expect;

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: c, namespace: ns}}, spec: {{{spec}}}}}"
        )
    }

    const GOOD: &str = "accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}";

    #[test]
    fn defaults_are_upstreams() {
        let claim = created(&Claims, &text(&format!("{GOOD}, dataSource: {{kind: Pod, name: p}}")));
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"});
        assert_eq!((claim.at(&["spec"]), claim.at(&["status"])), (Some(&spec), Some(&json!({"phase": "Pending"}))));
        let claim = created(&Claims, &text(&format!("{GOOD}, dataSource: {{kind: PersistentVolumeClaim, name: p}}")));
        assert_eq!(claim.at(&["spec", "dataSourceRef"]), Some(&json!({"kind": "PersistentVolumeClaim", "name": "p"})));
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            (GOOD, expect![[""]]),
            (
                "",
                expect![[r#"
                    spec.accessModes: Required value: at least 1 access mode is required
                    spec.resources[storage]: Required value
                "#]],
            ),
            (
                "accessModes: [Any, ReadWriteOncePod, ReadWriteMany], resources: {requests: {storage: 0}}, storageClassName: A_, volumeMode: x",
                expect![[r#"
                    spec.accessModes: Unsupported value: "Any": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"
                    spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes
                    spec.resources[storage]: Invalid value: "0": must be greater than zero
                    spec.storageClassName: Invalid value: "A_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.volumeMode: Unsupported value: "x": supported values: "Block", "Filesystem"
                "#]],
            ),
            (
                "accessModes: [ReadWriteOnce], resources: {requests: {storage: 1}}, dataSourceRef: {kind: A}",
                expect![[r#"
                    spec.dataSource.name: Required value
                    spec.dataSource: Invalid value: "A": must be 'PersistentVolumeClaim' when referencing the default apiGroup
                    spec.dataSourceRef.name: Required value
                    spec.dataSourceRef: Invalid value: "A": must be 'PersistentVolumeClaim' when referencing the default apiGroup
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Claims, &text(spec)));
        }
    }

    #[test]
    fn a_claim_gets_a_volume_once_and_grows_when_it_is_bound() {
        let old = created(&Claims, &text(GOOD));
        let change = |old: &Object, path: &[&str], value: Value| {
            let mut new = old.clone();
            new.set(path, value);
            update_errors(&Claims, &new, old)
        };
        let size = ["spec", "resources", "requests", "storage"];
        assert_eq!(change(&old, &["spec", "volumeName"], json!("v")), "");
        assert_eq!(change(&old, &["spec", "storageClassName"], json!("s")), "", "it had none");
        assert!(change(&old, &size, json!("2Gi")).starts_with("spec: Forbidden: spec is immutable after creation"));
        let mut bound = old.clone();
        bound.set(&["status"], json!({"phase": "Bound", "capacity": {"storage": "1Gi"}}));
        bound.set(&["spec", "volumeName"], "v");
        bound.set(&["spec", "storageClassName"], "s");
        assert_eq!(change(&bound, &size, json!("2Gi")), "");
        expect![[r#"
            spec.resources.requests.storage: Forbidden: field can not be less than status.capacity
        "#]]
        .assert_eq(&change(&bound, &size, json!("1Mi")));
        let mut classed = bound.clone();
        classed.set(&["status", "currentVolumeAttributesClassName"], "gold");
        assert_eq!(change(&classed, &["metadata", "finalizers"], json!([])), "", "the class is as it was");
        classed.set(&["spec", "volumeAttributesClassName"], "gold");
        assert!(
            change(&classed, &["spec", "volumeAttributesClassName"], Value::Null)
                .contains("update to nil is forbidden")
        );
        for (path, value) in [("volumeName", "w"), ("storageClassName", "t")] {
            assert!(change(&bound, &["spec", path], json!(value)).starts_with("spec: Forbidden"), "{path}");
        }
        expect![[r#"
            spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
            volumeMode: Invalid value: "Block": field is immutable
        "#]]
        .assert_eq(&change(&bound, &["spec", "volumeMode"], json!("Block")));
    }

    #[test]
    fn a_row_shows_the_volume() {
        expect!["c |  |  |  |  |  | <unset> | <unknown> | <unset>"].assert_eq(&row(&Claims, &text(GOOD)));
        let bound = text(&format!("{GOOD}, volumeName: v, storageClassName: local, volumeMode: Filesystem")).replacen(
            "spec:",
            "status: {phase: Bound, accessModes: [ReadWriteMany, ReadWriteOnce], capacity: {storage: 1Gi}}, spec:",
            1,
        );
        expect!["c | Bound | v | 1Gi | RWO,RWX | local | <unset> | <unknown> | Filesystem"]
            .assert_eq(&row(&Claims, &bound));
        let fraction = created(&Claims, &text("accessModes: [ReadWriteOnce], resources: {requests: {storage: 500m}}"));
        assert_eq!(
            Claims.warnings(&context(), &fraction, None),
            ["spec.resources.requests[storage]: fractional byte value \"500m\" is invalid, must be an integer"]
        );
    }
}
