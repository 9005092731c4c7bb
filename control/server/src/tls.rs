//! The listener: TLS with optional client certificates, bounds on handshakes and on the number of connections, and a shutdown that lets
//! requests end.

use crate::{
    authn,
    connection::{self, Taken},
    pace::Pace,
    pki::Pair,
    server::Server,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a client may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests may go on after shutdown has begun.
const DRAIN: Duration = Duration::from_secs(5);
/// Most connections at a time; more wait to be accepted.
pub const CONNECTIONS: usize = 4_096;

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
        self.serve_at_most(CONNECTIONS, listener, tls, token).await;
    }

    /// [`Server::serve`] with at most `connections` at a time. Those without a client certificate get three quarters of them: who need
    /// not say who they are cannot lock out those who did.
    pub async fn serve_at_most(
        &self,
        connections: usize,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        token: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let room = Arc::new(Semaphore::new(connections));
        let strangers = Arc::new(Semaphore::new((connections * 3 / 4).max(1)));
        let tasks = TaskTracker::new();
        loop {
            let accepted = async {
                // Before accepting: who finds no room waits in the listener's queue, which is bounded.
                let place = room.clone().acquire_owned().await.expect("never closed");
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                biased;
                () = token.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, acceptor, token) = (self.clone(), acceptor.clone(), token.clone());
                    let strangers = strangers.clone();
                    tasks.spawn(async move {
                        let _place = place;
                        server.connection(stream, acceptor, strangers, token).await;
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: wait for connections to end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::info!("requests were still under way at shutdown");
        }
    }

    async fn connection(
        &self,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        strangers: Arc<Semaphore>,
        token: CancellationToken,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let pace = Arc::<Pace>::default();
        let taken = Taken::new(stream, pace.clone());
        let mut stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(taken)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        };
        let session = stream.get_mut().1;
        session.set_buffer_limit(Some(connection::BUFFER));
        // Without ALPN it is HTTP/1.1, as upstream has it: looking at the first bytes instead would have to wait for them.
        let http2 = session.alpn_protocol() == Some(b"h2");
        // Verified against the client authority by rustls; the first one is the client's own.
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let user = certificate.and_then(|c| authn::user_of_certificate(c)).map(Arc::new);
        let _stranger = match &user {
            Some(_) => None,
            None => match strangers.try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => return tracing::debug!("no room for another connection without a client certificate"),
            },
        };
        connection::serve(stream, pace, http2, self.service_of_connection(user), token).await;
    }
}
