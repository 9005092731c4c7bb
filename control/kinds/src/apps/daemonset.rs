//! DaemonSet: a pod of one template on each node that it selects.

use crate::{
    Capabilities,
    apps::workload::{self, amount},
    at::At,
    cells, edit, podspec, rules,
};
use api::{Cause, CauseKind, Object, selector::Selector};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Desired", "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/").integer(),
    Column::new("Current", "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/").integer(),
    Column::new("Ready", "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.").integer(),
    Column::new("Up-to-date", "The total number of nodes that are running updated daemon pod").integer(),
    Column::new("Available", "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)").integer(),
    Column::new("Node Selector", "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/"),
    Column::age(),
    Column::new("Containers", "Names of each container in the template.").wide(),
    Column::new("Images", "Images referenced by each container in the template.").wide(),
    Column::new("Selector", "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];

/// Counts the templates. In `apps/v1` this field of older versions is an annotation.
const GENERATION: &str = "deprecated.daemonset.template.generation";

pub(crate) struct DaemonSets(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let sets = DaemonSets(capabilities.clone());
    Resource::new("apps", "v1", "daemonsets", "DaemonSet", sets)
        .short(&["ds"])
        .category("all")
        .with_generation()
        .with_status()
}

fn generation(object: &Object) -> i64 {
    let text = object.at(&["metadata", "annotations"]).and_then(|all| all.get(GENERATION)?.as_str());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_generation(object: &mut Object, number: i64) {
    let annotations = edit::object(edit::object(&mut object.0, "metadata"), "annotations");
    annotations.insert(GENERATION.to_owned(), json!(number.to_string()));
}

impl Strategy for DaemonSets {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::drop_zero(spec, &["minReadySeconds"]);
        let strategy = edit::object(spec, "updateStrategy");
        edit::fill_str(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = edit::object(strategy, "rollingUpdate");
            edit::fill(rolling, "maxUnavailable", 1);
            edit::fill(rolling, "maxSurge", 0);
        }
        edit::fill(spec, "revisionHistoryLimit", 10);
        podspec::default_template(spec);
        let status = edit::object(&mut object.0, "status");
        for count in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
            edit::fill(status, count, 0);
        }
        // To upstream it is a field of the spec that is always written, so that whoever writes the object owns it.
        set_generation(object, generation(object));
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}));
        set_generation(object, generation(object).max(1));
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        let changed = !edit::deep_equal_at(object, old, &["spec", "template"]);
        set_generation(object, generation(old) + i64::from(changed));
        edit::next_generation(object, old, &[&["spec"]]);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        // Of an update upstream checks the change first.
        if cx.operation == Operation::Update { Vec::new() } else { faults(object) }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        rules::selector_stays(At::of(object, "spec").get("selector"), At::of(old, "spec").get("selector"), &mut out);
        out.extend(faults(object));
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let status = At::of(object, "status");
        let counts = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        counts.iter().for_each(|name| status.get(name).not_negative(&mut out));
        workload::collisions(status, old, &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        workload::template_warnings(&self.0, object, old)
    }
}

/// The faults of an object by itself.
fn faults(object: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    rules::label_selector(selector, &mut out);
    let labels = template.get("metadata").get("labels");
    // An absent selector selects nothing, and so not the template.
    let parsed = selector.is_set().then(|| Selector::from_label_selector(selector.value()));
    let fits = match &parsed {
        None => false,
        Some(Ok(selector)) => selector.is_empty() || selector.matches(|key| labels.value().get(key)?.as_str()),
        Some(Err(_)) => true,
    };
    if !fits {
        out.push(labels.invalid("`selector` does not match template `labels`"));
    }
    let empty = selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty();
    if selector.is_set() && empty {
        out.push(selector.invalid("empty selector is invalid for daemonset"));
    }
    podspec::validate_template(template, &mut out);
    workload::runs_for_ever(template, "DaemonSet", &mut out);
    spec.get("minReadySeconds").not_negative(&mut out);
    if generation(object) < 0 {
        let (field, value) = (spec.get("templateGeneration").field(), json!(generation(object)));
        out.push(Cause::invalid(&field, &value, crate::at::NOT_NEGATIVE));
    }
    strategy(spec.get("updateStrategy"), &mut out);
    spec.get("revisionHistoryLimit").not_negative(&mut out);
    out
}

