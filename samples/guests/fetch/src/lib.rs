//! A `wasi:cli/run` component. Fetches the URL of its first argument (default `http://hello/`) by outgoing wasi:http and prints the
//! answer; tries again for half a minute, since a Job may start before the Service it asks has a ready pod.

use std::io::Write;
use wasip2::{
    cli::environment::get_arguments,
    clocks::monotonic_clock::subscribe_duration,
    exports::cli::run::Guest,
    http::{
        outgoing_handler::handle,
        types::{Fields, Method, OutgoingRequest, Scheme},
    },
};

struct Fetch;

wasip2::cli::command::export!(Fetch);

const TRIES: u32 = 60;
const PAUSE_NANOSECONDS: u64 = 500_000_000;

impl Guest for Fetch {
    fn run() -> Result<(), ()> {
        let url = get_arguments().into_iter().nth(1).unwrap_or_else(|| "http://hello/".into());
        for _ in 0..TRIES {
            match fetch(&url) {
                Ok((200, text)) => {
                    print(&text);
                    return Ok(());
                }
                Ok((status, text)) => print(&format!("{url} answered {status}: {text}\n")),
                Err(error) => print(&format!("{url}: {error}\n")),
            }
            subscribe_duration(PAUSE_NANOSECONDS).block();
        }
        Err(())
    }
}

fn print(text: &str) {
    let mut out = wasip2::cli::stdout::get_stdout();
    // Nobody to tell when standard output is gone.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn fetch(url: &str) -> Result<(u16, String), String> {
    let (scheme, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (Scheme::Https, rest),
        (None, Some(rest)) => (Scheme::Http, rest),
        (None, None) => return Err("the URL must begin with http:// or https://".into()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let set = request.set_method(&Method::Get).is_ok()
        && request.set_scheme(Some(&scheme)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).is_ok();
    if !set {
        return Err("not a valid URL".into());
    }
    let pending = handle(request, None).map_err(|error| error.to_string())?;
    pending.subscribe().block();
    let response = match pending.get() {
        Some(Ok(result)) => result.map_err(|error| error.to_string())?,
        _ => return Err("no response".into()),
    };
    let status = response.status();
    let body = response.consume().map_err(|()| "the body was taken")?;
    let stream = body.stream().map_err(|()| "the body was taken")?;
    let mut bytes = Vec::new();
    while let Ok(chunk) = stream.blocking_read(64 << 10) {
        bytes.extend_from_slice(&chunk);
    }
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}
