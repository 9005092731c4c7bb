//! Calls from the server to webhooks: HTTPS to an address, or to a Service of the cluster. Admission and conversion use it. Follows
//! upstream's `apiserver/pkg/util/webhook`.

use crate::{
    context::Objects,
    dialer::{Dialer, Stream},
    outbound::{Configurations, Resolve, Trust},
    proxy,
};
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Limited};
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::{
    fmt::Display,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest answer of a webhook, bytes: as long as a request to the server.
const MAX_ANSWER: usize = 3 << 20;

/// Where a webhook is: `clientConfig` of its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An address on the network of the server, or a Service of the cluster.
    pub target: Target,
    /// The authorities that may have signed its certificate, in PEM; empty: those of the system.
    pub authorities: Vec<u8>,
}

/// The target of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `https://host[:port]/path`.
    Url(String),
    /// A Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The path, or empty.
        path: String,
        /// Its port.
        port: u16,
    },
}

impl Endpoint {
    /// From a `clientConfig`. `None`: it names neither an address nor a Service.
    pub fn parse(config: &Value) -> Option<Self> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let target = match (config.get("url").and_then(Value::as_str), config.get("service")) {
            (Some(url), _) => Target::Url(url.to_owned()),
            (None, Some(service)) if service.is_object() => Target::Service {
                namespace: text(service, "namespace"),
                name: text(service, "name"),
                path: text(service, "path"),
                port: service.get("port").and_then(Value::as_u64).and_then(|port| port.try_into().ok()).unwrap_or(443),
            },
            _ => return None,
        };
        let authorities = STANDARD.decode(text(config, "caBundle")).unwrap_or_default();
        Some(Self { target, authorities })
    }

    /// The address of the call, as errors name it.
    pub fn url(&self) -> String {
        match &self.target {
            Target::Url(url) => url.clone(),
            Target::Service { namespace, name, path, port } => {
                let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
        }
    }
}

/// The server whose webhooks are called, as far as a call needs it.
pub(crate) trait Home: Send + Sync {
    /// Its objects, among which Services are looked up; `None` once it has ended.
    fn objects(&self) -> Option<Arc<dyn Objects>>;

    /// A fresh uid.
    fn uid(&self) -> String;
}

/// Calls webhooks. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    dialer: Arc<dyn Dialer>,
    resolve: Resolve,
    /// The server that calls, once there is one.
    server: OnceLock<Box<dyn Home>>,
    tls: Configurations,
}

impl Webhooks {
    /// Services are found by `resolve`, and reached by `dialer`.
    pub fn new(dialer: Arc<dyn Dialer>, resolve: Resolve) -> Self {
        Self(Arc::new(Inner { dialer, resolve, server: OnceLock::new(), tls: Configurations::default() }))
    }

    /// The server that calls; the first one counts.
    pub(crate) fn attach(&self, server: Box<dyn Home>) {
        let _first = self.0.server.set(server);
    }

    /// A uid for a request to a webhook; empty before there is a server.
    pub fn uid(&self) -> String {
        self.0.server.get().map(|server| server.uid()).unwrap_or_default()
    }

    /// Posts a JSON document; the answer is one, too.
    ///
    /// # Errors
    /// As of [`Webhooks::post`], and that the answer is no JSON.
    pub async fn call(
        &self,
        endpoint: &Endpoint,
        query: &str,
        document: &Value,
        timeout: Duration,
    ) -> Result<Value, String> {
        let body = self.post(endpoint, query, document, timeout).await?;
        serde_json::from_slice(&body).map_err(|error| format!("the answer is not JSON: {error}"))
    }

    /// Posts a JSON document. Returns the body of the answer.
    ///
    /// # Errors
    /// The text of upstream's client: it cannot be reached, is not trusted, does not answer in time, or answers an error.
    pub async fn post(
        &self,
        endpoint: &Endpoint,
        query: &str,
        document: &Value,
        timeout: Duration,
    ) -> Result<Bytes, String> {
        let url = endpoint.url();
        let url =
            if query.is_empty() { url } else { format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' }) };
        let failed = |e: &dyn Display| format!("Post {url:?}: {e}");
        let answer = tokio::time::timeout(timeout, self.exchange(endpoint, &url, document)).await;
        let (code, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&"context deadline exceeded")),
        };
        if !(200..300).contains(&code) {
            let text = String::from_utf8_lossy(&body);
            let text: String = text.trim().chars().take(512).collect();
            return Err(match code {
                404 => "the server could not find the requested resource".to_owned(),
                _ => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
            });
        }
        Ok(body)
    }

    async fn exchange(&self, endpoint: &Endpoint, url: &str, document: &Value) -> Result<(u16, Bytes), String> {
        let uri: Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = self.connect(endpoint, &host, uri.port_u16().unwrap_or(443)).await?;
        let config = self.0.tls.get(&Trust { authorities: &endpoint.authorities, ..Trust::default() })?;
        let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let body = serde_json::to_vec(document).expect("JSON values serialise");
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, uri.authority().map_or(host.as_str(), |authority| authority.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Body::from(body))
            .map_err(|e| e.to_string())?;
        let response = proxy::exchange(Box::new(stream), request).await.map_err(|e| e.to_string())?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        Ok((code, body.to_bytes()))
    }

    async fn connect(&self, endpoint: &Endpoint, host: &str, port: u16) -> Result<Stream, String> {
        let failed = |to: &dyn Display, error: io::Error| match error.kind() {
            // As Go says it.
            io::ErrorKind::ConnectionRefused => format!("dial tcp {to}: connect: connection refused"),
            _ => format!("dial tcp {to}: {error}"),
        };
        match &endpoint.target {
            Target::Url(_) => {
                let stream =
                    TcpStream::connect((host, port)).await.map_err(|e| failed(&format!("{host}:{port}"), e))?;
                Ok(Box::new(stream))
            }
            Target::Service { namespace, name, port, .. } => {
                let objects = self.0.server.get().and_then(|server| server.objects());
                let objects = objects.ok_or("the server has ended")?;
                let to = (self.0.resolve)(&*objects, namespace, name, *port)?;
                self.0.dialer.connect(to).await.map_err(|e| failed(&to, e))
            }
        }
    }
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