fn strategy(strategy: At<'_>, out: &mut Vec<Cause>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            rules::number_or_percent(unavailable, out);
            rules::number_or_percent(surge, out);
            workload::at_most_all(unavailable, out);
            workload::at_most_all(surge, out);
            match (amount(unavailable) != 0, amount(surge) != 0) {
                (true, true) => out.push(surge.invalid("may not be set when maxUnavailable is non-zero")),
                (false, false) => out.push(unavailable.required("cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        kind => {
            let shown = format!(
                "{{\"Type\":{kind:?},\"RollingUpdate\":{}}}",
                workload::rolling_text(rolling, &["MaxUnavailable", "MaxSurge"])
            );
            let known = "supported values: \"RollingUpdate\", \"OnDelete\"";
            out.push(Cause::shown(CauseKind::NotSupported, &strategy.field(), &shown, known));
        }
    }
}

impl TableConvertor for DaemonSets {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let status = |name: &str| json!(cells::number(object, &["status", name]));
        let pod = At::of(object, "spec").down(&["template", "spec"]);
        let [names, images] = cells::containers(pod);
        vec![
            json!(object.name()),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            json!(cells::labels(object.at(&["spec", "template", "spec", "nodeSelector"]))),
            cells::age(object, now),
            names,
            images,
            json!(cells::label_selector(object.at(&["spec", "selector"]))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, row, update_errors};
    use expect_test::expect;

    fn sets() -> DaemonSets {
        DaemonSets(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: d, namespace: ns}}, spec: {{selector: {{matchLabels: {{a: b}}}}, \
             template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}{spec}}}}}"
        )
    }

    #[test]
    fn defaults_and_the_count_of_templates_are_upstreams() {
        let old = created(&sets(), &text(""));
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
        assert_eq!(old.at(&["spec", "updateStrategy"]), Some(&rolling));
        assert_eq!((generation(&old), cells::number(&old, &["spec", "revisionHistoryLimit"])), (1, 10));
        let mut new = old.clone();
        set_generation(&mut new, 7);
        sets().prepare_update(&context(), &mut new, &old);
        assert_eq!(generation(&new), 1, "it is not the client's");
        new.set(&["spec", "template", "spec", "hostNetwork"], true);
        sets().prepare_update(&context(), &mut new, &old);
        assert_eq!(generation(&new), 2);
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("", expect![[""]]),
            (
                ", minReadySeconds: -1, revisionHistoryLimit: -1",
                expect![[r#"
                spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0
                spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0
            "#]],
            ),
            (
                ", updateStrategy: {type: Any}",
                expect![[r#"
                spec.updateStrategy: Unsupported value: {"Type":"Any","RollingUpdate":null}: supported values: "RollingUpdate", "OnDelete"
            "#]],
            ),
            (
                ", updateStrategy: {rollingUpdate: {maxUnavailable: 0}}",
                expect![[r#"
                spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0
            "#]],
            ),
            (
                ", updateStrategy: {rollingUpdate: {maxSurge: 1}}",
                expect![[r#"
                spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero
            "#]],
            ),
            (
                ", updateStrategy: {rollingUpdate: {maxSurge: 101%, maxUnavailable: x}}",
                expect![[r#"
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "x": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
                spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "101%": must not be greater than 100%
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&sets(), &text(spec)));
        }
        let bare = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d, namespace: ns}, spec: {template: {spec: {restartPolicy: OnFailure, activeDeadlineSeconds: 1, \
            containers: [{name: c, image: i}]}}}}";
        expect![[r#"
            spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`
            spec.template.spec.restartPolicy: Unsupported value: "OnFailure": supported values: "Always"
            spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported
        "#]]
        .assert_eq(&errors(&sets(), bare));
        expect![[r#"
            spec.selector: Invalid value: {}: empty selector is invalid for daemonset
        "#]]
        .assert_eq(&errors(&sets(), &text("").replace("{matchLabels: {a: b}}", "{}")));
        let old = created(&sets(), &text(""));
        let mut new = old.clone();
        new.set(&["spec", "selector"], json!({"matchLabels": {"x": "y"}}));
        expect![[r#"
            spec.selector: Invalid value: {"matchLabels":{"x":"y"}}: field is immutable
            spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
        "#]]
        .assert_eq(&update_errors(&sets(), &new, &old));
    }

    #[test]
    fn a_row_shows_the_nodes() {
        let text = text("").replace("containers:", "nodeSelector: {disk: ssd}, containers:");
        expect!["d | 0 | 0 | 0 | 0 | 0 | disk=ssd | <unknown> | c | i | a=b"].assert_eq(&row(&sets(), &text));
    }
}
