//! StatefulSet: pods with stable names and their own claims to volumes.

use crate::{
    Capabilities,
    apps::workload::{self, amount},
    at::At,
    cells, claims, edit, podspec, rules,
};
use api::{Cause, CauseKind, Object, names, selector::Selector};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Ready", "Number of the pod with ready state"),
    Column::age(),
    Column::new("Containers", "Names of each container in the template.").wide(),
    Column::new("Images", "Images referenced by each container in the template.").wide(),
];

/// What an update may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(crate) struct StatefulSets(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let sets = StatefulSets(capabilities.clone());
    Resource::new("apps", "v1", "statefulsets", "StatefulSet", sets)
        .short(&["sts"])
        .category("all")
        .with_generation()
        .with_scale()
        .with_status()
}

impl Strategy for StatefulSets {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::fill_str(spec, "podManagementPolicy", "OrderedReady");
        edit::fill(spec, "serviceName", "");
        edit::drop_zero(spec, &["minReadySeconds"]);
        let strategy = edit::object(spec, "updateStrategy");
        if strategy.get("type").is_none_or(|kind| kind == "" || kind.is_null()) {
            strategy.insert("type".to_owned(), json!("RollingUpdate"));
            edit::object(strategy, "rollingUpdate");
        }
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = edit::object_if(strategy, "rollingUpdate")
        {
            edit::fill(rolling, "partition", 0);
        }
        let policy = edit::object(spec, "persistentVolumeClaimRetentionPolicy");
        edit::fill_str(policy, "whenDeleted", "Retain");
        edit::fill_str(policy, "whenScaled", "Retain");
        edit::fill(spec, "replicas", 1);
        edit::fill(spec, "revisionHistoryLimit", 10);
        podspec::default_template(spec);
        for claim in edit::objects(spec, "volumeClaimTemplates") {
            edit::fill_str(claim, "apiVersion", "v1");
            edit::fill_str(claim, "kind", "PersistentVolumeClaim");
            claims::default_spec(edit::object(claim, "spec"));
            edit::fill_str(edit::object(claim, "status"), "phase", "Pending");
        }
        let status = edit::object(&mut object.0, "status");
        edit::fill(status, "replicas", 0);
        edit::fill(status, "availableReplicas", 0);
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"replicas": 0, "availableReplicas": 0}));
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(&server::context::maybe_prefix(name, prefix))
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        let management = spec.get("podManagementPolicy");
        if !["OrderedReady", "Parallel"].contains(&management.str()) {
            out.push(management.invalid("must be 'OrderedReady' or 'Parallel'"));
        }
        strategy(spec.get("updateStrategy"), &mut out);
        for when in ["whenDeleted", "whenScaled"] {
            let policy = spec.get("persistentVolumeClaimRetentionPolicy").get(when);
            if !["Retain", "Delete"].contains(&policy.str()) {
                out.push(policy.not_supported(&["Retain", "Delete"]));
            }
        }
        if cx.operation == Operation::Create {
            for claim in spec.get("volumeClaimTemplates").items() {
                if rules::full(&out) {
                    return out;
                }
                claims::validate_spec(claim.get("spec"), &mut out);
            }
        }
        spec.get("replicas").not_negative(&mut out);
        spec.get("minReadySeconds").not_negative(&mut out);
        spec.down(&["ordinals", "start"]).not_negative(&mut out);
        let service = spec.get("serviceName");
        if cx.operation == Operation::Create && !service.str().is_empty() {
            rules::label_name(service, &mut out);
        }
        selector_and_template(object, &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let fixed = |object: &Object| {
            let mut spec = object.at(&["spec"]).cloned().unwrap_or_default();
            if let Some(fields) = spec.as_object_mut() {
                MUTABLE.iter().for_each(|name| drop(fields.remove(*name)));
            }
            spec
        };
        if edit::deep_equal(&fixed(object), &fixed(old)) {
            return Vec::new();
        }
        vec![At::of(object, "spec").forbidden("updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")]
    }

    fn validate_status(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        const COUNTS: &[&str] = &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        let mut out = Vec::new();
        let status = At::of(object, "status");
        status.get("replicas").not_negative(&mut out);
        for name in COUNTS.iter().chain(&["observedGeneration", "collisionCount"]) {
            status.get(name).not_negative(&mut out);
        }
        let count = |name: &'static str| status.get(name).int().unwrap_or(0);
        let mut greater = |name: &'static str, than: &'static str| {
            if count(name) > count(than) {
                let text = format!("cannot be greater than status.{than}");
                out.push(Cause::invalid(&status.get(name).field(), &json!(count(name)), &text));
            }
        };
        COUNTS.iter().for_each(|name| greater(name, "replicas"));
        greater("availableReplicas", "readyReplicas");
        workload::collisions(status, old, &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = workload::template_warnings(&self.0, object, old);
        for claim in At::of(object, "spec").get("volumeClaimTemplates").items() {
            // Upstream's path leaves the spec out at a create, and names it with a capital letter at an update.
            let spec = claim.get("spec");
            let path = if old.is_none() { claim.field() } else { claim.field().child("Spec") };
            claims::fractions(&path, spec, &mut out);
        }
        if cells::number(object, &["spec", "revisionHistoryLimit"]) < 0 {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        out
    }
}

fn strategy(strategy: At<'_>, out: &mut Vec<Cause>) {
    let rolling = strategy.get("rollingUpdate");
    let text = workload::rolling_text(rolling, &["Partition", "MaxUnavailable"]);
    match strategy.get("type").str() {
        "OnDelete" if rolling.is_set() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            out.push(Cause::shown(CauseKind::Invalid, &rolling.field(), &text, detail));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").not_negative(out);
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                rules::number_or_percent(unavailable, out);
                if amount(unavailable) == 0 {
                    out.push(unavailable.invalid("cannot be 0"));
                }
                workload::at_most_all(unavailable, out);
            }
        }
        kind => {
            let shown = format!("{{\"Type\":{kind:?},\"RollingUpdate\":{text}}}");
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            out.push(Cause::shown(CauseKind::Invalid, &strategy.field(), &shown, detail));
        }
    }
}

