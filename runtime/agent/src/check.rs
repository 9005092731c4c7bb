//! The checks of probes: through the cluster's [`Dialer`], never the host's network, or by a command in the container.

mod grpc;
mod https;

use crate::{backoff::go_duration, command, env, expand::expand};
use bytes::Bytes;
use container::{
    ContainerId, Runtime,
    net::{self, Body, Dialer},
};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// The maximum number of redirects, as of Go's client.
const MAX_REDIRECTS: usize = 10;
const HTTP: &str = "http";
const HTTPS: &str = "https";
/// The maximum number of bytes to read of a response.
const MAX_BODY: usize = 10 << 10;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Passed,
    /// It succeeded with a warning, which is the message of an event with the reason `ProbeWarning`.
    Warned(String),
    /// It failed, with this message.
    Failed(String),
    /// It could not be made, with this message. It has no result.
    Errored(String),
}

/// How the node accesses a running container.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Connects to its ports.
    pub dialer: &'a dyn Dialer,
    /// The runtime that runs it.
    pub runtime: &'a dyn Runtime,
    /// The id of the attempt.
    pub id: &'a ContainerId,
    /// The address of its pod.
    pub address: IpAddr,
}

/// Makes one check within `timeout`.
pub async fn check(access: Access<'_>, probe: &Probe, container: &Container, timeout: Duration) -> Outcome {
    let Access { dialer, address, .. } = access;
    if let Some(action) = &probe.exec {
        return exec(access, action, container, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        return http_get(dialer, action, container, address, timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        return tcp(dialer, action, container, address, timeout).await;
    }
    match &probe.grpc {
        Some(action) => {
            let Ok(port) = port(&IntOrString::Int(action.port), container) else {
                return Outcome::Errored(format!("invalid port number: {}", action.port));
            };
            let service = action.service.as_deref().unwrap_or_default();
            grpc::check(dialer, SocketAddr::new(address, port), service, timeout).await
        }
        None => Outcome::Errored("missing probe handler".into()),
    }
}

/// Runs a command in the container. It succeeds with exit code 0. A command that cannot be started has no result.
async fn exec(access: Access<'_>, action: &ExecAction, container: &Container, timeout: Duration) -> Outcome {
    let Some(command) = static_command(action, container) else {
        return Outcome::Errored("the command is too long".into());
    };
    let line = command.join(" ");
    match tokio::time::timeout(timeout, command::run(access.runtime, access.id, command)).await {
        Ok(Ok(ended)) if ended.code == 0 => Outcome::Passed,
        Ok(Ok(ended)) => Outcome::Failed(ended.output),
        Ok(Err(error)) => Outcome::Errored(error.to_string()),
        Err(_) => Outcome::Failed(format!("command timed out: {line:?} timed out after {}", go_duration(timeout))),
    }
}

/// The command with `$(NAME)` expanded from the container's `env`. Variables with a `valueFrom` are empty, as in upstream's
/// `ExpandContainerCommandOnlyStatic`. `None` if it is too long.
fn static_command(action: &ExecAction, container: &Container) -> Option<Vec<String>> {
    let own = container.env.iter().flatten();
    let variables: HashMap<_, _> = own.map(|e| (e.name.as_str(), e.value.as_deref().unwrap_or_default())).collect();
    let mut budget = env::MAX_BYTES;
    let one = |text: &String| {
        let text = expand(text, budget, |name| variables.get(name).copied())?;
        budget -= text.len();
        Some(text)
    };
    action.command.iter().flatten().map(one).collect()
}

/// The port with this number, or the container's port with this name.
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
        Err(message) => return Outcome::Errored(message),
    };
    match tokio::time::timeout(timeout, dialer.reachable(to)).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) => Outcome::Failed(dial_error(to, &error)),
        Err(_) => Outcome::Failed(format!("dial tcp {to}: i/o timeout")),
    }
}

/// An error in Go's words, which users search for.
fn dial_error(to: SocketAddr, error: &net::Error) -> String {
    match error {
        net::Error::Refused(_) => format!("dial tcp {to}: connect: connection refused"),
        net::Error::TimedOut(_) => format!("dial tcp {to}: i/o timeout"),
        net::Error::Unreachable(_) => format!("dial tcp {to}: connect: no route to host"),
        net::Error::Reset(_) => format!("read tcp {to}: read: connection reset by peer"),
        other => format!("dial tcp {to}: {other}"),
    }
}

