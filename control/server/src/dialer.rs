//! Connections from the server to pods: byte streams to addresses of the cluster. The composition root joins the trait to the pod network.

pub use container::net::Stream;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{io, net::SocketAddr, sync::Arc};
use tokio_rustls::TlsConnector;

/// Connects to pods and Services as the cluster itself; the egress rules of pods do not apply.
#[async_trait::async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Opens a byte stream to an address and port of a pod or Service.
    ///
    /// # Errors
    /// Nothing listens there, the pod does not exist, or it is not reachable.
    async fn connect(&self, to: SocketAddr) -> io::Result<Stream>;
}

/// No pods: an API server by itself.
pub struct NoDialer;

#[async_trait::async_trait]
impl Dialer for NoDialer {
    async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        Err(io::Error::new(io::ErrorKind::NetworkUnreachable, format!("no way to {to}")))
    }
}

/// Starts TLS over a stream to a pod. As in upstream's proxy, the certificate of the pod is not verified.
pub(crate) async fn encrypt(stream: Stream, to: SocketAddr) -> io::Result<Stream> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    let name = ServerName::IpAddress(to.ip().into());
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Accepts any certificate whose private key the server has.
#[derive(Debug)]
pub(crate) struct Unverified(pub(crate) Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
