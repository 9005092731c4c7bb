//! The health check of gRPC (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>), without TLS, with upstream's texts.

use super::{Outcome, dial_error};
use crate::backoff::go_duration;
use bytes::{BufMut, Bytes, BytesMut};
use container::net::{BoxError, Dialer};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{net::SocketAddr, time::Duration};

/// Most bytes of an answer.
const MAX_ANSWER: usize = 4 << 10;
/// A frame's head: whether it is compressed, and its length.
const HEAD: usize = 5;
/// The code of a method or service that is not there.
const UNIMPLEMENTED: u32 = 12;
/// The code of what no other says.
const UNKNOWN: u32 = 2;
/// A service that serves.
const SERVING: u64 = 1;

/// Why a call failed.
struct Status {
    code: u32,
    message: String,
}

impl Status {
    fn unknown(message: impl ToString) -> Self {
        Self { code: UNKNOWN, message: message.to_string() }
    }

    /// The name of the code, as Go prints it.
    fn name(&self) -> &'static str {
        const NAMES: [&str; 17] = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
            "DataLoss",
            "Unauthenticated",
        ];
        usize::try_from(self.code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("Unknown")
    }
}

/// Asks for the health of a service within `timeout`.
pub(super) async fn check(dialer: &dyn Dialer, to: SocketAddr, service: &str, timeout: Duration) -> Outcome {
    let late = || format!("timeout: health rpc did not complete within {}", go_duration(timeout));
    let asked = tokio::time::timeout(timeout, ask(dialer, to, service)).await;
    Outcome::Failed(match asked {
        Ok(Ok(Ok(SERVING))) => return Outcome::Passed,
        Ok(Ok(Ok(status))) => {
            let name = match status {
                0 => "UNKNOWN".to_owned(),
                2 => "NOT_SERVING".to_owned(),
                3 => "SERVICE_UNKNOWN".to_owned(),
                other => other.to_string(),
            };
            format!("service unhealthy (responded with {name:?})")
        }
        Ok(Ok(Err(status))) if status.code == UNIMPLEMENTED => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message
        ),
        Ok(Ok(Err(status))) => {
            format!("error: health rpc probe failed: rpc error: code = {} desc = {}", status.name(), status.message)
        }
        Ok(Err(why)) => format!("error: failed to connect service at \"{to}\": {why}"),
        Err(_) => late(),
    })
}

/// The status that the service answers. The outer error is that of the connection.
async fn ask(dialer: &dyn Dialer, to: SocketAddr, service: &str) -> Result<Result<u64, Status>, String> {
    let stream = dialer.connect(to).await.map_err(|error| dial_error(to, &error))?;
    let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(|error| error.to_string())?;
    // The connection ends with the sender, and with what is awaited here.
    let call = async { answer(sender.send_request(request(to, service)).await).await };
    tokio::select! {
        ended = connection => Err(ended.err().map_or_else(|| "connection closed".into(), |error| error.to_string())),
        answer = call => Ok(answer),
    }
}

fn request(to: SocketAddr, service: &str) -> Request<Full<Bytes>> {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2); // the first field, with a length
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(0));
    frame.unsplit(message);
    let request = Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36");
    request.body(Full::new(frame.freeze())).unwrap_or_default()
}

fn put_varint(to: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        to.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

async fn answer(answered: hyper::Result<Response<Incoming>>) -> Result<u64, Status> {
    let (head, body) = answered.map_err(Status::unknown)?.into_parts();
    // an error alone comes in the head
    status_of(&head.headers).unwrap_or(Ok(()))?;
    if head.status != 200 {
        let code = if head.status == 404 { UNIMPLEMENTED } else { UNKNOWN };
        let message = format!("unexpected HTTP status code received from server: {}", head.status);
        return Err(Status { code, message });
    }
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error: BoxError| Status::unknown(error))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    status_of(&trailers).unwrap_or(Ok(()))?;
    let bytes = body.to_bytes();
    match bytes.get(..HEAD) {
        Some([0, length @ ..]) => {
            let length = length.iter().fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte));
            bytes.get(HEAD..HEAD + length).and_then(health).ok_or_else(|| Status::unknown("the answer is cut off"))
        }
        _ => Err(Status::unknown("the answer has no message, or a compressed one")),
    }
}

/// What `grpc-status` says, if it is there.
fn status_of(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    Some(Err(Status { code, message: message.to_owned() }))
}

/// The first field of a `HealthCheckResponse`, which is 0 if it is not there. `None` if it cannot be read.
fn health(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            1 => message = message.get(8..)?,
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_read_whatever_else_is_in_it() {
        assert_eq!(health(&[]), Some(0));
        assert_eq!(health(&[8, 1]), Some(1));
        assert_eq!(health(&[18, 2, 8, 3, 8, 2]), Some(2), "a field that nobody knows is left out");
        assert_eq!(health(&[8]), None);
        assert_eq!(health(&[18, 9, 1]), None);
        assert_eq!(health(&[0xff; 20]), None);
    }

    #[test]
    fn a_request_names_the_service() {
        let body = |service: &str| {
            let request = request("127.0.0.1:1".parse().unwrap(), service);
            futures::executor::block_on(request.into_body().collect()).unwrap().to_bytes()
        };
        assert_eq!(&body("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&body("ab")[..], [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        let long = body(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 0x2f, 10, 0xac, 2]);
    }
}
