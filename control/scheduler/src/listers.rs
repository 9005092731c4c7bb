//! Objects besides nodes and pods that plugins read before a pod is assumed: what the informers hold while the scheduler runs.

use client::{Client, Informer, Informers, Kind, ListOptions};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, StatefulSet},
    core::v1::{PersistentVolume, PersistentVolumeClaim, ReplicationController, Service},
    policy::v1::PodDisruptionBudget,
    storage::v1::StorageClass,
};
use parking_lot::RwLock;
use std::{sync::Arc, time::Duration};

/// Readers of Services, controllers of pods and PodDisruptionBudgets. Empty until the scheduler runs. Cheap to clone.
#[derive(Clone, Default)]
pub struct Listers {
    held: Arc<RwLock<Held>>,
}

/// The informers. One that is absent reads as empty.
#[derive(Clone, Default)]
pub struct Held {
    /// Services.
    pub services: Option<Informer<Service>>,
    /// ReplicationControllers.
    pub replication_controllers: Option<Informer<ReplicationController>>,
    /// ReplicaSets.
    pub replica_sets: Option<Informer<ReplicaSet>>,
    /// StatefulSets.
    pub stateful_sets: Option<Informer<StatefulSet>>,
    /// PodDisruptionBudgets, where their kind is served.
    pub budgets: Option<Informer<PodDisruptionBudget>>,
    /// PersistentVolumeClaims.
    pub claims: Option<Informer<PersistentVolumeClaim>>,
    /// PersistentVolumes.
    pub volumes: Option<Informer<PersistentVolume>>,
    /// StorageClasses.
    pub storage_classes: Option<Informer<StorageClass>>,
}

impl Listers {
    /// With these informers.
    pub fn new(held: Held) -> Self {
        Self { held: Arc::new(RwLock::new(held)) }
    }

    /// Starts the informers, and waits until they have read everything. A kind that the server does not have reads as empty.
    pub(crate) async fn start(&self, client: &Client, informers: &Informers) {
        let held = Held {
            services: served(client, informers).await,
            replication_controllers: served(client, informers).await,
            replica_sets: served(client, informers).await,
            stateful_sets: served(client, informers).await,
            budgets: served(client, informers).await,
            claims: served(client, informers).await,
            volumes: served(client, informers).await,
            storage_classes: served(client, informers).await,
        };
        tokio::join!(
            synced(held.services.as_ref()),
            synced(held.replication_controllers.as_ref()),
            synced(held.replica_sets.as_ref()),
            synced(held.stateful_sets.as_ref()),
            synced(held.budgets.as_ref()),
            synced(held.claims.as_ref()),
            synced(held.volumes.as_ref()),
            synced(held.storage_classes.as_ref()),
        );
        *self.held.write() = held;
    }

    /// Lets go of the informers.
    pub(crate) fn stop(&self) {
        *self.held.write() = Held::default();
    }

    /// The Services of a namespace.
    pub fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.held.read().services.as_ref().map(|informer| informer.list_in(namespace)).unwrap_or_default()
    }

    /// A ReplicationController.
    pub fn replication_controller(&self, namespace: &str, name: &str) -> Option<Arc<ReplicationController>> {
        self.held.read().replication_controllers.as_ref()?.get(namespace, name)
    }

    /// A ReplicaSet.
    pub fn replica_set(&self, namespace: &str, name: &str) -> Option<Arc<ReplicaSet>> {
        self.held.read().replica_sets.as_ref()?.get(namespace, name)
    }

    /// A StatefulSet.
    pub fn stateful_set(&self, namespace: &str, name: &str) -> Option<Arc<StatefulSet>> {
        self.held.read().stateful_sets.as_ref()?.get(namespace, name)
    }

    /// All PodDisruptionBudgets.
    pub fn budgets(&self) -> Vec<Arc<PodDisruptionBudget>> {
        self.held.read().budgets.as_ref().map(Informer::list).unwrap_or_default()
    }

    /// A PersistentVolumeClaim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.held.read().claims.as_ref()?.get(namespace, name)
    }

    /// A PersistentVolume.
    pub fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.held.read().volumes.as_ref()?.get("", name)
    }

    /// All PersistentVolumes.
    pub fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.held.read().volumes.as_ref().map(Informer::list).unwrap_or_default()
    }

    /// A StorageClass.
    pub fn storage_class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.held.read().storage_classes.as_ref()?.get("", name)
    }

    /// Calls `changed` after each change of a claim, volume or class.
    pub(crate) fn on_volumes(&self, changed: impl Fn() + Clone + Send + Sync + 'static) {
        fn follow<K: Kind>(informer: Option<&Informer<K>>, changed: impl Fn() + Send + Sync + 'static) {
            if let Some(informer) = informer {
                informer.subscribe(move |_| changed());
            }
        }
        let held = self.held.read();
        follow(held.claims.as_ref(), changed.clone());
        follow(held.volumes.as_ref(), changed.clone());
        follow(held.storage_classes.as_ref(), changed);
    }
}

/// The informer of a kind, unless the server does not have it: an informer that never reads anything would delay those who wait for all.
async fn served<K: Kind>(client: &Client, informers: &Informers) -> Option<Informer<K>> {
    let first = ListOptions { limit: 1, ..ListOptions::default() };
    loop {
        match client.list::<K>("", &first).await {
            Ok(_) => return Some(informers.of::<K>()),
            Err(error) if error.is_not_found() => return None,
            Err(error) => tracing::warn!(kind = K::KIND, %error, "the scheduler cannot read this kind yet"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn synced<K: Kind>(informer: Option<&Informer<K>>) {
    if let Some(informer) = informer {
        informer.synced().await;
    }
}
