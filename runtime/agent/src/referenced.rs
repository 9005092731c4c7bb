//! The ConfigMaps and Secrets that the node's pods reference. Each object is watched by name while a pod references it, like upstream's
//! `WatchBasedManager`. The Node authorizer allows nothing more.

use crate::{
    config::{References, references},
    handle::{Handle, Message},
    pod,
};
use client::{Client, Informer, Informers, Key, Kind, Target};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a read waits for the first list of a new watch before it reads from the API.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(1);

/// The referenced ConfigMaps and Secrets.
pub(crate) struct ReferencedObjects {
    client: Client,
    informers: Informers,
    config_maps: Objects<ConfigMap>,
    secrets: Objects<Secret>,
}

/// The watched objects of a kind.
type Objects<K> = Mutex<HashMap<Key, Watched<K>>>;

/// A watched object, which may not exist.
struct Watched<K: Kind> {
    informer: Informer<K>,
    pods: Arc<Pods>,
}

/// The pods that reference an object.
#[derive(Default)]
struct Pods {
    handles: Mutex<HashMap<Arc<str>, Arc<Handle>>>,
    /// Whether a pod has read the object. Before that, a watch event is no change for any pod.
    read: AtomicBool,
}

impl Pods {
    fn changed(&self) {
        if self.read.load(Ordering::Acquire) {
            self.handles.lock().values().for_each(|handle| handle.send(Message::ConfigChanged));
        }
    }
}

impl ReferencedObjects {
    pub(crate) fn new(client: Client, informers: Informers) -> Self {
        Self { client, informers, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// Watches the objects that a pod references, and notifies the pod of changes. A pod's references never change.
    pub(crate) fn add(&self, handle: &Arc<Handle>, pod: &Pod) {
        let References { config_maps, secrets } = references(pod);
        config_maps.iter().for_each(|name| self.watch(&self.config_maps, key(pod, name), handle));
        secrets.iter().for_each(|name| self.watch(&self.secrets, key(pod, name), handle));
    }

    /// Stops watching for a pod. Idempotent.
    pub(crate) fn remove(&self, uid: &str, pod: &Pod) {
        let References { config_maps, secrets } = references(pod);
        config_maps.iter().for_each(|name| unwatch(&self.config_maps, &key(pod, name), uid));
        secrets.iter().for_each(|name| unwatch(&self.secrets, &key(pod, name), uid));
    }

    /// Reads a ConfigMap.
    pub(crate) async fn config_map(&self, namespace: &str, name: &str) -> client::Result<Option<Arc<ConfigMap>>> {
        self.get(&self.config_maps, namespace, name).await
    }

    /// Reads a Secret.
    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> client::Result<Option<Arc<Secret>>> {
        self.get(&self.secrets, namespace, name).await
    }

    fn watch<K: Kind>(&self, objects: &Objects<K>, key: Key, handle: &Arc<Handle>) {
        let mut objects = objects.lock();
        let watched = objects.entry(key).or_insert_with_key(|key| {
            let informer = self.informers.over(Target::of::<K>().named(&key.namespace, &key.name));
            let pods = Arc::<Pods>::default();
            let watchers = pods.clone();
            informer.subscribe(move |_| watchers.changed());
            Watched { informer, pods }
        });
        watched.pods.handles.lock().insert(handle.uid.clone(), handle.clone());
    }

    /// Reads an object. If the watch does not have it, reads from the API, because the object may be newer than the last watch event.
    async fn get<K: Kind>(&self, objects: &Objects<K>, namespace: &str, name: &str) -> client::Result<Option<Arc<K>>> {
        let watched = objects
            .lock()
            .get(&Key::new(namespace, name))
            .map(|watched| (watched.informer.clone(), watched.pods.clone()));
        if let Some((informer, pods)) = watched {
            let _: Result<(), _> = tokio::time::timeout(FIRST_LIST_TIMEOUT, informer.synced()).await;
            // Set before the read, so that each change after the read is notified.
            pods.read.store(true, Ordering::Release);
            if let Some(found) = informer.get(namespace, name) {
                return Ok(Some(found));
            }
        }
        Ok(self.client.find::<K>(namespace, name).await?.map(Arc::new))
    }
}

fn key(pod: &Pod, name: &str) -> Key {
    Key::new(pod::namespace(pod), name)
}

fn unwatch<K: Kind>(objects: &Objects<K>, key: &Key, uid: &str) {
    let mut all = objects.lock();
    let Some(watched) = all.get(key) else { return };
    let last = {
        let mut handles = watched.pods.handles.lock();
        handles.remove(uid);
        handles.is_empty()
    };
    let ended = if last { all.remove(key) } else { None };
    drop(all);
    drop(ended);
}
