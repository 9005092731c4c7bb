//! PodDisruptionBudget: how many pods of a set may be evicted at the same time.

use crate::{apps::workload, at::At, cells, edit, rules};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Min Available", "The minimum number of pods that must be available."),
    Column::new("Max Unavailable", "The maximum number of pods that may be unavailable."),
    Column::new("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.").integer(),
    Column::age(),
];

/// The counts of a status, which Go never leaves out.
const COUNTS: [&str; 4] = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

struct Budgets;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", Budgets)
        .short(&["pdb"])
        .with_generation()
        .with_status()
        .conditional_update_only()
}

impl Strategy for Budgets {
    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        names::path_segment(name)
    }

    fn default(&self, object: &mut Object) {
        let status = edit::object(&mut object.0, "status");
        COUNTS.iter().for_each(|count| edit::fill(status, count, 0));
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(
            &["status"],
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
        );
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if least.is_set() && most.is_set() {
            let shown = spec.printed("io.k8s.api.policy.v1.PodDisruptionBudgetSpec");
            let text = "minAvailable and maxUnavailable cannot be both set";
            out.push(Cause::invalid_shown(&spec.field(), &shown, text));
        }
        for amount in [least, most].into_iter().filter(|amount| amount.is_set()) {
            rules::number_or_percent(amount, &mut out);
            workload::at_most_all(amount, &mut out);
        }
        rules::label_selector(spec.get("selector"), &mut out);
        let policy = spec.get("unhealthyPodEvictionPolicy");
        if policy.is_set() && !matches!(policy.str(), "AlwaysAllow" | "IfHealthyBudget") {
            out.push(policy.not_supported(&["AlwaysAllow", "IfHealthyBudget"]));
        }
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let status = At::of(object, "status");
        rules::conditions(status.get("conditions"), &mut out);
        COUNTS.iter().for_each(|count| status.get(count).not_negative(&mut out));
        out
    }
}

impl TableConvertor for Budgets {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let amount = |name: &str| match object.at(&["spec", name]) {
            None | Some(Value::Null) => json!("N/A"),
            Some(Value::String(text)) => json!(text),
            Some(number) => json!(number.to_string()),
        };
        vec![
            json!(object.name()),
            amount("minAvailable"),
            amount("maxUnavailable"),
            json!(cells::number(object, &["status", "disruptionsAllowed"])),
            cells::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, parse, row};
    use expect_test::expect;

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {{name: b, namespace: ns}}, spec: {spec}}}"
        )
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("{}", expect![[""]]),
            ("{minAvailable: 2, selector: {}}", expect![[""]]),
            ("{maxUnavailable: 50%, unhealthyPodEvictionPolicy: AlwaysAllow}", expect![[""]]),
            (
                "{minAvailable: 1, maxUnavailable: 0%}",
                expect![[r#"
                spec: Invalid value: {"MinAvailable":1,"Selector":null,"MaxUnavailable":"0%","UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both set
            "#]],
            ),
            (
                "{minAvailable: -1}",
                expect![[r#"
                spec.minAvailable: Invalid value: -1: must be greater than or equal to 0
            "#]],
            ),
            (
                "{maxUnavailable: 101%}",
                expect![[r#"
                spec.maxUnavailable: Invalid value: "101%": must not be greater than 100%
            "#]],
            ),
            (
                "{minAvailable: few, unhealthyPodEvictionPolicy: Never, selector: {matchLabels: {a/b/c: d}}}",
                expect![[r#"
                    spec.minAvailable: Invalid value: "few": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
                    spec.selector.matchLabels: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                    spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Budgets, &text(spec)));
        }
    }

    #[test]
    fn a_status_has_counts_and_whole_conditions() {
        let old = created(&Budgets, &text("{minAvailable: 1}"));
        assert_eq!(old.at(&["status", "expectedPods"]), Some(&json!(0)));
        let status = "{disruptionsAllowed: -1, currentHealthy: 0, conditions: [{type: DisruptionAllowed, status: 'True', reason: SufficientPods, \
            lastTransitionTime: '2026-01-01T00:00:00Z'}, {type: DisruptionAllowed, status: Maybe, reason: ' x', observedGeneration: -1}, \
            {type: '', status: 'False'}]}";
        let mut new = old.clone();
        new.set(&["status"], parse(&format!("{{kind: x, status: {status}}}")).at(&["status"]).cloned().unwrap());
        let causes = Budgets.validate_status(&context(), &new, &old);
        let lines: String = causes.iter().map(|cause| format!("{cause}\n")).collect();
        expect![[r#"
            status.conditions[1].type: Duplicate value: "DisruptionAllowed"
            status.conditions[1].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"
            status.conditions[1].observedGeneration: Invalid value: -1: must be greater than or equal to zero
            status.conditions[1].lastTransitionTime: Required value
            status.conditions[1].reason: Invalid value: " x": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')
            status.conditions[2].type: Invalid value: "": name part must be non-empty
            status.conditions[2].type: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            status.conditions[2].lastTransitionTime: Required value
            status.conditions[2].reason: Required value
            status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0
        "#]].assert_eq(&lines);
    }

    #[test]
    fn a_row_shows_what_is_allowed() {
        expect!["b | 2 | N/A | 0 | <unknown>"].assert_eq(&row(&Budgets, &text("{minAvailable: 2}")));
        let text = text("{maxUnavailable: 30%}").replace("spec:", "status: {disruptionsAllowed: 1}, spec:");
        expect!["b | N/A | 30% | 1 | <unknown>"].assert_eq(&row(&Budgets, &text));
    }
}
