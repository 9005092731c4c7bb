//! The listener: TLS with optional client certificates, bounds on handshakes and on the number of connections, and a shutdown that lets
//! requests end.

use crate::{
    authn,
    connection::{self, MonitoredStream, Place},
    handshake::Waiting,
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
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests may go on after shutdown has begun.
const DRAIN: Duration = Duration::from_secs(5);
/// How often it is said at most that no connection can be accepted.
const TELL: Duration = Duration::from_secs(60);
/// What Go's server answers to HTTP without TLS.
const PLAIN: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Most connections at a time. Each is a file descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Those that are served; with more, those without a client certificate are closed, and the others wait for a place. Those without one
    /// get three quarters of them: who need not say who they are cannot lock out those who did.
    pub connections: usize,
    /// Those that have said nothing yet, and as many whose handshake is under way, besides. A client with something to say is among them
    /// for milliseconds.
    pub handshakes: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { connections: 4_096, handshakes: 256 }
    }
}

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

/// The certificate that is shown to clients. It may be replaced at any time; connections that are there go on. Cheap to clone.
#[derive(Clone)]
pub struct Serving(Arc<ArcSwap<CertifiedKey>>);

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serving")
    }
}

impl Serving {
    /// Shows this certificate.
    ///
    /// # Errors
    /// When it is not PEM, or the key is not its own.
    pub fn new(pair: &Pair) -> Result<Self, Error> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(certified(pair)?))))
    }

    /// Shows this one from now on.
    ///
    /// # Errors
    /// As [`Serving::new`]; the one before stays.
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

/// The server's side of TLS: `serving` is shown; client certificates of `client_authority` (PEM) are verified if they are sent.
///
/// # Errors
/// When something is not PEM or does not fit.
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

/// Where connections are, in their order.
#[derive(Clone)]
struct Rooms {
    silent: Waiting,
    shaking: Waiting,
    all: Arc<Semaphore>,
    /// Of these, what those without a client certificate may have.
    strangers: Arc<Semaphore>,
}

impl Rooms {
    /// The places of a connection that is served; those with a client certificate wait until there are some.
    async fn places(&self, known: bool) -> Option<Place> {
        if known {
            return Some((None, self.all.clone().acquire_owned().await.ok()?));
        }
        let stranger = self.strangers.clone().try_acquire_owned().ok()?;
        Some((Some(stranger), self.all.clone().try_acquire_owned().ok()?))
    }
}

/// What came in time.
fn flat<T>(outcome: Result<Option<T>, Elapsed>) -> Option<T> {
    outcome.ok().flatten()
}

/// Whether the first five bytes are of HTTP instead of TLS, as Go tells it.
fn is_http(start: &[u8]) -> bool {
    [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"].iter().any(|method| start == *method)
}

/// Says what is wrong, and reads what the client sends until it closes: to close before would take the answer back.
async fn refuse_http(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(PLAIN).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

impl Server {
    /// Serves the listener until `token` is cancelled; then takes no more connections, lets requests end for a few seconds, and returns.
    pub async fn serve(&self, places: Places, listener: TcpListener, tls: Arc<ServerConfig>, token: CancellationToken) {
        let acceptor = TlsAcceptor::from(tls);
        let rooms = Rooms {
            silent: Waiting::new(places.handshakes),
            shaking: Waiting::new(places.handshakes),
            all: Arc::new(Semaphore::new(places.connections)),
            strangers: Arc::new(Semaphore::new((places.connections * 3 / 4).max(1))),
        };
        let tasks = TaskTracker::new();
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = token.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, acceptor, token) = (self.clone(), acceptor.clone(), token.clone());
                    let rooms = rooms.clone();
                    tasks.spawn(async move { server.connection(stream, acceptor, rooms, token).await });
                }
                // accept(2): the socket does not listen any more; something outside has shut it down, and waiting mends nothing.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                    tracing::error!(%error, "the API's socket has stopped listening");
                    return;
                }
                Err(error) => {
                    // Out of file descriptors, mostly: wait for connections to end.
                    if told.is_none_or(|told| told.elapsed() >= TELL) {
                        told = Some(Instant::now());
                        tracing::warn!(%error, "the API cannot accept connections: it tries again");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::info!("requests were still under way at shutdown");
        }
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor, rooms: Rooms, token: CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let silent = rooms.silent.enter();
        let mut start = [0; 5];
        let Some(Ok(Ok(seen @ 1..))) = silent.keep(timeout(HANDSHAKE, stream.peek(&mut start))).await else {
            return tracing::debug!("a connection said nothing");
        };
        drop(silent);
        let shaking = rooms.shaking.enter();
        if is_http(&start[..seen]) {
            return shaking.keep(timeout(HANDSHAKE, refuse_http(stream))).await.map_or((), drop);
        }
        let detector = Arc::<StallDetector>::default();
        let monitored = MonitoredStream::new(stream, detector.clone());
        let mut stream = match shaking.keep(timeout(HANDSHAKE, acceptor.accept(monitored))).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return tracing::debug!(%error, "TLS handshake failed"),
            Some(Err(_)) => return tracing::debug!("TLS handshake took too long"),
            None => return tracing::debug!("a TLS handshake made place for newer ones"),
        };
        let session = stream.get_mut().1;
        session.set_buffer_limit(Some(connection::BUFFER_BYTES));
        // Without ALPN it is HTTP/1.1, as upstream has it: looking at the first bytes instead would have to wait for them.
        let http2 = session.alpn_protocol() == Some(b"h2");
        // Verified against the client authority by rustls; the first one is the client's own.
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let user = certificate.and_then(|c| authn::user_of_certificate(c)).map(Arc::new);
        let Some(place) = shaking.keep(timeout(HANDSHAKE, rooms.places(user.is_some()))).await.and_then(flat) else {
            return tracing::debug!(known = user.is_some(), "no room for another connection");
        };
        drop(shaking);
        connection::serve((stream, Some(place)), detector, http2, self.service_of_connection(user), token).await;
    }
}
