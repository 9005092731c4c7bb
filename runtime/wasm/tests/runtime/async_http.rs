//! Handlers of WASI 0.3, by the sample `async-hello`.

use crate::{
    http::{busy, idle},
    samples::sample,
    support::{Node, peer, request},
};
use bytes::Bytes;
use container::{
    ContainerId, ContainerSpec, ExitReason, Runtime,
    net::{self, Connection},
};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{io::AsyncWriteExt, sync::mpsc};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Ends a test that hangs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("nothing comes")
}

pub(crate) fn hello(node: &Node) -> ContainerSpec {
    let mut spec = node.spec(&sample("async-hello"));
    spec.env = vec![("GREETING".into(), "Moin".into()), ("HOSTNAME".into(), "hello-1".into())];
    spec
}

async fn start(node: &Node) -> ContainerId {
    node.start(hello(node)).await
}

#[tokio::test]
async fn a_handler_answers_with_a_new_instance_per_request() {
    let node = Node::new().await;
    let id = start(&node).await;
    for _ in 0..3 {
        assert_eq!(soon(node.net.get(80, "/")).await, (200, "Moin from hello-1, request 1\n".to_string()));
    }
    idle(&node, &id).await;
    let stats = node.runtime.stats(&id).await.unwrap();
    assert_eq!((stats.requests, stats.memory_bytes), (3, 0), "an idle handler has no instance and no memory");
}

/// The answer begins while the request is still sent, and trailers go both ways.
#[tokio::test]
async fn bodies_stream_both_ways_with_trailers() {
    let node = Node::new().await;
    start(&node).await;
    let handler = node.net.handler(80).unwrap();
    let (mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(mine)).await.unwrap();
    tokio::spawn(connection);
    let (pieces, body) = mpsc::channel(1);
    let asked = http::Request::post("http://hello/echo").header("te", "trailers").body(Pieces(body)).unwrap();
    let answer = tokio::spawn(async move { sender.send_request(asked).await.unwrap() });
    pieces.send(Frame::data("one".into())).await.unwrap();
    let mut answer = soon(answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let first = soon(answer.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one", "before the request has ended");
    let rest = Bytes::from(vec![b'x'; 3 << 20]);
    pieces.send(Frame::data(rest.clone())).await.unwrap();
    let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("sum"), "42".parse().unwrap())]);
    pieces.send(Frame::trailers(trailers.clone())).await.unwrap();
    drop(pieces);
    let body = soon(answer.into_body().collect()).await.unwrap();
    assert_eq!(body.trailers(), Some(&trailers));
    assert!(body.to_bytes() == rest, "all of it");
}

/// An empty frame after the head would be a broken stream to clients of gRPC.
#[tokio::test]
async fn a_status_of_grpc_without_messages_ends_with_its_head() {
    let node = Node::new().await;
    let mut spec = node.spec(&sample("grpc"));
    spec.env = vec![("HOSTNAME".into(), "grpc-1".into())];
    node.start(spec).await;
    let handler = node.net.handler(80).unwrap();
    let (mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(mine)).await.unwrap();
    tokio::spawn(connection);
    let call = async |message: &'static [u8]| {
        let asked = http::Request::post("http://hello/helloworld.Greeter/SayHello");
        let asked = asked.header("te", "trailers").header("content-type", "application/grpc");
        let asked = asked.body(Full::new(Bytes::from_static(message))).unwrap();
        soon(sender.clone().send_request(asked)).await.unwrap()
    };
    for _ in 0..20 {
        let refused = call(b"\0\0\0\0\0").await;
        assert!(refused.body().is_end_stream(), "the head is all");
        let told = ["grpc-status", "grpc-message"].map(|name| refused.headers()[name].to_str().unwrap().to_owned());
        assert_eq!(told, ["3", "the%20name%20is%20empty"]);
        let unknown = http::Request::post("http://hello/helloworld.Greeter/SayNothing");
        let unknown = unknown.header("content-type", "application/grpc").body(Full::default()).unwrap();
        let unknown = soon(sender.clone().send_request(unknown)).await.unwrap();
        assert_eq!((unknown.body().is_end_stream(), unknown.headers()["grpc-status"].as_bytes()), (true, &b"12"[..]));
    }
    let answer = soon(call(b"\0\0\0\0\x05\x0a\x03Ada").await.into_body().collect()).await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(answer.to_bytes(), "\0\0\0\0\x17\x0a\x15Hello Ada from grpc-1");
}

