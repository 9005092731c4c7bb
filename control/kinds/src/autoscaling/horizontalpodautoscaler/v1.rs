//! `autoscaling/v1` HorizontalPodAutoscaler: one metric, the share of the CPU that is requested. What it has no fields for is carried in
//! annotations, as upstream does, so that an object that is read and written in this version loses nothing.

use super::{Autoscalers, COLUMNS};
use crate::edit;
use api::{Cause, Object, Status, schema::Schema};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Convertor};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const STATUSES: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// All that carry something, with those that an older server wrote.
const ALL: &[&str] = &[
    METRICS,
    BEHAVIOR,
    STATUSES,
    CONDITIONS,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

/// The version.
pub(crate) struct Autoscalers1;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource::new("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", Autoscalers1).stored_as(
        "autoscaling",
        "horizontalpodautoscalers",
        "autoscaling/v2",
        Autoscalers1,
    )
}

impl Strategy for Autoscalers1 {
    fn default(&self, object: &mut Object) {
        edit::fill(edit::object(&mut object.0, "spec"), "minReplicas", 1);
        default_status(object);
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
        default_status(object);
        [STATUSES, CONDITIONS].iter().for_each(|name| drop(object.remove(&["metadata", "annotations", name])));
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        // these are the status
        [STATUSES, CONDITIONS].iter().for_each(|name| edit::keep_at(object, old, &["metadata", "annotations", name]));
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        // these are the spec
        [METRICS, BEHAVIOR].iter().for_each(|name| edit::keep_at(object, old, &["metadata", "annotations", name]));
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        Autoscalers.validate(cx, &stored(object.clone()))
    }

    fn validate_update(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        Autoscalers.validate_update(cx, &stored(object.clone()), &stored(old.clone()))
    }

    fn validate_status(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        Autoscalers.validate_status(cx, object, old)
    }
}

/// What Go always writes.
fn default_status(object: &mut Object) {
    let status = edit::object(&mut object.0, "status");
    edit::fill(status, "currentReplicas", 0);
    edit::fill(status, "desiredReplicas", 0);
}

impl TableConvertor for Autoscalers1 {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        Autoscalers.row(&stored(object.clone()), now)
    }
}

#[async_trait::async_trait]
impl Convertor for Autoscalers1 {
    async fn to_storage(&self, object: Object) -> Result<Object, Status> {
        Ok(stored(object))
    }

    async fn from_storage(&self, objects: Vec<Object>) -> Result<Vec<Object>, Status> {
        Ok(objects.into_iter().map(served).collect())
    }
}

/// The annotations that carry something, taken off the object.
fn take_annotations(object: &mut Object) -> Map<String, Value> {
    let mut taken = Map::new();
    for name in ALL {
        if let Some(value) = object.remove(&["metadata", "annotations", name]) {
            taken.insert((*name).to_owned(), value);
        }
    }
    if object.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(Map::is_empty) {
        object.remove(&["metadata", "annotations"]);
    }
    taken
}

/// A value as the type of `v2`, without what the type does not know; `None` if it does not fit.
fn typed(mut value: Value, name: &str) -> Option<Value> {
    let schema = Schema::named(&format!("io.k8s.api.autoscaling.v2.{name}"))?;
    schema.decode_check(&mut value).ok()?;
    value.is_object().then_some(value)
}

/// Values of a type that an annotation carries; of text that does not fit, none.
fn carried(
    annotations: &Map<String, Value>,
    name: &str,
    definition: &str,
    convert: fn(&Value) -> Value,
) -> Option<Vec<Value>> {
    let list: Vec<Value> = serde_json::from_str(annotations.get(name)?.as_str()?).ok()?;
    list.iter().map(|value| typed(convert(Some(value).filter(|v| v.is_object())?), definition)).collect()
}

