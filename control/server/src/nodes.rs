//! The way to the kubelets: one trait that opens a byte stream to a node, over which HTTP/1.1 is spoken on the kubelet's own paths
//! (`/containerLogs/NS/POD/CONTAINER`, `/exec/…` and so on), one request for each stream. On one node the composition root joins it to
//! the agent by a pipe ([`piped`]). The end of either side of a stream is the other's.

use axum::body::Body;
use bytes::Bytes;
pub use container::net::Stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1::handshake, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

/// Bytes that a pipe holds each way.
const PIPE: usize = 256 << 10;

/// Why a node cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

impl From<hyper::Error> for Unreachable {
    fn from(error: hyper::Error) -> Self {
        Self(error.to_string())
    }
}

/// Opens streams to the kubelets of nodes.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync + 'static {
    /// A stream to the kubelet of `node`, for one request of HTTP/1.1.
    async fn open(&self, node: &str) -> Result<Stream, Unreachable>;
}

/// No nodes: an API server by itself.
pub struct NoNodes;

#[async_trait::async_trait]
impl Nodes for NoNodes {
    async fn open(&self, node: &str) -> Result<Stream, Unreachable> {
        Err(no_way(node))
    }
}

/// Why a node that nobody knows cannot be asked.
pub fn no_way(node: &str) -> Unreachable {
    Unreachable(format!("no way to node {node:?}"))
}

/// A stream to a service of this process, which serves HTTP/1.1 at its other end until either end goes. Call it inside a tokio runtime.
pub fn piped<S>(service: S) -> Stream
where
    S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let served =
        http1::Builder::new().serve_connection(TokioIo::new(theirs), TowerToHyperService::new(service)).with_upgrades();
    // An error is an end: of the client, or of the answer.
    tokio::spawn(async move { drop(served.await) });
    Box::new(ours)
}

/// Moves one connection.
type Conversation = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Sends the request over the stream, and answers the head of the answer and what moves the rest.
async fn converse(
    stream: Stream,
    mut request: Request<Body>,
) -> hyper::Result<(Response<Incoming>, Option<Conversation>)> {
    // HTTP/1.1 demands one; whoever knows the way knows the host.
    request.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static("kubelet"));
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut connection: Option<Conversation> = Some(Box::pin(connection.with_upgrades()));
    let mut answer = pin!(sender.send_request(request));
    let response = poll_fn(|cx| {
        advance(&mut connection, cx);
        answer.as_mut().poll(cx)
    });
    Ok((response.await?, connection))
}

/// Moves the connection as far as it goes. Its errors are told by what waits for it.
fn advance(connection: &mut Option<Conversation>, cx: &mut Context<'_>) {
    if let Some(moving) = connection
        && moving.as_mut().poll(cx).is_ready()
    {
        *connection = None;
    }
}

async fn send(stream: Stream, request: Request<Body>) -> Result<Response<Body>, Unreachable> {
    let (response, connection) = converse(stream, request).await?;
    Ok(response.map(|body| Body::new(Driven { body, connection })))
}

/// The kubelet of one node. Cheap to clone.
#[derive(Clone)]
pub struct Kubelet {
    nodes: Arc<dyn Nodes>,
    node: Arc<str>,
}

impl Kubelet {
    pub(crate) fn new(nodes: Arc<dyn Nodes>, node: &str) -> Self {
        Self { nodes, node: node.into() }
    }

    /// Sends a request; its path is the kubelet's. The body of the answer streams; when it is dropped, the stream to the node ends.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Unreachable> {
        send(self.nodes.open(&self.node).await?, request).await
    }

    /// Asks for an upgrade to `protocol` at the path, for a stream of whatever the two sides speak then.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn upgrade(&self, protocol: &'static str, target: &str) -> Result<Upgrade, Unreachable> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = target.parse().map_err(|error| Unreachable(format!("{target}: {error}")))?;
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
        upgrade(self.nodes.open(&self.node).await?, request).await
    }
}

/// What a node answers to a request for an upgrade.
pub enum Upgrade {
    /// The stream, which is the protocol's now.
    Done(Stream),
    /// Something else: an error, mostly.
    Refused(Response<Body>),
}

async fn upgrade(stream: Stream, request: Request<Body>) -> Result<Upgrade, Unreachable> {
    let (mut response, mut connection) = converse(stream, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Upgrade::Refused(response.map(|body| Body::new(Driven { body, connection }))));
    }
    let mut upgraded = hyper::upgrade::on(&mut response);
    let upgraded = poll_fn(|cx| {
        advance(&mut connection, cx);
        Pin::new(&mut upgraded).poll(cx)
    });
    Ok(Upgrade::Done(Box::new(TokioIo::new(upgraded.await?))))
}

