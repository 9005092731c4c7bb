//! A cluster that holds much: how fast it starts over it, and its memory.

use crate::{
    figures::{Table, at, millis, pod},
    load::{Client, Connection, spread},
    server::Server,
};
use serde_json::{Map, Value, json};
use std::{path::Path, time::Instant};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Makes objects by 32 connections.
async fn fill(client: &Client, total: usize, path: &'static str, object: impl Fn(usize) -> Value + Clone + 'static) {
    spread(client, 32, total, move |mut connection: Connection, number| {
        let body = object(number);
        async move {
            connection.post(path, &body).await;
            connection
        }
    })
    .await;
}

fn configmap(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{number}")}, "data": {"v": "x".repeat(1024)}})
}

/// A definition with the schema of an operator's: 60 fields with descriptions, in two levels.
fn definition(number: usize) -> Value {
    let text = "What this field is for, in a sentence of the length that people write into their types.";
    let leaf = json!({"type": "string", "maxLength": 63, "description": text});
    let level: Map<String, Value> = (0..60).map(|n| (format!("field{n}"), leaf.clone())).collect();
    let group = format!("g{}.example.com", number % 20);
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": level}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("things{number}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": format!("things{number}"), "kind": format!("Thing{number}")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

/// Starts over 50,000 ConfigMaps of 1 KiB and 200 definitions.
pub async fn start(table: &mut Table, folder: &Path) {
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    fill(&client, 50_000, CONFIGMAPS, configmap).await;
    fill(&client, 200, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    server.stop();
    let (mut ready, mut listed) = (Vec::new(), Vec::new());
    let mut memory = 0.0;
    for _ in 0..5 {
        let begin = Instant::now();
        let server = Server::start(folder, &[]);
        ready.push(server.ready);
        let mut connection = Client::new(&server).connect().await;
        connection.get("/apis/g7.example.com/v1/namespaces/default/things7").await;
        listed.push(begin.elapsed());
        memory = server.memory();
        server.stop();
    }
    ready.sort();
    listed.sort();
    let text = format!(
        "{}; a custom resource listed after {}; {memory:.0} MiB",
        millis(at(&ready, 0.5)),
        millis(at(&listed, 0.5))
    );
    table.row("start → /readyz over 50,000 ConfigMaps and 200 CRDs (median of 5)", "< 300 ms", text);
}

/// Resident memory with 5,000 ConfigMaps and 5,000 pods, once they are made and after a start over them.
pub async fn memory(table: &mut Table, folder: &Path) {
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    fill(&client, 5_000, CONFIGMAPS, configmap).await;
    fill(&client, 5_000, "/api/v1/namespaces/default/pods", |n| pod(&format!("p{n}"), "nobody")).await;
    let written = server.memory();
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let later = server.memory();
    server.stop();
    let server = Server::start(folder, &[]);
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let started = server.memory();
    server.stop();
    let text = format!("{written:.0} MiB, {later:.0} MiB half a minute later, {started:.0} MiB after a restart");
    table.row("RSS with 5,000 ConfigMaps of 1 KiB and 5,000 pods", "< 120 MiB", text);
}
