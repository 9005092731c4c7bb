//! CSIDriver: what the volumes of a CSI driver need.

use super::GROUP;
use crate::{Capabilities, at::At, cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};
use std::collections::HashSet;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("AttachRequired", "Whether volumes are attached to a node before they are mounted.").boolean(),
    Column::new("PodInfoOnMount", "Whether the driver is told of the pod on each mount.").boolean(),
    Column::new("StorageCapacity", "Whether the scheduler looks at the CSIStorageCapacity objects of the driver.")
        .boolean(),
    Column::new("TokenRequests", "The audiences of the tokens that the driver gets of each pod."),
    Column::new("RequiresRepublish", "Whether the driver is called again and again while a volume is mounted.")
        .boolean(),
    Column::new("Modes", "The kinds of volumes that the driver has."),
    Column::age(),
];

/// The limits of a token's life, seconds.
const MIN_EXPIRATION: i64 = 600;
const MAX_EXPIRATION: i64 = 1 << 32;
/// The shortest time between two updates of what a node can have, seconds.
const MIN_PERIOD: i64 = 10;
/// A field of a feature that is off in 1.36.
const OFF: &str = "preventPodSchedulingIfMissing";

struct Drivers(Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    Resource::new(GROUP, "v1", "csidrivers", "CSIDriver", Drivers(capabilities.clone()))
        .cluster_scoped()
        .conditional_update_only()
        .returning_deleted()
}

