//! HorizontalPodAutoscaler: as many replicas of a scale target as metrics ask for. `autoscaling/v2`, which is stored, and `autoscaling/v1`.

pub(crate) mod v1;
mod validate;

use crate::{at::At, cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new(
        "Reference",
        "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be collected, as well as to actually change the replica count.",
    ),
    Column::new(
        "Targets",
        "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica count across all metrics will be used).  The desired replica count is calculated multiplying the ratio between the target value and the current value by the current number of pods.  Ergo, metrics used must decrease as the pod count is increased, and vice-versa.  See the individual metric source types for more information about how each type of metric must respond. If not set, the default metric will be set to 80% average CPU utilization.",
    ),
    Column::new(
        "MinPods",
        "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.  It defaults to 1 pod.  minReplicas is allowed to be 0 if the alpha feature gate HPAScaleToZero is enabled and at least one Object or External metric is configured.  Scaling is active as long as at least one metric value is available.",
    ),
    Column::new(
        "MaxPods",
        "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up. It cannot be less that minReplicas.",
    ),
    Column::new(
        "Replicas",
        "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.",
    ),
    Column::age(),
];

/// `autoscaling/v2` HorizontalPodAutoscaler.
pub(crate) struct Autoscalers;

/// Both versions, the preferred one first.
pub(crate) fn resources() -> [Resource; 2] {
    let of = |resource: Resource| resource.short(&["hpa"]).category("all").with_status();
    let stored = Resource::new("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", Autoscalers);
    [of(stored), of(v1::resource())]
}

impl Strategy for Autoscalers {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::fill(spec, "minReplicas", 1);
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("metrics".to_owned(), json!([default_metric()]));
        }
        if let Some(behavior) = edit::object_if(spec, "behavior") {
            let up = edit::object(behavior, "scaleUp");
            edit::fill(up, "stabilizationWindowSeconds", 0);
            default_rules(
                up,
                json!([
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                ]),
            );
            // How long a decrease is held back is the controller's to say, which has an option for it.
            default_rules(
                edit::object(behavior, "scaleDown"),
                json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
        default_status(object);
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
        default_status(object);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        validate::spec(object, cx.operation == server::Operation::Create)
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        validate::versions(object, old)
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        for name in ["currentReplicas", "desiredReplicas"] {
            At::of(object, "status").get(name).not_negative(&mut out);
        }
        out
    }
}

/// The metric of an autoscaler that names none: 80 % of the CPU that is requested.
fn default_metric() -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}})
}

fn default_rules(rules: &mut edit::Fields, policies: Value) {
    edit::fill(rules, "selectPolicy", "Max");
    edit::fill(rules, "policies", policies);
}

/// What Go always writes.
fn default_status(object: &mut Object) {
    let status = edit::object(&mut object.0, "status");
    status.entry("currentMetrics").or_insert(Value::Null);
    edit::fill(status, "desiredReplicas", 0);
}

impl TableConvertor for Autoscalers {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let target = |name| cells::text(object, &["spec", "scaleTargetRef", name]);
        let least = object.int_at(&["spec", "minReplicas"]);
        vec![
            json!(object.name()),
            json!(format!("{}/{}", target("kind"), target("name"))),
            json!(targets(object)),
            json!(least.map_or("<unset>".to_owned(), |n| n.to_string())),
            json!(cells::number(object, &["spec", "maxReplicas"])),
            json!(cells::number(object, &["status", "currentReplicas"])),
            cells::age(object, now),
        ]
    }
}

