//! Validation of HorizontalPodAutoscalers.

use crate::{at::At, podspec, quantities, rules};
use api::{Cause, Object, names};

/// The longest period of a scaling policy, in seconds.
const MAX_PERIOD: i64 = 1800;
/// The longest stabilization window, in seconds.
const MAX_WINDOW: i64 = 3600;
const SOURCES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

const SELECTIONS: &[&str] = &["Disabled", "Max", "Min"];
const POLICIES: &[&str] = &["Percent", "Pods"];

/// The API versions that an update brings. Those that it finds may stay.
pub(super) fn versions(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let of = |object| At::of(object, "spec").get("scaleTargetRef");
    let (new, before) = (of(object), of(old));
    if ["apiVersion", "kind"].into_iter().any(|name| new.get(name).str() != before.get(name).str()) {
        target_version(new, &mut out);
    }
    let described = |object| At::of(object, "spec").get("metrics").items().map(described_version);
    let odd = |version: &At<'_>| is_odd(version.str());
    if !described(old).any(|version| odd(&version)) {
        out.extend(described(object).filter(odd).map(wrong_version));
    }
    out
}

fn is_odd(version: &str) -> bool {
    version.matches('/').count() > 1
}

fn wrong_version(version: At<'_>) -> Cause {
    version.invalid(&format!("unexpected GroupVersion string: {}", version.str()))
}

fn described_version(metric: At<'_>) -> At<'_> {
    metric.down(&["object", "describedObject", "apiVersion"])
}

/// The version of the scale target names its group; only a ReplicationController has none.
fn target_version(target: At<'_>, out: &mut Vec<Cause>) {
    let version = target.get("apiVersion");
    if is_odd(version.str()) {
        out.push(wrong_version(version));
    } else if target.get("kind").str() != "ReplicationController"
        && version.str().split_once('/').is_none_or(|(group, _)| group.is_empty())
    {
        out.push(version.with(&version.str().into()).invalid("apiVersion must specify API group"));
    }
}

/// The spec, with its API versions if it is `new`.
pub(super) fn spec(object: &Object, new: bool) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    least.not_negative(&mut out);
    let most_replicas = most.int().unwrap_or(0).into();
    match most.int().unwrap_or(0) {
        0 => out.push(most.required("must be set and greater than 0")),
        n if n < 0 => out.push(most.invalid("must be greater than or equal to 1")),
        _ => {}
    }
    if least.int().is_some_and(|least| most.int().unwrap_or(0) < least) {
        let most = most.with(&most_replicas);
        out.push(most.invalid("must be greater than or equal to `minReplicas`"));
    }
    let target = spec.get("scaleTargetRef");
    reference(target, &mut out);
    if new {
        target_version(target, &mut out);
    }
    let metrics = spec.get("metrics");
    for metric in metrics.items() {
        if rules::full(&out) {
            return out;
        }
        source(metric, new, &mut out);
    }
    let wakes = |metric: At<'_>| matches!(metric.get("type").str(), "Object" | "External");
    if least.int() == Some(0) && !metrics.items().any(wakes) {
        let text = "must specify at least one Object or External metric to support scaling to zero replicas";
        out.push(metrics.forbidden(text));
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.down(&["behavior", direction]);
        if rules.is_set() {
            scaling_rules(rules, &mut out);
        }
    }
    out
}

fn reference(at: At<'_>, out: &mut Vec<Cause>) {
    for name in ["kind", "name"] {
        let field = at.get(name);
        if field.str().is_empty() {
            out.push(field.required(""));
        } else {
            field.invalid_all(names::path_segment(field.str()), out);
        }
    }
}

fn source(metric: At<'_>, new: bool, out: &mut Vec<Cause>) {
    let kind = metric.get("type");
    if kind.str().is_empty() {
        out.push(kind.required("must specify a metric source type"));
    }
    if !SOURCES.contains(&kind.str()) {
        out.push(kind.with(&kind.str().into()).not_supported(SOURCES));
    }
    let present = ["object", "external", "pods", "resource", "containerResource"];
    let mut present: Vec<&str> = present.into_iter().filter(|name| metric.get(name).is_set()).collect();
    if let Some(first) = present.first() {
        let at = metric.get(first);
        match *first {
            "object" => {
                reference(at.get("describedObject"), out);
                let version = described_version(metric);
                out.extend(Some(version).filter(|version| new && is_odd(version.str())).map(wrong_version));
                identified(at, &["value", "averageValue"], "must set either a target value or averageValue", out);
            }
            "external" => external(at, out),
            "pods" => identified(at, &["averageValue"], "must specify a positive target averageValue", out),
            _ => resource(at, *first == "containerResource", out),
        }
    }
    let expected = match kind.str() {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        // Upstream looks twice.
        _ => {
            out.push(kind.with(&kind.str().into()).not_supported(SOURCES));
            ""
        }
    };
    if !expected.is_empty() && !metric.get(expected).is_set() {
        out.push(metric.get(expected).required("must populate information for the given metric source"));
    }
    if present.len() != 1 {
        present.retain(|name| *name != expected);
        out.extend(present.iter().map(|name| metric.get(name).forbidden("must populate the given metric source only")));
    }
}

