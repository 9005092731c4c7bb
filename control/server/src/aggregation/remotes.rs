//! The way to other API servers: connections, and requests of this server itself.

use super::{
    found::Found,
    registration::{Aggregation, Registered, Remote},
    swagger::Merged,
};
use crate::{
    User,
    context::Objects,
    dialer::{Dialer, Stream},
    outbound::{Configurations, Trust},
    proxy,
};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use rustls::pki_types::ServerName;
use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a connection and its handshake may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long an answer to this server itself may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest such answer, bytes.
const MAX_ANSWER: usize = 8 << 20;

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// As whom the server itself asks, with upstream's name.
static ITSELF: LazyLock<User> = LazyLock::new(|| User::new("system:kube-aggregator", &["system:masters"]));

/// What is registered, and the way there.
pub(crate) struct Remotes {
    aggregation: Aggregation,
    dialer: Arc<dyn Dialer>,
    tls: Configurations,
    found: Found,
    swagger: Merged,
}

/// An answer to the server itself.
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Remotes {
    pub(crate) fn new(aggregation: Aggregation, dialer: Arc<dyn Dialer>) -> Self {
        Self {
            aggregation,
            dialer,
            tls: Configurations::default(),
            found: Found::default(),
            swagger: Merged::default(),
        }
    }

    /// What is registered now.
    pub(crate) fn registered(&self, objects: &dyn Objects) -> Arc<Registered> {
        self.aggregation.registered.read(objects)
    }

    /// What is known of the documents of the servers.
    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// The OpenAPI v2 document with what other servers add.
    pub(crate) fn swagger(&self) -> &Merged {
        &self.swagger
    }

    /// The address of a server.
    ///
    /// # Errors
    /// There is no such Service, or it has no such port.
    pub(crate) fn address(&self, objects: &dyn Objects, remote: &Remote) -> Result<SocketAddr, String> {
        (self.aggregation.resolve)(objects, &remote.namespace, &remote.name, remote.port)
    }

    /// A connection to a server.
    ///
    /// # Errors
    /// It cannot be reached, or is not trusted.
    pub(crate) async fn open(&self, remote: &Remote, to: SocketAddr) -> Result<Stream, String> {
        let pair = self.aggregation.front_proxy.pair();
        let trust = Trust { authorities: &remote.authorities, insecure: remote.insecure, identity: Some(&pair) };
        let config = self.tls.get(&trust)?;
        let name = format!("{}.{}.svc", remote.name, remote.namespace);
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        let connected = async {
            let stream = self.dialer.connect(to).await.map_err(|e| format!("dial tcp {to}: {e}"))?;
            TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())
        };
        let stream = timeout(CONNECT, connected).await.map_err(|_| format!("dial tcp {to}: i/o timeout"))??;
        Ok(Box::new(stream))
    }

    /// Asks a server for a document, as the server itself.
    ///
    /// # Errors
    /// It does not answer in time, or with too much.
    pub(crate) async fn get(
        &self,
        objects: &dyn Objects,
        remote: &Remote,
        path: &str,
        accept: &'static str,
    ) -> Result<Answer, String> {
        let to = self.address(objects, remote)?;
        let asked = async {
            let stream = self.open(remote, to).await?;
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse::<Uri>().map_err(|e| e.to_string())?;
            let headers = request.headers_mut();
            headers.insert(header::HOST, HeaderValue::from_str(&to.to_string()).map_err(|e| e.to_string())?);
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-aggregator"));
            headers.extend(told(&ITSELF).ok_or("the user cannot be told")?);
            let response = proxy::exchange(stream, request).await.map_err(|e| e.to_string())?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok(Answer { code: parts.status, headers: parts.headers, body })
        };
        timeout(ANSWER, asked).await.map_err(|_| "context deadline exceeded".to_owned())?
    }
}

/// The headers that tell a server who asks. `None`: a header cannot say it.
pub(crate) fn told(user: &User) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::from_bytes(format!("{EXTRA}{}", escaped(key)).as_bytes()).ok()?;
        for one in values {
            headers.append(name.clone(), value(one)?);
        }
    }
    Some(headers)
}

/// Removes what a client says about users: only this server may.
pub(crate) fn forget(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| [USER, UID, GROUP].contains(name) || name.as_str().starts_with(EXTRA))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// A key as part of a header's name: what is legal there, but for `%`, stays.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte.into()),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => {
                out.push(byte.into());
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_server_is_told_who_asks() {
        let mut user = User::new("bob", &["a", "system:authenticated"]);
        user.uid = "7".to_owned();
        user.extra.insert("example.com/Scope%".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        let expected = [
            "x-remote-extra-example.com%2fscope%25: x",
            "x-remote-extra-example.com%2fscope%25: y",
            "x-remote-group: a",
            "x-remote-group: system:authenticated",
            "x-remote-uid: 7",
            "x-remote-user: bob",
        ];
        assert_eq!(shown(&told(&user).expect("headers")), expected);
        assert_eq!(shown(&told(&User::new("ä", &[])).expect("headers")), ["x-remote-user: ä"]);
        assert!(told(&User::new("a\nx-remote-group: system:masters", &[])).is_none());
        assert!(told(&User::new("a", &["b\r\n"])).is_none());
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "X-Remote-Group", "x-remote-uid", "x-remote-extra-a", "x-remote", "accept"] {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), HeaderValue::from_static("v"));
        }
        forget(&mut headers);
        assert_eq!(shown(&headers), ["accept: v", "x-remote: v"]);
    }
}
