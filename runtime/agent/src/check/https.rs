//! Requests of probes and hooks by TLS. As upstream's, they accept any certificate: a probe asks whether a container serves, not who it is.

use super::dial_error;
use bytes::Bytes;
use container::net::{self, Body, Dialer};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// Sends a request whose URI has the scheme `https`. The error is the message for the user.
pub(super) async fn send(
    dialer: &dyn Dialer,
    to: SocketAddr,
    mut request: net::Request,
) -> Result<net::Response, String> {
    let stream = dialer.connect(to).await.map_err(|error| dial_error(to, &error))?;
    let server = ServerName::IpAddress(to.ip().into());
    let stream = TlsConnector::from(CONFIG.clone()).connect(server, stream).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    // over HTTP/1.1 the target is a path, and the host is a header
    if let Some(path) = request.uri().path_and_query().and_then(|path| path.as_str().parse().ok()) {
        *request.uri_mut() = path;
    }
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok(answer.map(|body| {
        // the connection lives as long as the body
        let body = body.map_frame(move |frame| {
            let _driver = &driver;
            frame.map_data(Bytes::from)
        });
        Body::new(body.map_err(Into::into))
    }))
}

static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has the versions").dangerous();
    Arc::new(builder.with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth())
});

/// Accepts any certificate, whose key the server has.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
