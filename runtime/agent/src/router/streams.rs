//! The streaming endpoints of the kubelet API: `/exec`, `/attach` and `/portForward`. Each requires an HTTP upgrade. Errors are plain text
//! with the kubelet's messages. `exec` and `attach` use the protocol of [`container::frame`], a forwarded port transfers raw bytes.
//!
//! When the client disconnects, an `exec` command is stopped, and an attached container continues.

use crate::{agent::Agent, pod, shared::Shared};
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::BytesMut;
use container::{Exec, Runtime, Streams, frame, net};
use futures::future::BoxFuture;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, copy_bidirectional, duplex, split},
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// The upgrade protocol of a forwarded port: raw bytes.
const PORT_PROTOCOL: &str = "port";
/// The buffer size per stream and direction, in bytes.
const PIPE_BUFFER: usize = 32 << 10;
/// The number of frames that wait to be written.
const FRAME_QUEUE: usize = 4;
/// The number of terminal sizes that wait. If the queue is full, a size is dropped.
const RESIZE_QUEUE: usize = 16;
/// The maximum length of a terminal size in JSON, in bytes.
const MAX_RESIZE_BYTES: usize = 256;
/// How often a keep-alive frame is sent.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// The timeout for connecting to a port.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct StreamNode {
    shared: Arc<Shared>,
    token: CancellationToken,
}

impl Agent {
    pub(super) fn streams(&self) -> Router {
        Router::new()
            .route("/exec/{namespace}/{pod}/{container}", any(exec))
            .route("/attach/{namespace}/{pod}/{container}", any(attach))
            .route("/portForward/{namespace}/{pod}", any(port_forward))
            .with_state(StreamNode { shared: self.shared.clone(), token: self.token.clone() })
    }
}

type Pairs = Query<Vec<(String, String)>>;

fn error_response(code: StatusCode, text: String) -> Response {
    (code, format!("{text}\n")).into_response()
}

fn is_set(pairs: &[(String, String)], name: &str) -> bool {
    pairs.iter().any(|(known, value)| known == name && value == "1")
}

/// Finds a running container and its runtime. Returns the container id.
fn running(shared: &Shared, namespace: &str, pod: &str, container: &str) -> Option<(Arc<str>, Arc<dyn Runtime>)> {
    let pod = shared.cluster.pods.get(namespace, pod)?;
    let handle = shared.pods.lock().get(pod::uid(&pod)).cloned()?;
    let state = handle.state();
    let record = state.containers.get(container).filter(|record| record.is_running())?;
    let attempt = record.current.as_ref()?;
    Some((attempt.id.as_str().into(), shared.runtimes.get(&attempt.runtime)?.clone()))
}

async fn exec(
    State(node): State<StreamNode>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(pairs): Pairs,
    request: Request,
) -> Response {
    let Some((id, runtime)) = running(&node.shared, &namespace, &name, &container) else {
        return error_response(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})"));
    };
    let command: Vec<String> = pairs.iter().filter(|(n, _)| n == "command").map(|(_, word)| word.clone()).collect();
    if command.is_empty() {
        return error_response(StatusCode::BAD_REQUEST, "a command is missing".into());
    }
    let tty = is_set(&pairs, "tty");
    node.serve(request, &pairs, move |streams| {
        Box::pin(async move {
            let outcome = runtime.exec(&id, Exec { command: command.clone(), tty }, streams).await;
            match outcome {
                Ok(0) => success(),
                Ok(code) => exited(&command, code),
                Err(error) => failure(&format!("error executing command in container: {error}")),
            }
        })
    })
}

async fn attach(
    State(node): State<StreamNode>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(pairs): Pairs,
    request: Request,
) -> Response {
    let Some((id, runtime)) = running(&node.shared, &namespace, &name, &container) else {
        let text = format!("container {container} not found in pod {name}_{namespace}");
        return error_response(StatusCode::INTERNAL_SERVER_ERROR, text);
    };
    node.serve(request, &pairs, move |streams| {
        Box::pin(async move {
            match runtime.attach(&id, streams).await {
                Ok(()) => success(),
                Err(error) => failure(&format!("error attaching to container: {error}")),
            }
        })
    })
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn exited(command: &[String], code: i32) -> Value {
    let text = format!("error executing command [{}], exit code {code}", command.join(" "));
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: {text}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(text: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: {text}"),
        "details": {"causes": [{"message": text}]},
    })
}