/// A metric with a name, and a target that has one of the values.
fn identified(at: At<'_>, values: &[&'static str], missing: &str, out: &mut Vec<Cause>) {
    let name = at.down(&["metric", "name"]);
    if name.str().is_empty() {
        out.push(name.required("must specify a metric name"));
    } else {
        name.invalid_all(names::path_segment(name.str()), out);
    }
    target(at.get("target"), out);
    if !values.iter().any(|value| at.get("target").get(value).is_set()) {
        out.push(at.down(&["target", "averageValue"]).required(missing));
    }
}

fn external(at: At<'_>, out: &mut Vec<Cause>) {
    let missing = "must set either a target value for metric or a per-pod target";
    identified(at, &["value", "averageValue"], missing, out);
    let value = at.down(&["target", "value"]);
    if value.is_set() && at.down(&["target", "averageValue"]).is_set() {
        out.push(value.forbidden("may not set both a target value for metric and a per-pod target"));
    }
}

fn resource(at: At<'_>, of_container: bool, out: &mut Vec<Cause>) {
    let (name, container) = (at.get("name"), at.get("container"));
    if name.str().is_empty() {
        out.push(name.required("must specify a resource name"));
    } else if of_container {
        podspec::container_resource_name(name, name.str(), out);
    }
    if of_container && container.str().is_empty() {
        out.push(container.required("must specify a container"));
    } else if of_container {
        container.invalid_all(names::dns1123_label(container.str()), out);
    }
    let aim = at.get("target");
    target(aim, out);
    let (utilization, mean) = (aim.get("averageUtilization"), aim.get("averageValue"));
    match (utilization.is_set(), mean.is_set()) {
        (false, false) => {
            out.push(utilization.required("must set either a target raw value or a target utilization"));
        }
        (true, true) => out.push(mean.forbidden("may not set both a target raw value and a target utilization")),
        _ => {}
    }
}

fn target(at: At<'_>, out: &mut Vec<Cause>) {
    let kind = at.get("type");
    if kind.str().is_empty() {
        out.push(kind.required("must specify a metric target type"));
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        out.push(kind.with(&kind.str().into()).invalid("must be either Utilization, Value, or AverageValue"));
    }
    for name in ["value", "averageValue"] {
        let value = at.get(name);
        if quantities::parse(value.value()).is_some_and(|quantity| quantity.signum() < 1) {
            out.push(value.invalid("must be positive"));
        }
    }
    let utilization = at.get("averageUtilization");
    if utilization.int().is_some_and(|percent| percent < 1) {
        out.push(utilization.invalid("must be greater than 0"));
    }
}

