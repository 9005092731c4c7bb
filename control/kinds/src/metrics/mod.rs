//! `metrics.k8s.io`: what nodes and pods use of CPU and memory. Objects are made from the kubelets' summaries when somebody asks, as
//! metrics-server makes them, whose answers these are. <https://github.com/kubernetes/design-proposals-archive/blob/main/instrumentation/resource-metrics-api.md>

pub(crate) mod custommetrics;
pub(crate) mod nodemetrics;
pub(crate) mod podmetrics;
mod summary;

use api::{
    GroupVersionResource, Object, Status,
    quantity::{Format, Quantity},
};
use serde_json::{Value, json};
use server::{Call, Column, TableConvertor};
use std::time::Duration;
use summary::Figures;

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// `usage` of what has both figures and a rate.
fn usage(figures: &Figures) -> Option<Value> {
    let (cpu, memory) = (figures.nano_cores()?, figures.working_set()?);
    let cpu = Quantity::canonical(&format!("{cpu}n")).ok()?;
    let memory = Quantity::new(i64::try_from(memory).ok()?, Format::BinarySi);
    Some(json!({"cpu": cpu, "memory": memory.to_string()}))
}

/// A duration as Go's `metav1.Duration` writes it, to a millisecond: `15.012s`, `1m0.5s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = fraction.trim_end_matches('0').trim_end_matches('.');
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

/// The name of the object that is asked for; empty for a list, whatever its field selector names.
fn named(call: &Call) -> &str {
    if call.info.named { &call.info.name } else { "" }
}

/// What metrics-server answers where it knows nothing of an object that exists.
fn no_metrics(resource: &str, name: &str) -> Status {
    Status::not_found(&GroupVersionResource::new(GROUP, VERSION, resource), name)
}

/// Columns as of metrics-server.
struct Table;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("cpu", "CPU used, in cores."),
    Column::new("memory", "Working set, in bytes."),
    Column::new("window", "The time of which the use of CPU is the mean."),
];

impl TableConvertor for Table {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _now: jiff::Timestamp) -> Vec<Value> {
        let used = |name: &str| match object.at(&["usage", name]).and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => total(object, name),
        };
        let window = object.str_at(&["window"]).unwrap_or_default();
        vec![json!(object.name()), json!(used("cpu")), json!(used("memory")), json!(window)]
    }
}

/// What all containers of a pod use together.
fn total(pod: &Object, name: &str) -> String {
    let amounts = pod.list_at(&["containers"]).iter().filter_map(|c| Quantity::parse(c["usage"][name].as_str()?).ok());
    match name {
        "cpu" => {
            let nanos: i64 = amounts.map(|amount| amount.scaled_value(-9)).sum();
            Quantity::canonical(&format!("{nanos}n")).unwrap_or_default()
        }
        _ => Quantity::new(amounts.map(|amount| amount.value()).sum(), Format::BinarySi).to_string(),
    }
}

/// The parts that both kinds have in their schemas.
fn schema(own: &str, value: Value) -> Value {
    let mut properties = json!({
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "timestamp": {"type": "string", "format": "date-time"}, "window": {"type": "string"},
    });
    properties[own] = value;
    json!({"type": "object", "required": ["timestamp", "window", own], "properties": properties})
}

fn usage_schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (millis, text) in [(0, "0s"), (15_000, "15s"), (15_012, "15.012s"), (60_500, "1m0.5s"), (10_100, "10.1s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_row_shows_what_all_containers_use() {
        let pod = json!({"metadata": {"name": "p"}, "window": "15s", "containers": [
            {"usage": {"cpu": "1500u", "memory": "1Mi"}}, {"usage": {"cpu": "500n", "memory": "1024"}}]});
        let row = |value: Value| Table.row(&Object::from_value(value).expect("an object"), crate::testing::now());
        assert_eq!(row(pod), [json!("p"), json!("1500500n"), json!("1025Ki"), json!("15s")]);
        let node = json!({"metadata": {"name": "n"}, "window": "20s", "usage": {"cpu": "1", "memory": "2Gi"}});
        assert_eq!(row(node), [json!("n"), json!("1"), json!("2Gi"), json!("20s")]);
    }
}
