//! VolumeAttachment: a volume is to be attached to a node, and whether it is.

use super::GROUP;
use crate::{Capabilities, at::At, cells, core::persistentvolume, edit, podspec, quantities, rules};
use api::{Cause, FieldPath, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};
use std::borrow::Cow;

const COLUMNS: &[Column] = &[
    Column::name(),
    ATTACHER,
    Column::new("PV", "The PersistentVolume."),
    Column::new("Node", "The node."),
    Column::new("Attached", "Whether the volume is attached.").boolean(),
    Column::age(),
];

/// Upstream calls it a name.
const ATTACHER: Column = Column {
    name: Cow::Borrowed("Attacher"),
    kind: "string",
    format: Cow::Borrowed("name"),
    description: Cow::Borrowed("The driver that attaches the volume."),
    priority: 0,
};

/// The limits of what a driver says, bytes.
const MAX_METADATA: usize = 256 << 10;
const MAX_MESSAGE: usize = 1024;

struct Attachments(Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    Resource::new(GROUP, "v1", "volumeattachments", "VolumeAttachment", Attachments(capabilities.clone()))
        .cluster_scoped()
        .with_status()
        .conditional_update_only()
        .returning_deleted()
}

impl Strategy for Attachments {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn default(&self, object: &mut Object) {
        edit::fill(edit::object(&mut object.0, "status"), "attached", false);
        let source = edit::object(edit::object(&mut object.0, "spec"), "source");
        if let Some(volume) = edit::object_if(source, "inlineVolumeSpec") {
            volume.get_mut("capacity").into_iter().for_each(quantities::canonicalize);
            if let Some(path) = edit::object_if(volume, "hostPath") {
                edit::fill(path, "type", "");
            }
            podspec::default_disk(volume);
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"attached": false}));
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        edit::keep_metadata(object, old);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        podspec::csi_driver(spec.get("attacher"), &mut out);
        source(spec.get("source"), &mut out);
        rules::subdomain_name(spec.get("nodeName"), &mut out);
        let volume = spec.down(&["source", "persistentVolumeName"]);
        if volume.is_set() {
            rules::subdomain_name(volume, &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        if edit::deep_equal_at(object, old, &["spec"]) {
            return Vec::new();
        }
        let shown = At::of(object, "spec").printed("io.k8s.api.storage.v1.VolumeAttachmentSpec");
        vec![Cause::invalid_shown(&FieldPath::new("spec"), &shown, "field is immutable")]
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let (mut out, status) = (Vec::new(), At::of(object, "status"));
        let metadata = status.get("attachmentMetadata");
        if metadata.entries().map(|(key, value)| key.len() + value.str().len()).sum::<usize>() > MAX_METADATA {
            out.push(Cause::too_long(&metadata.field(), MAX_METADATA));
        }
        for error in ["attachError", "detachError"].map(|name| status.get(name)) {
            if error.get("message").str().len() > MAX_MESSAGE {
                // Upstream names the other limit.
                out.push(Cause::too_long(&error.get("message").field(), MAX_METADATA));
            }
            let code = error.get("errorCode");
            if code.int().is_some_and(|number| number < 0) {
                out.push(code.invalid(&names::in_range(0, i64::from(i32::MAX))));
            }
        }
        out
    }

    fn warnings(&self, _cx: &Context, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        self.0.nothing_acts_on("VolumeAttachment")
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["metadata"], &["spec"]] } else { &[] }
    }
}

fn source(source: At<'_>, out: &mut Vec<Cause>) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (named, inline) = (source.get("persistentVolumeName"), source.get("inlineVolumeSpec"));
    match (named.is_set(), inline.is_set()) {
        (false, false) => out.push(source.required(ONE)),
        (true, true) => out.push(source.forbidden(ONE)),
        (true, false) if named.is_empty() => out.push(named.required("must specify non empty persistentVolumeName")),
        (true, false) => {}
        (false, true) => persistentvolume::validate_inline(inline, out),
    }
}

impl TableConvertor for Attachments {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![
            json!(object.name()),
            json!(cells::text(object, &["spec", "attacher"])),
            json!(cells::text(object, &["spec", "source", "persistentVolumeName"])),
            json!(cells::text(object, &["spec", "nodeName"])),
            json!(object.bool_at(&["status", "attached"])),
            cells::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, row, update_errors};
    use expect_test::expect;

