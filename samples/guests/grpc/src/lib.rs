//! A gRPC server: tonic as a `wasi:http/handler` component of WASI 0.3. The node speaks HTTP/2; messages are the body of a request and of its
//! answer, the status is the answer's trailers.

use futures::{Stream, StreamExt, stream};
use std::{convert::Infallible, future::poll_fn, pin::Pin};
use tonic::{Request, Response, Status, Streaming, codegen::http};
use tower_service::Service;
use wasip3::{
    cli::environment::get_environment,
    exports::http::handler::Guest,
    http::types::{self, ErrorCode},
    http_compat::{http_from_wasi_request, http_into_wasi_response},
};

mod helloworld {
    tonic::include_proto!("helloworld");
}

use helloworld::{
    HelloReply, HelloRequest,
    greeter_server::{Greeter, GreeterServer},
};

struct Hello;

wasip3::http::service::export!(Hello);

impl Guest for Hello {
    async fn handle(request: types::Request) -> Result<types::Response, ErrorCode> {
        let request = http_from_wasi_request(request)?;
        let mut server = GreeterServer::new(Hello);
        let ready = poll_fn(|context| Service::<http::Request<tonic::body::Body>>::poll_ready(&mut server, context));
        let Ok(()): Result<(), Infallible> = ready.await;
        let Ok(response): Result<_, Infallible> = server.call(request).await;
        http_into_wasi_response(response)
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Hello {
    type SayHelloStreamReplyStream = Replies;
    type SayHelloBidiStreamStream = Replies;

    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        greet(request.into_inner()).map(Response::new)
    }

    /// One reply for each word of the name.
    async fn say_hello_stream_reply(&self, request: Request<HelloRequest>) -> Result<Response<Replies>, Status> {
        let names: Vec<String> = request.into_inner().name.split_whitespace().map(str::to_owned).collect();
        Ok(Response::new(stream::iter(names).map(|name| greet(HelloRequest { name })).boxed()))
    }

    /// Each request is answered when it comes.
    async fn say_hello_bidi_stream(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        Ok(Response::new(request.into_inner().map(|request| greet(request?)).boxed()))
    }
}

fn greet(request: HelloRequest) -> Result<HelloReply, Status> {
    if request.name.is_empty() {
        return Err(Status::invalid_argument("the name is empty"));
    }
    let pod = get_environment().into_iter().find(|(name, _)| name == "HOSTNAME").map(|(_, pod)| pod);
    Ok(HelloReply { message: format!("Hello {} from {}", request.name, pod.unwrap_or_default()) })
}
