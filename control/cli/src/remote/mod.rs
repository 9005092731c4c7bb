//! The commands that are API clients: `apply`, `get`, `logs`, `port-forward`, `delete`. They are intentionally small: kubectl is the full
//! client, and these are for machines without it.

mod apply;
mod delete;
mod dump;
mod finder;
mod get;
mod logs;
mod names;
mod notes;
mod pods;
mod port_forward;
mod resources;
mod table;
mod url;

pub(crate) use apply::{Outcome, apply_all, run as apply};
pub(crate) use delete::run as delete;
pub(crate) use dump::run as dump;
pub(crate) use get::run as get;
pub(crate) use logs::run as logs;
pub(crate) use notes::notes;
pub(crate) use port_forward::run as port_forward;
pub(crate) use resources::Resources;
pub(crate) use url::run as url;

use crate::{args::Target, data_dir::DataDir, env, exit::FROM_SERVER, kubeconfig, running};
use anyhow::bail;
use client::{Client, Error};
use http_body_util::BodyExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::{ffi::OsStr, path::Path};

/// The selected cluster.
pub(crate) struct Reached {
    pub(crate) client: Client,
    /// The namespace of objects without one.
    pub(crate) namespace: String,
    /// Its data directory, if it is on this machine.
    pub(crate) dir: Option<DataDir>,
}

impl Reached {
    /// A sampan command for this cluster, for pasting. For a remote cluster it does not include the kubeconfig.
    pub(crate) fn command(&self, command: &str) -> String {
        command_for(self.dir.as_ref(), command)
    }

    /// The same for kubectl.
    pub(crate) fn kubectl(&self) -> String {
        self.dir.as_ref().map_or_else(|| "kubectl".to_owned(), DataDir::kubectl)
    }
}

fn command_for(dir: Option<&DataDir>, command: &str) -> String {
    dir.map_or_else(|| format!("sampan {command}"), |dir| dir.client_command(command))
}

/// Connects to the cluster of --kubeconfig, else of --data-dir or $SAMPAN_DATA_DIR, else of $KUBECONFIG like kubectl, else of the default
/// data directory.
pub(crate) async fn connect(target: &Target) -> anyhow::Result<Reached> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let (config, dir) = match (&target.kubeconfig, set("KUBECONFIG")) {
        (Some(path), _) => (config_of(path).await?, None),
        (None, Some(paths)) if target.data.data_dir.is_none() && set("SAMPAN_DATA_DIR").is_none() => {
            (config_of_all(&paths).await?, None)
        }
        (None, _) => {
            let dir = DataDir::locate(target.data.data_dir.as_deref())?;
            (config_in(&dir).await?, Some(dir))
        }
    };
    let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let dir = match dir {
        Some(dir) => Some(dir),
        None => {
            let address = config.cluster_url.authority().map(|authority| authority.to_string()).unwrap_or_default();
            running::with_api(&address).map(|path| DataDir::locate(Some(&path))).transpose()?
        }
    };
    Ok(Reached { client: client(config)?, namespace, dir })
}

/// A client for the cluster of a data directory.
pub(crate) async fn connect_in(dir: &DataDir) -> anyhow::Result<Client> {
    client(config_in(dir).await?)
}

fn client(config: kube::Config) -> anyhow::Result<Client> {
    let client = kube::Client::try_from(config)
        .map_err(|error| anyhow::anyhow!("the kubeconfig is not usable: {}", words(&error)))?;
    Ok(Client::new(client))
}

async fn config_in(dir: &DataDir) -> anyhow::Result<kube::Config> {
    let path = dir.join("kubeconfig");
    if path.exists() { config_of(&path).await } else { Err(kubeconfig::absent(dir)) }
}

/// Uses a single kubeconfig.
async fn config_of(path: &Path) -> anyhow::Result<kube::Config> {
    if !path.exists() {
        bail!("no kubeconfig at {}", path.display());
    }
    let unusable = |error: &(dyn std::error::Error + 'static)| {
        anyhow::anyhow!("{} is not usable: {}", path.display(), words(error))
    };
    let file = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    config.map_err(|error| unusable(&error))
}

/// Uses the files of $KUBECONFIG that exist, merged.
async fn config_of_all(paths: &OsStr) -> anyhow::Result<kube::Config> {
    let shown = paths.to_string_lossy();
    let unusable = |error: &(dyn std::error::Error + 'static)| {
        anyhow::anyhow!("$KUBECONFIG ({shown}) is not usable: {}", words(error))
    };
    let mut whole: Option<Kubeconfig> = None;
    for path in std::env::split_paths(paths).filter(|path| path.exists()) {
        let file = Kubeconfig::read_from(&path).map_err(|error| unusable(&error))?;
        whole = Some(match whole {
            Some(whole) => whole.merge(file).map_err(|error| unusable(&error))?,
            None => file,
        });
    }
    let Some(whole) = whole else { bail!("no kubeconfig at {shown}, which $KUBECONFIG names") };
    let config = kube::Config::from_custom_kubeconfig(whole, &KubeConfigOptions::default()).await;
    config.map_err(|error| unusable(&error))
}

