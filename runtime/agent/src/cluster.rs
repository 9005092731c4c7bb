//! What the agent reads from the API, as little as upstream's kubelet may: its own Node and pods, what these pods name, all Services (for
//! environment variables) and RuntimeClasses. By informers where it can, by a call where an informer may be behind.

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
    /// For writes, and reads that must be fresh.
    pub client: Client,
    /// The pods of the node.
    pub pods: Informer<Pod>,
    /// The ConfigMaps and Secrets that they name.
    pub(crate) referenced: ReferencedObjects,
    /// All Services.
    pub services: Informer<Service>,
    /// All RuntimeClasses.
    pub classes: Informer<RuntimeClass>,
    /// The node's own object.
    pub nodes: Informer<Node>,
}

impl Cluster {
    /// Of a node, from informers with the node's identity.
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

    /// Everything a pod refers to.
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
