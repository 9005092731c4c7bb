//! Claims of pods: nodes that reach their volumes, and volumes for claims that wait for a pod.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode>. The volume of a claim is chosen in filter, kept
//! from other pods in reserve, and written in preBind, which waits until the binder has bound the claim, or somebody has made a volume.

use crate::{
    cycle_state::CycleState,
    handle::{Cycle, Handle},
    listers::Listers,
    node::NodeInfo,
    plugin::{Event, Plugin, PreFilter, Task},
    pod::PodInfo,
    snapshot::Snapshot,
    status::{Failure, Status},
};
use client::{
    fit::{
        affinity::topologies_match,
        volumes::{self, SELECTED_NODE, class_of_claim, find, is_bound, reaches, waits_for_consumer},
    },
    meta, pod,
};
use k8s_openapi::api::{
    core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

const AFFINITY: &str = "node(s) didn't match PersistentVolume's node affinity";
const CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NOT_THERE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
/// The provisioner of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The annotation of a binding that a component made.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// How long a pod waits for its volumes, as upstream's default.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);
/// How often the informers are looked at meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// Binds volumes.
pub struct VolumeBinding {
    listers: Listers,
    /// The names of volumes that pods in their binding cycles take.
    assumed: Mutex<HashSet<String>>,
}

/// What a pod's claims need, worked out once per cycle.
struct Claims {
    /// The volumes of bound claims; `None` is not there.
    bound: Vec<Option<Arc<PersistentVolume>>>,
    /// The claims that wait for a pod, with their class.
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
    /// What was found for each node.
    found: Mutex<HashMap<String, Choice>>,
}

/// How the waiting claims get volumes on a node.
#[derive(Clone, Default)]
struct Choice {
    /// Volumes that are there.
    existing: Vec<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>)>,
    /// Claims that get one made.
    provisioned: Vec<Arc<PersistentVolumeClaim>>,
}

impl VolumeBinding {
    /// Over the informers of claims, volumes and classes.
    pub fn new(listers: Listers) -> Self {
        Self { listers, assumed: Mutex::default() }
    }

