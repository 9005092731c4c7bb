//! wasi:tls of both drafts: TLS clients of component guests.
//!
//! wasmtime-wasi-tls joins a guest's streams to a [`TlsProvider`], which is this module: rustls with the node's only cryptography. A guest
//! gives any streams as the transport, for example those of a socket of its pod, so that names, egress rules and limits of connections are
//! the network's. Which authorities are trusted is told in [`roots`].
//!
//! | what | bound |
//! | --- | --- |
//! | connections of a container, with handshakes | [`MAX_CONNECTIONS`]; the next one fails |
//! | time of a handshake | [`HANDSHAKE_TIMEOUT`] |
//! | memory | [`CONNECTION_WEIGHT`] for each connection, charged to the container; a connection that it has no memory for fails |
//! | CPU time of handshakes and records | charged to the container's quota, also on threads that run no guest |
//! | length of a server's name, and of an error | [`MAX_NAME`], [`MAX_ERROR`] |
//! | connectors of 0.3 that were dropped unconnected | [`MAX_ABANDONED`] for each instance, since each leaves a task behind |
//!
//! Sessions are not resumed: a cache of them would be shared by instances that share nothing else.

mod connection;
pub(crate) mod machine;
mod roots;

use crate::{
    memory::{InstanceMemory, MemoryAccount},
    quota::Quota,
};
use connection::{Connection, Transport};
use machine::MachineRoots;
pub(crate) use roots::Trust;
use roots::{ReadBundle, Trusted};
use rustls::pki_types::ServerName;
use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi_tls::{
    Error, TlsProvider, TlsStream, TlsTransport, WasiTlsCtx, WasiTlsCtxBuilder, WasiTlsView,
    p2::{self, HostClientHandshake, LinkOptions, bindings::types::HostClientHandshake as Handshakes},
    p3::{self, bindings::tls::client::HostConnector as Connectors, host::Connector},
};

/// Most connections of one container, as many as the network gives a pod.
const MAX_CONNECTIONS: usize = 1_024;
/// Longest time of a handshake, as of outgoing HTTPS requests.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a connection is charged: messages of the handshake and records that are not complete or not sent, 64 KiB each way, and what
/// is read ahead for the guest.
const CONNECTION_WEIGHT: u64 = 256 << 10;
/// Most bytes of a name, as of names in the DNS.
const MAX_NAME: usize = 253;
/// Most characters of an error. Some contain what the server sent.
const MAX_ERROR: usize = 1_024;
/// Most connectors of an instance that never connected.
const MAX_ABANDONED: u32 = 4_096;

/// What the connections of a container share.
pub(crate) struct ContainerTls {
    machine: MachineRoots,
    bundle: ReadBundle,
    quota: Arc<Quota>,
    memory: Arc<MemoryAccount>,
    /// One permit per connection.
    connections: Arc<Semaphore>,
    /// Limits concurrent blocking file calls of all guests.
    blocking: Arc<Semaphore>,
}

impl ContainerTls {
    pub(crate) fn new(
        machine: MachineRoots,
        quota: Arc<Quota>,
        memory: Arc<MemoryAccount>,
        blocking: Arc<Semaphore>,
    ) -> Arc<Self> {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Arc::new(Self { machine, bundle: ReadBundle::default(), quota, memory, connections, blocking })
    }

    async fn connect(
        self: Arc<Self>,
        trust: Arc<Trust>,
        name: &str,
        transport: Box<dyn TlsTransport>,
    ) -> Result<Connection, String> {
        let server = server_name(name)?;
        let permit = self.connections.clone().try_acquire_owned();
        let permit = permit.map_err(|_| format!("this container has {MAX_CONNECTIONS} TLS connections already"))?;
        let mut memory = InstanceMemory::new(self.memory.clone());
        memory.set_host_bytes(CONNECTION_WEIGHT).map_err(|full| full.to_string())?;
        let Trusted { config, of } = self.trusted(trust).await?;
        let connect = TlsConnector::from(config).connect(server, Transport(transport));
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect).await;
        let stream = stream.map_err(|_| format!("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()))?;
        let stream = stream.map_err(|error| match is_untrusted(&error) {
            true => format!("{error} (trusted are the authorities of {of})"),
            false => error.to_string(),
        })?;
        Ok(Connection::new(stream, self.quota.clone(), memory, permit))
    }

    /// What the container trusts now: its files may have changed.
    async fn trusted(self: &Arc<Self>, trust: Arc<Trust>) -> Result<Trusted, String> {
        let place = self.blocking.clone().acquire_owned().await;
        let this = self.clone();
        let read = move || {
            let _place = place;
            this.quota.charged(|| trust.now(&this.bundle, &this.machine, &this.memory))
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
    }
}

/// A name or address as rustls takes it.
fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    let host = name.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(ServerName::from(address)),
        Err(_) => ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(|error| error.to_string()),
    }
}

