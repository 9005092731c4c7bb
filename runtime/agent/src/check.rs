//! One check of a probe, and the HTTP and waiting forms of life-cycle hooks: through the cluster's [`Dialer`], never the host's
//! network.

use bytes::Bytes;
use container::net::{self, Body, Dialer};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Redirects that are followed, as Go's client.
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer that are read.
const MAX_BODY: usize = 10 << 10;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passed.
    Passed,
    /// Passed, with something to say: the text of an event of reason `ProbeWarning`.
    Warned(String),
    /// Failed, and why.
    Failed(String),
    /// This node cannot check that: no result.
    Unsupported(String),
}

/// Checks once, within `timeout`.
pub async fn check(
    dialer: &dyn Dialer,
    probe: &Probe,
    container: &Container,
    pod: IpAddr,
    timeout: Duration,
) -> Outcome {
    if let Some(action) = &probe.http_get {
        return http_get(dialer, action, container, pod, timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        return tcp(dialer, action, container, pod, timeout).await;
    }
    let what = if probe.grpc.is_some() { "gRPC" } else { "exec" };
    Outcome::Unsupported(format!("{what} probes are not supported by this node yet: use httpGet or tcpSocket"))
}

/// A port by number, or by the name of one of the container's ports.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let Some(number) = number else {
        let IntOrString::String(name) = port else { return Err("invalid port number".into()) };
        return Err(format!("couldn't find port: {name} in container {}", container.name));
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn host(host: Option<&str>, pod: IpAddr) -> Result<IpAddr, String> {
    match host.filter(|h| !h.is_empty()) {
        None => Ok(pod),
        Some(host) => {
            host.parse().map_err(|_| format!("host {host:?} is not an address: this node does not resolve probe hosts"))
        }
    }
}

async fn tcp(dialer: &dyn Dialer, action: &TCPSocketAction, c: &Container, pod: IpAddr, timeout: Duration) -> Outcome {
    let to = match host(action.host.as_deref(), pod).and_then(|ip| Ok(SocketAddr::new(ip, port(&action.port, c)?))) {
        Ok(to) => to,
        Err(message) => return Outcome::Failed(message),
    };
    match tokio::time::timeout(timeout, dialer.reachable(to)).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) => Outcome::Failed(dial_error(to, &error)),
        Err(_) => Outcome::Failed(format!("dial tcp {to}: i/o timeout")),
    }
}

/// In Go's words, since people search for them.
fn dial_error(to: SocketAddr, error: &net::Error) -> String {
    match error {
        net::Error::Refused(_) => format!("dial tcp {to}: connect: connection refused"),
        net::Error::TimedOut(_) => format!("dial tcp {to}: i/o timeout"),
        net::Error::Unreachable(_) => format!("dial tcp {to}: connect: no route to host"),
        net::Error::Reset(_) => format!("read tcp {to}: read: connection reset by peer"),
        other => format!("dial tcp {to}: {other}"),
    }
}

/// A GET as probes and hooks do it.
pub async fn http_get(
    dialer: &dyn Dialer,
    action: &HTTPGetAction,
    c: &Container,
    pod: IpAddr,
    timeout: Duration,
) -> Outcome {
    if action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")) {
        return Outcome::Unsupported(
            "HTTPS probes are not supported by this node yet: use scheme HTTP or tcpSocket".into(),
        );
    }
    let to = match host(action.host.as_deref(), pod).and_then(|ip| Ok(SocketAddr::new(ip, port(&action.port, c)?))) {
        Ok(to) => to,
        Err(message) => return Outcome::Failed(message),
    };
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let url = format!("http://{to}{path}");
    match tokio::time::timeout(timeout, follow(dialer, action, to, &url)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failed(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn follow(dialer: &dyn Dialer, action: &HTTPGetAction, first: SocketAddr, url: &str) -> Outcome {
    let mut uri: Uri = match url.parse() {
        Ok(uri) => uri,
        Err(error) => return Outcome::Failed(format!("parse {url:?}: {error}")),
    };
    let mut to = first;
    for _ in 0..=MAX_REDIRECTS {
        let answer = match dialer.http(to, request(action, &uri)).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failed(format!("Get {:?}: {}", uri.to_string(), dial_error(to, &error))),
        };
        let status = answer.status();
        let redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let next = location.filter(|_| redirect).and_then(|location| resolve(&uri, location));
        let Some(next) = next else { return judge(status, answer).await };
        let Some(address) = next.authority().and_then(|a| address(a.as_str())) else {
            return Outcome::Warned("Probe terminated redirects".into());
        };
        if address.ip() != first.ip() || next.scheme_str() != Some("http") {
            return Outcome::Warned("Probe terminated redirects".into());
        }
        (to, uri) = (address, next);
    }
    Outcome::Failed(format!("Get {:?}: stopped after {MAX_REDIRECTS} redirects", uri.to_string()))
}

fn address(authority: &str) -> Option<SocketAddr> {
    authority.parse().ok().or_else(|| Some(SocketAddr::new(authority.trim_matches(['[', ']']).parse().ok()?, 80)))
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = if location.starts_with('/') { location.to_owned() } else { format!("{folder}/{location}") };
    format!("http://{}{path}", base.authority()?).parse().ok()
}

fn request(action: &HTTPGetAction, uri: &Uri) -> net::Request {
    let body = Body::new(Empty::<Bytes>::new().map_err(|never| match never {}));
    let mut request = Request::new(body);
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    for own in action.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(own.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&own.value)) {
            headers.append(name, value);
        }
    }
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    }
    if !headers.contains_key(header::ACCEPT) {
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    }
    if !headers.contains_key(header::HOST)
        && let Some(host) = uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok())
    {
        headers.insert(header::HOST, host);
    }
    request
}

async fn judge(status: StatusCode, answer: net::Response) -> Outcome {
    // the answer is read so that its handler ends by itself; what is too long is cut
    let (mut body, mut read) = (answer.into_body(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_BODY {
            break;
        }
    }
    if (200..400).contains(&status.as_u16()) {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
}

#[cfg(test)]
mod tests;