/// A body of what is sent.
struct Pieces(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

#[tokio::test]
async fn a_guest_whose_client_went_away_is_ended() {
    let node = Node::new().await;
    let id = start(&node).await;
    let handler = node.net.handler(80).unwrap();
    for path in ["/spin", "/meet/2"] {
        let calling = tokio::spawn({
            let handler = handler.clone();
            async move { handler.call(request(path), peer()).await }
        });
        busy(&node, &id, 1).await;
        calling.abort();
        idle(&node, &id).await;
    }
    // Within the body.
    let mut response = soon(handler.call(request("/ticks"), peer())).await.unwrap();
    let first = soon(response.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "data: 0\n\n");
    assert_eq!(node.runtime.stats(&id).await.unwrap().instances, 1);
    drop(response);
    idle(&node, &id).await;
    // With its connection.
    let (mut mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    mine.write_all(b"GET /spin HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
    busy(&node, &id, 1).await;
    drop(mine);
    idle(&node, &id).await;
}

#[tokio::test]
async fn a_time_limit_a_trap_and_an_error_are_answered_as_for_0_2() {
    let node = Node::new().await;
    let mut spec = hello(&node);
    spec.http.request_timeout = Some(Duration::from_secs(1));
    spec.http.access_log = true;
    let id = node.start(spec).await;
    assert_eq!(soon(node.net.get(80, "/spin")).await, (504, "no answer from the component within 1 s\n".to_string()));
    assert_eq!(
        soon(node.net.get(80, "/panic")).await,
        (500, "the component failed; its log has the backtrace\n".to_string())
    );
    assert_eq!(
        soon(node.net.get(80, "/error")).await,
        (502, "the component answered with an error: ErrorCode::LoopDetected\n".to_string())
    );
    let (status, body) = soon(node.net.get(80, "/ticks")).await;
    assert_eq!(status, 200, "the head was there in time");
    assert!(body.starts_with("cut: "), "{body}");
    let (status, body) = soon(node.net.get(80, "/late")).await;
    assert_eq!((status, body.as_str()), (200, "cut: the component was ended before its answer was complete"));
    // The lines of failures come when their source is found, in any order.
    let all = ["GET /late HTTP/1.1\" 200 ", "GET /panic failed", "GET /late failed"];
    let log = node.log(&id, |text| all.iter().all(|line| text.contains(line))).await;
    assert!(
        log.contains("stderr F sampan: GET /panic failed: wasm trap: wasm `unreachable` instruction executed"),
        "{log}"
    );
    assert!(log.contains("sampan: GET /late failed: wasm trap"), "{log}");
    assert!(log.contains("\"GET /error HTTP/1.1\" 502 "), "{log}");
    idle(&node, &id).await;
    assert_eq!(soon(node.net.get(80, "/")).await.0, 200);
}

#[tokio::test]
async fn outgoing_requests_go_through_the_pods_network_and_carry_the_trace() {
    let node = Node::new().await;
    let mut spec = hello(&node);
    spec.http.trace_context = true;
    let id = node.start(spec).await;
    let handler = node.net.handler(80).unwrap();
    let ask = async |path: &str| {
        let mut request = request(path);
        request.headers_mut().insert("traceparent", PARENT.parse().unwrap());
        let response = soon(handler.call(request, peer())).await.unwrap();
        let (head, body) = response.into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(ask("/trace").await, (200, PARENT.to_string()));
    assert_eq!(ask("/fetch/teapot/brew").await, (418, format!("GET http://teapot/brew \"teapot\" {PARENT}")));
    let (_, made) = soon(node.net.get(80, "/trace")).await;
    assert!(made.starts_with("00-") && made.len() == 55 && made != PARENT, "{made}");
    // The network of these tests refuses everything once port 9 is bound.
    let mut spec = hello(&node);
    spec.ports[0].number = 9;
    node.start(spec).await;
    let (status, text) = ask("/fetch/teapot/brew").await;
    assert_eq!((status, text.contains("HttpRequestDenied")), (502, true), "{text}");
    node.log(&id, |text| text.contains("http://teapot/brew refused: 10.0.0.1 is not allowed")).await;
}

/// Who waits has no turn; who comes when all turns and the queue are taken is refused.
#[tokio::test]
async fn a_handler_keeps_its_bounds_of_concurrency_queue_and_memory() {
    let node = Node::new().await;
    let mut spec = hello(&node);
    (spec.http.max_concurrent, spec.http.max_queued) = (Some(1), Some(0));
    let id = node.start(spec).await;
    let handler = node.net.handler(80).unwrap();
    let ticking = soon(handler.call(request("/ticks"), peer())).await.unwrap();
    let again = async {
        // The first may have its turn for a moment.
        while node.net.get(80, "/").await.0 != 200 {}
    };
    soon(again).await;
    drop(ticking);
    idle(&node, &id).await;
    let spinning = tokio::spawn(async move { handler.call(request("/spin"), peer()).await.map(drop) });
    busy(&node, &id, 1).await;
    let refused = async {
        loop {
            let answer = node.net.get(80, "/").await;
            if answer.0 != 200 {
                return answer;
            }
        }
    };
    assert_eq!(soon(refused).await, (503, "too many requests are waiting for this container\n".to_string()));
    spinning.abort();
    node.runtime.remove(&id).await.unwrap();

    let mut spec = hello(&node);
    spec.limits.memory_bytes = Some(3 << 20);
    let id = node.start(spec).await;
    let body = Full::new(Bytes::from(vec![0; 1 << 20])).map_err(|never| match never {}).boxed_unsync();
    let asked: net::Request = http::Request::post("http://hello/echo").body(body).unwrap();
    let answer = soon(node.net.handler(80).unwrap().call(asked, peer())).await.unwrap();
    assert_eq!(soon(answer.into_body().collect()).await.unwrap().to_bytes().len(), 1 << 20);
    soon(node.net.get(80, "/grow")).await;
    assert_eq!(node.exit(&id).await.reason, ExitReason::OomKilled);
}
