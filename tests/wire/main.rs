//! Golden tests of the wire: what kubectl 1.32 really sent (`requests/*.jsonl`, bodies in protobuf beside them, captured by a logging
//! reverse proxy in front of a running cluster), replayed in process over a memory log, and every answer compared with `golden/`.
//! `UPDATE_EXPECT=1 cargo test -p tests --test wire` writes the answers anew; read the difference before it is committed.
//!
//! Not here: kubectl itself (`tests/e2e/kubectl.rs`), and controllers: the objects of `state.json` stand still.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read the environment and the clock")]

mod errors;
mod render;
mod replay;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use server::{
    Server, Service, User,
    nodes::{Nodes, Stream, Unreachable},
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// 2026-11-22T21:00:00Z: shortly after the requests were captured.
const NOW: i64 = 1_795_381_200;

/// A server over a memory log, and a service that acts as the administrator.
struct Wire {
    server: Server,
    admin: Service,
    store: store::Store<server::Item>,
}

/// An answer, read until it ends or falls silent.
struct Answer {
    code: u16,
    headers: http::HeaderMap,
    bytes: Bytes,
}

impl Answer {
    fn content_type(&self) -> &str {
        self.headers.get("content-type").map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

/// A node that answers logs with one line.
struct OneLine;

#[async_trait::async_trait]
impl Nodes for OneLine {
    async fn open(&self, _node: &str) -> Result<Stream, Unreachable> {
        Ok(harness::node(|request| Response::new(Body::from(format!("{}\n", request.uri())))))
    }
}

/// A folder or file of this suite.
fn here(name: &str) -> PathBuf {
    // The manifest is that of the crate that registers this suite.
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("wire");
    root.join(name)
}

impl Wire {
    async fn new() -> Self {
        let harness::Harness { server, store, .. } = harness::Harness::new(NOW, Arc::new(OneLine)).await;
        let admin = server.service_for(User::new("kubernetes-admin", &["system:masters", "system:authenticated"]));
        Self { server, admin, store }
    }

    async fn send(&self, method: &str, target: &str, headers: &[(String, String)], body: Vec<u8>) -> Answer {
        Self::send_by(&self.admin, method, target, headers, body).await
    }

    async fn send_by(
        service: &Service,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = service.handle(request.body(Body::from(body)).unwrap()).await;
        let (parts, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        // A watch falls silent: on the paused clock a second passes as soon as nothing else is to be done.
        while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_secs(1), body.frame()).await {
            if let Ok(data) = frame.unwrap().into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes: bytes.into() }
    }

    async fn get(&self, target: &str) -> Value {
        self.send("GET", target, &[("accept".into(), "application/json".into())], Vec::new()).await.json()
    }
}