/// From `v1` to `v2`.
fn stored(mut object: Object) -> Object {
    object.set(&["apiVersion"], "autoscaling/v2");
    let annotations = take_annotations(&mut object);
    let cpu = |field: &str, kind: Option<&str>, percent: Value| {
        let mut amounts = json!({"averageUtilization": percent});
        kind.into_iter().for_each(|kind| amounts["type"] = kind.into());
        json!({"type": "Resource", "resource": {"name": "cpu", field: amounts}})
    };
    let percent = object.remove(&["spec", "targetCPUUtilizationPercentage"]).filter(|percent| !percent.is_null());
    let mut metrics = carried(&annotations, METRICS, "MetricSpec", metric_of_v1).unwrap_or_default();
    metrics.extend(percent.map(|percent| cpu("target", Some("Utilization"), percent)));
    if !metrics.is_empty() {
        object.set(&["spec", "metrics"], metrics);
    }
    let behavior = annotations.get(BEHAVIOR).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    let behavior = behavior.map(|value: Value| with_first_letters(&value, char::to_ascii_lowercase));
    let behavior = behavior.and_then(|value| typed(without_nulls(value), "HorizontalPodAutoscalerBehavior"));
    if let Some(behavior) = behavior.filter(|behavior| *behavior != json!({})) {
        object.set(&["spec", "behavior"], behavior);
    }
    let percent = object.remove(&["status", "currentCPUUtilizationPercentage"]).filter(|percent| !percent.is_null());
    let statuses = carried(&annotations, STATUSES, "MetricStatus", status_of_v1);
    let statuses = statuses.or_else(|| percent.map(|percent| vec![cpu("current", None, percent)]));
    object.set(&["status", "currentMetrics"], statuses.map_or(Value::Null, Value::from));
    if let Some(conditions) = carried(&annotations, CONDITIONS, "HorizontalPodAutoscalerCondition", Value::clone) {
        object.set(&["status", "conditions"], conditions);
    }
    if object.int_at(&["status", "currentReplicas"]) == Some(0) {
        object.remove(&["status", "currentReplicas"]);
    }
    Autoscalers.default(&mut object);
    object
}

/// From `v2` to `v1`.
fn served(mut object: Object) -> Object {
    object.set(&["apiVersion"], "autoscaling/v1");
    take_annotations(&mut object);
    let list = |value: Option<Value>| match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let of_cpu = |metric: &Value, field: &str| {
        let cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
        let percent = metric["resource"][field]["averageUtilization"].as_i64();
        percent.filter(|_| cpu)
    };
    let metrics = list(object.remove(&["spec", "metrics"]));
    if let Some(percent) = metrics.iter().find_map(|metric| of_cpu(metric, "target")) {
        object.set(&["spec", "targetCPUUtilizationPercentage"], percent);
    }
    let others: Vec<Value> = metrics.iter().filter(|m| of_cpu(m, "target").is_none()).map(metric_to_v1).collect();
    let statuses = list(object.remove(&["status", "currentMetrics"]));
    if let Some(percent) = statuses.iter().rev().find_map(|status| of_cpu(status, "current")) {
        object.set(&["status", "currentCPUUtilizationPercentage"], percent);
    }
    let statuses: Vec<Value> = statuses.iter().map(status_to_v1).collect();
    let conditions = list(object.remove(&["status", "conditions"]));
    for (name, list) in [(METRICS, others), (STATUSES, statuses), (CONDITIONS, conditions)] {
        if !list.is_empty() {
            object.set(&["metadata", "annotations", name], Value::from(list).to_string());
        }
    }
    if let Some(behavior) = object.remove(&["spec", "behavior"]).filter(|behavior| !behavior.is_null()) {
        // upstream writes its internal type, whose fields have no names in JSON
        let behavior = with_first_letters(&behavior, char::to_ascii_uppercase);
        object.set(&["metadata", "annotations", BEHAVIOR], behavior.to_string());
    }
    default_status(&mut object);
    object
}

