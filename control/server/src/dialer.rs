//! The server's way to pods: byte streams to addresses of the cluster. The composition root joins it to the pod network.

pub use container::net::Stream;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{io, net::SocketAddr, sync::Arc};
use tokio_rustls::TlsConnector;

/// Reaches pods and Services as the cluster itself does; egress rules of pods do not bind it.
#[async_trait::async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// A byte stream to an address and port of a pod or Service.
    ///
    /// # Errors
    /// Nobody listens there, there is no such pod, or there is no way to it.
    async fn connect(&self, to: SocketAddr) -> io::Result<Stream>;
}

/// No way to any pod: a server that stands alone.
pub struct NoDialer;

#[async_trait::async_trait]
impl Dialer for NoDialer {
    async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        Err(io::Error::new(io::ErrorKind::NetworkUnreachable, format!("no way to {to}")))
    }
}

/// TLS over a stream to a pod, whose certificate nobody can know beforehand: as upstream's proxy, it is not verified.
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

/// Takes any certificate, though only from whoever holds its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

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
