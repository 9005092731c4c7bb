//! The kubelet API: container logs, statistics, streams and health. The API server calls it; in a single process, over an in-memory
//! connection.
//!
//! `run` answers 501, because upstream's clients do not use it any more. The router does not authenticate: its server must.

mod stats;
mod streams;

use crate::{
    agent::Agent,
    handle::Handle,
    logs::{self, LogOptions, Reader, Stream},
    pod,
    shared::Shared,
    state::PodState,
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Deserialize;
use serde_json::json;
use std::{io, path::PathBuf, sync::Arc};

impl Agent {
    /// The routes of the kubelet API of this node.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/pods", get(pods))
            .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
            .route("/stats/summary", get(stats::summary))
            .route("/metrics/cadvisor", get(stats::cadvisor))
            .route("/metrics/resource", get(stats::resource))
            .route("/run/{*rest}", any(|| async { not_implemented("run") }))
            .with_state(self.shared.clone())
            .merge(self.streams())
    }
}

fn not_implemented(what: &str) -> Response {
    let message = format!("{what} is not supported by this node yet");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "NotImplemented", "code": 501,
    });
    (StatusCode::NOT_IMPLEMENTED, Json(body)).into_response()
}

async fn pods(State(shared): State<Arc<Shared>>) -> Response {
    let pods = shared.cluster.pods.list();
    let items: Vec<_> = pods.iter().map(|pod| serde_json::to_value(pod.as_ref()).unwrap_or_default()).collect();
    Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})).into_response()
}

/// The query of `v1.PodLogOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LogQuery {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

fn flag(text: Option<&String>) -> bool {
    text.is_some_and(|text| !matches!(text.as_str(), "false" | "0"))
}

impl LogQuery {
    fn options(&self, now: Timestamp) -> Result<LogOptions, String> {
        let since = match (&self.since_time, self.since_seconds) {
            (Some(time), _) => Some(time.parse().map_err(|e| format!("invalid sinceTime: {e}"))?),
            (None, Some(seconds)) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
            (None, None) => None,
        };
        let size = |n: Option<i64>| n.map(|n| usize::try_from(n).unwrap_or(0));
        let stream = match self.stream.as_deref() {
            None | Some("" | "All") => None,
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            Some(other) => return Err(format!("invalid stream {other:?}")),
        };
        Ok(LogOptions {
            tail: size(self.tail_lines),
            since,
            timestamps: flag(self.timestamps.as_ref()),
            limit: size(self.limit_bytes),
            follow: flag(self.follow.as_ref()),
            stream,
        })
    }
}

fn error_response(code: StatusCode, message: String) -> Response {
    (code, message).into_response()
}

async fn container_logs(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let Some(pod) = shared.cluster.pods.get(&namespace, &name) else {
        return error_response(StatusCode::NOT_FOUND, format!("pod {name:?} not found\n"));
    };
    if pod::container(&pod, &container).is_none() {
        return error_response(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {name:?}\n"));
    }
    let options = match query.options(shared.now()) {
        Ok(options) => options,
        Err(message) => return error_response(StatusCode::UNPROCESSABLE_ENTITY, message),
    };
    let handle = shared.pods.lock().get(pod::uid(&pod)).cloned();
    let state = handle.as_ref().map(|handle| handle.state()).unwrap_or_default();
    match log_of(&shared, &pod, &state, &container, flag(query.previous.as_ref())) {
        Ok((path, id)) => stream(path, options, handle, container, id),
        Err(message) => error_response(StatusCode::BAD_REQUEST, message),
    }
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses);
    let mut all = all.chain(&status.ephemeral_container_statuses).flatten();
    all.find(|status| status.name == container)
}

/// The requested log file, and the id of the attempt that writes it. The error is upstream's message.
fn log_of(
    shared: &Shared,
    pod: &Pod,
    state: &PodState,
    container: &str,
    previous: bool,
) -> Result<(PathBuf, String), String> {
    let name = pod::name(pod);
    let waiting = status_of(pod, container).and_then(|s| s.state.as_ref()?.waiting.as_ref());
    let record = state.containers.get(container);
    let current = record.and_then(|r| r.current.as_ref());
    let number = match (current, previous) {
        (Some(attempt), false) => Some(attempt.log),
        // While a container waits for its next attempt, the ended attempt is the previous one.
        (Some(attempt), true) if waiting.is_some() && record.is_some_and(|r| !r.is_running()) => Some(attempt.log),
        (Some(attempt), true) => record.filter(|r| r.last.is_some()).map(|_| attempt.log - 1),
        (None, _) => None,
    };
    match (number, current) {
        (Some(number), Some(attempt)) => {
            let path = shared.log_file(pod, container, number);
            // The file was removed because of disk pressure. A container without output has no folder either.
            let is_gone = !path.exists() && path.parent().is_some_and(|folder| folder.exists());
            if is_gone && pod::is_finished(pod) {
                return Err(format!("unable to retrieve container logs for {}", attempt.container_id()));
            }
            let id = if number == attempt.log { attempt.id.clone() } else { String::new() };
            Ok((path, id))
        }
        _ if previous => Err(format!("previous terminated container {container:?} in pod {name:?} not found")),
        _ => {
            let reason = waiting.and_then(|w| w.reason.as_deref());
            let why = match reason {
                Some("ErrImagePull") => ": image can't be pulled".to_owned(),
                Some("ImagePullBackOff") => ": trying and failing to pull image".to_owned(),
                Some(reason) => format!(": {reason}"),
                None => " - no logs yet".to_owned(),
            };
            Err(format!("container {container:?} in pod {name:?} is waiting to start{why}"))
        }
    }
}

/// A log that is being sent.
struct LogStream {
    reader: Option<Reader>,
    path: PathBuf,
    options: LogOptions,
    handle: Option<Arc<Handle>>,
    container: String,
    id: String,
}

fn stream(path: PathBuf, options: LogOptions, handle: Option<Arc<Handle>>, container: String, id: String) -> Response {
    let log = LogStream { reader: None, path, options, handle, container, id };
    let body = futures::stream::unfold(log, |mut log| async move {
        let piece = log.next().await?;
        Some((piece, log))
    });
    ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(body)).into_response()
}

impl LogStream {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let runs = self.is_running();
            let (reader, piece) = match self.read().await {
                Ok(read) => read,
                Err(error) => return Some(Err(error)),
            };
            let full = reader.is_full();
            self.reader = Some(reader);
            if let Some(piece) = piece {
                return Some(Ok(piece));
            }
            // The exit is reported after the log was written, so that a read after the exit is complete.
            if full || !self.options.follow || !runs {
                return None;
            }
            tokio::time::sleep(logs::POLL_INTERVAL).await;
        }
    }

    async fn read(&mut self) -> io::Result<(Reader, Option<Bytes>)> {
        let (reader, path, options) = (self.reader.take(), self.path.clone(), self.options.clone());
        let read = move || {
            let mut reader = match reader {
                Some(reader) => reader,
                None => Reader::open(&path, options)?,
            };
            let piece = reader.read()?;
            Ok((reader, piece))
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Whether the attempt that writes the log still runs.
    fn is_running(&self) -> bool {
        let Some(handle) = &self.handle else { return false };
        let state = handle.state();
        let Some(record) = state.containers.get(&self.container) else { return false };
        record.is_running() && record.current.as_ref().is_some_and(|attempt| attempt.id == self.id)
    }
}
