//! The node's network namespace, and the namespaces of its pods.

use crate::{
    Error, Layout, Result, Rules,
    link::{Gone, done},
    options::Options,
    process::{Namespaces, Process},
    protocol::{Answer, Ask, Kind},
    table::Table,
};
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Seek, Write},
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex as AsyncMutex;

/// How long the helper may take for a call. It does each in milliseconds.
const CALL: Duration = Duration::from_secs(10);

/// How long it may take for rules, which nft applies.
const APPLY: Duration = Duration::from_secs(40);

/// Most bytes of a transaction where this process is not root: the kernel takes a message of 416 KiB (twice net.core.wmem_max), and needs up to
/// eight times as much as the text.
const TRANSACTION: usize = 48 << 10;

/// Sockets of a kind that are in stock.
const STOCK: u8 = 32;

/// The namespace of a pod. Its path is valid as long as this value exists.
#[derive(Debug)]
pub struct Pod {
    address: Ipv4Addr,
    namespace: OwnedFd,
}

impl Pod {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The path by which its namespace can be opened, by processes of this user in the user namespace of this process.
    pub fn path(&self) -> PathBuf {
        path_of(&self.namespace)
    }

    /// Its namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

fn path_of(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd()).into()
}

/// Where a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In the node's namespace.
    Node,
    /// In the namespace of a pod, by its id.
    Pod(&'a str),
}

/// The node's network namespace. Cheap to clone; it is given up with the last clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    process: AsyncMutex<Option<Arc<Process>>>,
    namespaces: Namespaces,
    pods: Mutex<BTreeMap<Arc<str>, Arc<Pod>>>,
    /// The rules as the kernel has them, if that is known.
    rules: AsyncMutex<Option<Table>>,
    stock: [Stock; 2],
}

#[derive(Default)]
struct Stock {
    sockets: Mutex<Vec<OwnedFd>>,
    refilled: AsyncMutex<()>,
}

impl Node {
    /// Finds the namespace that an earlier process left to its pods, or makes a new one, without Services.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the machine allows no namespaces or has no `nft`; another where the helper cannot be started.
    pub async fn open(options: Options) -> Result<Self> {
        let found = Process::find(&options).await?;
        let is_found = found.is_some();
        let (process, namespaces) = match found {
            Some(found) => found,
            None => Process::start(&options, None).await?,
        };
        let inner = Inner {
            options,
            process: AsyncMutex::new(Some(Arc::new(process))),
            namespaces,
            pods: Mutex::default(),
            rules: AsyncMutex::default(),
            stock: Default::default(),
        };
        let node = Self { inner: Arc::new(inner) };
        if is_found {
            node.find_pods().await?;
        }
        node.apply(&Rules::default()).await?;
        Ok(node)
    }

    /// The addresses.
    pub fn layout(&self) -> &Layout {
        &self.inner.options.layout
    }

    /// The paths of the node's network namespace and of the user namespace that owns it, if there is one. They can be opened as
    /// [`Pod::path`].
    pub fn paths(&self) -> (PathBuf, Option<PathBuf>) {
        let Namespaces { net, user } = &self.inner.namespaces;
        (path_of(net), user.as_ref().map(path_of))
    }

    /// Makes the namespace of a pod. The same pod gets the same namespace.
    ///
    /// # Errors
    /// The address is another pod's or not in the routed range, the pod has another address, or the kernel refuses.
    pub async fn attach(&self, pod: &str, address: Ipv4Addr) -> Result<Arc<Pod>> {
        self.connect_pod(pod, address, None).await
    }

    /// [`Node::attach`] of a pod whose namespace exists: its helper has ended, and its processes live on.
    ///
    /// # Errors
    /// As those of `attach`.
    pub async fn adopt(&self, pod: &str, address: Ipv4Addr, namespace: BorrowedFd<'_>) -> Result<Arc<Pod>> {
        self.connect_pod(pod, address, Some(namespace)).await
    }

    async fn connect_pod(&self, id: &str, address: Ipv4Addr, namespace: Option<BorrowedFd<'_>>) -> Result<Arc<Pod>> {
        let known = self.pod(id).filter(|pod| pod.address == address);
        if let Some(known) = known {
            return Ok(known);
        }
        let ask = Ask::Attach { pod: id.to_owned(), address };
        let descriptors: Vec<BorrowedFd<'_>> = namespace.into_iter().collect();
        let (_, answered) = self.call(&ask, &descriptors, CALL).await?;
        let namespace = answered.into_iter().next().ok_or_else(|| Error::Failed("a namespace is missing".into()))?;
        let pod = Arc::new(Pod { address, namespace });
        Ok(self.inner.pods.lock().entry(id.into()).or_insert(pod).clone())
    }

    /// Takes the pod's link, and gives up its namespace: it is gone when no process is in it. Idempotent.
    ///
    /// # Errors
    /// The kernel refuses, or there is no helper.
    pub async fn detach(&self, pod: &str) -> Result<()> {
        // first, so that no helper that starts meanwhile is told of it
        self.inner.pods.lock().remove(pod);
        self.call(&Ask::Detach { pod: pod.to_owned() }, &[], CALL).await.map(drop)
    }

    /// A pod that has a namespace.
    pub fn pod(&self, pod: &str) -> Option<Arc<Pod>> {
        self.inner.pods.lock().get(pod).cloned()
    }

