//! PersistentVolume: storage of the cluster that a claim is bound to.

use crate::{Capabilities, at::At, cells, claims, edit, podspec, quantities, rules};
use api::{Cause, FieldPath, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Capacity", "capacity is the description of the persistent volume's resources and capacity. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity"),
    Column::new("Access Modes", "accessModes contains all ways the volume can be mounted. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes"),
    Column::new("Reclaim Policy", "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim. Valid options are Retain (default for manually created PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and Recycle (deprecated). Recycle must be supported by the volume plugin underlying this PersistentVolume. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming"),
    Column::new("Status", "phase indicates if a volume is available, bound to a claim, or released by a claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase"),
    Column::new("Claim", "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the authoritative bind between PV and PVC. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding"),
    Column::new("StorageClass", "StorageClass of the pv"),
    Column::new("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
    Column::new("Reason", "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI."),
    Column::age(),
    Column::new("VolumeMode", "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.").wide(),
];

/// The sources of volumes, in upstream's order.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// Sources that upstream deprecated: their name in the warning, and since when.
const DEPRECATED: &[(&str, &str, &str)] = &[
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

struct Volumes {
    capabilities: Capabilities,
    /// The driver of volumes that are folders of the nodes, the only one that nodes have.
    local: Option<String>,
}

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities, local: Option<&str>) -> Resource {
    let volumes = Volumes { capabilities: capabilities.clone(), local: local.map(str::to_owned) };
    Resource::new("", "v1", "persistentvolumes", "PersistentVolume", volumes)
        .short(&["pv"])
        .cluster_scoped()
        .with_status()
}

impl Strategy for Volumes {
    fn default(&self, object: &mut Object) {
        edit::fill_str(edit::object(&mut object.0, "status"), "phase", "Pending");
        let spec = edit::object(&mut object.0, "spec");
        edit::fill_str(spec, "persistentVolumeReclaimPolicy", "Retain");
        edit::fill(spec, "volumeMode", "Filesystem");
        spec.get_mut("capacity").into_iter().for_each(quantities::canonicalize);
        if let Some(path) = edit::object_if(spec, "hostPath") {
            edit::fill(path, "type", "");
        }
        podspec::default_disk(spec);
    }

    fn prepare_create(&self, cx: &Context, object: &mut Object) {
        let now = api::time::rfc3339(cx.now);
        object.set(&["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
    }

    fn prepare_status(&self, cx: &Context, object: &mut Object, old: &Object) {
        const TIME: &[&str] = &["status", "lastPhaseTransitionTime"];
        let same_phase = edit::deep_equal_at(object, old, &["status", "phase"]);
        if same_phase && object.at(TIME).is_none() {
            edit::keep_at(object, old, TIME);
        } else if !same_phase && (object.at(TIME).is_none() || edit::deep_equal_at(object, old, TIME)) {
            object.set(TIME, api::time::rfc3339(cx.now));
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        let modes = spec.get("accessModes");
        if modes.is_empty() {
            out.push(modes.required(""));
        }
        claims::access_modes(modes, &mut out);
        capacity(spec.get("capacity"), &mut out);
        let policy = spec.get("persistentVolumeReclaimPolicy");
        if !policy.is_empty() && !["Delete", "Recycle", "Retain"].contains(&policy.str()) {
            out.push(policy.not_supported(&["Delete", "Recycle", "Retain"]));
        }
        let affinity = spec.get("nodeAffinity");
        if affinity.is_set() {
            let required = affinity.get("required");
            match required.is_set() {
                true => podspec::node_selector(required, &mut out),
                false => out.push(required.required("must specify required node constraints")),
            }
        }
        source(spec, &mut out);
        let everything = spec.down(&["hostPath", "path"]);
        let is_root =
            everything.str().starts_with('/') && everything.str().split('/').all(|p| p.is_empty() || p == ".");
        if is_root && policy.str() == "Recycle" {
            out.push(policy.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
        }
        claims::class_name(spec.get("storageClassName"), &mut out);
        claims::volume_mode(spec.get("volumeMode"), &mut out);
        let attributes = spec.get("volumeAttributesClassName");
        if attributes.is_set() {
            if attributes.is_empty() {
                out.push(attributes.required("an empty string is disallowed"));
            }
            claims::class_name(attributes, &mut out);
            if !spec.get("csi").is_set() {
                out.push(spec.get("csi").required("has to be specified when using volumeAttributesClassName"));
            }
        }
        out
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::WholeTwice
    }

    fn validate_update(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        // Upstream validates the new object, and then once more.
        let mut out = self.validate(cx, object);
        let sources = |object: &Object| {
            let spec = object.at(&["spec"]).and_then(Value::as_object).into_iter().flatten();
            let sources = spec.filter(|(name, value)| SOURCES.contains(&name.as_str()) && !value.is_null());
            Value::Object(sources.map(|(name, value)| (name.clone(), value.clone())).collect())
        };
        let (mut new, was) = (sources(object), sources(old));
        if was["csi"].is_object() && was["csi"]["controllerExpandSecretRef"].is_null() {
            new["csi"].as_object_mut().into_iter().for_each(|csi| drop(csi.remove("controllerExpandSecretRef")));
        }
        if !edit::deep_equal(&new, &was) {
            let field = FieldPath::new("spec").child("persistentvolumesource");
            out.push(Cause::forbidden(&field, "spec.persistentvolumesource is immutable after creation"));
        }
        // Upstream's errors leave `spec` out.
        let at = |object, name: &'static str| At::of(object, "spec").get(name);
        let mode = at(object, "volumeMode");
        if !edit::deep_equal(mode.value(), at(old, "volumeMode").value()) {
            out.push(Cause::immutable(&FieldPath::new("volumeMode"), mode.value()));
        }
        let (new, was) = (at(object, "nodeAffinity"), at(old, "nodeAffinity"));
        if was.is_set() && !edit::deep_equal(new.value(), was.value()) {
            let shown = new.printed("io.k8s.api.core.v1.VolumeNodeAffinity");
            let text = "field is immutable, except for updating from beta label to GA";
            out.push(Cause::invalid_shown(&FieldPath::new("nodeAffinity"), &shown, text));
        }
        let attributes = at(object, "volumeAttributesClassName");
        if at(old, "volumeAttributesClassName").is_set() && !attributes.is_set() {
            out.push(attributes.forbidden("update from non-nil value to nil is forbidden"));
        }
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        claims::class_annotation_warning(object, &mut out);
        const OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
        if object.annotation(OPTIONS).is_some() {
            let field = FieldPath::new("metadata").child("annotations").key(OPTIONS);
            out.push(format!("{field}: deprecated since v1.31; use \"mountOptions\" attribute instead"));
        }
        if spec.get("persistentVolumeReclaimPolicy").str() == "Recycle" {
            out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
        }
        let deprecated = DEPRECATED.iter().filter(|(name, ..)| spec.get(name).is_set());
        out.extend(deprecated.map(|(_, shown, text)| format!("spec.{shown}: {text}")));
        let mut warn = self.capabilities.warn("persistentvolume.spec", spec, 200, &mut out);
        let driver = spec.get("csi").get("driver");
        if driver.is_set() && Some(driver.str()) != self.local.as_deref() {
            warn.always(driver, "no node of sampan has this driver; pods that use the volume do not start");
        }
        for name in SOURCES.iter().filter(|name| spec.get(name).is_set()) {
            warn.unless_honoured(
                spec.get(name),
                "no node of sampan can mount such a volume; pods that use it do not start",
            );
        }
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["name"]
    }

    fn field(&self, object: &Object, _label: &str) -> String {
        object.name().to_owned()
    }
}

fn capacity(capacity: At<'_>, out: &mut Vec<Cause>) {
    if capacity.is_empty() {
        out.push(capacity.required(""));
    }
    if !capacity.get("storage").is_set() || capacity.len() > 1 {
        out.push(capacity.not_supported(&["storage"]));
    }
    for (name, at) in capacity.entries() {
        if rules::full(out) {
            return;
        }
        let field = capacity.field().key(name);
        let Some(amount) = quantities::parse(at.value()) else { continue };
        if amount.signum() < 0 {
            out.push(Cause::invalid(&field, &json!(amount.value()), "must be a valid resource quantity"));
        }
        if amount.signum() <= 0 {
            out.push(Cause::invalid(&field, &json!(amount.to_string()), "must be greater than zero"));
        }
    }
}

/// The spec of a volume that has no PersistentVolume (in a VolumeAttachment).
pub(crate) fn validate_inline(spec: At<'_>, out: &mut Vec<Cause>) {
    const INLINE: &str = "in the context of inline volumes";
    let no = |name| {
        (!spec.get(name).is_empty()).then(|| spec.get(name).forbidden(&format!("may not be specified {INLINE}")))
    };
    if spec.get("claimRef").is_set() {
        out.push(spec.get("claimRef").forbidden(&format!("may not be specified {INLINE}")));
    }
    out.extend(no("capacity"));
    if !spec.get("csi").is_set() {
        out.push(spec.get("csi").required(&format!("has to be specified {INLINE}")));
    }
    let (modes, policy) = (spec.get("accessModes"), spec.get("persistentVolumeReclaimPolicy"));
    if modes.is_empty() {
        out.push(modes.required(""));
    }
    claims::access_modes(modes, out);
    if !policy.is_empty() && policy.str() != "Retain" {
        out.push(policy.forbidden(&format!("may only be Retain {INLINE}")));
    }
    if spec.get("nodeAffinity").is_set() {
        out.push(spec.get("nodeAffinity").forbidden(&format!("may not be specified {INLINE}")));
    }
    source(spec, out);
    out.extend(no("storageClassName"));
    let mode = spec.get("volumeMode");
    if mode.is_set() && mode.str() != "Filesystem" {
        out.push(mode.forbidden(&format!("may not specify volumeMode other than Filesystem {INLINE}")));
    }
}

/// There is exactly one source.
fn source(spec: At<'_>, out: &mut Vec<Cause>) {
    let mut sources = SOURCES.iter().map(|name| (*name, spec.get(name))).filter(|(_, source)| source.is_set());
    let Some((name, first)) = sources.next() else {
        out.push(spec.required("must specify a volume type"));
        return;
    };
    match name {
        "local" if first.get("path").is_empty() => out.push(first.get("path").required("")),
        "local" => rules::no_backsteps(first.get("path"), out),
        "csi" => csi(first, out),
        _ => podspec::validate_volume_source(spec, name, first, out),
    }
    for (name, more) in sources {
        match name {
            // upstream lets it be beside others
            "flexVolume" => podspec::validate_volume_source(spec, name, more, out),
            "cephfs" => out.push(spec.get("cephFS").forbidden("may not specify more than 1 volume type")),
            _ => out.push(more.forbidden("may not specify more than 1 volume type")),
        }
    }
    if spec.get("local").is_set() && !spec.get("nodeAffinity").is_set() {
        out.push(spec.get("nodeAffinity").required("Local volume requires node affinity"));
    }
}

fn csi(source: At<'_>, out: &mut Vec<Cause>) {
    podspec::csi_driver(source.get("driver"), out);
    if source.get("volumeHandle").is_empty() {
        out.push(source.get("volumeHandle").required(""));
    }
    for name in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let reference = source.get(name);
        let missing = ["name", "namespace"].into_iter().filter(|field| reference.get(field).is_empty());
        if reference.is_set() {
            out.extend(missing.map(|field| reference.get(field).required("")));
        }
    }
}

impl TableConvertor for Volumes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let claim = match object.at(&["spec", "claimRef"]) {
            Some(claim) => format!(
                "{}/{}",
                claim["namespace"].as_str().unwrap_or_default(),
                claim["name"].as_str().unwrap_or_default()
            ),
            None => String::new(),
        };
        let gone = object.at(&["metadata", "deletionTimestamp"]).is_some();
        let size = object.at(&["spec", "capacity", "storage"]).and_then(quantities::parse).unwrap_or_default();
        vec![
            json!(object.name()),
            json!(size.to_string()),
            json!(claims::modes_text(object.list_at(&["spec", "accessModes"]))),
            json!(cells::text(object, &["spec", "persistentVolumeReclaimPolicy"])),
            json!(if gone { "Terminating" } else { cells::text(object, &["status", "phase"]) }),
            json!(claim),
            json!(claims::class_of(object)),
            json!(claims::or_unset(object, &["spec", "volumeAttributesClassName"])),
            json!(cells::text(object, &["status", "reason"])),
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

    fn volumes() -> Volumes {
        let capabilities = Capabilities::new(["persistentvolume.spec.hostPath", "persistentvolume.spec.csi"]);
        Volumes { capabilities, local: Some("local.example".to_owned()) }
    }

    fn text(spec: &str) -> String {
        format!("{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: v}}, spec: {{{spec}}}}}")
    }

    const GOOD: &str = "accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}";

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /a}", expect![[""]]),
            (
                "",
                expect![[r#"
                    spec.accessModes: Required value
                    spec.capacity: Required value
                    spec.capacity: Unsupported value: null: supported values: "storage"
                    spec: Required value: must specify a volume type
                "#]],
            ),
            (
                "accessModes: [ReadWriteOnce], capacity: {storage: 0}, persistentVolumeReclaimPolicy: Any, hostPath: {path: /a/../b}, nfs: {}, nodeAffinity: {}",
                expect![[r#"
                    spec.capacity[storage]: Invalid value: "0": must be greater than zero
                    spec.persistentVolumeReclaimPolicy: Unsupported value: "Any": supported values: "Delete", "Recycle", "Retain"
                    spec.nodeAffinity.required: Required value: must specify required node constraints
                    spec.hostPath.path: Invalid value: "/a/../b": must not contain '..'
                    spec.nfs: Forbidden: may not specify more than 1 volume type
                "#]],
            ),
            (
                "accessModes: [ReadWriteOnce], capacity: {storage: 1}, local: {}",
                expect![[r#"
                    spec.local.path: Required value
                    spec.nodeAffinity: Required value: Local volume requires node affinity
                "#]],
            ),
            (
                "accessModes: [ReadWriteOnce], capacity: {storage: 1}, csi: {nodePublishSecretRef: {name: a}}",
                expect![[r#"
                    spec.csi.driver: Required value
                    spec.csi.volumeHandle: Required value
                    spec.csi.nodePublishSecretRef.namespace: Required value
                "#]],
            ),
            (
                "accessModes: [ReadWriteOnce], capacity: {storage: 1}, hostPath: {path: //}, persistentVolumeReclaimPolicy: Recycle",
                expect![[r#"
                    spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&volumes(), &text(spec)));
        }
    }

    #[test]
    fn the_source_stays() {
        let old = created(&volumes(), &text(&format!("{GOOD}, hostPath: {{path: /a}}")));
        let mut new = old.clone();
        new.set(&["spec", "hostPath", "path"], "/b");
        new.set(&["spec", "volumeMode"], "Block");
        expect![[r#"
            spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation
            volumeMode: Invalid value: "Block": field is immutable
        "#]]
        .assert_eq(&update_errors(&volumes(), &new, &old));
        let mut new = old.clone();
        new.set(&["spec", "persistentVolumeReclaimPolicy"], "Delete");
        new.set(&["spec", "claimRef"], json!({"name": "c"}));
        assert_eq!(update_errors(&volumes(), &new, &old), "");
    }

    #[test]
    fn a_change_of_the_phase_has_its_time() {
        let old = created(&volumes(), &text(&format!("{GOOD}, hostPath: {{path: /a}}")));
        let time = ["status", "lastPhaseTransitionTime"];
        assert_eq!(old.str_at(&time), Some("2026-01-01T00:01:00Z"));
        let mut earlier = old.clone();
        earlier.set(&time, "2025-01-01T00:00:00Z");
        let mut new = earlier.clone();
        new.set(&["status"], json!({"phase": "Bound"}));
        volumes().prepare_status(&context(), &mut new, &earlier);
        assert_eq!(new.str_at(&time), Some("2026-01-01T00:01:00Z"));
        let mut new = earlier.clone();
        new.set(&["status"], json!({"phase": "Pending", "message": "m"}));
        volumes().prepare_status(&context(), &mut new, &earlier);
        assert_eq!(new.str_at(&time), Some("2025-01-01T00:00:00Z"));
    }

    #[test]
    fn what_no_node_mounts_is_warned_of() {
        let volume = created(&volumes(), &text(&format!("{GOOD}, nfs: {{server: s, path: /}}")));
        assert_eq!(
            volumes().warnings(&context(), &volume, None),
            ["spec.nfs: no node of sampan can mount such a volume; pods that use it do not start"]
        );
        let volume = created(&volumes(), &text(&format!("{GOOD}, hostPath: {{path: /a}}")));
        assert!(volumes().warnings(&context(), &volume, None).is_empty());
        for (driver, count) in [("local.example", 0), ("other.example", 1)] {
            let volume = created(&volumes(), &text(&format!("{GOOD}, csi: {{driver: {driver}, volumeHandle: h}}")));
            assert_eq!(volumes().warnings(&context(), &volume, None).len(), count, "{driver}");
        }
    }

    #[test]
    fn a_row_shows_the_claim() {
        let text = text(&format!(
            "{GOOD}, persistentVolumeReclaimPolicy: Retain, claimRef: {{namespace: ns, name: c}}, storageClassName: s"
        ));
        expect!["v | 1Gi | RWO | Retain |  | ns/c | s | <unset> |  | <unknown> | <unset>"]
            .assert_eq(&row(&volumes(), &text));
    }
}