fn scaling_rules(at: At<'_>, out: &mut Vec<Cause>) {
    let window = at.get("stabilizationWindowSeconds");
    match window.int() {
        Some(seconds) if seconds < 0 => out.push(window.invalid("must be greater than or equal to zero")),
        Some(seconds) if seconds > MAX_WINDOW => {
            out.push(window.invalid(&format!("must be less than or equal to {MAX_WINDOW}")));
        }
        _ => {}
    }
    let select = at.get("selectPolicy");
    if select.is_set() && !SELECTIONS.contains(&select.str()) {
        out.push(select.not_supported(SELECTIONS));
    }
    let policies = at.get("policies");
    if policies.is_empty() {
        out.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        if rules::full(out) {
            return;
        }
        let kind = policy.get("type");
        if !POLICIES.contains(&kind.str()) {
            out.push(kind.with(&kind.str().into()).not_supported(POLICIES));
        }
        for name in ["value", "periodSeconds"] {
            let number = policy.get(name).int().unwrap_or(0);
            if number <= 0 {
                out.push(policy.get(name).with(&number.into()).invalid("must be greater than zero"));
            }
        }
        let period = policy.get("periodSeconds");
        if period.int().is_some_and(|seconds| seconds > MAX_PERIOD) {
            out.push(period.invalid(&format!("must be less than or equal to {MAX_PERIOD}")));
        }
    }
    let tolerance = at.get("tolerance");
    if quantities::parse(tolerance.value()).is_some_and(|quantity| quantity.signum() < 0) {
        out.push(tolerance.invalid(crate::at::NOT_NEGATIVE));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Autoscalers;
    use crate::testing::{created, errors, update_errors};
    use expect_test::expect;

    fn faults(spec: &str) -> String {
        errors(&Autoscalers, &format!("{{metadata: {{name: h, namespace: default}}, spec: {spec}}}"))
    }

    const TARGET: &str = "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}";

    #[test]
    fn what_is_right_is_taken() {
        for more in [
            "",
            "minReplicas: 4",
            "minReplicas: 0, metrics: [{type: External, external: {metric: {name: q}, target: {type: Value, value: 3}}}]",
            "minReplicas: 0, metrics: [{type: Object, object: {metric: {name: q}, describedObject: {kind: Service, name: s, apiVersion: v1}, target: {type: AverageValue, averageValue: 3}}}]",
            "metrics: [{type: ContainerResource, containerResource: {name: memory, container: c, target: {type: AverageValue, averageValue: 3Mi}}}]",
            "behavior: {scaleUp: {selectPolicy: Disabled}, scaleDown: {tolerance: '0', stabilizationWindowSeconds: 3600, policies: [{type: Pods, value: 1, periodSeconds: 1800}]}}",
        ] {
            assert_eq!(faults(&format!("{{maxReplicas: 4, {TARGET}, {more}}}")), "", "{more}");
        }
        assert_eq!(
            faults("{maxReplicas: 1, scaleTargetRef: {kind: ReplicationController, name: r, apiVersion: v1}}"),
            ""
        );
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        expect![[r#"
            spec.minReplicas: Invalid value: -1: must be greater than or equal to 0
            spec.maxReplicas: Required value: must be set and greater than 0
            spec.scaleTargetRef.kind: Required value
            spec.scaleTargetRef.name: Invalid value: "a/b": may not contain '/'
            spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group
        "#]]
        .assert_eq(&faults("{minReplicas: -1, scaleTargetRef: {apiVersion: v1, name: a/b}}"));
        expect![[r#"
            spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1
            spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`
            spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas
            spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600
            spec.behavior.scaleUp.selectPolicy: Unsupported value: "x": supported values: "Disabled", "Max", "Min"
            spec.behavior.scaleUp.policies: Required value: must specify at least one Policy
            spec.behavior.scaleDown.policies[0].type: Unsupported value: "x": supported values: "Percent", "Pods"
            spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero
            spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800
            spec.behavior.scaleDown.tolerance: Invalid value: "-1": must be greater than or equal to 0
        "#]].assert_eq(&faults(&format!("{{maxReplicas: -1, minReplicas: 0, {TARGET}, behavior: {{scaleUp: {{stabilizationWindowSeconds: 3601, selectPolicy: x, policies: []}}, scaleDown: {{tolerance: '-1', policies: [{{type: x, value: 0, periodSeconds: 1801}}]}}}}}}")));
        expect![[r#"
            spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`
            spec.metrics[0].type: Unsupported value: "x": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
            spec.metrics[0].type: Unsupported value: "x": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
            spec.metrics[1].resource.target.value: Invalid value: 0: must be positive
            spec.metrics[1].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization
            spec.metrics[1].pods: Required value: must populate information for the given metric source
            spec.metrics[2].resource.target.type: Invalid value: "x": must be either Utilization, Value, or AverageValue
            spec.metrics[2].resource.target.averageUtilization: Invalid value: 0: must be greater than 0
            spec.metrics[2].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization
            spec.metrics[3].external.metric.name: Invalid value: "a%b": may not contain '%'
            spec.metrics[3].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target
            spec.metrics[4].object.describedObject.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c
            spec.metrics[4].object.metric.name: Required value: must specify a metric name
            spec.metrics[4].object.target.averageValue: Required value: must set either a target value or averageValue
            spec.metrics[5].containerResource.name: Invalid value: "gpu": must be a standard resource type or fully qualified
            spec.metrics[5].containerResource.name: Invalid value: "gpu": must be a standard resource for containers
            spec.metrics[5].containerResource.container: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        "#]].assert_eq(&faults(&format!("{{maxReplicas: 2, minReplicas: 3, {TARGET}, metrics: [{{type: x}}, {{type: Pods, resource: {{name: cpu, target: {{type: Value, value: 0}}}}}}, {{type: Resource, resource: {{name: cpu, target: {{type: x, averageUtilization: 0, averageValue: '1'}}}}}}, {{type: External, external: {{metric: {{name: a%b}}, target: {{type: Value, value: 1, averageValue: 1}}}}}}, {{type: Object, object: {{metric: {{name: ''}}, describedObject: {{kind: K, name: o, apiVersion: a/b/c}}, target: {{type: Value}}}}}}, {{type: ContainerResource, containerResource: {{name: gpu, container: A, target: {{type: Utilization, averageUtilization: 1}}}}}}]}}")));
    }

    #[test]
    fn an_update_keeps_an_odd_version() {
        let text = "{metadata: {name: h, namespace: default}, spec: {maxReplicas: 4, scaleTargetRef: {kind: Deployment, name: web}}}";
        let old = created(&Autoscalers, text);
        let mut new = old.clone();
        new.set(&["spec", "scaleTargetRef", "name"], "other");
        assert_eq!(update_errors(&Autoscalers, &new, &old), "");
        new.set(&["spec", "scaleTargetRef", "kind"], "StatefulSet");
        let text = "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group\n";
        assert_eq!(update_errors(&Autoscalers, &new, &old), text);
    }
}