    /// All pods that have a namespace.
    pub fn pods(&self) -> Vec<(Arc<str>, Ipv4Addr)> {
        self.inner.pods.lock().iter().map(|(id, pod)| (id.clone(), pod.address)).collect()
    }

    /// Takes over the pods of a helper that was found.
    async fn find_pods(&self) -> Result<()> {
        let mut after = None;
        loop {
            let (answer, _) = self.call(&Ask::Pods { after }, &[], CALL).await?;
            let Answer::Pods(page) = answer else { return Err(Error::Failed("another answer".into())) };
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (id, address) in page {
                self.attach(&id, address).await?;
            }
        }
    }

    /// Replaces what is behind the addresses of Services: in one transaction, or where this process is not root and much changes at once in several,
    /// of which each leaves a Service as it was or as it shall be.
    ///
    /// # Errors
    /// `nft` is missing, or refuses.
    pub async fn apply(&self, rules: &Rules) -> Result<()> {
        let table = rules.table(self.layout());
        let mut known = self.inner.rules.lock().await;
        let most = if self.inner.namespaces.user.is_some() { TRANSACTION } else { usize::MAX };
        let transactions = Table::change(known.as_ref(), &table).transactions(most);
        if transactions.is_empty() {
            return Ok(());
        }
        // the state is unknown after an error, and where this is not waited for: the next time everything is replaced
        *known = None;
        for text in transactions {
            self.apply_text(&text).await?;
        }
        *known = Some(table);
        Ok(())
    }

    async fn apply_text(&self, text: &str) -> Result<()> {
        let descriptor = memfd_create("rules", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let mut file = File::from(descriptor.map_err(std::io::Error::from)?);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(std::io::Error::from)?;
        self.call(&Ask::Rules, &[file.as_fd()], APPLY).await.map(drop)
    }

    /// A socket in a namespace: non-blocking, not bound.
    pub(crate) async fn socket(&self, place: Place<'_>, kind: Kind) -> Result<OwnedFd> {
        let Place::Pod(id) = place else { return self.stocked(kind).await };
        let ask = Ask::Sockets { of: Some(id.to_owned()), kind, count: 1 };
        let (_, sockets) = self.call(&ask, &[], CALL).await?;
        sockets.into_iter().next().ok_or_else(|| Error::Failed("a socket is missing".into()))
    }

    /// A socket of the node's namespace, from the stock.
    async fn stocked(&self, kind: Kind) -> Result<OwnedFd> {
        let stock = match kind {
            Kind::Tcp => &self.inner.stock[0],
            Kind::Udp => &self.inner.stock[1],
        };
        let take = || stock.sockets.lock().pop();
        if let Some(socket) = take() {
            return Ok(socket);
        }
        let _one = stock.refilled.lock().await;
        if let Some(socket) = take() {
            return Ok(socket);
        }
        let (_, sockets) = self.call(&Ask::Sockets { of: None, kind, count: STOCK }, &[], CALL).await?;
        stock.sockets.lock().extend(sockets);
        take().ok_or_else(|| Error::Failed("a socket is missing".into()))
    }

    /// Asks the helper. One that has ended is replaced, and asked again: all that is asked is idempotent.
    async fn call(&self, ask: &Ask, descriptors: &[BorrowedFd<'_>], limit: Duration) -> Result<(Answer, Vec<OwnedFd>)> {
        let mut process = self.process().await?;
        for _ in 0..2 {
            match process.link.call(ask, descriptors, limit).await {
                Ok(reply) => return done(reply),
                Err(gone) => {
                    tracing::warn!(?gone, "the helper of the node's network is replaced");
                    process = self.replace(&process).await?;
                }
            }
        }
        Err(Error::Lost("the helper of the network ends again and again".into()))
    }

    async fn process(&self) -> Result<Arc<Process>> {
        let held = self.inner.process.lock().await.clone();
        match held {
            Some(process) if !process.link.has_ended() => Ok(process),
            Some(process) => self.replace(&process).await,
            None => Err(Error::Lost("the network of the node is closed".into())),
        }
    }

    /// Starts another helper unless somebody did; it enters the namespaces, and is told of the pods.
    async fn replace(&self, former: &Arc<Process>) -> Result<Arc<Process>> {
        let mut held = self.inner.process.lock().await;
        match &*held {
            None => return Err(Error::Lost("the network of the node is closed".into())),
            Some(other) if !Arc::ptr_eq(other, former) => return Ok(other.clone()),
            Some(former) => former.end().await,
        }
        let (process, _) = Process::start(&self.inner.options, Some(&self.inner.namespaces)).await?;
        let pods: Vec<_> = self.inner.pods.lock().iter().map(|(id, pod)| (id.clone(), pod.clone())).collect();
        for (id, pod) in pods {
            let ask = Ask::Attach { pod: id.to_string(), address: pod.address };
            match process.link.call(&ask, &[pod.namespace()], CALL).await.map(done) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, pod = &*id, "a pod has no network any more"),
                Err(Gone::Ended | Gone::Late) => return Err(Error::Lost("the helper of the network ended".into())),
            }
        }
        let process = Arc::new(process);
        *held = Some(process.clone());
        Ok(process)
    }

    /// Ends the helper, whatever its pods do, and waits until it is gone. Without it the helper ends by itself when this value is dropped and its
    /// pods are.
    pub async fn close(&self) {
        let process = self.inner.process.lock().await.take();
        self.inner.stock.iter().for_each(|stock| stock.sockets.lock().clear());
        if let Some(process) = process {
            process.end().await;
        }
    }
}
