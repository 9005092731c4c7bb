//! Reads the metrics of an autoscaler through the API, as any client would: `metrics.k8s.io`, `custom.metrics.k8s.io`, `external.metrics.k8s.io`.

use super::{
    kinds::Kinds,
    replicas::{PodMetric, PodMetrics},
};
use api::quantity::Quantity;
use client::{Client, Error};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier, MetricSpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// The window of a custom metric that names none.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// What was read for a metric, or why it was not.
#[derive(Debug)]
pub(super) enum Reading {
    /// Of each pod.
    Pods(PodMetrics),
    /// Of an object, in thousandths.
    Amount(i64),
    /// Of something outside of the cluster, in thousandths.
    Amounts(Vec<i64>),
}

/// Reads metrics.
pub(super) struct Reader<'a> {
    pub client: &'a Client,
    pub kinds: &'a Kinds,
    /// The namespace of the autoscaler.
    pub namespace: &'a str,
    /// The selector of its pods.
    pub selector: &'a str,
}

#[derive(Deserialize)]
struct List<T> {
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct OfPod {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<OfContainer>,
}

#[derive(Deserialize)]
struct OfContainer {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, Amount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfObject {
    described_object: Named,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: Amount,
}

#[derive(Deserialize)]
struct External {
    value: Amount,
}

/// A quantity, which may be a number in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Text(String),
    Number(serde_json::Number),
}

impl Amount {
    fn milli(&self) -> i64 {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        };
        Quantity::parse(&text).map_or(0, |quantity| quantity.milli_value())
    }
}

impl Reader<'_> {
    /// Reads what a metric is about.
    ///
    /// # Errors
    /// Upstream's text.
    pub(super) async fn read(&self, spec: &MetricSpec) -> Result<Reading, String> {
        match (&spec.object, &spec.pods, &spec.resource, &spec.container_resource, &spec.external) {
            (Some(object), ..) if spec.type_ == "Object" => {
                self.object(&object.metric, &object.described_object).await.map(Reading::Amount)
            }
            (_, Some(pods), ..) if spec.type_ == "Pods" => self.pods(&pods.metric).await.map(Reading::Pods),
            (_, _, Some(resource), ..) if spec.type_ == "Resource" => self.resource(&resource.name, "").await,
            (_, _, _, Some(resource), _) if spec.type_ == "ContainerResource" => {
                self.resource(&resource.name, &resource.container).await
            }
            (.., Some(external)) if spec.type_ == "External" => {
                self.external(&external.metric).await.map(Reading::Amounts)
            }
            _ => Err(format!("unknown metric source type {:?}", spec.type_)),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Error> {
        let query: Vec<String> =
            query.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", client::escape(v))).collect();
        let url = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
        let body = self.client.raw(Method::GET, &url, None).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Decode(format!("{path}: {error}")))
    }

    async fn resource(&self, resource: &str, container: &str) -> Result<Reading, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", client::escape(self.namespace));
        let list: Result<List<OfPod>, Error> = self.get(&path, &[("labelSelector", self.selector)]).await;
        let list = list.map_err(|e| format!("unable to fetch metrics from resource metrics API: {e}"))?;
        let items = list.items.unwrap_or_default();
        if items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(Reading::Pods(of_resource(&items, resource, container)))
    }

    /// The path of the custom metrics API.
    async fn custom(&self) -> Result<String, String> {
        let served = self.kinds.version("custom.metrics.k8s.io", &["v1beta2", "v1beta1"]).await;
        let missing = || {
            let text = "no custom metrics API (custom.metrics.k8s.io) registered";
            format!("unable to fetch metrics from custom metrics API: {text}")
        };
        served.map(|version| format!("/apis/custom.metrics.k8s.io/{version}")).ok_or_else(missing)
    }

    async fn described(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<OfObject>, String> {
        let list: Result<List<OfObject>, Error> = self.get(path, query).await;
        Ok(list.map_err(|e| format!("unable to fetch metrics from custom metrics API: {e}"))?.items.unwrap_or_default())
    }

    async fn pods(&self, metric: &MetricIdentifier) -> Result<PodMetrics, String> {
        let labels = selector(metric.selector.as_ref())?;
        let (root, namespace) = (self.custom().await?, client::escape(self.namespace));
        let path = format!("{root}/namespaces/{namespace}/pods/*/{}", client::escape(&metric.name));
        let query = [("labelSelector", self.selector), ("metricLabelSelector", labels.as_str())];
        let items = self.described(&path, &query).await?;
        if items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        let of = |item: &OfObject| {
            let window = item.window_seconds.map_or(WINDOW, SignedDuration::from_secs);
            (item.described_object.name.clone(), PodMetric { at: item.timestamp, window, value: item.value.milli() })
        };
        Ok(items.iter().map(of).collect())
    }

    async fn object(&self, metric: &MetricIdentifier, about: &CrossVersionObjectReference) -> Result<i64, String> {
        let labels = selector(metric.selector.as_ref())?;
        let (root, namespace) = (self.custom().await?, client::escape(self.namespace));
        let (name, metric) = (client::escape(&about.name), client::escape(&metric.name));
        let version = about.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let path = if group.is_empty() && about.kind == "Namespace" {
            // nobody may look into another namespace
            format!("{root}/namespaces/{namespace}/metrics/{metric}")
        } else {
            let kinds = self.kinds.of(group, &about.kind).await;
            let kinds = kinds.map_err(|e| format!("unable to fetch metrics from custom metrics API: {e}"))?;
            let resource = &kinds[0].resource;
            let resource = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            format!("{root}/namespaces/{namespace}/{resource}/{name}/{metric}")
        };
        let items = self.described(&path, &[("metricLabelSelector", &labels)]).await?;
        match items.as_slice() {
            [one] => Ok(one.value.milli()),
            [] => Err("unable to fetch metrics from custom metrics API: the custom metrics API server returned no results for the requested metric".to_owned()),
            _ => Err("unable to fetch metrics from custom metrics API: the custom metrics API server returned more results than expected for the requested metric".to_owned()),
        }
    }

    async fn external(&self, metric: &MetricIdentifier) -> Result<Vec<i64>, String> {
        let labels = selector(metric.selector.as_ref())?;
        let failed = |why: &str| format!("unable to fetch metrics from external metrics API: {why}");
        let Some(version) = self.kinds.version("external.metrics.k8s.io", &["v1beta1"]).await else {
            let text = format!(
                "the server could not find the requested resource (get {}.external.metrics.k8s.io)",
                metric.name
            );
            return Err(failed(&text));
        };
        let (namespace, name) = (client::escape(self.namespace), client::escape(&metric.name));
        let path = format!("/apis/external.metrics.k8s.io/{version}/namespaces/{namespace}/{name}");
        let list: Result<List<External>, Error> = self.get(&path, &[("labelSelector", &labels)]).await;
        let items = list.map_err(|error| failed(&error.to_string()))?.items.unwrap_or_default();
        if items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(items.iter().map(|item| item.value.milli()).collect())
    }
}

