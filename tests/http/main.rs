//! The server through its tower service, as clients see it: no sockets, a fixed clock, a memory log.
#![allow(clippy::unwrap_used)]

mod aggregation;
mod allocations;
mod auth;
mod bodies;
mod connections;
mod customresources;
mod deletes;
mod documents;
mod fairness;
mod hostile;
mod identity;
mod machine;
mod parameters;
mod patches;
mod policies;
mod protobuf;
mod proxies;
mod reads;
mod subresources;
mod upstream;
mod warnings;
mod watches;
mod webhooks;
mod writes;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{
    Server, Service, User,
    nodes::{Nodes, Stream, Unreachable},
};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use tokio_util::sync::CancellationToken;

/// 2026-01-02T03:04:05Z.
const NOW: i64 = 1_767_323_045;

/// A server, a service that acts as an administrator, and its clock.
struct Cluster {
    server: Server,
    admin: Service,
    seconds: Arc<AtomicI64>,
    store: store::Store<server::Item>,
    shutdown: CancellationToken,
}

/// A node that answers with what it was asked.
struct Echo;

#[async_trait::async_trait]
impl Nodes for Echo {
    async fn open(&self, node: &str) -> Result<Stream, Unreachable> {
        let name = node.to_owned();
        match node {
            "gone" => Err(Unreachable("connection refused".into())),
            "picky" => Ok(harness::node(|_| {
                let mut response =
                    Response::new(Body::from("container \"c\" in pod \"p\" is waiting to start: ContainerCreating\n"));
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            })),
            _ => Ok(harness::node(move |request| Response::new(Body::from(format!("{name} {}", request.uri()))))),
        }
    }
}

/// The parts of an answer.
struct Answer {
    code: u16,
    headers: http::HeaderMap,
    bytes: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Code, reason and message of an error.
    fn status(&self) -> (u16, String, String) {
        let value = self.json();
        assert_eq!(value["kind"], "Status", "{value}");
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        (self.code, text("reason"), text("message"))
    }

    #[track_caller]
    fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.text());
        self.json()
    }

    #[track_caller]
    fn fails(self, code: u16, message: &str) {
        assert_eq!((self.code, self.status().2.as_str()), (code, message));
    }
}

impl Cluster {
    async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    /// A server of which something is changed before it starts.
    async fn with(change: impl FnOnce(&mut server::Options, &mut server::Parts)) -> Self {
        Self::of(harness::Harness::with(NOW, Arc::new(Echo), change).await)
    }

    fn of(made: harness::Harness) -> Self {
        let harness::Harness { server, store, shutdown, seconds } = made;
        let admin = server.service_for(User::new("admin", &["system:masters", "system:authenticated"]));
        Self { server, admin, seconds, store, shutdown }
    }

    async fn send(
        &self,
        service: &Service,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = service.handle(request.body(body.into()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    async fn get(&self, target: &str) -> Answer {
        self.send(&self.admin, "GET", target, &[], Body::empty()).await
    }

    async fn get_as(&self, target: &str, accept: &str) -> Answer {
        self.send(&self.admin, "GET", target, &[("accept", accept)], Body::empty()).await
    }

    async fn post(&self, target: &str, body: Value) -> Answer {
        self.send(&self.admin, "POST", target, &[("user-agent", "test/1")], body.to_string()).await
    }

    async fn put(&self, target: &str, body: Value) -> Answer {
        self.send(&self.admin, "PUT", target, &[("user-agent", "test/1")], body.to_string()).await
    }

    async fn patch(&self, target: &str, kind: &str, body: Value) -> Answer {
        let media = format!("application/{kind}");
        let headers = [("content-type", media.as_str()), ("user-agent", "test/1")];
        self.send(&self.admin, "PATCH", target, &headers, body.to_string()).await
    }

    async fn delete(&self, target: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(&self.admin, "DELETE", target, &[], body).await
    }

    /// The store's prefix of the ConfigMaps of namespace `default`.
    fn map_key(&self) -> String {
        "/core/configmaps/default/".to_owned()
    }

    async fn create_map(&self, name: &str, labels: Value) -> Value {
        let body = json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}});
        self.post("/api/v1/namespaces/default/configmaps", body).await.ok()
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The path of a ConfigMap.
fn map(name: &str) -> String {
    format!("{MAPS}/{name}")
}

fn content_type(answer: &Answer) -> &str {
    answer.header(header::CONTENT_TYPE.as_str())
}

/// A Deployment that passes validation.
fn deployment(name: &str, replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A pod that passes validation and admission once the `default` ServiceAccount is there.
async fn pod(cluster: &Cluster, name: &str) -> Value {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    if cluster.get(&format!("{accounts}/default")).await.code == 404 {
        cluster.post(accounts, json!({"metadata": {"name": "default"}})).await.ok();
    }
    let body = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    cluster.post(PODS, body).await.ok()
}

const PODS: &str = "/api/v1/namespaces/default/pods";
