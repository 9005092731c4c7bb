//! The listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2 by ALPN, bounds on handshakes and headers, and a shutdown
//! that lets requests end.

use crate::{authn, pki::Pair, server::Server};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a client may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 client may take for its headers.
const HEADERS: Duration = Duration::from_secs(30);
/// How long requests may go on after shutdown has begun.
const DRAIN: Duration = Duration::from_secs(5);
/// Concurrent streams per HTTP/2 connection: every watch is one.
const STREAMS: u32 = 4096;
/// HTTP/2 windows, bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file does not hold what it should.
    #[error("not a PEM certificate or key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Certificate and key do not fit, or cannot be used.
    #[error("cannot use the certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The client authority cannot be used.
    #[error("cannot use the client authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The server's side of TLS: `serving` is shown; client certificates of `client_authority` (PEM) are verified if they are sent.
///
/// # Errors
/// When something is not PEM or does not fit.
pub fn config(serving: &Pair, client_authority: &str) -> Result<ServerConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(client_authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let chain = CertificateDer::pem_slice_iter(serving.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(serving.key.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

impl Server {
    /// Serves the listener until `token` is cancelled; then takes no more connections, lets requests end for a few seconds, and returns.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<ServerConfig>, token: CancellationToken) {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = token.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, acceptor, token) = (self.clone(), acceptor.clone(), token.clone());
                    connections.spawn(async move { server.connection(stream, acceptor, token).await });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: wait for connections to end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::info!("requests were still under way at shutdown");
        }
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor, token: CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        };
        // Verified against the client authority by rustls; the first one is the client's own.
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let user = certificate.and_then(|c| authn::user_of_certificate(c)).map(Arc::new);
        let service = TowerToHyperService::new(self.service_of_connection(user));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Some(Duration::from_secs(30)));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }
}