async fn http_get(
    dialer: &dyn Dialer,
    action: &HTTPGetAction,
    c: &Container,
    pod: IpAddr,
    timeout: Duration,
) -> Outcome {
    let (to, url) = match target(action, c, pod) {
        Ok(target) => target,
        Err(message) => return Outcome::Errored(message),
    };
    match tokio::time::timeout(timeout, follow(dialer, action, to, &url, "probe")).await {
        Ok(Ok(Answer::Status(status))) if (200..400).contains(&status.as_u16()) => Outcome::Passed,
        Ok(Ok(Answer::Status(status))) => {
            Outcome::Failed(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
        Ok(Ok(Answer::ForeignRedirect)) => Outcome::Warned("Probe terminated redirects".into()),
        Ok(Err(text)) => Outcome::Failed(text),
        Err(_) => Outcome::Failed(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// Sends the GET request of a hook. Any response is a success. The error is the message for the user.
pub(crate) async fn http_hook(access: Access<'_>, action: &HTTPGetAction, c: &Container) -> Result<(), String> {
    let (to, url) = target(action, c, access.address)?;
    follow(access.dialer, action, to, &url, "lifecycle").await.map(drop)
}

/// The address and URL of a GET request.
fn target(action: &HTTPGetAction, c: &Container, pod: IpAddr) -> Result<(SocketAddr, String), String> {
    let is_https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case(HTTPS));
    let scheme = if is_https { HTTPS } else { HTTP };
    let to = SocketAddr::new(host(action.host.as_deref(), pod)?, port(&action.port, c)?);
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((to, format!("{scheme}://{to}{path}")))
}

/// The result of a GET request.
enum Answer {
    Status(StatusCode),
    /// A redirect to another host, which was not followed.
    ForeignRedirect,
}

async fn follow(
    dialer: &dyn Dialer,
    action: &HTTPGetAction,
    first: SocketAddr,
    url: &str,
    agent: &str,
) -> Result<Answer, String> {
    let mut uri: Uri = url.parse().map_err(|error| format!("parse {url:?}: {error}"))?;
    let mut to = first;
    for _ in 0..=MAX_REDIRECTS {
        let asked = request(action, &uri, agent);
        let answer = match uri.scheme_str() {
            Some(HTTPS) => https::send(dialer, to, asked).await,
            _ => dialer.http(to, asked).await.map_err(|error| dial_error(to, &error)),
        };
        let answer = answer.map_err(|why| format!("Get {:?}: {why}", uri.to_string()))?;
        let status = answer.status();
        let redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let next = location.filter(|_| redirect).and_then(|location| resolve(&uri, location));
        let Some(next) = next else {
            read(answer).await;
            return Ok(Answer::Status(status));
        };
        let usual = match next.scheme_str() {
            Some(HTTP) => 80,
            Some(HTTPS) => 443,
            _ => return Ok(Answer::ForeignRedirect),
        };
        let Some(address) = next.authority().and_then(|authority| address(authority.as_str(), usual)) else {
            return Ok(Answer::ForeignRedirect);
        };
        if address.ip() != first.ip() {
            return Ok(Answer::ForeignRedirect);
        }
        (to, uri) = (address, next);
    }
    Err(format!("Get {:?}: stopped after {MAX_REDIRECTS} redirects", uri.to_string()))
}

fn address(authority: &str, usual: u16) -> Option<SocketAddr> {
    authority.parse().ok().or_else(|| Some(SocketAddr::new(authority.trim_matches(['[', ']']).parse().ok()?, usual)))
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = if location.starts_with('/') { location.to_owned() } else { format!("{folder}/{location}") };
    format!("{}://{}{path}", base.scheme_str()?, base.authority()?).parse().ok()
}

fn request(action: &HTTPGetAction, uri: &Uri, agent: &str) -> net::Request {
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
    if !headers.contains_key(header::USER_AGENT)
        && let Ok(agent) = HeaderValue::try_from(format!("kube-{agent}/1.36"))
    {
        headers.insert(header::USER_AGENT, agent);
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

/// Reads the response, so that its handler can complete. Stops at [`MAX_BODY`].
async fn read(answer: net::Response) {
    let (mut body, mut read) = (answer.into_body(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_BODY {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
