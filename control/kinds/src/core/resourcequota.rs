//! ResourceQuota: how much the objects of a namespace may use.

use crate::{at::At, edit, podspec, quantities, rules};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};
use std::collections::BTreeSet;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
    Column::new(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    Column::age(),
];

const TERMINATING: &str = "Terminating";
const NOT_TERMINATING: &str = "NotTerminating";
const BEST_EFFORT: &str = "BestEffort";
const NOT_BEST_EFFORT: &str = "NotBestEffort";
const PRIORITY_CLASS: &str = "PriorityClass";
const BEYOND: &str = "CrossNamespacePodAffinity";
const ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";

struct Quotas;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("", "v1", "resourcequotas", "ResourceQuota", Quotas)
        .short(&["quota"])
        .with_status()
        .returning_deleted()
}

impl Strategy for Quotas {
    fn default(&self, object: &mut Object) {
        for (part, list) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
            if let Some(list) = edit::object(&mut object.0, part).get_mut(list) {
                quantities::canonicalize(list);
            }
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        amounts(spec.get("hard"), &mut out);
        scopes(spec, &mut out);
        selector(spec, &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let set = |object| -> BTreeSet<&str> { At::of(object, "spec").get("scopes").items().map(At::str).collect() };
        if set(object) != set(old) {
            let scopes = At::of(object, "spec").get("scopes");
            out.push(Cause::immutable(&scopes.field(), scopes.value()));
        }
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let status = At::of(object, "status");
        amounts(status.get("hard"), &mut out);
        amounts(status.get("used"), &mut out);
        out
    }
}

/// Names and amounts of limits.
fn amounts(list: At<'_>, out: &mut Vec<Cause>) {
    for (name, at) in list.entries() {
        if rules::full(out) {
            return;
        }
        podspec::resources::resource_name(at, name, out);
        if !name.contains('/') && !is_standard(name) {
            out.push(Cause::invalid(&at.field(), &json!(name), "must be a standard resource for quota"));
        }
        rules::quantity_not_negative(at, out);
        podspec::resources::whole_number(at, name, out);
    }
}

/// Whether a name without a domain can be limited.
fn is_standard(name: &str) -> bool {
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    huge || name != "storage" && podspec::resources::STANDARD.contains(&name)
}

/// Whether a scope can go with a limit.
fn goes_with(scope: &str, name: &str) -> bool {
    let amounts = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        TERMINATING | NOT_TERMINATING | NOT_BEST_EFFORT | PRIORITY_CLASS | BEYOND => {
            name == "pods" || amounts.contains(&name)
        }
        BEST_EFFORT => name == "pods",
        ATTRIBUTES_CLASS => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn is_scope(name: &str) -> bool {
    let known = [TERMINATING, NOT_TERMINATING, BEST_EFFORT, NOT_BEST_EFFORT, PRIORITY_CLASS, BEYOND, ATTRIBUTES_CLASS];
    known.contains(&name)
}

/// How many limits a scope cannot go with.
fn misfits(spec: At<'_>, scope: &str) -> usize {
    spec.get("hard").entries().filter(|(name, _)| is_standard(name) && !goes_with(scope, name)).count()
}

/// Pairs of scopes that no object is in.
fn conflicts(scopes: &BTreeSet<&str>) -> usize {
    let pairs = [[BEST_EFFORT, NOT_BEST_EFFORT], [TERMINATING, NOT_TERMINATING]];
    pairs.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).count()
}

fn scopes(spec: At<'_>, out: &mut Vec<Cause>) {
    let all = spec.get("scopes");
    for scope in all.items().map(At::str) {
        if rules::full(out) {
            return;
        }
        if !is_scope(scope) {
            out.push(all.invalid("unsupported scope"));
        }
        out.extend((0..misfits(spec, scope)).map(|_| all.invalid("unsupported scope applied to resource")));
    }
    let set = all.items().map(At::str).collect();
    out.extend((0..conflicts(&set)).map(|_| all.invalid("conflicting scopes")));
}

fn selector(spec: At<'_>, out: &mut Vec<Cause>) {
    let selector = spec.get("scopeSelector");
    let all = selector.get("matchExpressions");
    // Upstream's paths name the list and the field, and not which requirement it is.
    for one in all.items() {
        if rules::full(out) {
            return;
        }
        let at = |name: &'static str| all.get(name).with(one.get(name).value());
        let (name, operator, values) = (at("scopeName").or_empty(), at("operator").or_empty(), at("values"));
        if !is_scope(name.str()) {
            out.push(name.invalid("unsupported scope"));
        }
        for _ in 0..misfits(spec, name.str()) {
            let shown = selector.printed("io.k8s.api.core.v1.ScopeSelector");
            out.push(Cause::invalid_shown(&all.field(), &shown, "unsupported scope applied to resource"));
        }
        let only_exists = [TERMINATING, NOT_TERMINATING, BEST_EFFORT, NOT_BEST_EFFORT, BEYOND];
        if only_exists.contains(&name.str()) && operator.str() != "Exists" {
            out.push(operator.invalid("must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"));
        }
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                out.push(
                    values.required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"),
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                out.push(
                    values.invalid("must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"),
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => out.push(operator.invalid("not a valid selector operator")),
        }
    }
    let set = all.items().map(|one| one.get("scopeName").str()).collect();
    let scopes = spec.get("scopes");
    out.extend((0..conflicts(&set)).map(|_| scopes.invalid("conflicting scopes")));
}

impl TableConvertor for Quotas {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let empty = serde_json::Map::new();
        let map = |name: &str| object.at(&["status", name]).and_then(Value::as_object).unwrap_or(&empty);
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "0".to_owned(),
        };
        let mut names: Vec<&String> = map("hard").keys().collect();
        names.sort();
        let cell = |limits: bool| {
            let own = names.iter().filter(|name| name.starts_with("limits.") == limits);
            let each =
                own.map(|name| format!("{name}: {}/{}", text(map("used").get(*name)), text(map("hard").get(*name))));
            json!(each.collect::<Vec<_>>().join(", "))
        };
        vec![json!(object.name()), cell(false), cell(true), crate::cells::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, update_errors};
    use expect_test::expect;

    fn text(spec: &str) -> String {
        format!("{{apiVersion: v1, kind: ResourceQuota, metadata: {{name: q, namespace: ns}}, spec: {spec}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("{}", expect![[""]]),
            (
                "{hard: {pods: 3, requests.cpu: 1500m, count/jobs.batch: 5, gold.storageclass.storage.k8s.io/requests.storage: 1Gi, hugepages-2Mi: 4Mi, requests.example.com/gpu: 1}}",
                expect![[""]],
            ),
            (
                "{hard: {pods: 1.5, storage: 1, tea: 1, cpu: -1, 'a b': 1}}",
                expect![[r#"
                spec.hard[a b]: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.hard[a b]: Invalid value: "a b": must be a standard resource for quota
                spec.hard[cpu]: Invalid value: "-1": must be greater than or equal to 0
                spec.hard[pods]: Invalid value: "1500m": must be an integer
                spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota
                spec.hard[tea]: Invalid value: "tea": must be a standard resource type or fully qualified
                spec.hard[tea]: Invalid value: "tea": must be a standard resource for quota
            "#]],
            ),
            (
                "{hard: {pods: 1, requests.cpu: 1}, scopes: [BestEffort, NotBestEffort, Odd]}",
                expect![[r#"
                spec.scopes: Invalid value: ["BestEffort","NotBestEffort","Odd"]: unsupported scope applied to resource
                spec.scopes: Invalid value: ["BestEffort","NotBestEffort","Odd"]: unsupported scope
                spec.scopes: Invalid value: ["BestEffort","NotBestEffort","Odd"]: conflicting scopes
            "#]],
            ),
            (
                "{hard: {pods: 1}, scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}}",
                expect![[""]],
            ),
            (
                "{hard: {pods: 1, secrets: 1}, scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}, \
                 {scopeName: Terminating, operator: In, values: [x]}, {scopeName: NotTerminating, operator: Exists, values: [x]}, {scopeName: Odd, operator: Odd}]}}",
                expect![[r#"
                    spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"PriorityClass","Operator":"In","Values":null},{"ScopeName":"Terminating","Operator":"In","Values":["x"]},{"ScopeName":"NotTerminating","Operator":"Exists","Values":["x"]},{"ScopeName":"Odd","Operator":"Odd","Values":null}]}: unsupported scope applied to resource
                    spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector
                    spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"PriorityClass","Operator":"In","Values":null},{"ScopeName":"Terminating","Operator":"In","Values":["x"]},{"ScopeName":"NotTerminating","Operator":"Exists","Values":["x"]},{"ScopeName":"Odd","Operator":"Odd","Values":null}]}: unsupported scope applied to resource
                    spec.scopeSelector.matchExpressions.operator: Invalid value: "In": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity
                    spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"PriorityClass","Operator":"In","Values":null},{"ScopeName":"Terminating","Operator":"In","Values":["x"]},{"ScopeName":"NotTerminating","Operator":"Exists","Values":["x"]},{"ScopeName":"Odd","Operator":"Odd","Values":null}]}: unsupported scope applied to resource
                    spec.scopeSelector.matchExpressions.values: Invalid value: ["x"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector
                    spec.scopeSelector.matchExpressions.scopeName: Invalid value: "Odd": unsupported scope
                    spec.scopeSelector.matchExpressions.operator: Invalid value: "Odd": not a valid selector operator
                    spec.scopes: Invalid value: null: conflicting scopes
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Quotas, &text(spec)));
        }
    }

    #[test]
    fn scopes_stay() {
        let old = created(&Quotas, &text("{hard: {pods: 1}, scopes: [Terminating, BestEffort]}"));
        let mut new = created(&Quotas, &text("{hard: {pods: 2}, scopes: [BestEffort, Terminating]}"));
        assert_eq!(update_errors(&Quotas, &new, &old), "");
        new.set(&["spec", "scopes"], json!(["BestEffort"]));
        expect![[r#"
            spec.scopes: Invalid value: ["BestEffort"]: field is immutable
        "#]]
        .assert_eq(&update_errors(&Quotas, &new, &old));
    }

    #[test]
    fn a_row_shows_requests_and_limits() {
        let status = "status: {hard: {pods: '4', limits.cpu: '2', count/jobs.batch: '1'}, used: {pods: '3', limits.cpu: 500m}}, spec:";
        expect!["q | count/jobs.batch: 0/1, pods: 3/4 | limits.cpu: 500m/2 | <unknown>"]
            .assert_eq(&row(&Quotas, &text("{}").replace("spec:", status)));
    }
}