    /// The claims of a pod.
    fn claims(&self, pod: &PodInfo) -> Result<Option<Claims>, String> {
        let namespace = pod::namespace(&pod.pod);
        let (mut bound, mut waiting, mut any, mut immediate) = (Vec::new(), Vec::new(), false, false);
        for (name, ephemeral) in volumes::claims(&pod.pod) {
            any = true;
            let Some(claim) = self.listers.claim(namespace, &name) else {
                return Err(match ephemeral {
                    true => {
                        format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                    }
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if meta::is_deleting(&claim.metadata) {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if ephemeral && !meta::is_controlled_by(&claim.metadata, pod.uid()) {
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                    pod::name(&pod.pod)
                ));
            }
            if is_bound(&claim) {
                bound.push(self.listers.volume(volume));
                continue;
            }
            let class = self.listers.storage_class(class_of_claim(&claim));
            match class.filter(|class| volume.is_empty() && waits_for_consumer(class)) {
                Some(class) => waiting.push((claim, class)),
                None => immediate = true,
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        // Of several claims the smallest takes the smallest volume.
        waiting.sort_by_key(|(claim, _)| volumes::requested(claim));
        Ok(any.then(|| Claims { bound, waiting, found: Mutex::default() }))
    }

    /// Volumes for the claims that wait, on a node.
    fn choose(&self, claims: &Claims, node: &Node) -> Option<Choice> {
        let mut choice = Choice::default();
        for (claim, class) in &claims.waiting {
            let selected = meta::annotation(&claim.metadata, SELECTED_NODE);
            if selected.is_some_and(|selected| selected != meta::name(&node.metadata)) {
                return None;
            }
            let assumed = self.assumed.lock();
            let taken = |volume: &PersistentVolume| {
                let name = meta::name(&volume.metadata);
                assumed.contains(name) || choice.existing.iter().any(|(_, other)| meta::name(&other.metadata) == name)
            };
            let all = self.listers.volumes();
            let existing = find(claim, all.iter().map(|volume| &**volume), Some(node), false, taken);
            let existing = existing.and_then(|found| self.listers.volume(meta::name(&found.metadata)));
            drop(assumed);
            if let Some(volume) = existing {
                choice.existing.push((claim.clone(), volume));
            } else if !matches!(class.provisioner.as_str(), "" | NO_PROVISIONER) && topologies_match(class, node) {
                choice.provisioned.push(claim.clone());
            } else {
                return None;
            }
        }
        Some(choice)
    }

    /// Writes the choice, and waits until all claims are bound.
    async fn bind_volumes(&self, handle: &Handle, choice: Choice, node: &str) -> Result<(), Failure> {
        for (claim, volume) in &choice.existing {
            handle.client.update(&reserved(volume, claim)).await?;
        }
        for claim in &choice.provisioned {
            let mut claim = (**claim).clone();
            let annotations = claim.metadata.annotations.get_or_insert_default();
            annotations.insert(SELECTED_NODE.to_owned(), node.to_owned());
            handle.client.update(&claim).await?;
        }
        let wait = async {
            // The informers are behind the writes above.
            let mut seen = vec![false; choice.provisioned.len()];
            while !self.is_complete(&choice, node, &mut seen)? {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        let text = || Failure::Error("binding volumes: context deadline exceeded".to_owned());
        tokio::time::timeout(BIND_TIMEOUT, wait).await.unwrap_or_else(|_| Err(text()))
    }

    /// Whether all claims are bound. `seen`: the annotation of each claim was seen.
    fn is_complete(&self, choice: &Choice, node: &str, seen: &mut [bool]) -> Result<bool, Failure> {
        let current = |claim: &PersistentVolumeClaim| {
            self.listers.claim(meta::namespace(&claim.metadata), meta::name(&claim.metadata))
        };
        let gone = |claim: &PersistentVolumeClaim| {
            Failure::Error(format!("binding volumes: claim {:?} is gone", meta::name(&claim.metadata)))
        };
        let mut complete = true;
        for (claim, volume) in &choice.existing {
            let claim = current(claim).ok_or_else(|| gone(claim))?;
            let volume = self.listers.volume(meta::name(&volume.metadata));
            let reference = volume.as_ref().and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref());
            complete &= is_bound(&claim) && reference.is_some();
        }
        for (claim, seen) in choice.provisioned.iter().zip(seen) {
            let claim = current(claim).ok_or_else(|| gone(claim))?;
            let chosen = meta::annotation(&claim.metadata, SELECTED_NODE) == Some(node);
            *seen |= chosen;
            if *seen && !chosen {
                let text = format!("binding volumes: provisioning failed for PVC {:?}", meta::name(&claim.metadata));
                return Err(Failure::Error(text));
            }
            complete &= is_bound(&claim);
        }
        Ok(complete)
    }

    fn release(&self, cycle: &Cycle) {
        if let Some(choice) = cycle.state.read::<Choice>() {
            let mut assumed = self.assumed.lock();
            choice.existing.iter().for_each(|(_, volume)| drop(assumed.remove(meta::name(&volume.metadata))));
        }
    }
}

/// The volume with a reference to the claim.
fn reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut volume = volume.clone();
    let annotations = volume.metadata.annotations.get_or_insert_default();
    annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
    volume
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFilter {
        match self.claims(pod) {
            Err(why) => PreFilter::UnschedulableAndUnresolvable(why.into()),
            Ok(None) => PreFilter::Skip,
            Ok(Some(claims)) => {
                state.write(claims);
                PreFilter::AllNodes
            }
        }
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        let (Some(claims), Some(info)) = (state.read::<Claims>(), &node.node) else { return Status::Success };
        let mut reasons = Vec::new();
        if claims.bound.iter().flatten().any(|volume| !reaches(volume, info)) {
            reasons.push(AFFINITY.into());
        }
        match self.choose(claims, info) {
            Some(choice) => drop(claims.found.lock().insert(node.name().to_owned(), choice)),
            None => reasons.push(CONFLICT.into()),
        }
        if claims.bound.iter().any(Option::is_none) {
            reasons.push(NOT_THERE.into());
        }
        if reasons.is_empty() { Status::Success } else { Status::UnschedulableAndUnresolvable(reasons) }
    }

    fn reserve(&self, state: &mut CycleState, _: &PodInfo, node: &str) -> Result<(), Failure> {
        let choice = state.read::<Claims>().and_then(|claims| claims.found.lock().remove(node));
        let Some(choice) = choice else { return Ok(()) };
        let mut assumed = self.assumed.lock();
        if choice.existing.iter().any(|(_, volume)| assumed.contains(meta::name(&volume.metadata))) {
            return Err(Failure::Unschedulable(CONFLICT.into()));
        }
        assumed.extend(choice.existing.iter().map(|(_, volume)| meta::name(&volume.metadata).to_owned()));
        state.write(choice);
        Ok(())
    }

    fn unreserve(&self, _: &Handle, cycle: &Cycle) {
        self.release(cycle);
    }

    fn pre_bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let choice = cycle.state.read::<Choice>()?.clone();
        if choice.existing.is_empty() && choice.provisioned.is_empty() {
            return None;
        }
        Some(Box::pin(self.bind_volumes(handle, choice, &cycle.node)))
    }

    fn post_bind(&self, _: &Handle, cycle: &Cycle) {
        self.release(cycle);
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. } | Event::VolumesChanged)
    }

    fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. } | Event::PodUpdated | Event::VolumesChanged)
    }
}
