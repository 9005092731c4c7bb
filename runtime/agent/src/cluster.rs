//! The objects that the agent reads from the API. Like upstream's kubelet, it reads its own Node and pods, the objects that these pods
//! reference, all Services (for environment variables) and all RuntimeClasses. It uses informers, and reads from the API where an informer
//! may be stale.

use crate::{
    config::{Configs, References, references},
    pod,
    referenced::ReferencedObjects,
};
use client::{Client, Informer, Informers, Target};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    node::v1::RuntimeClass,
};

/// The agent's view of the API.
pub(crate) struct Cluster {
    /// For writes, and for reads that must be fresh.
    pub client: Client,
    /// The pods that are bound to the node.
    pub pods: Informer<Pod>,
    /// The ConfigMaps and Secrets that these pods reference.
    pub(crate) referenced: ReferencedObjects,
    /// All Services.
    pub services: Informer<Service>,
    /// All RuntimeClasses.
    pub classes: Informer<RuntimeClass>,
    /// The node's own Node.
    pub nodes: Informer<Node>,
}

impl Cluster {
    /// `informers` must have the node's identity.
    pub(crate) fn new(client: Client, informers: Informers, node: &str) -> Self {
        Self {
            pods: informers.over(Target::of::<Pod>().fields(format!("spec.nodeName={node}"))),
            services: informers.of(),
            classes: informers.of(),
            nodes: informers.over(Target::of::<Node>().named("", node)),
            referenced: ReferencedObjects::new(client.clone(), informers),
            client,
        }
    }

    /// Waits for the first lists.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.services.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
    }

    /// Reads the ConfigMaps, Secrets and Services that a pod references.
    pub(crate) async fn configs(&self, pod: &Pod) -> client::Result<Configs> {
        let References { config_maps, secrets } = references(pod);
        let namespace = pod::namespace(pod);
        let mut out = Configs::default();
        for name in config_maps {
            let found = self.referenced.config_map(namespace, &name).await?;
            out.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.referenced.secret(namespace, &name).await?;
            out.secrets.insert(name, found);
        }
        if namespace != "default" {
            out.services.extend(self.services.get("default", "kubernetes"));
        }
        out.services.extend(self.services.list_in(namespace));
        Ok(out)
    }
}