/// A library's error about a kubeconfig in one line: without an excerpt of the file, which contains keys, and with unquoted paths.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let text = crate::exit::causes(chain);
    text.lines().next().unwrap_or_default().replace("'\"", "'").replace("\"'", "'")
}

/// Why there was no response: the innermost cause, because the outer errors only say that they failed.
fn transport(error: &(dyn std::error::Error + 'static)) -> Error {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    Error::Transport(crate::exit::causes(innermost.into_iter()))
}

/// Sends a request. Failures of the API become errors, warnings go to standard error.
pub(crate) async fn request(
    client: &Client,
    method: http::Method,
    url: &str,
    body: Option<(&str, Vec<u8>)>,
    accept: &str,
) -> Result<(http::StatusCode, bytes::Bytes), Error> {
    let response = send(client, method, url, body, accept).await?;
    warn(&response);
    whole(response).await
}

/// Sends a GET request whose warnings are ignored, because nobody works with the objects.
pub(crate) async fn fetch(client: &Client, url: &str, accept: &str) -> Result<bytes::Bytes, Error> {
    Ok(whole(send(client, http::Method::GET, url, None, accept).await?).await?.1)
}

async fn whole(response: http::Response<kube::client::Body>) -> Result<(http::StatusCode, bytes::Bytes), Error> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| transport(&e))?.to_bytes();
    if status.is_success() { Ok((status, body)) } else { Err(Error::from_response(status.as_u16(), &body)) }
}

/// Sends a GET request and streams the response.
pub(crate) async fn stream(client: &Client, url: &str, accept: &str) -> Result<kube::client::Body, Error> {
    let response = send(client, http::Method::GET, url, None, accept).await?;
    warn(&response);
    let (status, body) = (response.status(), response.into_body());
    if status.is_success() {
        return Ok(body);
    }
    let body = body.collect().await.map_err(|e| transport(&e))?.to_bytes();
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
    client.kube().send(request).await.map_err(|e| transport(&e))
}

fn warn(response: &http::Response<kube::client::Body>) {
    for warning in response.headers().get_all(http::header::WARNING) {
        eprintln!("Warning: {}", warning_text(warning.to_str().unwrap_or_default()));
    }
}

/// The text of `299 - "text"` (RFC 7234 §5.5).
fn warning_text(header: &str) -> String {
    match header.split_once(" - \"").and_then(|(_, rest)| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => header.to_owned(),
    }
}

/// The JSON of an answer.
pub(crate) fn decode(body: &[u8]) -> anyhow::Result<serde_json::Value> {
    serde_json::from_slice(body).map_err(|error| Error::Decode(error.to_string()).into())
}

/// Success if nothing failed. Otherwise the last failure; the others were printed.
pub(crate) fn done_or_failed<T>(done: T, mut failures: Vec<anyhow::Error>) -> anyhow::Result<T> {
    let Some(last) = failures.pop() else { return Ok(done) };
    failures.iter().for_each(crate::exit::print);
    Err(last)
}

/// The failure in kubectl's form.
pub(crate) fn explain(error: Error) -> anyhow::Error {
    match error.status() {
        Some(status) if status.reason == api::Reason::Unknown => {
            anyhow::anyhow!("{FROM_SERVER}: {}", status.message)
        }
        Some(status) => anyhow::anyhow!("{FROM_SERVER} ({:?}): {}", status.reason, status.message),
        None if matches!(error, Error::Transport(_)) => {
            anyhow::anyhow!("{error}; is the cluster running? `sampan ls` lists those of this machine")
        }
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kubeconfig: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig).expect("written");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let error = runtime.block_on(async { client(config_of(&path).await?) }).err().expect("refused");
        crate::exit::text(&error).replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn a_wrong_kubeconfig_is_told_in_one_line_without_its_content() {
        let secret = refused("users: [{name: a, user: {token: s3cret}}] ][");
        assert!(!secret.contains("s3cret") && !secret.contains('\n'), "{secret}");
        assert!(secret.starts_with("error: FILE is not usable: ") && secret.contains("line 1"), "{secret}");
        let absent = refused(
            "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n\
             users: [{name: a, user: {client-certificate: /absent}}]\n\
             contexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n",
        );
        assert!(absent.ends_with("failed to read file '/absent': No such file or directory"), "{absent}");
        assert_eq!(absent.matches("No such file").count(), 1, "{absent}");
    }

    #[test]
    fn commands_that_are_told_name_the_cluster_that_was_reached() {
        let dir = DataDir::locate(Some(Path::new("/d"))).expect("a path");
        assert_eq!(command_for(Some(&dir), "delete"), "sampan delete --data-dir /d");
        assert_eq!(command_for(None, "delete"), "sampan delete");
    }

    #[test]
    fn no_answer_is_told_by_its_innermost_cause() {
        let refused = std::io::Error::from_raw_os_error(111);
        let layers =
            anyhow::Error::new(refused).context("tcp connect error").context("ServiceError: client error (Connect)");
        let error = explain(transport(layers.as_ref())).to_string();
        assert_eq!(
            error,
            "the API did not answer: Connection refused; is the cluster running? `sampan ls` lists those of this machine"
        );
    }
}
