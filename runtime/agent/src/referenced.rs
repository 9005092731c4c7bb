//! The ConfigMaps and Secrets that the pods of the node name. Each object is watched by itself, by name, from the first pod that names it
//! to the last: a node reads no other (upstream's `WatchBasedManager`, and all that its Node authorizer allows).

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

/// How long a read waits for the first list of a watch that has just begun, before it asks by itself.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(1);

/// ConfigMaps and Secrets by name, and who names them.
pub(crate) struct ReferencedObjects {
    client: Client,
    informers: Informers,
    config_maps: Objects<ConfigMap>,
    secrets: Objects<Secret>,
}

/// The objects of a kind that are watched.
type Objects<K> = Mutex<HashMap<Key, Watched<K>>>;

/// An object, or the absence of one.
struct Watched<K: Kind> {
    informer: Informer<K>,
    pods: Arc<Pods>,
}

/// The pods that name an object.
#[derive(Default)]
struct Pods {
    handles: Mutex<HashMap<Arc<str>, Arc<Handle>>>,
    /// Whether any of them has looked at it: before that, what the watch finds is no change.
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

    /// From now on the pod is told when what it names changes. What it names does not change while it lives.
    pub(crate) fn add(&self, handle: &Arc<Handle>, pod: &Pod) {
        let References { config_maps, secrets } = references(pod);
        config_maps.iter().for_each(|name| self.watch(&self.config_maps, key(pod, name), handle));
        secrets.iter().for_each(|name| self.watch(&self.secrets, key(pod, name), handle));
    }

    /// Forgets a pod. Idempotent.
    pub(crate) fn remove(&self, uid: &str, pod: &Pod) {
        let References { config_maps, secrets } = references(pod);
        config_maps.iter().for_each(|name| unwatch(&self.config_maps, &key(pod, name), uid));
        secrets.iter().for_each(|name| unwatch(&self.secrets, &key(pod, name), uid));
    }

    /// A ConfigMap, if there is one.
    pub(crate) async fn config_map(&self, namespace: &str, name: &str) -> client::Result<Option<Arc<ConfigMap>>> {
        self.get(&self.config_maps, namespace, name).await
    }

    /// A Secret, if there is one.
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

    /// What the watch does not have is asked of the API: the object may be younger than the last event.
    async fn get<K: Kind>(&self, objects: &Objects<K>, namespace: &str, name: &str) -> client::Result<Option<Arc<K>>> {
        let watched = objects
            .lock()
            .get(&Key::new(namespace, name))
            .map(|watched| (watched.informer.clone(), watched.pods.clone()));
        if let Some((informer, pods)) = watched {
            let _: Result<(), _> = tokio::time::timeout(FIRST_LIST_TIMEOUT, informer.synced()).await;
            // First: a change that this read does not show is told.
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
