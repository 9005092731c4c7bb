//! NodeMetrics: what a node uses.

use super::{GROUP, Table, VERSION, go_duration, named, no_metrics, schema, summary, usage, usage_schema};
use api::{GroupVersionResource, Object, Status};
use axum::body::Body;
use http::Response;
use serde_json::{Value, json};
use server::{Action, Api, Call, Names, Objects, Operation, Resource, Verb};
use std::{collections::HashMap, sync::Arc};

pub(crate) fn resource() -> Resource {
    Resource::answered(GROUP, VERSION, "nodes", "NodeMetrics", Arc::new(NodeMetrics))
        .verbs(&[Verb::Get, Verb::List])
        .with_schema(&schema("usage", usage_schema()))
        .with_table(Table)
        .cluster_scoped()
}

struct NodeMetrics;

#[async_trait::async_trait]
impl Action for NodeMetrics {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let name = named(&call);
        let nodes = if name.is_empty() {
            Objects::list(api, "", "nodes", "")
        } else {
            let node = Objects::get(api, "", "nodes", "", name);
            let nodes = GroupVersionResource::new("", "v1", "nodes");
            vec![node.ok_or_else(|| Status::not_found(&nodes, name))?]
        };
        let now = api::time::rfc3339(api.context(&call, Operation::Connect, &names, false).now);
        let summaries = summary::all(api, nodes.iter().map(|node| node.name().to_owned()).collect()).await;
        let nodes: HashMap<&str, &Arc<Object>> = nodes.iter().map(|node| (node.name(), node)).collect();
        let make = |summary: &summary::Summary| metrics(nodes.get(summary.node.node_name.as_str())?, summary, &now);
        let metrics: Vec<_> = summaries.iter().filter_map(make).collect();
        if metrics.is_empty() && !name.is_empty() {
            return Err(no_metrics("nodemetrics", name));
        }
        api.computed(&call, &names, metrics)
    }
}

fn metrics(node: &Object, summary: &summary::Summary, now: &str) -> Option<Object> {
    let (read, window) = summary.node.figures.read()?;
    let mut value = json!({
        "kind": "NodeMetrics", "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {"name": node.name(), "creationTimestamp": now},
        "timestamp": api::time::rfc3339(read), "window": go_duration(window), "usage": usage(&summary.node.figures)?,
    });
    if let Some(labels) = node.at(&["metadata", "labels"]).filter(|labels| **labels != Value::Null) {
        value["metadata"]["labels"] = labels.clone();
    }
    Object::from_value(value)
}
