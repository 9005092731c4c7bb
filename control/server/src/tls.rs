//! The listener: TLS with optional client certificates, limits on handshakes and connections, and graceful shutdown.

use crate::{
    authn,
    connection::{self, ConnectionPermit, MonitoredStream},
    handshake::Slots,
    pki::Pair,
    server::Server,
    stall::StallDetector,
};
use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, error::Elapsed, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a client may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests may continue after shutdown has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a failure to accept connections is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// What Go's server answers to HTTP without TLS.
const HTTP_ON_TLS_PORT: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Limits on concurrent connections. Each takes a file descriptor.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections that are served. Beyond this number connections without a client certificate are closed, and the others wait.
    /// Connections without a certificate may take three quarters of it, so that anonymous clients cannot lock out authenticated ones.
    pub connections: usize,
    /// Connections without a first byte, and as many in their handshake, in addition. An honest client is among them for milliseconds.
    pub handshakes: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections: 4_096, handshakes: 256 }
    }
}

/// An error of the TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file has no PEM certificate or key.
    #[error("not a PEM certificate or key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Certificate and key do not match, or cannot be used.
    #[error("cannot use the certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The client authority cannot be used.
    #[error("cannot use the client authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The serving certificate. It may be replaced at any time, without effect on open connections. Cheap to clone.
#[derive(Clone)]
pub struct Serving(Arc<ArcSwap<CertifiedKey>>);

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serving")
    }
}

impl Serving {
    /// Serves with this certificate.
    ///
    /// # Errors
    /// It is not PEM, or the key does not match.
    pub fn new(pair: &Pair) -> Result<Self, Error> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(certified(pair)?))))
    }

    /// Replaces the certificate.
    ///
    /// # Errors
    /// As [`Serving::new`]; the previous one stays.
    pub fn replace(&self, pair: &Pair) -> Result<(), Error> {
        self.0.store(Arc::new(certified(pair)?));
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(pair: &Pair) -> Result<CertifiedKey, Error> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    Ok(CertifiedKey::from_der(chain, key, &ring::default_provider())?)
}

/// The TLS configuration of the server with the certificate `serving`. Client certificates are optional, and verified against `client_authority`
/// (PEM).
///
/// # Errors
/// A certificate is not PEM or does not match.
pub fn config(serving: &Serving, client_authority: &str) -> Result<ServerConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(client_authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(serving.clone()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The limits that a connection passes, in their order.
#[derive(Clone)]
struct Limiters {
    silent: Slots,
    handshaking: Slots,
    all: Arc<Semaphore>,
    /// The part of `all` for connections without a client certificate.
    anonymous: Arc<Semaphore>,
}

impl Limiters {
    /// The limits of a connection that is served; those with a client certificate wait until there are some.
    async fn acquire(&self, certified: bool) -> Option<ConnectionPermit> {
        if certified {
            return Some((None, self.all.clone().acquire_owned().await.ok()?));
        }
        let anonymous = self.anonymous.clone().try_acquire_owned().ok()?;
        Some((Some(anonymous), self.all.clone().try_acquire_owned().ok()?))
    }
}

/// Flattens a timeout and an eviction.
fn in_time<T>(outcome: Result<Option<T>, Elapsed>) -> Option<T> {
    outcome.ok().flatten()
}

/// Whether the first five bytes are HTTP instead of TLS, by Go's rule.
fn is_http(start: &[u8]) -> bool {
    [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"].iter().any(|method| start == *method)
}

/// Answers a plain HTTP request, then reads until the client closes, because an earlier close would discard the response.
async fn refuse_http(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(HTTP_ON_TLS_PORT).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

impl Server {
    /// Serves the listener until `token` is cancelled; then accepts no more connections, waits a few seconds for requests, and returns.
    pub async fn serve(
        &self,
        limits: ConnectionLimits,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        token: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let limiters = Limiters {
            silent: Slots::new(limits.handshakes),
            handshaking: Slots::new(limits.handshakes),
            all: Arc::new(Semaphore::new(limits.connections)),
            anonymous: Arc::new(Semaphore::new((limits.connections * 3 / 4).max(1))),
        };
        let tasks = TaskTracker::new();
        let mut logged: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = token.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, acceptor, token) = (self.clone(), acceptor.clone(), token.clone());
                    let limiters = limiters.clone();
                    tasks.spawn(async move { server.connection(stream, acceptor, limiters, token).await });
                }
                // accept(2): the socket no longer listens, because something has shut it down; a retry does not help.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                    tracing::error!(%error, "the API's socket has stopped listening");
                    return;
                }
                Err(error) => {
                    // Mostly out of file descriptors: wait for connections to end.
                    if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        tracing::warn!(%error, "the API cannot accept connections: it tries again");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::info!("requests were still under way at shutdown");
        }
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor, limiters: Limiters, token: CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let silent = limiters.silent.take();
        let mut start = [0; 5];
        let Some(Ok(Ok(seen @ 1..))) = silent.run(timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut start))).await else {
            return tracing::debug!("a connection said nothing");
        };
        drop(silent);
        let handshaking = limiters.handshaking.take();
        if is_http(&start[..seen]) {
            return handshaking.run(timeout(HANDSHAKE_TIMEOUT, refuse_http(stream))).await.map_or((), drop);
        }
        let detector = Arc::<StallDetector>::default();
        let monitored = MonitoredStream::new(stream, detector.clone());
        let mut stream = match handshaking.run(timeout(HANDSHAKE_TIMEOUT, acceptor.accept(monitored))).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return tracing::debug!(%error, "TLS handshake failed"),
            Some(Err(_)) => return tracing::debug!("TLS handshake took too long"),
            None => return tracing::debug!("a TLS handshake made place for newer ones"),
        };
        let session = stream.get_mut().1;
        session.set_buffer_limit(Some(connection::BUFFER_BYTES));
        // Without ALPN it is HTTP/1.1, as upstream; detecting the protocol would have to wait for the first bytes.
        let http2 = session.alpn_protocol() == Some(b"h2");
        // rustls has verified the chain; the first certificate is the client's own.
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let user = certificate.and_then(|c| authn::user_of_certificate(c)).map(Arc::new);
        let Some(permit) =
            handshaking.run(timeout(HANDSHAKE_TIMEOUT, limiters.acquire(user.is_some()))).await.and_then(in_time)
        else {
            return tracing::debug!(certified = user.is_some(), "no room for another connection");
        };
        drop(handshaking);
        connection::serve((stream, Some(permit)), detector, http2, self.service_of_connection(user), token).await;
    }
}