/// The first two metrics: what is, and what is wanted.
fn targets(object: &Object) -> String {
    const SHOWN: usize = 2;
    let (specs, statuses) = (object.list_at(&["spec", "metrics"]), object.list_at(&["status", "currentMetrics"]));
    let shown = specs.iter().enumerate().take(SHOWN);
    let texts: Vec<String> = shown.map(|(at, spec)| metric(spec, statuses.get(at).unwrap_or(&Value::Null))).collect();
    match specs.len() {
        0 => "<none>".to_owned(),
        all if all > SHOWN => format!("{} + {} more...", texts.join(", "), all - SHOWN),
        _ => texts.join(", "),
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let source = match spec["type"].as_str() {
        Some("External") => "external",
        Some("Pods") => "pods",
        Some("Object") => "object",
        Some("Resource") => "resource",
        Some("ContainerResource") => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[source]["target"], &status[source]["current"]);
    let unknown = || "<unknown>".to_owned();
    let amount = |value: &Value| value.as_str().map(str::to_owned);
    let percent = |value: &Value| value.as_i64().map(|percent| format!("{percent}%"));
    let mean = amount(&target["averageValue"]);
    match source {
        "resource" | "containerResource" => {
            let name = spec[source]["name"].as_str().unwrap_or_default();
            let (current, target) = match mean {
                Some(mean) => (amount(&current["averageValue"]), mean),
                None => (
                    percent(&current["averageUtilization"]),
                    percent(&target["averageUtilization"]).unwrap_or_else(|| "<auto>".to_owned()),
                ),
            };
            format!("{name}: {}/{target}", current.unwrap_or_else(unknown))
        }
        "pods" => format!(
            "{}/{}",
            amount(&current["averageValue"]).unwrap_or_else(unknown),
            mean.unwrap_or_else(|| "0".to_owned())
        ),
        _ => match mean {
            Some(mean) => format!("{}/{mean} (avg)", amount(&current["averageValue"]).unwrap_or_else(unknown)),
            None => format!(
                "{}/{}",
                amount(&current["value"]).unwrap_or_else(unknown),
                amount(&target["value"]).unwrap_or_else(|| "0".to_owned())
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, row, yaml};
    use expect_test::expect;

    #[test]
    fn defaults_are_upstreams() {
        let hpa = created(
            &Autoscalers,
            "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h, namespace: default}
spec:
  maxReplicas: 4
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  behavior: {scaleDown: {selectPolicy: Min, tolerance: '0.2'}}
status: {currentReplicas: 7}
",
        );
        expect![[r#"
            apiVersion: autoscaling/v2
            kind: HorizontalPodAutoscaler
            metadata:
              name: h
              namespace: default
            spec:
              behavior:
                scaleDown:
                  policies:
                  - periodSeconds: 15
                    type: Percent
                    value: 100
                  selectPolicy: Min
                  tolerance: "0.2"
                scaleUp:
                  policies:
                  - periodSeconds: 15
                    type: Pods
                    value: 4
                  - periodSeconds: 15
                    type: Percent
                    value: 100
                  selectPolicy: Max
                  stabilizationWindowSeconds: 0
              maxReplicas: 4
              metrics:
              - resource:
                  name: cpu
                  target:
                    averageUtilization: 80
                    type: Utilization
                type: Resource
              minReplicas: 1
              scaleTargetRef:
                apiVersion: apps/v1
                kind: Deployment
                name: web
            status:
              currentMetrics: null
              desiredReplicas: 0
        "#]]
        .assert_eq(&yaml(&hpa));
    }

    #[test]
    fn rows_show_what_is_and_what_is_wanted() {
        let resource = |target: &str| format!("{{type: Resource, resource: {{name: cpu, target: {target}}}}}");
        let percent = resource("{type: Utilization, averageUtilization: 50}");
        let mean = resource("{type: AverageValue, averageValue: 100m}");
        let external =
            "{type: External, external: {metric: {name: q}, target: {type: AverageValue, averageValue: '30'}}}";
        let object = "{type: Object, object: {metric: {name: q}, target: {type: Value, value: 2k}}}";
        let pods = "{type: Pods, pods: {metric: {name: q}, target: {type: AverageValue, averageValue: '5'}}}";
        let known = "{type: Resource, resource: {name: cpu, current: {averageUtilization: 20, averageValue: 40m}}}";
        for (metrics, status, shown) in [
            (String::new(), "", "<none>"),
            (percent.clone(), "", "cpu: <unknown>/50%"),
            (percent.clone(), known, "cpu: 20%/50%"),
            (mean.clone(), known, "cpu: 40m/100m"),
            (external.to_owned(), "", "<unknown>/30 (avg)"),
            (object.to_owned(), "{type: Object, object: {current: {value: 1500m}}}", "1500m/2k"),
            (pods.to_owned(), "{type: Pods, pods: {current: {averageValue: '7'}}}", "7/5"),
            ("{type: Odd}".to_owned(), "", "<unknown type>"),
            (format!("{percent}, {mean}, {pods}, {object}"), known, "cpu: 20%/50%, cpu: <unknown>/100m + 2 more..."),
        ] {
            let text = format!(
                "
metadata: {{name: h, creationTimestamp: '2026-01-01T00:00:00Z'}}
spec: {{maxReplicas: 4, minReplicas: 2, metrics: [{metrics}], scaleTargetRef: {{kind: Deployment, name: web}}}}
status: {{currentReplicas: 3, currentMetrics: [{status}]}}
"
            );
            assert_eq!(row(&Autoscalers, &text), format!("h | Deployment/web | {shown} | 2 | 4 | 3 | 60s"));
        }
    }
}
