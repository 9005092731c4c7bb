//! Resolves names outside the cluster by the system's resolver.
//!
//! The resolver blocks its thread until a name server answers or a timeout passes, and a lookup cannot be cancelled. Each lookup therefore has
//! its own thread. The number of threads is limited for the node and for each pod, so that names without an answer delay only the pod that
//! looks them up, and no file call.

use container::net::{Error, Result};
use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    thread,
};
use tokio::sync::{Semaphore, oneshot};

/// Bytes of stack of a lookup thread, for the resolver's buffers and modules.
const STACK: usize = 512 << 10;

type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

/// The lookups of a node.
pub(crate) struct Lookups {
    threads: Arc<Semaphore>,
    resolve: Resolve,
}

impl Lookups {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads)), resolve: resolve_by_system }
    }

    /// The distinct addresses of a name. `pod_permits` limits the concurrent lookups of the pod. Cancel-safe: a cancelled lookup continues in its
    /// thread, and holds its permits until it ends.
    pub(crate) async fn addresses(&self, name: &str, pod_permits: &Arc<Semaphore>) -> Result<Vec<IpAddr>> {
        let unknown = || Error::NoSuchHost(name.to_owned());
        let pod_permit = pod_permits.clone().acquire_owned().await.map_err(|_| unknown())?;
        let thread_permit = self.threads.clone().acquire_owned().await.map_err(|_| unknown())?;
        let (sender, receiver) = oneshot::channel();
        let (resolve, query) = (self.resolve, name.to_owned());
        let lookup = move || {
            // fails if the caller was cancelled
            let _ = sender.send(resolve(&query));
            drop((thread_permit, pod_permit));
        };
        let started = thread::Builder::new().name("lookup".into()).stack_size(STACK).spawn(lookup);
        started.map_err(|error| Error::Exhausted(format!("no thread to look up {name}: {error}")))?;
        let mut addresses = Vec::new();
        for address in receiver.await.map_err(|_| unknown())?.map_err(|_| unknown())? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }
}

fn resolve_by_system(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        sync::{Condvar, Mutex, PoisonError},
        time::Duration,
    };

    static ASKED: AtomicUsize = AtomicUsize::new(0);
    static ANSWER: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    /// A name server that answers for `quick` only, until it is told to answer.
    fn slow(name: &str) -> io::Result<Vec<IpAddr>> {
        if name != "quick" {
            ASKED.fetch_add(1, SeqCst);
            let guard = ANSWER.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(ANSWER.1.wait_while(guard, |answer| !*answer));
        }
        Ok(vec![[192, 0, 2, 1].into(), [192, 0, 2, 1].into()])
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_delay_only_the_pod_that_asks() {
        let lookups = Arc::new(Lookups { resolve: slow, ..Lookups::new(4) });
        let [greedy, other] = [(); 2].map(|()| Arc::new(Semaphore::new(3)));
        let asking: Vec<_> = (0..10)
            .map(|_| {
                let (lookups, greedy) = (lookups.clone(), greedy.clone());
                tokio::spawn(async move { lookups.addresses("silent", &greedy).await })
            })
            .collect();
        while ASKED.load(SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // They stop waiting; the resolver does not.
        asking.iter().for_each(tokio::task::JoinHandle::abort);
        for _ in 0..20 {
            assert_eq!(lookups.addresses("quick", &other).await, Ok(vec![[192, 0, 2, 1].into()]), "each address once");
        }
        assert_eq!((ASKED.load(SeqCst), greedy.available_permits()), (3, 0), "its look-ups count until they end");
        *ANSWER.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        ANSWER.1.notify_all();
        assert!(lookups.addresses("silent", &greedy).await.is_ok());
    }
}