impl Strategy for Drivers {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::fill(spec, "attachRequired", true);
        edit::fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        for name in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            edit::fill(spec, name, false);
        }
        if spec.get("volumeLifecycleModes").is_none_or(edit::is_empty_value) {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.remove(&["spec", OFF]);
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        if old.at(&["spec", OFF]).is_none() {
            object.remove(&["spec", OFF]);
        }
        // A new one has no generation.
        if !edit::deep_equal_at(object, old, &["spec"]) {
            object.set(&["metadata", "generation"], old.generation() + 1);
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        let policy = spec.get("fsGroupPolicy");
        if policy.is_set() && !matches!(policy.str(), "File" | "None" | "ReadWriteOnceWithFSType") {
            out.push(policy.not_supported(&["File", "None", "ReadWriteOnceWithFSType"]));
        }
        tokens(spec.get("tokenRequests"), &mut out);
        let modes = spec.get("volumeLifecycleModes");
        let unknown = modes.items().filter(|mode| !matches!(mode.str(), "Persistent" | "Ephemeral"));
        // Upstream's error names the list.
        out.extend(unknown.map(|mode| modes.with(mode.value()).not_supported(&["Persistent", "Ephemeral"])));
        let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
        if period.int().is_some_and(|seconds| seconds < MIN_PERIOD) {
            out.push(period.invalid(&format!("must be greater than or equal to {MIN_PERIOD} seconds")));
        }
        let in_secrets = spec.get("serviceAccountTokenInSecrets");
        if in_secrets.is_set() && spec.get("tokenRequests").is_empty() {
            out.push(in_secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified"));
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (mut out, new, old) = (Vec::new(), At::of(object, "spec"), At::of(old, "spec"));
        // Upstream's error misspells the field.
        let attach = new.get("attachedRequired").with(new.get("attachRequired").value());
        attach.immutable(old.get("attachRequired"), &mut out);
        new.get("volumeLifecycleModes").immutable(old.get("volumeLifecycleModes"), &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = self.0.nothing_acts_on("CSIDriver");
        let spec = At::of(object, "spec");
        let asked = !spec.get("tokenRequests").is_empty()
            && old.is_none_or(|old| !edit::deep_equal_at(object, old, &["spec", "tokenRequests"]));
        if asked && !spec.get("serviceAccountTokenInSecrets").is_set() {
            out.push("spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned());
        }
        out
    }
}

fn tokens(requests: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for request in requests.items() {
        let (audience, seconds) = (request.get("audience"), request.get("expirationSeconds"));
        if !seen.insert(audience.str()) {
            out.push(audience.or_empty().duplicate());
            continue;
        }
        match seconds.int() {
            Some(..MIN_EXPIRATION) => out.push(seconds.invalid("may not specify a duration less than 10 minutes")),
            Some(number) if number > MAX_EXPIRATION => {
                out.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
}

impl TableConvertor for Drivers {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let spec = At::of(object, "spec");
        let (attach, requests) = (spec.get("attachRequired"), spec.get("tokenRequests"));
        let joined = |texts: Vec<&str>| texts.join(",");
        let audiences = joined(requests.items().map(|request| request.get("audience").str()).collect());
        let modes = joined(spec.get("volumeLifecycleModes").items().map(At::str).collect());
        vec![
            json!(object.name()),
            json!(!attach.is_set() || attach.bool()),
            json!(spec.get("podInfoOnMount").bool()),
            json!(spec.get("storageCapacity").bool()),
            json!(if requests.is_set() { audiences } else { "<unset>".to_owned() }),
            json!(spec.get("requiresRepublish").bool()),
            json!(if modes.is_empty() { "<none>".to_owned() } else { modes }),
            cells::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, row, update_errors, yaml};
    use expect_test::expect;

    fn drivers() -> Drivers {
        Drivers(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!("{{apiVersion: {GROUP}/v1, kind: CSIDriver, metadata: {{name: d.example}}, spec: {spec}}}")
    }

    #[test]
    fn everything_has_a_default() {
        expect![[r#"
            apiVersion: storage.k8s.io/v1
            kind: CSIDriver
            metadata:
              name: d.example
            spec:
              attachRequired: true
              fsGroupPolicy: ReadWriteOnceWithFSType
              podInfoOnMount: false
              requiresRepublish: false
              seLinuxMount: false
              storageCapacity: false
              volumeLifecycleModes:
              - Persistent
        "#]]
        .assert_eq(&yaml(&created(&drivers(), &text("{preventPodSchedulingIfMissing: true}"))));
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            (
                "{tokenRequests: [{audience: ''}, {audience: a, expirationSeconds: 600}], serviceAccountTokenInSecrets: true, volumeLifecycleModes: [Ephemeral, Persistent]}",
                expect![[""]],
            ),
            (
                "{fsGroupPolicy: All, volumeLifecycleModes: [Eternal], nodeAllocatableUpdatePeriodSeconds: 9, serviceAccountTokenInSecrets: false}",
                expect![[r#"
                    spec.fsGroupPolicy: Unsupported value: "All": supported values: "File", "None", "ReadWriteOnceWithFSType"
                    spec.volumeLifecycleModes: Unsupported value: "Eternal": supported values: "Persistent", "Ephemeral"
                    spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds
                    spec.serviceAccountTokenInSecrets: Invalid value: false: serviceAccountTokenInSecrets is set but no tokenRequests are specified
                "#]],
            ),
            (
                "{tokenRequests: [{audience: a, expirationSeconds: 599}, {audience: a}, {audience: b, expirationSeconds: 4294967297}, {}, {}]}",
                expect![[r#"
                    spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes
                    spec.tokenRequests[1].audience: Duplicate value: "a"
                    spec.tokenRequests[2].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds
                    spec.tokenRequests[4].audience: Duplicate value: ""
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&drivers(), &text(spec)));
        }
    }

    #[test]
    fn attachment_and_modes_stay_and_the_generation_counts_changes() {
        let old = created(&drivers(), &text("{}"));
        let mut new = old.clone();
        drivers().prepare_update(&context(), &mut new, &old);
        assert_eq!(new, old);
        new.set(&["spec", "podInfoOnMount"], true);
        drivers().prepare_update(&context(), &mut new, &old);
        assert_eq!((new.generation(), update_errors(&drivers(), &new, &old).as_str()), (1, ""));
        new.set(&["spec", "attachRequired"], false);
        new.set(&["spec", "volumeLifecycleModes"], json!(["Ephemeral"]));
        expect![[r#"
            spec.attachedRequired: Invalid value: false: field is immutable
            spec.volumeLifecycleModes: Invalid value: ["Ephemeral"]: field is immutable
        "#]]
        .assert_eq(&update_errors(&drivers(), &new, &old));
    }

    #[test]
    fn tokens_in_attributes_are_warned_of() {
        let old = created(&drivers(), &text("{tokenRequests: [{audience: a}]}"));
        expect![[r#"
            CSIDriver is stored, but nothing in this cluster acts on it yet
            spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"#]].assert_eq(&drivers().warnings(&context(), &old, None).join("\n"));
        assert_eq!(drivers().warnings(&context(), &old, Some(&old)).len(), 1);
    }

    #[test]
    fn a_row_shows_what_the_driver_needs() {
        expect!["d.example | true | false | false | <unset> | false | <none> | <unknown>"]
            .assert_eq(&row(&drivers(), &text("{}")));
        expect!["d.example | false | true | true | a,b | true | Persistent,Ephemeral | <unknown>"].assert_eq(&row(
            &drivers(),
            &text("{attachRequired: false, podInfoOnMount: true, storageCapacity: true, requiresRepublish: true, tokenRequests: [{audience: a}, {audience: b}], volumeLifecycleModes: [Persistent, Ephemeral]}"),
        ));
    }
}