/// Whether nobody that is trusted has signed the server's certificate.
fn is_untrusted(error: &std::io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)))
}

/// TLS of one instance. Its context is made at its first use: most guests have none.
#[derive(Default)]
pub(crate) struct InstanceTls {
    context: Option<WasiTlsCtx>,
    /// Handshakes that were cancelled, and connectors that were dropped before one.
    abandoned: Arc<AtomicU32>,
}

impl InstanceTls {
    pub(crate) fn context(&mut self, container: &Arc<ContainerTls>, trust: impl FnOnce() -> Trust) -> &mut WasiTlsCtx {
        let abandoned = &self.abandoned;
        self.context.get_or_insert_with(|| {
            let (container, trust) = (container.clone(), Arc::new(trust()));
            let provider = Provider { container, trust, abandoned: abandoned.clone() };
            WasiTlsCtxBuilder::new().provider(Box::new(provider)).build()
        })
    }
}

struct Provider {
    container: Arc<ContainerTls>,
    trust: Arc<Trust>,
    abandoned: Arc<AtomicU32>,
}

impl TlsProvider for Provider {
    fn connect(
        &self,
        name: String,
        transport: Box<dyn TlsTransport>,
    ) -> Pin<Box<dyn Future<Output = Result<Box<dyn TlsStream>, Error>> + Send>> {
        if name.len() > MAX_NAME {
            let length = name.len();
            return Box::pin(async move { Err(Error::msg(format!("TLS: a name of {length} bytes is too long"))) });
        }
        let (container, quota) = (self.container.clone(), self.container.quota.clone());
        let (trust, under_way) = (self.trust.clone(), UnderWay(Some(self.abandoned.clone())));
        let mut connect = Box::pin(async move {
            let connected = container.connect(trust, &name, transport).await;
            under_way.end();
            let text = |error: String| format!("TLS with {name}: {error}").chars().take(MAX_ERROR).collect::<String>();
            connected.map(|it| Box::new(it) as Box<dyn TlsStream>).map_err(|error| Error::msg(text(error)))
        });
        Box::pin(std::future::poll_fn(move |context| quota.charged(|| connect.as_mut().poll(context))))
    }
}

/// A handshake, which is counted as abandoned if it is dropped before its end.
struct UnderWay(Option<Arc<AtomicU32>>);