/// A body that moves its own connection: it needs no task, and nothing outlives it.
struct Driven {
    body: Incoming,
    connection: Option<Conversation>,
}

impl HttpBody for Driven {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, connection } = self.get_mut();
        // The connection reads what the body has asked for.
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        advance(connection, cx);
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
        time::timeout,
    };

    fn get(target: &str) -> Request<Body> {
        Request::get(target).body(Body::empty()).expect("a request")
    }

    /// A node whose answer to anything is this.
    fn node(answer: impl Fn(Request<Incoming>) -> Response<Body> + Clone + Send + 'static) -> Stream {
        piped(tower::service_fn(move |request| std::future::ready(Ok(answer(request)))))
    }

    #[tokio::test]
    async fn a_request_goes_to_the_node_and_its_answer_streams_back() {
        let pieces = |request: Request<Incoming>| {
            let path = Bytes::from(request.uri().to_string());
            let pieces = stream::iter([path, Bytes::from(vec![b'x'; 3 << 20])]);
            Response::new(Body::from_stream(pieces.map(Ok::<_, Infallible>)))
        };
        let answer = send(node(pieces), get("/containerLogs/a?x=1")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let body = answer.into_body().collect().await.expect("the body").to_bytes();
        assert_eq!((&body[..20], body.len()), (&b"/containerLogs/a?x=1"[..], 20 + (3 << 20)));
    }

    /// Its end is noticed.
    struct Told(mpsc::Sender<()>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_away_frees_the_nodes_side_and_the_other_way_round() {
        let (told, mut ended) = mpsc::channel(1);
        let endless = move |_: Request<Incoming>| {
            let told = Told(told.clone());
            // One piece, and then silence for ever: nothing that is written shows that nobody is there.
            let pieces = stream::iter([Bytes::from_static(b"one")]).chain(stream::pending());
            Response::new(Body::from_stream(pieces.map(move |piece| {
                let _held = &told;
                Ok::<_, Infallible>(piece)
            })))
        };
        let mut body = send(node(endless.clone()), get("/logs")).await.expect("an answer").into_body();
        let first = body.frame().await.expect("a piece").expect("a piece").into_data().expect("data");
        assert_eq!(first, "one");
        assert!(timeout(Duration::from_secs(5), body.frame()).await.is_err(), "it goes on");
        assert!(ended.try_recv().is_err());
        drop(body);
        timeout(Duration::from_secs(5), ended.recv()).await.expect("the node's side ends");

        let breaks = |_: Request<Incoming>| {
            let pieces = [Ok(Bytes::from_static(b"one")), Err(std::io::Error::other("disk"))];
            Response::new(Body::from_stream(stream::iter(pieces).then(|piece| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                piece
            })))
        };
        let body = send(node(breaks), get("/logs")).await.expect("an answer").into_body();
        body.collect().await.expect_err("an end that is none is no end of a log");
    }

    #[tokio::test]
    async fn an_upgrade_gives_the_bytes_and_anything_else_is_the_nodes_answer() {
        let echo = |mut request: Request<Incoming>| {
            if request.headers().get(header::UPGRADE).is_none() {
                return Response::builder().status(StatusCode::BAD_REQUEST).body(Body::from("no")).expect("an answer");
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
                stream.write_all(b"hello ").await.expect("room");
                let (mut from, mut to) = tokio::io::split(stream);
                tokio::io::copy(&mut from, &mut to).await.expect("echoed");
                to.shutdown().await.expect("an end");
            });
            let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            let answer = answer.header(header::CONNECTION, "upgrade").header(header::UPGRADE, "echo");
            answer.body(Body::empty()).expect("an answer")
        };
        let mut wanted = get("/portForward");
        wanted.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        wanted.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
        let Upgrade::Done(mut stream) = upgrade(node(echo), wanted).await.expect("an answer") else {
            panic!("refused");
        };
        stream.write_all(b"world").await.expect("room");
        stream.shutdown().await.expect("half closed");
        let mut said = String::new();
        stream.read_to_string(&mut said).await.expect("until the end");
        assert_eq!(said, "hello world");

        let Upgrade::Refused(answer) = upgrade(node(echo), get("/portForward")).await.expect("an answer") else {
            panic!("upgraded");
        };
        let status = answer.status();
        let said = answer.into_body().collect().await.expect("the body").to_bytes();
        assert_eq!((status, &said[..]), (StatusCode::BAD_REQUEST, &b"no"[..]));
    }
}