/// The value, with the first letter of each key of an object changed.
fn with_first_letters(value: &Value, change: fn(&char) -> char) -> Value {
    match value {
        Value::Object(fields) => {
            let renamed = |key: &str| {
                let mut letters = key.chars();
                letters.next().map(|first| change(&first)).into_iter().chain(letters).collect::<String>()
            };
            fields.iter().map(|(key, value)| (renamed(key), with_first_letters(value, change))).collect()
        }
        Value::Array(list) => list.iter().map(|value| with_first_letters(value, change)).collect(),
        other => other.clone(),
    }
}

/// The value, without members that are null: pointers of Go's that point nowhere.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// The key under which a metric's type keeps its source.
fn source_of(metric: &Value) -> &'static str {
    match metric["type"].as_str() {
        Some("Object") => "object",
        Some("Pods") => "pods",
        Some("External") => "external",
        Some("Resource") => "resource",
        Some("ContainerResource") => "containerResource",
        _ => "",
    }
}

/// A source of a metric in the fields of `v1`, whose names in `v2` are on the right.
type Names = &'static [(&'static str, &'static [&'static str])];

const SPECS: [(&str, Names); 5] = [
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("targetValue", &["target", "value"]),
            ("selector", &["metric", "selector"]),
            ("averageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"]),
            ("targetAverageValue", &["target", "averageValue"]),
            ("selector", &["metric", "selector"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("targetValue", &["target", "value"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"]),
            ("targetAverageUtilization", &["target", "averageUtilization"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("targetAverageUtilization", &["target", "averageUtilization"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    ),
];

const STATUS_SPECS: [(&str, Names); 5] = [
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("currentValue", &["current", "value"]),
            ("selector", &["metric", "selector"]),
            ("averageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"]),
            ("currentAverageValue", &["current", "averageValue"]),
            ("selector", &["metric", "selector"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("currentValue", &["current", "value"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"]),
            ("currentAverageUtilization", &["current", "averageUtilization"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("currentAverageUtilization", &["current", "averageUtilization"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    ),
];

fn names(of: &[(&'static str, Names); 5], source: &str) -> Names {
    of.iter().find(|(name, _)| *name == source).map_or(&[], |(_, names)| names)
}

/// Fields in `v1`: what `v2` has elsewhere. A quantity that is no pointer in Go is always there.
fn to_v1(of: &[(&'static str, Names); 5], always: &[&str], metric: &Value) -> Value {
    let source = source_of(metric);
    let mut fields = Map::new();
    for (name, path) in names(of, source) {
        let value = path.iter().fold(&metric[source], |value, step| &value[step]);
        if !value.is_null() {
            fields.insert((*name).to_owned(), value.clone());
        } else if always.contains(name) {
            fields.insert((*name).to_owned(), "0".into());
        }
    }
    match source {
        "" => json!({"type": metric["type"]}),
        source => json!({"type": metric["type"], source: fields}),
    }
}

/// The other way.
fn from_v1(of: &[(&'static str, Names); 5], metric: &Value) -> Value {
    let source = source_of(metric);
    let mut fields = json!({});
    for (name, path) in names(of, source) {
        let value = &metric[source][name];
        if !value.is_null() {
            let place = path.iter().fold(&mut fields, |place, step| &mut place[step]);
            *place = value.clone();
        }
    }
    match source {
        "" => json!({"type": metric["type"]}),
        source => json!({"type": metric["type"], source: fields}),
    }
}

fn metric_to_v1(metric: &Value) -> Value {
    let always: &[&str] = match source_of(metric) {
        "object" => &["targetValue"],
        "pods" => &["targetAverageValue"],
        _ => &[],
    };
    to_v1(&SPECS, always, metric)
}

fn status_to_v1(status: &Value) -> Value {
    let always: &[&str] = match source_of(status) {
        "object" | "external" => &["currentValue"],
        _ => &["currentAverageValue"],
    };
    to_v1(&STATUS_SPECS, always, status)
}

fn metric_of_v1(metric: &Value) -> Value {
    let mut made = from_v1(&SPECS, metric);
    let source = source_of(metric);
    if source.is_empty() {
        return made;
    }
    let target = &mut made[source]["target"];
    let has = |name: &str| !target[name].is_null();
    let kind = match source {
        "object" if has("averageValue") => "AverageValue",
        "object" => "Value",
        "external" if has("value") => "Value",
        "resource" | "containerResource" if has("averageUtilization") => "Utilization",
        _ => "AverageValue",
    };
    if source == "object" && kind == "AverageValue" && target["value"] == "0" {
        target["value"] = Value::Null;
    }
    target["type"] = kind.into();
    made
}

fn status_of_v1(status: &Value) -> Value {
    from_v1(&STATUS_SPECS, status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, parse, row, yaml};
    use expect_test::expect;

    const WHOLE: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h, namespace: default, annotations: {mine: kept}}
spec:
  maxReplicas: 4
  minReplicas: 2
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  metrics:
  - {type: Object, object: {metric: {name: q, selector: {matchLabels: {a: b}}}, describedObject: {kind: Service, name: s, apiVersion: v1}, target: {type: AverageValue, averageValue: '3'}}}
  - {type: Object, object: {metric: {name: q}, describedObject: {kind: Service, name: s, apiVersion: v1}, target: {type: Value, value: '3'}}}
  - {type: Pods, pods: {metric: {name: rps}, target: {type: AverageValue, averageValue: 100m}}}
  - {type: External, external: {metric: {name: e}, target: {type: Value, value: 3k}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Mi}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 60}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
  behavior: {scaleDown: {policies: [{type: Pods, value: 1, periodSeconds: 60}], selectPolicy: Max, tolerance: 200m}, scaleUp: {policies: [{type: Pods, value: 4, periodSeconds: 15}], selectPolicy: Min, stabilizationWindowSeconds: 3}}
status:
  currentReplicas: 3
  desiredReplicas: 4
  lastScaleTime: '2026-01-01T00:00:00Z'
  conditions: [{type: AbleToScale, status: 'True', reason: R, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}]
  currentMetrics:
  - {type: Object, object: {metric: {name: q}, describedObject: {kind: Service, name: s, apiVersion: v1}, current: {value: '0', averageValue: '2'}}}
  - {type: Resource, resource: {name: cpu, current: {averageUtilization: 40, averageValue: 20m}}}
";

    #[test]
    fn nothing_is_lost_on_the_way_to_v1_and_back() {
        let whole = parse(WHOLE);
        let old = served(whole.clone());
        assert_eq!(old.int_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
        assert_eq!(old.int_at(&["status", "currentCPUUtilizationPercentage"]), Some(40));
        let annotation = |name| old.str_at(&["metadata", "annotations", name]).expect("an annotation");
        expect![[r#"[{"object":{"averageValue":"3","metricName":"q","selector":{"matchLabels":{"a":"b"}},"target":{"apiVersion":"v1","kind":"Service","name":"s"},"targetValue":"0"},"type":"Object"},{"object":{"metricName":"q","target":{"apiVersion":"v1","kind":"Service","name":"s"},"targetValue":"3"},"type":"Object"},{"pods":{"metricName":"rps","targetAverageValue":"100m"},"type":"Pods"},{"external":{"metricName":"e","targetValue":"3k"},"type":"External"},{"resource":{"name":"memory","targetAverageValue":"1Mi"},"type":"Resource"},{"containerResource":{"container":"c","name":"cpu","targetAverageUtilization":60},"type":"ContainerResource"}]"#]].assert_eq(annotation(METRICS));
        expect![[r#"{"ScaleDown":{"Policies":[{"PeriodSeconds":60,"Type":"Pods","Value":1}],"SelectPolicy":"Max","Tolerance":"200m"},"ScaleUp":{"Policies":[{"PeriodSeconds":15,"Type":"Pods","Value":4}],"SelectPolicy":"Min","StabilizationWindowSeconds":3}}"#]].assert_eq(annotation(BEHAVIOR));
        expect![[r#"[{"object":{"averageValue":"2","currentValue":"0","metricName":"q","target":{"apiVersion":"v1","kind":"Service","name":"s"}},"type":"Object"},{"resource":{"currentAverageUtilization":40,"currentAverageValue":"20m","name":"cpu"},"type":"Resource"}]"#]].assert_eq(annotation(STATUSES));
        assert_eq!(annotation("mine"), "kept");
        assert_eq!(yaml(&stored(old)), yaml(&whole));
    }

    #[test]
    fn what_kubectl_writes_in_v1_is_taken() {
        let text = "
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: h, namespace: default}
spec: {maxReplicas: 4, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, targetCPUUtilizationPercentage: 70}
";
        let object = created(&Autoscalers1, text);
        expect![[r#"
            apiVersion: autoscaling/v1
            kind: HorizontalPodAutoscaler
            metadata:
              name: h
              namespace: default
            spec:
              maxReplicas: 4
              minReplicas: 1
              scaleTargetRef:
                apiVersion: apps/v1
                kind: Deployment
                name: web
              targetCPUUtilizationPercentage: 70
            status:
              currentReplicas: 0
              desiredReplicas: 0
        "#]]
        .assert_eq(&yaml(&object));
        expect![[r#"
            apiVersion: autoscaling/v2
            kind: HorizontalPodAutoscaler
            metadata:
              name: h
              namespace: default
            spec:
              maxReplicas: 4
              metrics:
              - resource:
                  name: cpu
                  target:
                    averageUtilization: 70
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
        .assert_eq(&yaml(&stored(object)));
        assert_eq!(row(&Autoscalers1, text), "h | Deployment/web | cpu: <unknown>/70% | 1 | 4 | 0 | <unknown>");
        let wrong = text.replace("70", "0").replace("maxReplicas: 4", "maxReplicas: -4");
        expect![[r#"
            spec.maxReplicas: Invalid value: -4: must be greater than or equal to 1
            spec.maxReplicas: Invalid value: -4: must be greater than or equal to `minReplicas`
            spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0
        "#]]
        .assert_eq(&errors(&Autoscalers1, &wrong));
    }

    #[test]
    fn what_an_annotation_says_wrongly_is_left_out() {
        for (name, text) in [
            (METRICS, "x"),
            (METRICS, r#"[{"type": "Pods", "pods": {"metricName": 7}}]"#),
            (METRICS, r#"{"type": "Pods"}"#),
            (BEHAVIOR, r#"{"ScaleUp": 7}"#),
            (STATUSES, r#"[7]"#),
            (CONDITIONS, r#"[{"type": []}]"#),
        ] {
            let mut object = parse("{metadata: {name: h}, spec: {maxReplicas: 1}}");
            let plain = stored(object.clone());
            object.set(&["metadata", "annotations", name], text);
            assert_eq!(yaml(&stored(object)), yaml(&plain), "{name} {text}");
        }
    }

    #[test]
    fn the_status_is_not_written_by_annotations() {
        let mut object = parse("{metadata: {name: h}, spec: {maxReplicas: 1}}");
        object.set(&["metadata", "annotations", CONDITIONS], r#"[{"type": "A", "status": "True"}]"#);
        let cx = crate::testing::context();
        let mut fresh = object.clone();
        Autoscalers1.prepare_create(&cx, &mut fresh);
        assert_eq!(stored(fresh.clone()).at(&["status", "conditions"]), None);
        let mut changed = object.clone();
        Autoscalers1.prepare_update(&cx, &mut changed, &fresh);
        assert_eq!(stored(changed).at(&["status", "conditions"]), None);
        let mut kept = fresh.clone();
        Autoscalers1.prepare_update(&cx, &mut kept, &object);
        assert!(stored(kept).at(&["status", "conditions"]).is_some());
    }
}