    fn attachments() -> Attachments {
        Attachments(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!("{{apiVersion: {GROUP}/v1, kind: VolumeAttachment, metadata: {{name: a}}, spec: {spec}}}")
    }

    const GOOD: &str = "{attacher: d.example, nodeName: one, source: {persistentVolumeName: v}}";

    fn inline(spec: &str) -> String {
        text(&format!("{{attacher: d, nodeName: one, source: {{inlineVolumeSpec: {spec}}}}}"))
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            (text(GOOD), expect![""]),
            (
                text("{}"),
                expect![[r#"
                spec.attacher: Required value
                spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName
                spec.nodeName: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            "#]],
            ),
            (
                text("{attacher: A_B, nodeName: ONE, source: {persistentVolumeName: ''}}"),
                expect![[r#"
                spec.attacher: Invalid value: "A_B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName
                spec.nodeName: Invalid value: "ONE": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.source.persistentVolumeName: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            "#]],
            ),
            (
                text("{attacher: d, nodeName: one, source: {persistentVolumeName: V, inlineVolumeSpec: {}}}"),
                expect![[r#"
                    spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName
                    spec.source.persistentVolumeName: Invalid value: "V": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                "#]],
            ),
            (inline("{accessModes: [ReadWriteOnce], csi: {driver: d, volumeHandle: h}}"), expect![""]),
            (
                inline("{}"),
                expect![[r#"
                spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes
                spec.source.inlineVolumeSpec.accessModes: Required value
                spec.source.inlineVolumeSpec: Required value: must specify a volume type
            "#]],
            ),
            (
                inline(
                    "{accessModes: [Any], claimRef: {}, capacity: {storage: 1}, nfs: {server: s, path: /}, persistentVolumeReclaimPolicy: Delete, nodeAffinity: {}, storageClassName: s, volumeMode: Block}",
                ),
                expect![[r#"
                    spec.source.inlineVolumeSpec.claimRef: Forbidden: may not be specified in the context of inline volumes
                    spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes
                    spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes
                    spec.source.inlineVolumeSpec.accessModes: Unsupported value: "Any": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"
                    spec.source.inlineVolumeSpec.persistentVolumeReclaimPolicy: Forbidden: may only be Retain in the context of inline volumes
                    spec.source.inlineVolumeSpec.nodeAffinity: Forbidden: may not be specified in the context of inline volumes
                    spec.source.inlineVolumeSpec.storageClassName: Forbidden: may not be specified in the context of inline volumes
                    spec.source.inlineVolumeSpec.volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&attachments(), &spec));
        }
    }

    #[test]
    fn the_spec_stays() {
        let old = created(&attachments(), &text(GOOD));
        assert_eq!(old.at(&["status"]), Some(&json!({"attached": false})));
        assert_eq!(update_errors(&attachments(), &old, &old), "");
        let new = created(&attachments(), &text(&GOOD.replace("nodeName: one", "nodeName: two")));
        expect![[r#"
            spec: Invalid value: {"Attacher":"d.example","Source":{"PersistentVolumeName":"v","InlineVolumeSpec":null},"NodeName":"two"}: field is immutable
        "#]].assert_eq(&update_errors(&attachments(), &new, &old));
    }

    #[test]
    fn a_status_is_bounded() {
        let old = created(&attachments(), &text(GOOD));
        let mut new = old.clone();
        let long = "x".repeat(MAX_METADATA);
        new.set(&["status", "attachmentMetadata"], json!({"a": long}));
        new.set(&["status", "attachError"], json!({"message": "x".repeat(1025), "errorCode": -1}));
        let causes = attachments().validate_status(&context(), &new, &old);
        expect![[r#"
            status.attachmentMetadata: Too long: may not be more than 262144 bytes
            status.attachError.message: Too long: may not be more than 262144 bytes
            status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive
        "#]]
        .assert_eq(&causes.iter().map(|cause| format!("{cause}\n")).collect::<String>());
    }

    #[test]
    fn a_row_shows_the_volume_and_the_node() {
        let text = text(GOOD).replace("spec:", "status: {attached: true}, spec:");
        expect!["a | d.example | v | one | true | <unknown>"].assert_eq(&row(&attachments(), &text));
    }
}