fn selector_and_template(object: &Object, out: &mut Vec<Cause>) {
    let selector = At::of(object, "spec").get("selector");
    if selector.is_set() {
        rules::label_selector(selector, out);
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            out.push(selector.invalid("empty selector is invalid for statefulset"));
        }
    } else {
        out.push(selector.required(""));
    }
    let made = as_made(object);
    let template = At::of(&made, "spec").get("template");
    let parsed = selector.is_set().then(|| Selector::from_label_selector(selector.value()));
    match parsed {
        Some(Err(_)) => out.push(selector.invalid("")),
        parsed => {
            let labels = template.get("metadata").get("labels");
            // no selector selects nothing
            let fits = match &parsed {
                Some(Ok(selector)) => selector.is_empty() || selector.matches(|key| labels.value().get(key)?.as_str()),
                _ => false,
            };
            if !fits {
                out.push(labels.invalid("`selector` does not match template `labels`"));
            }
            podspec::validate_template(template, out);
            // Upstream checks them twice.
            podspec::validate_template_metadata(template, out);
        }
    }
    workload::runs_for_ever(template, "StatefulSet", out);
}

/// The set with the template as its pods are made of it: host name and subdomain are theirs, and each claim template is a volume.
fn as_made(object: &Object) -> Object {
    let mut made = object.clone();
    let templates = object.list_at(&["spec", "volumeClaimTemplates"]);
    let claims: Vec<&str> = templates.iter().filter_map(|claim| claim["metadata"]["name"].as_str()).collect();
    let spec = edit::object(&mut made.0, "spec");
    let pod = edit::object(edit::object(spec, "template"), "spec");
    pod.remove("hostname");
    pod.remove("subdomain");
    if !claims.is_empty() {
        let own = pod.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        let kept = own.into_iter().filter(|volume| !volume["name"].as_str().is_some_and(|name| claims.contains(&name)));
        let made = claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        pod.insert("volumes".to_owned(), made.chain(kept).collect());
    }
    made
}

