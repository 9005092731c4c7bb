//! A `wasi:http/handler` component of WASI 0.3. One instance may answer many requests at the same time: each awaits what it needs.
//!
//! `/` greets, with the number of the request in its instance · `/echo` answers with the request's body and trailers, as they come ·
//! `/meet/N` answers when N of them are in its instance · `/ticks` sends a line of server-sent events ten times a second ·
//! `/fetch/HOST/PATH` answers with what another server answers · `/files/PATH` reads a file of a volume, or writes it (PUT) ·
//! `/trace` shows the trace context · `/panic`, `/spin`, `/grow` and `/error` misbehave on purpose, `/late` after its answer has begun.

use std::cell::Cell;
use wasip3::{
    cli::environment::get_environment,
    clocks::monotonic_clock::wait_for,
    exports::http::handler::Guest,
    filesystem::{
        preopens::get_directories,
        types::{DescriptorFlags, OpenFlags, PathFlags},
    },
    http::{
        client::send,
        types::{ErrorCode, Fields, Method, Request, Response, Scheme, Trailers},
    },
    wit_bindgen::{FutureReader, StreamReader, spawn_local},
    wit_future, wit_stream,
};

struct Hello;

wasip3::http::service::export!(Hello);

const TICK_NANOSECONDS: u64 = 100_000_000;

thread_local! {
    /// Requests that this instance has begun to answer.
    static COUNT: Cell<u32> = const { Cell::new(0) };
    /// Requests of `/meet` that have come.
    static WAITING: Cell<usize> = const { Cell::new(0) };
}

type TrailersFuture = FutureReader<Result<Option<Trailers>, ErrorCode>>;

impl Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let number = COUNT.get() + 1;
        COUNT.set(number);
        let url = request.get_path_with_query().unwrap_or_default();
        let path = url.split('?').next().unwrap_or_default().to_owned();
        let (first, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        match first {
            "echo" => Ok(echo(request)),
            "meet" => {
                meet(rest.parse().unwrap_or(1)).await;
                Ok(text(200, format!("{number}\n")))
            }
            "ticks" => Ok(ticks()),
            "fetch" => fetch(rest).await,
            "files" => files(request, rest).await,
            "trace" => {
                let parents = request.get_headers().get("traceparent");
                Ok(text(200, parents.iter().map(|parent| String::from_utf8_lossy(parent).into_owned()).collect()))
            }
            "panic" => panic!("asked to"),
            "spin" => loop {
                std::hint::black_box(0);
            },
            "grow" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            "late" => Ok(late()),
            "error" => Err(ErrorCode::LoopDetected),
            _ => {
                let greeting = variable("GREETING").unwrap_or_else(|| "Hello".into());
                let pod = variable("HOSTNAME").unwrap_or_else(|| "nobody".into());
                Ok(text(200, format!("{greeting} from {pod}, request {number}\n")))
            }
        }
    }
}

fn variable(name: &str) -> Option<String> {
    get_environment().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn response(status: u16, kind: &str, body: StreamReader<u8>, trailers: TrailersFuture) -> Response {
    let headers = Fields::from_list(&[("content-type".into(), kind.as_bytes().to_vec())]).expect("valid headers");
    let (response, _sent) = Response::new(headers, Some(body), trailers);
    response.set_status_code(status).expect("a valid status");
    response
}

fn no_trailers() -> TrailersFuture {
    wit_future::new(|| Ok(None)).1
}

fn text(status: u16, text: String) -> Response {
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        writer.write_all(text.into_bytes()).await;
    });
    response(status, "text/plain; charset=utf-8", reader, no_trailers())
}

fn body_of(request: Request) -> (StreamReader<u8>, TrailersFuture) {
    Request::consume_body(request, wit_future::new(|| Ok(())).1)
}

/// Reads and writes piece by piece, so that an answer begins before its request has ended.
fn echo(request: Request) -> Response {
    let (mut incoming, trailers) = body_of(request);
    let (mut writer, reader) = wit_stream::new();
    let (trailers_writer, trailers_reader) = wit_future::new(|| Ok(None));
    spawn_local(async move {
        loop {
            let (result, piece) = incoming.read(Vec::with_capacity(16 << 10)).await;
            let gone = !writer.write_all(piece).await.is_empty();
            if gone || matches!(result, wasip3::wit_bindgen::StreamResult::Dropped) {
                break;
            }
        }
        drop(writer);
        // The client may be gone.
        let _ = trailers_writer.write(trailers.await).await;
    });
    response(200, "application/octet-stream", reader, trailers_reader)
}

async fn meet(count: usize) {
    WAITING.set(WAITING.get() + 1);
    while WAITING.get() < count {
        wait_for(TICK_NANOSECONDS / 20).await;
    }
}

fn ticks() -> Response {
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        let mut number = 0_u64;
        while writer.write_all(format!("data: {number}\n\n").into_bytes()).await.is_empty() {
            number += 1;
            wait_for(TICK_NANOSECONDS).await;
        }
    });
    response(200, "text/event-stream", reader, no_trailers())
}

fn late() -> Response {
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        writer.write_all(b"so far so good\n".to_vec()).await;
        panic!("asked to");
    });
    response(200, "text/plain", reader, no_trailers())
}

async fn fetch(rest: &str) -> Result<Response, ErrorCode> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers(), None);
    let set = request.set_method(&Method::Get).is_ok()
        && request.set_scheme(Some(&Scheme::Http)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(&format!("/{path}"))).is_ok();
    if !set {
        return Ok(text(400, "not a valid URL\n".into()));
    }
    let answer = match send(request).await {
        Ok(answer) => answer,
        Err(error) => return Ok(text(502, format!("{error:?}\n"))),
    };
    let status = answer.get_status_code();
    let (body, trailers) = Response::consume_body(answer, wit_future::new(|| Ok(())).1);
    Ok(response(status, "text/plain", body, trailers))
}

/// `PATH` is that of a mounted folder and a file in it: `/files/data/a.txt`.
async fn files(request: Request, path: &str) -> Result<Response, ErrorCode> {
    let path = format!("/{path}");
    let folders = get_directories();
    let found = folders.iter().find_map(|(folder, name)| Some((folder, path.strip_prefix(name.as_str())?.strip_prefix('/')?)));
    let Some((folder, name)) = found else {
        return Ok(text(404, format!("no volume has {path}\n")));
    };
    let put = matches!(request.get_method(), Method::Put);
    let (flags, mode) = match put {
        true => (OpenFlags::CREATE | OpenFlags::TRUNCATE, DescriptorFlags::WRITE),
        false => (OpenFlags::empty(), DescriptorFlags::READ),
    };
    let file = match folder.open_at(PathFlags::SYMLINK_FOLLOW, name.into(), flags, mode).await {
        Ok(file) => file,
        Err(error) => return Ok(text(403, format!("{path}: {error:?}\n"))),
    };
    if put {
        let written = file.write_via_stream(body_of(request).0, 0).await;
        return Ok(match written {
            Ok(()) => text(201, "written\n".into()),
            Err(error) => text(507, format!("{path}: {error:?}\n")),
        });
    }
    let (content, _read) = file.read_via_stream(0);
    Ok(response(200, "application/octet-stream", content, no_trailers()))
}
