//! The registry protocol (OCI distribution specification), as far as pulls and pushes need it.
//!
//! It uses the HTTP client directly, because every response of a registry, manifests, tokens and errors included, must be limited in size
//! and time.

use crate::{Credential, Digest, Limits, Reference, error::Fault, manifest::ACCEPT, options::Proxies};
use parking_lot::Mutex;
use reqwest::{
    Client, ClientBuilder, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT as ACCEPT_HEADER, AUTHORIZATION, CONTENT_RANGE, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE},
    redirect,
};
use serde::Deserialize;
use std::{net::IpAddr, time::Duration};
use tokio::time::timeout;

/// Longest error body and token that is read, bytes.
const SMALL: u64 = 64 << 10;
/// Sent per request of an upload, bytes.
const PUSH_CHUNK: usize = 8 << 20;
const MAX_REDIRECTS: usize = 5;

/// Creates the HTTP client. It reads neither environment nor proxy settings of the system; it uses the crypto provider of the process, and the
/// certificate authorities of the system.
pub(crate) fn client(roots: &[Vec<u8>], proxies: &Proxies, limits: &Limits) -> Result<Client, String> {
    let mut extra = Vec::new();
    for pem in roots {
        let found =
            reqwest::Certificate::from_pem_bundle(pem).map_err(|error| format!("extra certificates: {error}"))?;
        extra.extend(found);
    }
    let system = builder(proxies, limits)?.tls_certs_merge(extra.clone()).build();
    // Registries with plain HTTP or given authorities must also work on a system without authorities.
    let only = |error: reqwest::Error| {
        tracing::warn!(error = chain(&error), "the certificate authorities of the system cannot be used");
        builder(proxies, limits)?.tls_certs_only(extra).build().map_err(|error| chain(&error))
    };
    system.or_else(only)
}