fn selector(selector: Option<&LabelSelector>) -> Result<String, String> {
    selector.map_or(Ok(String::new()), |selector| Ok(crate::meta::selector(selector)?.to_string()))
}

/// A resource of a container, or of all containers of the pods; a pod of which a figure is missing has none.
fn of_resource(items: &[OfPod], resource: &str, container: &str) -> PodMetrics {
    let amount = |c: &OfContainer| c.usage.get(resource).map(Amount::milli);
    let value = |pod: &OfPod| {
        if !container.is_empty() {
            return amount(pod.containers.iter().find(|c| c.name == container)?);
        }
        let amounts: Option<Vec<i64>> = pod.containers.iter().map(amount).collect();
        Some(amounts.filter(|all| !all.is_empty())?.into_iter().fold(0, i64::saturating_add))
    };
    let metric = |pod: &OfPod| {
        let value = value(pod)?;
        Some((pod.metadata.name.clone(), PodMetric { at: pod.timestamp, window: duration(&pod.window), value }))
    };
    items.iter().filter_map(metric).collect()
}

/// A duration as Go writes it: `1m0.5s`; zero if it cannot be read.
fn duration(text: &str) -> SignedDuration {
    let mut total = SignedDuration::ZERO;
    let mut rest = text;
    while let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let unit = &rest[end..];
        let unit = &unit[..unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len())];
        let one = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            "ns" => 1e-9,
            _ => return SignedDuration::ZERO,
        };
        let Ok(number) = rest[..end].parse::<f64>() else { return SignedDuration::ZERO };
        let part = SignedDuration::try_from_secs_f64(number * one).unwrap_or(SignedDuration::ZERO);
        total = total.saturating_add(part);
        rest = &rest[end + unit.len()..];
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_of_go_are_read() {
        for (text, millis) in
            [("15.012s", 15_012), ("1m0.5s", 60_500), ("1h2m3s", 3_723_000), ("20ms", 20), ("", 0), ("x", 0), ("1x", 0)]
        {
            assert_eq!(duration(text).as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn a_pod_without_all_figures_has_none() {
        let pod = |name: &str, containers: serde_json::Value| json!({"metadata": {"name": name}, "timestamp": "2026-01-01T00:00:00Z", "window": "15s", "containers": containers});
        let list: List<OfPod> = serde_json::from_value(json!({"items": [
            pod("a", json!([{"name": "c", "usage": {"cpu": "100m", "memory": "1Mi"}}, {"name": "d", "usage": {"cpu": 1}}])),
            pod("b", json!([{"name": "c", "usage": {"cpu": "250000001n"}}])),
            pod("none", json!([])),
        ]}))
        .expect("a list");
        let values = |resource: &str, container: &str| -> Vec<(String, i64)> {
            of_resource(list.items.as_deref().unwrap_or_default(), resource, container)
                .into_iter()
                .map(|(name, metric)| (name, metric.value))
                .collect()
        };
        assert_eq!(values("cpu", ""), [("a".into(), 1100), ("b".into(), 251)]);
        assert_eq!(values("cpu", "c"), [("a".into(), 100), ("b".into(), 251)]);
        assert_eq!(values("memory", ""), []);
        assert_eq!(values("memory", "c"), [("a".into(), 1024 * 1024 * 1000)]);
    }
}
