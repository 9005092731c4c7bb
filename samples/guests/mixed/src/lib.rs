//! A `wasi:http/incoming-handler` component in front of another server: it passes each request to `BACKEND` (host and port), and the answer
//! back, with a header of its own.

use wasip2::{
    cli::environment::get_environment,
    exports::http::incoming_handler::Guest,
    http::{
        outgoing_handler,
        types::{
            Fields, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
            Scheme,
        },
    },
    io::streams::StreamError,
};

/// Bytes that are passed on at a time.
const CHUNK: u64 = 64 << 10;
/// What a proxy does not pass on: it is of one connection.
const OF_CONNECTION: [&str; 6] = ["connection", "host", "keep-alive", "te", "transfer-encoding", "upgrade"];

struct Front;

wasip2::http::proxy::export!(Front);

impl Guest for Front {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        match ask(&request) {
            Ok(response) => pass(answer, &response),
            Err(why) => refuse(answer, &why),
        }
    }
}

fn backend() -> String {
    let set = get_environment().into_iter().find(|(name, _)| name == "BACKEND");
    set.map_or_else(|| "localhost:8081".into(), |(_, value)| value)
}

/// The answer of the server behind.
fn ask(request: &IncomingRequest) -> Result<IncomingResponse, String> {
    let sent = OutgoingRequest::new(kept(&request.headers()));
    let set = [
        sent.set_method(&request.method()),
        sent.set_scheme(Some(&Scheme::Http)),
        sent.set_authority(Some(&backend())),
        sent.set_path_with_query(request.path_with_query().as_deref()),
    ];
    if set.iter().any(Result::is_err) {
        return Err("the request cannot be passed on".into());
    }
    let body = sent.body().map_err(|()| "taken once")?;
    let answer = outgoing_handler::handle(sent, None).map_err(|error| format!("{error:?}"))?;
    if let Ok(from) = request.consume() {
        if let (Ok(from), Ok(to)) = (from.stream(), body.write()) {
            while let Ok(moved) = to.blocking_splice(&from, CHUNK) {
                if moved == 0 {
                    break;
                }
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
    answer.subscribe().block();
    let answer = answer.get().and_then(Result::ok).ok_or("no answer")?;
    answer.map_err(|error| format!("{error:?}"))
}

fn kept(headers: &Fields) -> Fields {
    let kept = headers.entries().into_iter().filter(|(name, _)| !OF_CONNECTION.contains(&name.to_lowercase().as_str()));
    Fields::from_list(&kept.collect::<Vec<_>>()).unwrap_or_else(|_| Fields::new())
}

fn pass(answer: ResponseOutparam, response: &IncomingResponse) {
    let headers = kept(&response.headers());
    let _ = headers.append("x-served-by", b"WebAssembly in front");
    let sent = OutgoingResponse::new(headers);
    let _ = sent.set_status_code(response.status());
    let body = sent.body().expect("taken once");
    ResponseOutparam::set(answer, Ok(sent));
    if let (Ok(from), Ok(to)) = (response.consume(), body.write()) {
        if let Ok(from) = from.stream() {
            loop {
                match to.blocking_splice(&from, CHUNK) {
                    Ok(_) => {}
                    // the end, or the client is gone
                    Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => break,
                }
            }
        }
        drop(to);
    }
    let _ = OutgoingBody::finish(body, None);
}

fn refuse(answer: ResponseOutparam, why: &str) {
    let sent = OutgoingResponse::new(Fields::new());
    let _ = sent.set_status_code(502);
    let body = sent.body().expect("taken once");
    ResponseOutparam::set(answer, Ok(sent));
    if let Ok(out) = body.write() {
        let _ = out.blocking_write_and_flush(format!("{} does not answer: {why}\n", backend()).as_bytes());
        drop(out);
        let _ = OutgoingBody::finish(body, None);
    }
}
