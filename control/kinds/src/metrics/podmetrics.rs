//! PodMetrics: what the containers of a pod use. A pod of which not every container is known has none, as of metrics-server.

use super::{GROUP, Table, VERSION, go_duration, named, no_metrics, schema, summary, usage, usage_schema};
use api::{GroupVersionResource, Object, Status};
use axum::body::Body;
use http::Response;
use serde_json::{Value, json};
use server::{Action, Api, Call, Names, Objects, Operation, Resource, Verb};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

pub(crate) fn resource() -> Resource {
    let container = json!({
        "type": "object", "required": ["name", "usage"],
        "properties": {"name": {"type": "string"}, "usage": usage_schema()},
    });
    Resource::answered(GROUP, VERSION, "pods", "PodMetrics", Arc::new(PodMetrics))
        .verbs(&[Verb::Get, Verb::List])
        .with_schema(&schema("containers", json!({"type": "array", "items": container})))
        .with_table(Table)
}

struct PodMetrics;

#[async_trait::async_trait]
impl Action for PodMetrics {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let (namespace, name) = (call.info.namespace.as_str(), named(&call));
        let pods = if name.is_empty() {
            Objects::list(api, "", "pods", namespace)
        } else {
            let pod = Objects::get(api, "", "pods", namespace, name);
            let pods = GroupVersionResource::new("", "v1", "pods");
            vec![pod.ok_or_else(|| Status::not_found(&pods, name))?]
        };
        let now = api::time::rfc3339(api.context(&call, Operation::Connect, &names, false).now);
        let node = |pod: &Arc<Object>| pod.str_at(&["spec", "nodeName"]).unwrap_or_default().to_owned();
        let nodes: BTreeSet<_> = pods.iter().map(node).filter(|node| !node.is_empty()).collect();
        let summaries = summary::all(api, nodes.into_iter().collect()).await;
        let known: HashMap<_, _> =
            summaries.iter().flat_map(|s| &s.pods).map(|pod| (pod.pod_ref.uid.as_str(), pod)).collect();
        let make = |pod: &Arc<Object>| metrics(pod, known.get(pod.uid())?, &now);
        let metrics: Vec<_> = pods.iter().filter_map(make).collect();
        if metrics.is_empty() && !name.is_empty() {
            return Err(no_metrics("podmetrics", &format!("{namespace}/{name}")));
        }
        api.computed(&call, &names, metrics)
    }
}

fn metrics(pod: &Object, known: &summary::Pod, now: &str) -> Option<Object> {
    let container =
        |c: &summary::Container| Some(json!({"name": c.name, "usage": usage(&c.figures)?})).zip(c.figures.read());
    let containers: Option<Vec<_>> = known.containers.iter().map(container).collect();
    let containers = containers?;
    // of all containers the window that is the shortest, as of metrics-server's earliest reading
    let (read, window) = containers.iter().map(|(_, read)| *read).min_by_key(|(_, window)| *window)?;
    let containers: Vec<Value> = containers.into_iter().map(|(container, _)| container).collect();
    let mut value = json!({
        "kind": "PodMetrics", "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {"name": known.pod_ref.name, "namespace": known.pod_ref.namespace, "creationTimestamp": now},
        "timestamp": api::time::rfc3339(read), "window": go_duration(window), "containers": containers,
    });
    if let Some(labels) = pod.at(&["metadata", "labels"]).filter(|labels| **labels != Value::Null) {
        value["metadata"]["labels"] = labels.clone();
    }
    Object::from_value(value)
}
