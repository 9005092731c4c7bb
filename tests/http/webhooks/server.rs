//! The server of the webhooks.

use super::*;
use ::server::pki::{self, Names, Validity};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::BoxFuture;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a webhook at a path answers to a request: the response of its review, without the uid.
type Respond = dyn Fn(String, Value) -> BoxFuture<'static, Value> + Send + Sync;

/// The webhooks, and what they were asked.
pub(super) struct Hooks {
    pub(super) port: u16,
    authority: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

/// The response that allows.
pub(super) fn ask(allowed: bool) -> Value {
    json!({"allowed": allowed})
}

/// The response that changes an object.
pub(super) fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

impl Hooks {
    /// A server that answers at once.
    pub(super) async fn new(respond: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        Self::slow(move |path, request| {
            let response = respond(&path, &request);
            Box::pin(async move { response })
        })
        .await
    }

    /// A server that does something before it answers.
    pub(super) async fn slow(
        respond: impl Fn(String, Value) -> BoxFuture<'static, Value> + Send + Sync + 'static,
    ) -> Self {
        let validity =
            Validity { from: "2026-01-01T00:00:00Z".parse().unwrap(), until: "2046-01-01T00:00:00Z".parse().unwrap() };
        let authority = pki::authority("hooks", validity).unwrap();
        let names =
            Names { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], dns: vec!["hook.default.svc".to_owned()] };
        let pair = pki::server(&authority, "hook", &names, validity).unwrap();
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, respond): (_, Arc<Respond>) = (TlsAcceptor::from(Arc::new(config)), Arc::new(respond));
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, respond, log) = (acceptor.clone(), respond.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let serve = service_fn(move |request| answer(request, respond.clone(), log.clone()));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        Self { port, authority: STANDARD.encode(&authority.certificate), seen }
    }

    /// `clientConfig` of the webhook at a path.
    pub(super) fn config(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}/{path}", self.port), "caBundle": self.authority})
    }

    /// The same by the Service `hook` of namespace `default`.
    pub(super) fn config_by_service(&self, path: &str) -> Value {
        json!({"service": {"namespace": "default", "name": "hook", "path": format!("/{path}"), "port": 8443}, "caBundle": self.authority})
    }

    /// The paths that were asked, in order, and what they were asked; forgotten then.
    pub(super) fn take(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.seen.lock())
    }

    /// The paths that were asked, in order; forgotten then.
    pub(super) fn paths(&self) -> Vec<String> {
        self.take().into_iter().map(|(path, _)| path).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    respond: Arc<Respond>,
    log: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let asked = review["request"].clone();
    log.lock().push((path.clone(), asked.clone()));
    let mut response = respond(path, asked.clone()).await;
    response["uid"] = asked["uid"].clone();
    let body = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    Ok(Response::new(Body::from(body.to_string())))
}
