//! `custom.metrics.k8s.io`: requests per second of pods that serve HTTP, and of a Service all of its pods' together. Values are made from the
//! kubelets' summaries when somebody asks. <https://github.com/kubernetes/metrics/tree/master/pkg/apis/custom_metrics>

use super::summary;
use api::{
    GroupVersionKind, GroupVersionResource, Object, Reason, Status,
    quantity::{Format, Quantity},
    selector::Selector,
};
use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Action, Api, Call, Names, Objects, Operation, Resource, Verb, reply};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

const GROUP: &str = "custom.metrics.k8s.io";
const VERSION: &str = "v1beta2";
/// The metric.
const METRIC: &str = "http_requests_per_second";

/// `pods` and `services`, whose subresources are their metrics, as upstream's discovery has them.
pub(crate) fn resources() -> [Resource; 2] {
    let kind = GroupVersionKind::new(GROUP, VERSION, "MetricValueList");
    [("pods", About::Pods), ("services", About::Service)].map(|(name, about)| {
        Resource::answered(GROUP, VERSION, name, "MetricValueList", Arc::new(about))
            .verbs(&[])
            .with_schema(&schema())
            .with_action(METRIC, kind.clone(), &[Verb::Get], about)
    })
}

fn schema() -> Value {
    let text = json!({"type": "string"});
    let about =
        json!({"type": "object", "properties": {"kind": text, "namespace": text, "name": text, "apiVersion": text}});
    let metric = json!({"type": "object", "properties": {"name": text, "selector": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let value = json!({"type": "object", "properties": {"describedObject": about, "metric": metric, "timestamp": {"type": "string", "format": "date-time"},
        "windowSeconds": {"type": "integer", "format": "int64"}, "value": text}});
    json!({"type": "object", "properties": {"items": {"type": "array", "items": value}}})
}

/// What the metric is about.
#[derive(Clone, Copy)]
enum About {
    /// Each of the pods that are asked for.
    Pods,
    /// A Service: the sum of its pods.
    Service,
}

#[async_trait::async_trait]
impl Action for About {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        let now = api.context(&call, Operation::Connect, &names, false).now;
        let labels = selector(&call, "metricLabelSelector")?;
        let items = match self {
            // the metric has no labels
            _ if !labels.matches(|_| None) => Vec::new(),
            Self::Pods if name == "*" => {
                let wanted = selector(&call, "labelSelector")?;
                let pods = Objects::list(api, "", "pods", namespace);
                let pods = pods.into_iter().filter(|pod| selects(&wanted, pod)).collect();
                rates(api, pods).await.iter().map(|(pod, rate)| value("Pod", pod, *rate)).collect()
            }
            Self::Pods => {
                let pod = Objects::get(api, "", "pods", namespace, name).ok_or_else(|| absent("pods", name))?;
                let rates = rates(api, vec![pod]).await;
                let (pod, rate) = rates.first().ok_or_else(|| unknown("pods", name))?;
                vec![value("Pod", pod, *rate)]
            }
            Self::Service if name == "*" => return Err(unknown("services", name)),
            Self::Service => {
                let service =
                    Objects::get(api, "", "services", namespace, name).ok_or_else(|| absent("services", name))?;
                let pods = of_service(api, &service).ok_or_else(|| unknown("services", name))?;
                let rates = rates(api, pods).await;
                let rates: Vec<Rate> = rates.into_iter().map(|(_, rate)| rate).collect();
                vec![value("Service", &service, Rate::sum(&rates, now))]
            }
        };
        let list = json!({"kind": "MetricValueList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items});
        Ok(reply::value(StatusCode::OK, call.output(server::negotiate::Offers::Json)?, &list))
    }
}

/// The selector of a query; everything where there is none.
fn selector(call: &Call, name: &str) -> Result<Selector, Status> {
    Selector::parse(call.query.get(name).unwrap_or_default()).map_err(Status::bad_request)
}

fn selects(selector: &Selector, object: &Object) -> bool {
    let labels = object.at(&["metadata", "labels"]);
    selector.matches(|key| labels?.get(key)?.as_str())
}

/// The pods that a Service selects and that run; `None` for one that selects none by itself.
fn of_service(api: &dyn Api, service: &Object) -> Option<Vec<Arc<Object>>> {
    let labels = service.at(&["spec", "selector"])?.as_object().filter(|labels| !labels.is_empty())?;
    let wanted = Selector::from_label_selector(&json!({ "matchLabels": labels })).ok()?;
    let pods = Objects::list(api, "", "pods", service.namespace());
    Some(pods.into_iter().filter(|pod| selects(&wanted, pod) && !pod.is_deleting()).collect())
}

fn absent(resource: &str, name: &str) -> Status {
    Status::not_found(&GroupVersionResource::new("", "v1", resource), name)
}

/// Upstream's error for an object that does not have the metric.
fn unknown(resource: &str, name: &str) -> Status {
    let text = format!("the server could not find the metric {METRIC} for {resource} {name}");
    Status { code: 404, ..Status::new(Reason::NotFound, text) }
}

/// Requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    /// In thousandths.
    milli: i64,
    at: Timestamp,
    window: Duration,
}

impl Rate {
    /// All together; nothing, if there are none.
    fn sum(rates: &[Self], now: Timestamp) -> Self {
        Self {
            milli: rates.iter().map(|rate| rate.milli).fold(0, i64::saturating_add),
            at: rates.iter().map(|rate| rate.at).min().unwrap_or(now),
            window: rates.iter().map(|rate| rate.window).min().unwrap_or_default(),
        }
    }
}

/// The pods of which the metric is known.
async fn rates(api: &dyn Api, pods: Vec<Arc<Object>>) -> Vec<(Arc<Object>, Rate)> {
    let node = |pod: &Arc<Object>| pod.str_at(&["spec", "nodeName"]).unwrap_or_default().to_owned();
    let nodes: BTreeSet<_> = pods.iter().map(node).filter(|node| !node.is_empty()).collect();
    let summaries = summary::all(api, nodes.into_iter().collect()).await;
    let known: HashMap<_, _> =
        summaries.iter().flat_map(|s| &s.pods).map(|pod| (pod.pod_ref.uid.as_str(), pod)).collect();
    let rated = pods.into_iter().filter_map(|pod| {
        let rate = rate(known.get(pod.uid())?)?;
        Some((pod, rate))
    });
    rated.collect()
}

/// Of a pod all containers that serve HTTP; `None` if there is none, or one of which no rate is known yet.
fn rate(pod: &summary::Pod) -> Option<Rate> {
    let served = pod.containers.iter().filter_map(|c| c.http.as_ref());
    let rates: Option<Vec<Rate>> = served
        .map(|http| {
            let milli = i64::try_from(http.milli_requests_per_second?).ok()?;
            Some(Rate { milli, at: http.time, window: Duration::from_nanos(http.window_nano_seconds?) })
        })
        .collect();
    let rates = rates.filter(|rates| !rates.is_empty())?;
    Some(Rate::sum(&rates, Timestamp::MAX))
}

fn value(kind: &str, about: &Object, rate: Rate) -> Value {
    let described = json!({"kind": kind, "namespace": about.namespace(), "name": about.name(), "apiVersion": "v1"});
    json!({
        "describedObject": described, "metric": {"name": METRIC, "selector": null}, "timestamp": api::time::rfc3339(rate.at),
        "windowSeconds": rate.window.as_secs(), "value": Quantity::from_milli(rate.milli, Format::DecimalSi).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: Value) -> summary::Pod {
        serde_json::from_value(
            json!({"podRef": {"name": "p", "namespace": "ns", "uid": "u"}, "containers": containers}),
        )
        .expect("a pod")
    }

    fn http(milli: Value) -> Value {
        json!({"name": "c", "http": {"time": "2026-01-01T00:00:10Z", "requests": 7, "milliRequestsPerSecond": milli, "windowNanoSeconds": 15_500_000_000_u64}})
    }

    #[test]
    fn a_pod_has_the_sum_of_its_servers() {
        let known = rate(&pod(json!([http(1500.into()), {"name": "d"}, http(200.into())]))).expect("a rate");
        assert_eq!((known.milli, known.window.as_millis()), (1700, 15_500));
        for none in [json!([]), json!([{"name": "d"}]), json!([http(1.into()), http(Value::Null)])] {
            assert_eq!(rate(&pod(none.clone())), None, "{none}");
        }
        let about = crate::testing::parse("{metadata: {name: p, namespace: ns}}");
        assert_eq!(
            value("Pod", &about, known),
            json!({"describedObject": {"kind": "Pod", "namespace": "ns", "name": "p", "apiVersion": "v1"}, "metric": {"name": METRIC, "selector": null},
                "timestamp": "2026-01-01T00:00:10Z", "windowSeconds": 15, "value": "1700m"})
        );
        let now: Timestamp = "2026-01-01T00:00:20Z".parse().expect("a time");
        assert_eq!(Rate::sum(&[], now), Rate { milli: 0, at: now, window: Duration::ZERO });
    }
}
