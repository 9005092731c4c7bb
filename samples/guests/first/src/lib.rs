//! Answers each request with the name of its pod.
use wasip2::{
    cli::environment::get_environment,
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam},
};

struct Hello;

impl Guest for Hello {
    fn handle(_: IncomingRequest, answer: ResponseOutparam) {
        let pod = get_environment().into_iter().find(|(name, _)| name == "HOSTNAME").map(|(_, pod)| pod);
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("taken once");
        ResponseOutparam::set(answer, Ok(response));
        let text = format!("Hello from Rust in {}\n", pod.unwrap_or_default());
        body.write().expect("taken once").blocking_write_and_flush(text.as_bytes()).expect("the client listens");
        OutgoingBody::finish(body, None).expect("whole");
    }
}

wasip2::http::proxy::export!(Hello);