impl TableConvertor for StatefulSets {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let [names, images] = cells::containers(At::of(object, "spec").down(&["template", "spec"]));
        let (ready, wanted) =
            (cells::number(object, &["status", "readyReplicas"]), cells::number(object, &["spec", "replicas"]));
        vec![json!(object.name()), json!(format!("{ready}/{wanted}")), cells::age(object, now), names, images]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, parse, row, update_errors};
    use expect_test::expect;

    fn sets() -> StatefulSets {
        StatefulSets(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: web, namespace: ns}}, spec: {{selector: {{matchLabels: {{a: b}}}}, \
             template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}{spec}}}}}"
        )
    }

    #[test]
    fn defaults_are_upstreams() {
        let spec = |more: &str| {
            let mut spec = created(&sets(), &text(more)).0["spec"].take();
            let fields = spec.as_object_mut().unwrap();
            ["selector", "template"].iter().for_each(|name| drop(fields.remove(*name)));
            spec
        };
        let expected = json!({"podManagementPolicy": "OrderedReady", "serviceName": "", "replicas": 1, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}});
        assert_eq!(spec(""), expected);
        assert_eq!(spec(", updateStrategy: {type: OnDelete}")["updateStrategy"], json!({"type": "OnDelete"}));
        assert_eq!(spec(", updateStrategy: {type: RollingUpdate}")["updateStrategy"], json!({"type": "RollingUpdate"}));
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("", expect![[""]]),
            (
                ", podManagementPolicy: Any, replicas: -1, minReadySeconds: -1, ordinals: {start: -1}, serviceName: A",
                expect![[r#"
                    spec.podManagementPolicy: Invalid value: "Any": must be 'OrderedReady' or 'Parallel'
                    spec.replicas: Invalid value: -1: must be greater than or equal to 0
                    spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0
                    spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0
                    spec.serviceName: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                "#]],
            ),
            (
                ", updateStrategy: {type: Any}",
                expect![[r#"
                spec.updateStrategy: Invalid value: {"Type":"Any","RollingUpdate":null}: must be 'RollingUpdate' or 'OnDelete'
            "#]],
            ),
            (
                ", updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}",
                expect![[r#"
                spec.updateStrategy.rollingUpdate: Invalid value: {"Partition":1,"MaxUnavailable":null}: only allowed for updateStrategy 'RollingUpdate'
            "#]],
            ),
            (
                ", updateStrategy: {rollingUpdate: {partition: -1, maxUnavailable: 0}}",
                expect![[r#"
                spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0
            "#]],
            ),
            (
                ", updateStrategy: {rollingUpdate: {maxUnavailable: 101%}}",
                expect![[r#"
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%
            "#]],
            ),
            (
                ", persistentVolumeClaimRetentionPolicy: {whenDeleted: Any, whenScaled: Delete}",
                expect![[r#"
                spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: "Any": supported values: "Retain", "Delete"
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&sets(), &text(spec)));
        }
        let bad = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: web, namespace: ns}, spec: {selector: {}, template: {metadata: {labels: {a: '-'}}, \
            spec: {hostname: '-', restartPolicy: Never, activeDeadlineSeconds: 1, containers: [{name: c, image: i, volumeMounts: [{name: data, mountPath: /d}]}]}}, \
            volumeClaimTemplates: [{metadata: {name: data}}]}}";
        expect![[r#"
            spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required
            spec.volumeClaimTemplates[0].spec.resources[storage]: Required value
            spec.selector: Invalid value: {}: empty selector is invalid for statefulset
            spec.template.labels: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            spec.template.labels: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
            spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported
        "#]].assert_eq(&errors(&sets(), bad));
        expect![[r#"
            spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
        "#]]
        .assert_eq(&errors(&sets(), &text("").replace("{matchLabels: {a: b}}", "{matchLabels: {x: y}}")));
    }

    #[test]
    fn an_update_changes_what_it_may_and_the_status_counts_up_to_its_replicas() {
        let old = created(&sets(), &text(""));
        let mut new = old.clone();
        new.set(&["spec", "replicas"], 3);
        assert_eq!(update_errors(&sets(), &new, &old), "");
        new.set(&["spec", "serviceName"], "other");
        expect![[r#"
            spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden
        "#]].assert_eq(&update_errors(&sets(), &new, &old));
        let status = parse("{status: {replicas: 1, readyReplicas: 2, availableReplicas: 3, currentReplicas: -1}}");
        let causes =
            sets().validate_status(&crate::testing::context(), &status, &parse("{status: {collisionCount: 1}}"));
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        expect![[r#"
            status.currentReplicas: Invalid value: -1: must be greater than or equal to 0
            status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas
            status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas
            status.availableReplicas: Invalid value: 3: cannot be greater than status.readyReplicas
            status.collisionCount: Invalid value: 0: cannot be decremented"#]]
        .assert_eq(&causes.join("\n"));
    }

    #[test]
    fn a_row_shows_how_many_are_ready() {
        let text = text("").replace("spec: {selector", "status: {readyReplicas: 1}, spec: {replicas: 2, selector");
        expect!["web | 1/2 | <unknown> | c | i"].assert_eq(&row(&sets(), &text));
    }
}
