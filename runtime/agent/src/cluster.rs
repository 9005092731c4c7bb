//! What the agent reads from the API, by informers where it can, by a call where an informer may be behind.

use crate::{
    config::{Configs, References, references},
    pod,
};
use client::{Client, Informer, Informers};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Node, Pod, Secret, Service},
    node::v1::RuntimeClass,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// The label of the index of pods by node.
pub(crate) const BY_NODE: &str = "spec.nodeName";

/// The agent's view of the API.
pub struct Cluster {
    /// For writes, and reads that must be fresh.
    pub client: Client,
    /// All pods; the agent looks at its node's.
    pub pods: Informer<Pod>,
    /// All ConfigMaps.
    pub config_maps: Informer<ConfigMap>,
    /// All Secrets.
    pub secrets: Informer<Secret>,
    /// All Services.
    pub services: Informer<Service>,
    /// All RuntimeClasses.
    pub classes: Informer<RuntimeClass>,
    /// All Nodes; the agent looks at its own.
    pub nodes: Informer<Node>,
}

impl Cluster {
    /// From the informers of the process.
    pub fn new(client: Client, informers: &Informers) -> Self {
        let this = Self {
            client,
            pods: informers.of(),
            config_maps: informers.of(),
            secrets: informers.of(),
            services: informers.of(),
            classes: informers.of(),
            nodes: informers.of(),
        };
        this.pods.index(BY_NODE, |pod: &Pod| pod::spec(pod).node_name.iter().cloned().collect());
        this
    }

    /// Waits for the first lists.
    pub async fn synced(&self) {
        self.pods.synced().await;
        self.config_maps.synced().await;
        self.secrets.synced().await;
        self.services.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
    }

    /// Everything a pod refers to. What an informer does not have is asked of the API: the object may be younger than the pod.
    pub async fn configs(&self, pod: &Pod) -> client::Result<Configs> {
        let References { config_maps, secrets } = references(pod);
        let namespace = pod::namespace(pod);
        let mut out = Configs::default();
        for name in config_maps {
            let found = match self.config_maps.get(namespace, &name) {
                Some(found) => Some(found),
                None => self.client.find::<ConfigMap>(namespace, &name).await?.map(Arc::new),
            };
            out.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.secret(namespace, &name).await?;
            out.secrets.insert(name, found);
        }
        if namespace != "default" {
            out.services.extend(self.services.get("default", "kubernetes"));
        }
        out.services.extend(self.services.list_in(namespace));
        Ok(out)
    }

    /// One Secret.
    pub async fn secret(&self, namespace: &str, name: &str) -> client::Result<Option<Arc<Secret>>> {
        Ok(match self.secrets.get(namespace, name) {
            Some(found) => Some(found),
            None => self.client.find::<Secret>(namespace, name).await?.map(Arc::new),
        })
    }
}

/// The kind of an object that pods look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Watched {
    ConfigMap,
    Secret,
}

/// Kind, namespace and name.
type Object = (Watched, String, String);

/// Which pods look at which ConfigMaps and Secrets.
#[derive(Default)]
pub(crate) struct Interest {
    by_object: Mutex<HashMap<Object, BTreeSet<Arc<str>>>>,
}

impl Interest {
    /// Notes what a pod looks at. A pod's references do not change while it lives.
    pub(crate) fn add(&self, uid: &Arc<str>, pod: &Pod) {
        let mut map = self.by_object.lock();
        for key in keys(pod) {
            map.entry(key).or_default().insert(uid.clone());
        }
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, uid: &Arc<str>, pod: &Pod) {
        let mut map = self.by_object.lock();
        for key in keys(pod) {
            if let Some(uids) = map.get_mut(&key) {
                uids.remove(uid);
                if uids.is_empty() {
                    map.remove(&key);
                }
            }
        }
    }

    /// Who looks at an object.
    pub(crate) fn of(&self, kind: Watched, namespace: &str, name: &str) -> Vec<Arc<str>> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.by_object.lock().get(&key).into_iter().flatten().cloned().collect()
    }
}

fn keys(pod: &Pod) -> impl Iterator<Item = Object> {
    let References { config_maps, secrets } = references(pod);
    let namespace = pod::namespace(pod).to_owned();
    let maps = config_maps.into_iter().map(|name| (Watched::ConfigMap, name));
    let all = maps.chain(secrets.into_iter().map(|name| (Watched::Secret, name)));
    all.map(move |(kind, name)| (kind, namespace.clone(), name))
}
