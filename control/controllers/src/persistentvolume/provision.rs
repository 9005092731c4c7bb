//! Volumes that are folders of a node. Pure.
//!
//! The node's agent makes the folder when a pod mounts it, and removes it when the volume is released and its policy is `Delete`.

use super::plan::PROVISIONED_BY;
use crate::meta;
use client::fit::{
    affinity::topologies_match,
    volumes::{PROVISIONER_FINALIZER, SELECTED_NODE, claim_reference, node_label},
};
use k8s_openapi::{
    api::{
        core::v1::{
            CSIPersistentVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
            PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::sync::Arc;

/// Why no volume can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The claim wants what such volumes are not.
    Claim(String),
    /// The chosen node is gone or cannot have it: the scheduler chooses again.
    Node(String),
}

/// The name of a claim's volume.
pub(super) fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", meta::uid(&claim.metadata))
}

/// The volume for a claim, on the node that the scheduler chose, or the first that is ready.
pub(super) fn local(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    nodes: &[Arc<Node>],
    driver: &str,
) -> Result<PersistentVolume, Refused> {
    let spec = claim.spec.clone().unwrap_or_default();
    let refused = |text: &str| Err(Refused::Claim(text.to_owned()));
    if spec.volume_mode.as_deref() == Some("Block") {
        return refused("volumes on nodes are folders: volumeMode Block is not supported");
    }
    if spec.selector.is_some() {
        return refused("claim Selector is not supported");
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return refused("volumes on nodes cannot be made of a dataSource");
    }
    let node = node(claim, class, nodes)?;
    let name = name(claim);
    let node = meta::name(&node.metadata).to_owned();
    let requirement = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.clone()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
    let size = spec.resources.and_then(|resources| resources.requests).and_then(|all| all.get("storage").cloned());
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some([(PROVISIONED_BY.to_owned(), driver.to_owned())].into()),
            labels: Some([node_label(driver, &node)].into()),
            finalizers: Some(vec![PROVISIONER_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            capacity: Some([("storage".to_owned(), size.unwrap_or_default())].into()),
            access_modes: spec.access_modes,
            claim_ref: Some(claim_reference(claim)),
            csi: Some(CSIPersistentVolumeSource {
                driver: driver.to_owned(),
                volume_handle: name,
                ..CSIPersistentVolumeSource::default()
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: class.metadata.name.clone(),
            mount_options: class.mount_options.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

fn node<'a>(claim: &PersistentVolumeClaim, class: &StorageClass, nodes: &'a [Arc<Node>]) -> Result<&'a Node, Refused> {
    let wanted = meta::annotation(&claim.metadata, SELECTED_NODE);
    let mut fitting: Vec<&Arc<Node>> = nodes.iter().filter(|node| topologies_match(class, node)).collect();
    fitting.sort_by_key(|node| meta::name(&node.metadata).to_owned());
    match wanted {
        Some(name) => {
            let chosen = fitting.into_iter().find(|node| meta::name(&node.metadata) == name);
            chosen.map(|node| &**node).ok_or_else(|| Refused::Node(format!("node {name:?} cannot have the volume")))
        }
        None => {
            let ready = fitting.into_iter().find(|node| takes_pods(node));
            ready.map(|node| &**node).ok_or_else(|| Refused::Claim("no node is ready for the volume".to_owned()))
        }
    }
}

pub(super) fn takes_pods(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    !cordoned && conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