/// The program of a stream. Returns its `v1.Status`.
type Operation = BoxFuture<'static, Value>;

impl StreamNode {
    /// Whether the pod's processes are in the host's network.
    fn is_host(&self, pod: &Pod) -> bool {
        let handle = self.shared.pods.lock().get(pod::uid(pod)).cloned();
        pod::spec(pod).host_network == Some(true) && handle.is_some_and(|handle| handle.state().kernel)
    }

    /// Upgrades the request to a stream of frames. `start` receives the program's ends of the streams.
    fn serve(
        self,
        request: Request,
        pairs: &[(String, String)],
        start: impl FnOnce(Streams) -> Operation + Send + 'static,
    ) -> Response {
        let is = |name: &str| is_set(pairs, name);
        let wanted = [is("stdin"), is("stdout"), is("stderr") && !is("tty"), is("tty")];
        if !wanted[..3].contains(&true) {
            return error_response(
                StatusCode::BAD_REQUEST,
                "you must specify at least 1 of stdin, stdout, stderr".into(),
            );
        }
        self.upgrade(request, frame::PROTOCOL, move |stream| Box::pin(serve_frames(stream, wanted, start)))
    }

    /// Upgrades the request to `protocol`, and runs `work` on the connection until the node stops.
    fn upgrade(
        self,
        mut request: Request,
        protocol: &'static str,
        work: impl FnOnce(TokioIo<Upgraded>) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Response {
        let asked = request.headers().get(header::UPGRADE).is_some_and(|asked| asked == protocol);
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>().filter(|_| asked) else {
            return error_response(StatusCode::BAD_REQUEST, format!("an upgrade to {protocol} is required"));
        };
        let token = self.token;
        self.shared.tasks.spawn(async move {
            let done = async {
                match upgrade.await {
                    Ok(stream) => work(TokioIo::new(stream)).await,
                    Err(error) => tracing::debug!(%error, "no upgrade"),
                }
            };
            tokio::select! {
                () = done => {}
                () = token.cancelled() => {}
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
        response
    }
}

/// Transfers frames between the connection and a program, until the program has ended and its output is sent, or until the client
/// disconnects.
async fn serve_frames(
    stream: TokioIo<Upgraded>,
    [stdin, stdout, stderr, tty]: [bool; 4],
    start: impl FnOnce(Streams) -> Operation + Send + 'static,
) {
    let (mut from, mut to) = split(stream);
    let pipe = |is: bool| if is { Some(duplex(PIPE_BUFFER)) } else { None };
    let (input, program_input) = pipe(stdin).unzip();
    let (output, program_output) = pipe(stdout).unzip();
    let (errors, program_errors) = pipe(stderr).unzip();
    let (sizes, resize) = mpsc::channel(RESIZE_QUEUE);
    let program = Streams {
        stdin: program_input.map(|end| Box::new(end) as Box<_>),
        stdout: program_output.map(|end| Box::new(end) as Box<_>),
        stderr: program_errors.map(|end| Box::new(end) as Box<_>),
        resize: tty.then_some(resize),
    };
    let (frames, mut queue) = mpsc::channel(FRAME_QUEUE);
    let work = async move {
        let run = start(program);
        let (outcome, (), ()) = tokio::join!(
            run,
            forward_output(frame::STDOUT, output, frames.clone()),
            forward_output(frame::STDERR, errors, frames.clone())
        );
        let _ = frames.send((frame::STATUS, outcome.to_string().into_bytes())).await;
        drop(frames);
    };
    let writing = async {
        let mut alive = interval(KEEPALIVE_INTERVAL);
        loop {
            let (channel, bytes) = tokio::select! {
                frame = queue.recv() => match frame {
                    Some(frame) => frame,
                    None => break,
                },
                _ = alive.tick() => (frame::KEEPALIVE, Vec::new()),
            };
            if frame::write(&mut to, channel, &bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let both = async {
        let mut writing = pin!(writing);
        tokio::select! {
            () = writing.as_mut() => {}
            () = work => writing.await,
        }
    };
    tokio::select! {
        () = both => {}
        () = read_frames(&mut from, input, sizes) => {}
    }
}

/// Sends a program's output as frames until its end.
async fn forward_output(channel: u8, from: Option<DuplexStream>, frames: mpsc::Sender<(u8, Vec<u8>)>) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIPE_BUFFER / 2);
        let ended = from.read_buf(&mut buffer).await.unwrap_or(0) == 0;
        if frames.send((channel, buffer.split().to_vec())).await.is_err() || ended {
            return;
        }
    }
}

/// Receives the client's frames until it disconnects.
async fn read_frames(
    from: &mut ReadHalf<TokioIo<Upgraded>>,
    mut stdin: Option<DuplexStream>,
    sizes: mpsc::Sender<(u16, u16)>,
) {
    let mut text = Vec::new();
    while let Ok(Some((channel, bytes))) = frame::read(from).await {
        match channel {
            frame::STDIN => {
                // A program that closed its standard input continues.
                let written = match &mut stdin {
                    Some(to) if !bytes.is_empty() => to.write_all(&bytes).await.is_ok(),
                    _ => false,
                };
                if !written && let Some(mut to) = stdin.take() {
                    let _ = to.shutdown().await;
                }
            }
            frame::RESIZE => {
                text.extend(bytes);
                for size in parse_sizes(&mut text) {
                    let _ = sizes.try_send(size);
                }
            }
            _ => {}
        }
    }
}

/// Takes the complete terminal sizes from the buffered text. Drops invalid text.
fn parse_sizes(text: &mut Vec<u8>) -> Vec<(u16, u16)> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let side = |size: &Value, name: &str| size[name].as_u64().and_then(|side| u16::try_from(side).ok());
    let mut sizes = Vec::new();
    let mut broken = false;
    for value in values.by_ref() {
        match value {
            Ok(size) => sizes.extend(side(&size, "Width").zip(side(&size, "Height"))),
            // The iterator would skip an incomplete value at the next call.
            Err(error) => {
                broken = !error.is_eof();
                break;
            }
        }
    }
    let read = values.byte_offset();
    text.drain(..read);
    if broken || text.len() > MAX_RESIZE_BYTES {
        text.clear();
    }
    sizes
}

async fn port_forward(
    State(node): State<StreamNode>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    request: Request,
) -> Response {
    let port = pairs.iter().find(|(name, _)| name == "port").and_then(|(_, port)| port.parse::<u16>().ok());
    let Some(port) = port.filter(|port| *port > 0) else {
        return error_response(StatusCode::BAD_REQUEST, "query parameter \"port\" is required".into());
    };
    let found = node.shared.cluster.pods.get(&namespace, &name);
    let Some(view) = found.as_ref().and_then(|pod| node.shared.network.view(pod::uid(pod))) else {
        return error_response(StatusCode::NOT_FOUND, format!("pod not found (\"{name}_{namespace}\")"));
    };
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let is_host = found.as_ref().is_some_and(|pod| node.is_host(pod));
    let connect = async {
        match is_host {
            // the loopback of its processes is the host's
            true => node.shared.dialer.connect(at).await,
            false => view.connect(at).await.map(|(connection, _)| connection),
        }
    };
    let why = match timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(mut connection)) => {
            return node.upgrade(request, PORT_PROTOCOL, move |mut stream| {
                // A failed connection ends the stream like a closed one.
                Box::pin(async move { drop(copy_bidirectional(&mut stream, &mut connection).await) })
            });
        }
        Ok(Err(net::Error::Refused(_))) => format!("dial tcp4 {at}: connect: connection refused"),
        Ok(Err(error)) => format!("dial tcp4 {at}: {error}"),
        Err(_) => format!("dial tcp4 {at}: i/o timeout"),
    };
    error_response(StatusCode::BAD_GATEWAY, format!("failed to connect to localhost:{port} inside the pod: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut text = br#"{"Width":80,"Height":24}{"Width":1"#.to_vec();
        assert_eq!(parse_sizes(&mut text), [(80, 24)]);
        text.extend(
            br#"00,"Height":30}
"#,
        );
        assert_eq!(parse_sizes(&mut text), [(100, 30)]);
        for odd in ["nothing", r#"{"Width":-1,"Height":70000}"#, "[", &"[".repeat(300)] {
            text.extend(odd.as_bytes());
            assert_eq!(parse_sizes(&mut text), []);
            assert!(text.len() <= MAX_RESIZE_BYTES);
        }
    }
}
