//! The examples of `control/README.md`, each a file of its own, at work: `tidy` checks that the page shows these files.
#![allow(clippy::unwrap_used)]

mod admission;
mod controller;
mod kind;
mod scheduling;
mod subresource;

use client::{Client, Informers, RunOptions};
use harness::Harness;
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use scheduler::{CycleState, Plugin, cache::Cache, cycle, pod::PodInfo, search::Search};
use serde_json::{Value, json};
use server::{User, nodes::NoNodes};
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A server with the examples in its lists, as an administrator reaches it.
async fn cluster() -> (Harness, Client) {
    let harness = Harness::with(1_767_323_045, Arc::new(NoNodes), |_, parts| {
        parts.resources.push(kind::resource());
        parts.admission.push(Arc::new(admission::AlwaysPullImages));
    })
    .await;
    let admin = User::new("admin", &["system:masters", "system:authenticated"]);
    let client = Client::new(kube::Client::new(harness.server.service_for(admin), "default"));
    (harness, client)
}

async fn send(client: &Client, method: Method, path: &str, body: Value) -> Result<Value, String> {
    let body = Some(("application/json", body.to_string().into_bytes()));
    let answer = client.raw(method, path, body).await.map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

const BACKUPS: &str = "/apis/example.com/v1/namespaces/default/backups";

#[tokio::test]
async fn a_kind_is_one_file_and_one_line() {
    let (_harness, client) = cluster().await;
    let backup = |spec: Value| json!({"metadata": {"name": "b"}, "spec": spec});
    let made = send(&client, Method::POST, BACKUPS, backup(json!({"claim": "data", "odd": 1}))).await.unwrap();
    assert_eq!((&made["kind"], &made["spec"]), (&json!("Backup"), &json!({"claim": "data", "keep": 7})));
    let path = format!("{BACKUPS}/b");
    let error = send(&client, Method::PUT, &path, backup(json!({"claim": "other", "keep": 0}))).await.unwrap_err();
    let fields = [
        "spec.keep: Invalid value: 0: must be greater than 0",
        "spec.claim: Invalid value: \"other\": field is immutable",
    ];
    assert!(fields.iter().all(|field| error.contains(field)), "{error}");
    let table =
        client.raw_as("application/json;as=Table;v=v1;g=meta.k8s.io", Method::GET, BACKUPS, None).await.unwrap();
    let table: Value = serde_json::from_slice(&table).unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["b", 7, "0s"]));
    let started = send(&client, Method::POST, &format!("{path}/run"), json!({})).await.unwrap();
    assert_eq!(started["message"], "a backup of data has begun");
    let missing = send(&client, Method::POST, &format!("{BACKUPS}/none/run"), json!({})).await.unwrap_err();
    assert!(missing.contains("backups.example.com \"none\" not found"), "{missing}");
}

#[tokio::test]
async fn an_admission_plugin_is_one_file_and_one_line() {
    let (_harness, client) = cluster().await;
    let account = json!({"metadata": {"name": "default"}});
    send(&client, Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await.unwrap();
    let spec =
        json!({"containers": [{"name": "a", "image": "i:1"}], "initContainers": [{"name": "b", "image": "i:1"}]});
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let made = send(&client, Method::POST, "/api/v1/namespaces/default/pods", pod).await.unwrap();
    for list in ["containers", "initContainers"] {
        assert_eq!(made["spec"][list][0]["imagePullPolicy"], "Always", "{list}");
    }
}

#[test]
fn a_scheduler_plugin_is_one_file_and_one_line() {
    let pod = |name: &str, node: Option<&str>| {
        let pod = json!({"metadata": {"name": name, "uid": name, "labels": {"apart": "db"}}, "spec": {"nodeName": node, "containers": []}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value::<Pod>(pod).unwrap())))
    };
    let mut cache = Cache::default();
    for node in ["n1", "n2"] {
        let node = json!({"metadata": {"name": node}, "status": {"allocatable": {"pods": "10"}}});
        cache.set_node(Arc::new(serde_json::from_value::<Node>(node).unwrap()));
    }
    let plugins: scheduler::Plugins = vec![Box::new(scheduling::KeepApart) as Box<dyn Plugin>].into();
    let decide = |cache: &mut Cache| {
        let (search, chance) = (&mut Search::default(), &mut fastrand::Rng::with_seed(1));
        cycle::schedule(&mut CycleState::default(), &pod("new", None), &cache.snapshot(), &plugins, search, chance)
    };
    cache.set_pod(pod("first", Some("n1")));
    assert_eq!(decide(&mut cache), cycle::Decision::Bind("n2".into()));
    cache.set_pod(pod("second", Some("n2")));
    let refused = cycle::Decision::Refuse {
        message: "0/2 nodes are available: 2 node(s) had a pod to keep apart from.".into(),
        refused_by: vec!["KeepApart"],
        nomination: cycle::Nomination::Kept,
    };
    assert_eq!(decide(&mut cache), refused);
}

#[test]
fn what_a_controller_does_is_a_table() {
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "n", "annotations": {"example.com/team": "blue"}}}))
            .unwrap();
    let made = controller::plan(&namespace, None).unwrap();
    assert_eq!(serde_json::to_value(&made).unwrap()["data"], json!({"name": "blue"}));
    assert_eq!(controller::plan(&namespace, Some(&made)), None);
    assert!(controller::plan(&namespace, Some(&ConfigMap::default())).is_some());
    assert_eq!(controller::plan(&Namespace::default(), None), None);
}

#[tokio::test(start_paused = true)]
async fn a_controller_is_one_file_and_one_line() {
    let (harness, client) = cluster().await;
    let tasks = TaskTracker::new();
    let token = CancellationToken::new();
    let informers = Informers::new(client.clone(), token.clone(), tasks.clone());
    let controller = Arc::new(controller::TeamController::new(client.clone(), &informers));
    let running = tokio::spawn(client::run(controller, RunOptions::default(), token.clone()));
    let body = json!({"metadata": {"name": "n", "annotations": {"example.com/team": "blue"}}});
    send(&client, Method::POST, "/api/v1/namespaces", body).await.unwrap();
    let seen = |wanted: &'static str| {
        let client = client.clone();
        async move {
            loop {
                let map = client.find::<ConfigMap>("n", "team").await.unwrap();
                if map.and_then(|map| map.data).is_some_and(|data| data["name"] == wanted) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(600), seen("blue")).await.unwrap();
    let patch = client::Patch::Merge(json!({"data": {"name": "red"}}));
    client.patch::<ConfigMap>("n", "team", patch).await.unwrap();
    tokio::time::timeout(Duration::from_secs(600), seen("blue")).await.unwrap();
    token.cancel();
    running.await.unwrap();
    harness.shutdown.cancel();
}