fn builder(proxies: &Proxies, limits: &Limits) -> Result<ClientBuilder, String> {
    let redirects = redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("too many redirects");
        }
        if attempt.previous().iter().any(|url| url.scheme() == "https") && attempt.url().scheme() != "https" {
            return attempt.error("redirect from https to http");
        }
        match attempt.previous().iter().find_map(|from| may_redirect(from, attempt.url()).err()) {
            Some(why) => attempt.error(format!("the registry leads to an address that {why}")),
            None => attempt.follow(),
        }
    });
    let mut builder = Client::builder()
        .no_proxy()
        .user_agent(concat!("sampan/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect)
        .read_timeout(limits.idle)
        .pool_idle_timeout(Duration::from_secs(10))
        .redirect(redirects);
    let direct = format!("localhost,127.0.0.0/8,::1,{}", proxies.no_proxy.as_deref().unwrap_or_default());
    let direct = reqwest::NoProxy::from_string(&direct);
    if let Some(url) = &proxies.https {
        let proxy = reqwest::Proxy::https(url).map_err(|error| format!("proxy for https: {error}"))?;
        builder = builder.proxy(proxy.no_proxy(direct.clone()));
    }
    if let Some(url) = &proxies.http {
        let proxy = reqwest::Proxy::http(url).map_err(|error| format!("proxy for http: {error}"))?;
        builder = builder.proxy(proxy.no_proxy(direct));
    }
    Ok(builder)
}

/// A session with one repository and one credential.
pub(crate) struct Session {
    http: Client,
    limits: Limits,
    /// `https://host/v2/path`
    base: String,
    credential: Option<Credential>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Session {
    pub(crate) async fn open(
        http: Client,
        limits: Limits,
        image: &Reference,
        credential: Option<Credential>,
    ) -> Result<Self, Fault> {
        let host = if image.domain == "docker.io" { "registry-1.docker.io" } else { &image.domain };
        let scheme = scheme(&http, &limits, host).await?;
        let base = format!("{scheme}://{host}/v2/{}", image.path);
        Ok(Self { http, limits, base, credential, authorization: Mutex::new(None) })
    }

    /// The manifest or index of a tag or digest, of limited length, and verified if a digest is known.
    pub(crate) async fn manifest(&self, image: &Reference, digest: Option<Digest>) -> Result<Vec<u8>, Fault> {
        let digest = digest.or(image.digest);
        let reference = digest.map(|digest| digest.to_string()).or(image.tag.clone()).unwrap_or_default();
        let url = self.url(&format!("manifests/{reference}"))?;
        let accept = ACCEPT.join(", ");
        let response = self.send(|| self.http.get(url.clone()).header(ACCEPT_HEADER, &accept)).await?;
        let claimed =
            response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = self.body(response, self.limits.manifest).await?;
        let found = Digest::of(&bytes);
        match digest.or(claimed) {
            Some(expected) if expected != found => {
                Err(Fault::content(format!("the manifest of {expected} has digest {found}")))
            }
            _ => Ok(bytes),
        }
    }

    /// The content of a blob from an offset on, and the offset at which the response really begins.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<(Response, u64), Fault> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let ask = || match offset {
            0 => self.http.get(url.clone()),
            _ => self.http.get(url.clone()).header(RANGE, format!("bytes={offset}-")),
        };
        let response = self.send(ask).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((response, 0));
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        match range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()) {
            Some(start) => Ok((response, start)),
            None => Err(Fault::content("the registry sent a part of a blob without saying which")),
        }
    }

    /// Whether the registry has a blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, Fault> {
        let url = self.url(&format!("blobs/{digest}"))?;
        match self.send(|| self.http.head(url.clone())).await {
            Ok(_) => Ok(true),
            Err(Fault::NotFound(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Uploads a blob in chunks; `read` returns the next one, and an empty one at the end.
    pub(crate) async fn push_blob(
        &self,
        digest: &Digest,
        mut read: impl AsyncFnMut(usize) -> Result<Vec<u8>, Fault>,
    ) -> Result<(), Fault> {
        let start = self.url("blobs/uploads/")?;
        let mut at = self.location(&self.send(|| self.http.post(start.clone()).header("content-length", 0)).await?)?;
        let mut sent = 0;
        loop {
            let piece = read(PUSH_CHUNK).await?;
            if piece.is_empty() {
                break;
            }
            let range = format!("{sent}-{}", sent + piece.len() - 1);
            sent += piece.len();
            let piece = bytes::Bytes::from(piece);
            let send = || {
                let request = self.http.patch(at.clone()).header("content-type", "application/octet-stream");
                request.header(CONTENT_RANGE, &range).body(piece.clone())
            };
            at = self.location(&self.send(send).await?)?;
        }
        at.query_pairs_mut().append_pair("digest", &digest.to_string());
        self.send(|| self.http.put(at.clone()).header("content-length", 0)).await.map(drop)
    }

    pub(crate) async fn push_manifest(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Result<(), Fault> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let put = || self.http.put(url.clone()).header("content-type", media_type).body(bytes.to_vec());
        self.send(put).await.map(drop)
    }

    fn url(&self, rest: &str) -> Result<Url, Fault> {
        Url::parse(&format!("{}/{rest}", self.base)).map_err(|error| Fault::content(error.to_string()))
    }

    fn location(&self, response: &Response) -> Result<Url, Fault> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let to = location.and_then(|location| response.url().join(location).ok());
        let to = to.ok_or_else(|| Fault::content("the registry did not say where to upload to"))?;
        may_redirect(response.url(), &to)
            .map_err(|why| Fault::content(format!("the place for uploads {} {why}", printable(to.as_str()))))?;
        Ok(to)
    }

    /// The credential that the registry has accepted; `None` when it required none.
    pub(crate) fn admitted(&self) -> Option<Credential> {
        self.credential.clone().filter(|_| self.authorization.lock().is_some())
    }

    fn is_own(&self, url: &Url) -> bool {
        url.as_str().starts_with(&self.base[..self.base.find("/v2/").map_or(0, |at| at + 4)])
    }

    /// Sends a request, and once more with a token if the registry requires one. Returns only a successful response.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Fault> {
        let response = self.once(&request).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.success(response).await;
        }
        let Some(authorization) = self.authorise(&response).await? else { return self.success(response).await };
        *self.authorization.lock() = Some(authorization);
        let response = self.once(&request).await?;
        self.success(response).await
    }

    async fn once(&self, request: &impl Fn() -> RequestBuilder) -> Result<Response, Fault> {
        let mut request = request().build().map_err(|error| Fault::content(chain(&error)))?;
        let authorization = self.authorization.lock().clone();
        // An upload may be redirected to another host, which must not get the token.
        if let Some(authorization) = authorization.filter(|_| self.is_own(request.url())) {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let what = format!("{} {}", request.method(), request.url());
        match timeout(self.limits.answer, self.http.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Fault::Network(format!("failed to do request: {what}: {}", chain(&error)))),
            Err(_) => {
                Err(Fault::Network(format!("failed to do request: {what}: no answer in {:?}", self.limits.answer)))
            }
        }
    }

    async fn success(&self, response: Response) -> Result<Response, Fault> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // The body of another host is not shown, because it would end in the pod's status.
        let text = match self.is_own(response.url()) {
            true => message(&self.body(response, SMALL).await.unwrap_or_default()),
            false => String::new(),
        };
        let said = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
        Err(match status {
            StatusCode::NOT_FOUND => Fault::NotFound(said),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Denied(said),
            StatusCode::TOO_MANY_REQUESTS => Fault::Unavailable(said),
            status if status.is_server_error() => Fault::Unavailable(said),
            _ => Fault::content(format!("unexpected status from the registry: {said}")),
        })
    }

    /// Reads a body of at most `limit` bytes.
    async fn body(&self, mut response: Response, limit: u64) -> Result<Vec<u8>, Fault> {
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| Fault::Network(chain(&error)))? {
                if (bytes.len() + chunk.len()) as u64 > limit {
                    return Err(Fault::content(format!("the registry's answer is longer than {limit} bytes")));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let late = |_| Fault::Network("the registry's answer did not end in time".into());
        timeout(self.limits.answer, read).await.map_err(late)?
    }

    /// The authorization after a 401: basic credentials, or a token from the token service of the registry.
    async fn authorise(&self, response: &Response) -> Result<Option<HeaderValue>, Fault> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> = headers.map(Challenge::parse).collect();
        if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            return self.token(bearer).await.map(Some);
        }
        let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        Ok(self.credential.as_ref().filter(|_| basic).and_then(basic_header))
    }

    async fn token(&self, challenge: &Challenge) -> Result<HeaderValue, Fault> {
        let realm = challenge.get("realm").unwrap_or_default();
        let mut url = token_service(realm, &self.base)?;
        for name in ["service", "scope"] {
            if let Some(value) = challenge.get(name) {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut request = self.http.request(Method::GET, url);
        if let Some(header) = self.credential.as_ref().and_then(basic_header) {
            request = request.header(AUTHORIZATION, header);
        }
        let sent = timeout(self.limits.answer, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => self.success(response).await?,
            Ok(Err(error)) => return Err(Fault::Network(format!("failed to fetch a token: {}", chain(&error)))),
            Err(_) => return Err(Fault::Network("failed to fetch a token: no answer in time".into())),
        };
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = self.body(response, SMALL).await?;
        let token = serde_json::from_slice::<Token>(&body).ok().and_then(|token| token.token.or(token.access_token));
        let header = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut header = header.ok_or_else(|| Fault::content("the token service sent no token"))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// The URL of the token service.
fn token_service(realm: &str, registry: &str) -> Result<Url, Fault> {
    let unknown = |_| Fault::content(format!("the registry names no token service: {:?}", printable(realm)));
    let (url, registry) = (Url::parse(realm).map_err(unknown)?, Url::parse(registry).map_err(unknown)?);
    may_redirect(&registry, &url)
        .map_err(|why| Fault::content(format!("the token service {} {why}", printable(url.as_str()))))?;
    Ok(url)
}

/// Whether a registry may redirect a request, perhaps with a password, to an address. Plain HTTP is allowed on this machine only, and only
/// a registry on this machine may redirect to other ports of it. The error says what is wrong with the address.
fn may_redirect(from: &Url, to: &Url) -> Result<(), &'static str> {
    let here = |url: &Url| url.host_str().is_some_and(is_loopback);
    if here(to) && !here(from) {
        return Err("is on this machine, and the registry is not");
    }
    if to.scheme() != "https" && !(to.scheme() == "http" && here(to)) {
        return Err("is not https");
    }
    Ok(())
}

fn basic_header(credential: &Credential) -> Option<HeaderValue> {
    use base64::Engine as _;
    let text = format!("{}:{}", credential.username, credential.password);
    let mut header = HeaderValue::from_str(&format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(text))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The scheme of a registry: https, or http for a registry on a loopback address without TLS.
async fn scheme(http: &Client, limits: &Limits, host: &str) -> Result<&'static str, Fault> {
    let url = |scheme: &str| Url::parse(&format!("{scheme}://{host}/v2/"));
    let Ok(secure) = url("https") else { return Err(Fault::content(format!("{host:?} is no host"))) };
    if !secure.host_str().is_some_and(is_loopback) {
        return Ok("https");
    }
    let probe = |url: Url| timeout(limits.answer, http.get(url).send());
    let Ok(Err(error)) = probe(secure).await else { return Ok("https") };
    match url("http").map(probe) {
        Ok(plain) => match plain.await {
            // A TLS server answers plain HTTP with 400: then the error of TLS is reported.
            Ok(Ok(response)) if response.status() != StatusCode::BAD_REQUEST => Ok("http"),
            _ => Err(Fault::Network(format!("failed to do request: GET https://{host}/v2/: {}", chain(&error)))),
        },
        Err(_) => Ok("https"),
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An error with its causes, without the URL that the caller names anyway.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if texts.last().is_none_or(|last| !last.ends_with(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// The message inside a registry's error body.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(body) => {
            let texts = body.errors.iter().map(|entry| match entry.message.as_str() {
                "" => entry.code.clone(),
                message => message.to_owned(),
            });
            printable(&texts.collect::<Vec<_>>().join("; "))
        }
        Err(_) => printable(String::from_utf8_lossy(body).lines().next().unwrap_or_default()),
    }
}

/// A short, printable line: texts of registries end up in statuses and terminals.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect::<String>().trim().to_owned()
}

/// One `WWW-Authenticate` header.
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(header: &str) -> Self {
        let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((name, value)) = rest.split_once('=') {
            let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
            let (value, left) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => value.split_once(',').unwrap_or((value, "")),
            };
            parameters.push((name, value.trim().to_owned()));
            rest = left;
        }
        Self { scheme: scheme.to_ascii_lowercase(), parameters }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.io/token",service="r.io",scope="repository:a/b:pull,push""#;
        let challenge = Challenge::parse(header);
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.get("realm"), Some("https://auth.io/token"));
        assert_eq!(challenge.get("service"), Some("r.io"));
        assert_eq!(challenge.get("scope"), Some("repository:a/b:pull,push"));
        let challenge = Challenge::parse("Basic realm=plain, charset=\"UTF-8\"");
        assert_eq!((challenge.get("realm"), challenge.get("charset")), (Some("plain"), Some("UTF-8")));
        for odd in ["", "Bearer", "Bearer realm=\"open", "Bearer ===,,,"] {
            Challenge::parse(odd);
        }
    }

    #[test]
    fn passwords_go_to_services_on_this_machine_for_registries_on_it_only() {
        for (realm, registry, allowed) in [
            ("https://auth.io/token", "https://r.io/v2/a", true),
            ("http://auth.io/token", "https://r.io/v2/a", false),
            ("http://127.0.0.1:7002/token", "https://r.io/v2/a", false),
            ("https://localhost/token", "https://r.io/v2/a", false),
            ("http://127.0.0.1:7002/token", "http://localhost:5000/v2/a", true),
            ("https://auth.io/token", "http://localhost:5000/v2/a", true),
            ("http://auth.io/token", "http://localhost:5000/v2/a", false),
            ("file:///etc/passwd", "http://localhost:5000/v2/a", false),
            ("nothing", "https://r.io/v2/a", false),
        ] {
            assert_eq!(token_service(realm, registry).is_ok(), allowed, "{realm} of {registry}");
            if let Ok(to) = Url::parse(realm) {
                let from = Url::parse(registry).unwrap();
                assert_eq!(may_redirect(&from, &to).is_ok(), allowed, "a redirect from {registry} to {realm}");
            }
        }
    }

    #[test]
    fn only_loopback_hosts_may_be_plain() {
        for (host, want) in [
            ("localhost", true),
            ("127.3.2.1", true),
            ("[::1]", true),
            ("registry.localhost", true),
            ("127.0.0.1.nip.io", false),
            ("localhost.io", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host), want, "{host}");
        }
    }

    #[test]
    fn what_a_registry_says_becomes_one_short_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no \u001b[31m access"},{"code":"X"}]}"#;
        assert_eq!(message(body), "no [31m access; X");
        assert_eq!(message(b"<html>\nmore"), "<html>");
        assert_eq!(message(&[b'x'; 1000]).len(), 200);
    }
}
