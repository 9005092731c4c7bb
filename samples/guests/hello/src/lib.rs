//! A `wasi:http/incoming-handler` component. Answers with a greeting from its environment and the name of its pod, so that one
//! sees the Service choosing pods in turn. `/env/NAME` shows an environment variable, `/spin` and `/grow` misbehave on purpose.

use wasip2::{
    cli::environment::get_environment,
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam},
};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        match path.strip_prefix("/env/") {
            Some(name) => match variable(name) {
                Some(value) => reply(answer, 200, &format!("{value}\n")),
                None => reply(answer, 404, &format!("{name} is not set\n")),
            },
            None if path == "/spin" => loop {
                std::hint::black_box(0);
            },
            None if path == "/grow" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1u8; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            None if path == "/panic" => panic!("asked to"),
            None => {
                let greeting = variable("GREETING").unwrap_or_else(|| "Hello".into());
                let pod = variable("HOSTNAME").unwrap_or_else(|| "nobody".into());
                reply(answer, 200, &format!("{greeting} from {pod}\n"));
            }
        }
    }
}

fn variable(name: &str) -> Option<String> {
    get_environment().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn reply(answer: ResponseOutparam, status: u16, text: &str) {
    let headers = Fields::from_list(&[("content-type".into(), b"text/plain; charset=utf-8".to_vec())]).expect("valid headers");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("taken once");
    ResponseOutparam::set(answer, Ok(response));
    if let Ok(out) = body.write() {
        // The client may be gone: nothing is left to do then.
        let _ = out.blocking_write_and_flush(text.as_bytes());
        drop(out);
        let _ = OutgoingBody::finish(body, None);
    }
}