impl UnderWay {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(abandoned) = &self.0 {
            abandoned.fetch_add(1, Relaxed);
        }
    }
}

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker<T: WasiTlsView + Send + 'static>(
    linker: &mut Linker<T>,
    tls: fn(&mut T) -> &mut InstanceTls,
) -> wasmtime::Result<()> {
    let mut options = LinkOptions::default();
    options.tls(true);
    p2::add_to_linker(linker, &options)?;
    p3::add_to_linker(linker)?;
    linker.allow_shadowing(true);
    // Keeps no long name in the table. The shorter one is refused when the handshake begins.
    linker.instance("wasi:tls/types@0.2.0-draft")?.func_wrap(
        "[constructor]client-handshake",
        |mut store: StoreContextMut<'_, T>,
         (mut name, input, output): (String, Resource<DynInputStream>, Resource<DynOutputStream>)|
         -> wasmtime::Result<(Resource<HostClientHandshake>,)> {
            if name.len() > MAX_NAME {
                name = ".".repeat(MAX_NAME + 1);
            }
            Ok((Handshakes::new(&mut store.data_mut().tls(), name, input, output)?,))
        },
    )?;
    let mut client = linker.instance("wasi:tls/client@0.3.0-draft")?;
    client.resource("connector", ResourceType::host::<Connector>(), move |mut store, rep| {
        tls(store.data_mut()).abandoned.fetch_add(1, Relaxed);
        Connectors::drop(&mut store.data_mut().tls(), Resource::new_own(rep))
    })?;
    client.func_wrap(
        "[constructor]connector",
        move |mut store: StoreContextMut<'_, T>, (): ()| -> wasmtime::Result<(Resource<Connector>,)> {
            if tls(store.data_mut()).abandoned.load(Relaxed) >= MAX_ABANDONED {
                wasmtime::bail!("wasi:tls: {MAX_ABANDONED} connectors of this instance never connected");
            }
            Ok((Connectors::new(&mut store.data_mut().tls())?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{files::budget::DiskSpace, tools::tree::Tree};
    use container::{Artifact, ContainerSpec, HttpPolicy, Limits, RootFolder, Stdin};
    use std::io::{Seek, Write};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_rustls::{TlsAcceptor, server};

    /// A container without files on a machine whose only authority is the one of this server.
    struct Setup {
        container: Arc<ContainerTls>,
        trust: Arc<Trust>,
        acceptor: TlsAcceptor,
        memory: Arc<MemoryAccount>,
    }

    impl Setup {
        fn new(memory: u64) -> Self {
            let spec = ContainerSpec {
                id: "one".into(),
                name: "main".into(),
                artifact: Artifact::Wasm { path: "/x".into(), digest: String::new(), files: None },
                args: vec![],
                env: vec![],
                cwd: None,
                root: RootFolder::Absent,
                mounts: vec![],
                ports: vec![],
                limits: Limits::default(),
                log: "/x".into(),
                core_dump: false,
                http: HttpPolicy::default(),
                stdin: Stdin::Empty,
                tty: false,
                linux: None,
            };
            let made = rcgen::generate_simple_self_signed(["server.test".to_owned(), "10.1.2.3".to_owned()]).unwrap();
            let mut bundle = tempfile::tempfile().unwrap();
            bundle.write_all(made.cert.pem().as_bytes()).unwrap();
            bundle.rewind().unwrap();
            let machine = MachineRoots::of(Some(bundle));
            let memory = MemoryAccount::new("the container", Some(memory), None);
            let (quota, blocking) = (Quota::new(None, None), Arc::new(Semaphore::new(1)));
            let tree = Tree::new(&spec, None, DiskSpace::new(Arc::new(|| 0)));
            let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config =
                rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
            Self {
                container: ContainerTls::new(machine, quota, memory.clone(), blocking),
                trust: Arc::new(Trust::new(tree, &[])),
                acceptor: TlsAcceptor::from(Arc::new(config)),
                memory,
            }
        }

        async fn connect(&self, name: &str, transport: DuplexStream) -> Result<Connection, String> {
            self.container.clone().connect(self.trust.clone(), name, Box::new(transport)).await
        }

        /// Both ends of a connection.
        async fn join(&self, name: &str) -> Result<(Connection, server::TlsStream<DuplexStream>), String> {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (connected, accepted) = tokio::join!(self.connect(name, near), self.acceptor.accept(far));
            Ok((connected?, accepted.map_err(|error| error.to_string())?))
        }
    }

    #[tokio::test]
    async fn the_machines_authorities_are_trusted_where_there_are_no_others() {
        let setup = Setup::new(CONNECTION_WEIGHT);
        for name in ["server.test", "server.test.", "10.1.2.3"] {
            let (mut near, mut far) = setup.join(name).await.unwrap();
            near.write_all(b"a question").await.unwrap();
            let mut asked = [0; 10];
            far.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"a question");
            assert!(setup.container.quota.used() > 0);
            // the second has no memory until the first is gone
            let full = setup.connect(name, tokio::io::duplex(1).0).await.err().unwrap();
            assert!(full.starts_with("out of memory: 262144 more bytes do not fit"), "{full}");
        }
        assert_eq!(setup.memory.used(), 0);
        let none = setup.connect("no name at all", tokio::io::duplex(1).0).await.err().unwrap();
        assert!(none.contains("invalid dns name"), "{none}");
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_are_bounded_in_time_and_number() {
        let setup = Setup::new(MAX_CONNECTIONS as u64 * CONNECTION_WEIGHT);
        let begin = tokio::time::Instant::now();
        let (near, _silent) = tokio::io::duplex(1 << 16);
        assert_eq!(setup.connect("server.test", near).await.err().unwrap(), "no handshake within 10 s");
        assert_eq!(begin.elapsed().as_secs(), 10);
        let all = setup.container.connections.clone().try_acquire_many_owned(MAX_CONNECTIONS as u32).unwrap();
        let full = setup.connect("server.test", tokio::io::duplex(1).0).await.err().unwrap();
        assert_eq!(full, "this container has 1024 TLS connections already");
        drop(all);
        assert!(setup.join("server.test").await.is_ok());
        assert_eq!(setup.memory.used(), 0);
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_ends_the_connection() {
        struct Closed;
        impl tokio::io::AsyncRead for Closed {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                _: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::task::Poll::Pending
            }
        }
        impl tokio::io::AsyncWrite for Closed {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                _: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::task::Poll::Ready(Ok(0))
            }
            fn poll_flush(
                self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::task::Poll::Ready(Ok(()))
            }
            fn poll_shutdown(
                self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::task::Poll::Ready(Ok(()))
            }
        }
        let setup = Setup::new(CONNECTION_WEIGHT);
        let connected = setup.container.clone().connect(setup.trust.clone(), "server.test", Box::new(Closed)).await;
        assert_eq!(connected.err().unwrap(), "write zero");
    }
}
