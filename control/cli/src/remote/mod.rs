//! The commands that talk to a cluster as any client does: `apply`, `get`, `logs`, `delete`. Small on purpose: kubectl is the full
//! client, these are for machines that lack one.

mod apply;
mod delete;
mod get;
mod logs;
mod names;
mod pods;
mod resources;
mod table;

pub(crate) use apply::{Outcome, apply_all, run as apply};
pub(crate) use delete::run as delete;
pub(crate) use get::run as get;
pub(crate) use logs::run as logs;
pub(crate) use resources::Resources;

use crate::{args::Target, data_dir::DataDir};
use anyhow::{Context, bail};
use client::{Client, Error};
use http_body_util::BodyExt;
use std::path::Path;

/// A client for the cluster that the arguments name.
pub(crate) async fn connect(target: &Target) -> anyhow::Result<Client> {
    let path = match &target.kubeconfig {
        Some(path) => path.clone(),
        None => DataDir::locate(target.data.data_dir.as_deref())?.join("kubeconfig"),
    };
    connect_with(&path).await
}

/// A client by kubeconfig.
pub(crate) async fn connect_with(path: &Path) -> anyhow::Result<Client> {
    if !path.exists() {
        bail!("no kubeconfig at {}: start a cluster first with `sampan up`", path.display());
    }
    let file = kube::config::Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
        .await
        .with_context(|| format!("{} is not usable", path.display()))?;
    Ok(Client::new(kube::Client::try_from(config).context("cannot make a client")?))
}

/// One request; a failure of the API becomes its own error, warnings go to stderr.
pub(crate) async fn request(
    client: &Client,
    method: http::Method,
    url: &str,
    body: Option<(&str, Vec<u8>)>,
    accept: &str,
) -> Result<(http::StatusCode, bytes::Bytes), Error> {
    let response = send(client, method, url, body, accept).await?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| Error::Transport(e.to_string()))?.to_bytes();
    if status.is_success() { Ok((status, body)) } else { Err(Error::from_response(status.as_u16(), &body)) }
}

/// GET whose body is read as it comes.
pub(crate) async fn stream(client: &Client, url: &str, accept: &str) -> Result<kube::client::Body, Error> {
    let response = send(client, http::Method::GET, url, None, accept).await?;
    let (status, body) = (response.status(), response.into_body());
    if status.is_success() {
        return Ok(body);
    }
    let body = body.collect().await.map_err(|e| Error::Transport(e.to_string()))?.to_bytes();
    Err(Error::from_response(status.as_u16(), &body))
}

async fn send(
    client: &Client,
    method: http::Method,
    url: &str,
    body: Option<(&str, Vec<u8>)>,
    accept: &str,
) -> Result<http::Response<kube::client::Body>, Error> {
    let mut request = http::Request::builder().method(method).uri(url).header(http::header::ACCEPT, accept);
    if let Some((kind, _)) = &body {
        request = request.header(http::header::CONTENT_TYPE, *kind);
    }
    let body = body.map(|(_, bytes)| bytes).unwrap_or_default();
    let request = request.body(kube::client::Body::from(body)).map_err(|e| Error::Decode(e.to_string()))?;
    let response = client.kube().send(request).await.map_err(|e| Error::Transport(e.to_string()))?;
    for warning in response.headers().get_all(http::header::WARNING) {
        eprintln!("Warning: {}", warning_text(warning.to_str().unwrap_or_default()));
    }
    Ok(response)
}

/// The text of `299 - "text"` (RFC 7234 §5.5).
fn warning_text(header: &str) -> String {
    match header.split_once(" - \"").and_then(|(_, rest)| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => header.to_owned(),
    }
}

/// What was done if nothing failed; else the last failure, the others printed before it.
pub(crate) fn done_or_failed<T>(done: T, mut failures: Vec<anyhow::Error>) -> anyhow::Result<T> {
    let Some(last) = failures.pop() else { return Ok(done) };
    for failure in &failures {
        eprintln!("{}", crate::exit::told(failure));
    }
    Err(last)
}

/// How kubectl begins what the server refused.
pub(crate) const FROM_SERVER: &str = "Error from server";

/// The failure as kubectl prints it.
pub(crate) fn explain(error: Error) -> anyhow::Error {
    match error.status() {
        Some(status) if status.reason == api::Reason::Unknown => {
            anyhow::anyhow!("{FROM_SERVER}: {}", status.message)
        }
        Some(status) => anyhow::anyhow!("{FROM_SERVER} ({:?}): {}", status.reason, status.message),
        None => anyhow::Error::new(error).context("is the cluster running? start it with `sampan up`"),
    }
}
