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
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
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
            if let Some(reserved) = volumes::reserved(volume, claim) {
                handle.client.update(&reserved).await?;
            }
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
            choice.existing.iter().for_each(|(_, volume)| {
                assumed.remove(meta::name(&volume.metadata));
            });
        }
    }
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
        if reasons.is_empty() { Status::Success } else { Status::UnschedulableAndUnresolvable(reasons.into()) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listers::Held;
    use client::{Informer, Kind};
    use serde_json::{Value, json};

    fn informer<K: Kind>(objects: Vec<Value>) -> Option<Informer<K>> {
        let informer = Informer::new();
        let parse = |object: Value| K::from_json(&object.to_string()).expect("an object");
        informer.replace(objects.into_iter().map(parse).collect(), 1);
        Some(informer)
    }

    fn claim(name: &str, more: Value, bound: &str) -> Value {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "later"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut annotations = json!({});
        if !bound.is_empty() {
            spec["volumeName"] = json!(bound);
            annotations["pv.kubernetes.io/bind-completed"] = json!("yes");
        }
        json!({"metadata": {"name": name, "namespace": "d", "uid": name, "annotations": annotations}, "spec": spec})
    }

    fn volume(name: &str, node: &str, class: &str) -> Value {
        let term = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
        json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "storageClassName": class, "nodeAffinity": {"required": {"nodeSelectorTerms": term}}}})
    }

    fn plugin() -> VolumeBinding {
        let class = |name: &str, provisioner: &str, mode: &str| json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
        let mut lost = claim("lost", json!({}), "none");
        lost["status"] = json!({"phase": "Lost"});
        let mut leaving = claim("leaving", json!({}), "");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut chosen = claim("chosen", json!({"storageClassName": "made"}), "");
        chosen["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = json!("n2");
        VolumeBinding::new(Listers::new(Held {
            claims: informer(vec![
                claim("on-n1", json!({}), "v1"),
                claim("gone", json!({}), "none"),
                claim("free", json!({}), ""),
                claim("second", json!({}), ""),
                claim("made", json!({"storageClassName": "made"}), ""),
                claim("now", json!({"storageClassName": "now"}), ""),
                claim("p-e", json!({}), ""),
                lost,
                leaving,
                chosen,
            ]),
            volumes: informer(vec![volume("v1", "n1", "other"), volume("v2", "n2", "later")]),
            storage_classes: informer(vec![
                class("later", NO_PROVISIONER, "WaitForFirstConsumer"),
                class("made", "p.example", "WaitForFirstConsumer"),
                class("now", "p.example", "Immediate"),
            ]),
            ..Held::default()
        }))
    }

    fn pod(claims: &[&str]) -> PodInfo {
        let volume = |name: &&str| match name.strip_prefix("ephemeral ") {
            Some(name) => json!({"name": name, "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}),
            None => json!({"name": name, "persistentVolumeClaim": {"claimName": name}}),
        };
        let volumes: Vec<Value> = claims.iter().map(volume).collect();
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}});
        PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    fn node(name: &str) -> NodeInfo {
        let mut info = NodeInfo::default();
        info.set_node(Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()));
        info
    }

    #[test]
    fn a_pod_waits_for_its_claims_with_upstreams_texts() {
        for (claims, expected) in [
            (vec![], "skip"),
            (vec!["none"], "persistentvolumeclaim \"none\" not found"),
            (
                vec!["ephemeral x"],
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-x\"",
            ),
            (vec!["ephemeral e"], "PVC d/p-e was not created for pod d/p (pod is not owner)"),
            (vec!["lost"], "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"none\""),
            (vec!["leaving"], "persistentvolumeclaim \"leaving\" is being deleted"),
            (vec!["free", "now"], "pod has unbound immediate PersistentVolumeClaims"),
            (vec!["on-n1", "free"], "all"),
        ] {
            let found = plugin().pre_filter(&mut CycleState::default(), &pod(&claims), &Snapshot::default());
            let text = match found {
                PreFilter::Skip => "skip".to_owned(),
                PreFilter::AllNodes => "all".to_owned(),
                PreFilter::UnschedulableAndUnresolvable(why) => why.into_owned(),
                other => format!("{other:?}"),
            };
            assert_eq!(text, expected, "{claims:?}");
        }
    }

    #[test]
    fn nodes_reach_the_volumes_or_have_some_to_bind() {
        for (claims, n1, n2) in [
            (vec!["on-n1"], "", AFFINITY),
            (vec!["free"], CONFLICT, ""),
            (vec!["made"], "", ""),
            (vec!["chosen"], CONFLICT, ""),
            (vec!["gone"], NOT_THERE, NOT_THERE),
            (vec!["free", "second"], CONFLICT, CONFLICT),
            (vec!["free", "made"], CONFLICT, ""),
        ] {
            let (plugin, pod, mut state) = (plugin(), pod(&claims), CycleState::default());
            plugin.pre_filter(&mut state, &pod, &Snapshot::default());
            for (name, expected) in [("n1", n1), ("n2", n2)] {
                let status = plugin.filter(&state, &pod, &node(name));
                assert_eq!(status.reasons().join(" "), expected, "{claims:?} on {name}");
            }
        }
    }

    #[test]
    fn two_pods_do_not_take_one_volume() {
        let plugin = plugin();
        let chosen = |claim: &str| {
            let (pod, mut state) = (pod(&[claim]), CycleState::default());
            plugin.pre_filter(&mut state, &pod, &Snapshot::default());
            let fits = plugin.filter(&state, &pod, &node("n2")) == Status::Success;
            (pod, state, fits)
        };
        let ((first, mut one, _), (second, mut two, fits)) = (chosen("free"), chosen("second"));
        assert!(fits, "nothing is reserved yet");
        plugin.reserve(&mut one, &first, "n2").unwrap();
        assert!(plugin.reserve(&mut two, &second, "n2").is_err());
        assert!(!chosen("second").2);
    }
}
