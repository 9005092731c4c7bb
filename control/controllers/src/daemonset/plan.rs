//! What to do next for a DaemonSet, and its status. Pure.
//!
//! Follows upstream's `daemon_controller.go` and `update.go`: first each node gets its pod and loses those that are too many; when there is
//! nothing to do about that, an update goes on.

use super::{
    failed::Failed,
    place::{self, Place},
};
use crate::{history::revision_of, meta, pods};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus},
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Most pods that are created, and deleted, at a time.
const BURST: usize = 250;

/// An event of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What to do, and the status.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    pub events: Vec<Told>,
    pub status: DaemonSetStatus,
    /// When to look again without any other change.
    pub again: Option<Duration>,
}

/// The pods of a node; those that ended and are being deleted are left out.
type ByNode<'a> = BTreeMap<&'a str, Vec<&'a Arc<Pod>>>;

struct Planner<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    /// The hash of the newest revision.
    revision: &'a str,
    now: Timestamp,
    places: BTreeMap<&'a str, Place>,
    pods: ByNode<'a>,
    plan: Plan,
}

/// The plan for a set with these pods, all of which it controls.
pub(super) fn plan(
    set: &DaemonSet,
    revision: &str,
    collisions: i32,
    nodes: &[Arc<Node>],
    own: &[Arc<Pod>],
    failed: &mut Failed,
    now: Timestamp,
) -> Plan {
    let Some(spec) = set.spec.as_ref() else { return Plan::default() };
    let places = nodes.iter().map(|node| (meta::name(&node.metadata), place::place(set, node))).collect();
    let mut by_node = ByNode::new();
    for pod in own.iter().filter(|pod| !(meta::is_deleting(&pod.metadata) && pods::is_finished(pod))) {
        if let Some(node) = place::node_of(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    by_node.values_mut().for_each(|pods| sort(pods));
    let mut planner = Planner { set, spec, revision, now, places, pods: by_node, plan: Plan::default() };
    planner.manage(failed);
    let rolling = spec.update_strategy.as_ref().is_some_and(|s| s.type_.as_deref() == Some("RollingUpdate"));
    if rolling && planner.plan.create.is_empty() && planner.plan.delete.is_empty() {
        planner.roll();
    }
    planner.plan.create.truncate(BURST);
    planner.plan.delete.truncate(BURST);
    let waits = own.iter().filter_map(|pod| pods::available_in(pod, planner.min_ready(), now));
    let waits = waits.filter(|wait| !wait.is_zero()).chain(planner.plan.again);
    planner.plan.again = waits.min();
    planner.plan.status = planner.status(collisions);
    planner.plan
}

/// Pods on a node first, then the oldest.
fn sort(pods: &mut [&Arc<Pod>]) {
    pods.sort_by(|a, b| {
        let key = |pod: &Pod| (pods::node_name(pod).is_empty(), meta::created(&pod.metadata));
        key(a).cmp(&key(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

/// The pods of a node that are not being deleted, as far as there is one of each kind: of the newest revision, and of an older one.
struct Pair<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

impl<'a> Planner<'a> {
    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready(), self.now)
    }

    fn place(&self, node: &str) -> Place {
        self.places.get(node).copied().unwrap_or(Place::No)
    }

    fn desired(&self) -> i32 {
        let count = self.places.values().filter(|place| **place == Place::Runs).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// How many pods may be missing, and how many may be too many, during an update.
    fn limits(&self) -> (usize, usize) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let desired = self.desired();
        let count = |value: Option<&IntOrString>| {
            let count = value.and_then(|value| meta::scaled(value, desired, true)).unwrap_or(0);
            usize::try_from(count).unwrap_or(0)
        };
        let surge = count(rolling.and_then(|rolling| rolling.max_surge.as_ref()));
        let unavailable = count(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()));
        if surge == 0 && unavailable == 0 { (1, 0) } else { (unavailable, surge) }
    }

    fn delete(&mut self, pod: &Arc<Pod>) {
        self.plan.delete.push(pod.clone());
    }

    fn tell(&mut self, warning: bool, reason: &'static str, message: String) {
        self.plan.events.push(Told { warning, reason, message });
    }

    /// Gives each node its pod, and removes those that do not belong.
    fn manage(&mut self, failed: &mut Failed) {
        let surge = self.limits().1 > 0;
        for (node, place) in self.places.clone() {
            let there = self.pods.get(node).cloned();
            match (place, there) {
                (Place::Runs, None) => self.plan.create.push(node.to_owned()),
                (Place::Stays, None) | (Place::No, None) => {}
                (Place::No, Some(pods)) => {
                    let live = pods.into_iter().filter(|pod| !meta::is_deleting(&pod.metadata));
                    live.for_each(|pod| self.delete(pod));
                }
                (_, Some(pods)) => {
                    let running = self.without_ended(node, pods, failed);
                    if surge {
                        self.thin_out(node, place, running);
                    } else {
                        running.into_iter().skip(1).for_each(|pod| self.delete(pod));
                    }
                }
            }
        }
        // Pods that wait for a node that is gone.
        let lost: Vec<_> = self.pods.iter().filter(|(node, _)| !self.places.contains_key(*node)).collect();
        let lost: Vec<_> = lost.into_iter().flat_map(|(_, pods)| pods.clone()).collect();
        for pod in lost {
            if pods::node_name(pod).is_empty() && !meta::is_deleting(&pod.metadata) {
                self.delete(pod);
            }
        }
    }

    /// Deletes pods that have ended, failed ones with a back-off. Returns the others that are not being deleted.
    fn without_ended(&mut self, node: &str, pods: Vec<&'a Arc<Pod>>, failed: &mut Failed) -> Vec<&'a Arc<Pod>> {
        let mut running = Vec::new();
        for pod in pods.into_iter().filter(|pod| !meta::is_deleting(&pod.metadata)) {
            let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
            match pods::phase(pod) {
                "Failed" => {
                    if let Err(wait) = failed.again(meta::uid(&self.set.metadata), node, self.now) {
                        self.plan.again = Some(self.plan.again.map_or(wait, |again| again.min(wait)));
                        continue;
                    }
                    let message =
                        format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
                    self.tell(true, "FailedDaemonPod", message);
                    self.delete(pod);
                }
                "Succeeded" => {
                    let message =
                        format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
                    self.tell(false, "SucceededDaemonPod", message);
                    self.delete(pod);
                }
                _ => running.push(pod),
            }
        }
        running
    }

    /// With a surge, a node keeps the oldest pod of each revision until the new one is available or the old one is not ready.
    fn thin_out(&mut self, node: &str, place: Place, running: Vec<&'a Arc<Pod>>) {
        if running.is_empty() && place == Place::Runs {
            self.plan.create.push(node.to_owned());
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| revision_of(pod) == self.revision);
        new.iter().skip(1).chain(old.iter().skip(1)).for_each(|pod| self.delete(pod));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            self.delete(old);
        }
    }

    /// `None`: there are several of one kind, about which [`Planner::manage`] does something.
    fn pair(&self, pods: &[&'a Arc<Pod>]) -> Option<Pair<'a>> {
        let live = pods.iter().copied().filter(|pod| !meta::is_deleting(&pod.metadata));
        let (new, old): (Vec<_>, Vec<_>) = live.partition(|pod| revision_of(pod) == self.revision);
        (new.len() < 2 && old.len() < 2).then(|| Pair { new: new.first().copied(), old: old.first().copied() })
    }

    /// The nodes with pods of the set or a place for one, with their pods.
    fn concerned(&self) -> Vec<(&'a str, Vec<&'a Arc<Pod>>)> {
        let wanted = self.places.iter().filter(|(_, place)| **place == Place::Runs).map(|(node, _)| *node);
        let nodes: BTreeSet<&str> = self.pods.keys().copied().chain(wanted).collect();
        nodes.into_iter().map(|node| (node, self.pods.get(node).cloned().unwrap_or_default())).collect()
    }

    fn roll(&mut self) {
        let (unavailable, surge) = self.limits();
        if surge == 0 { self.replace(unavailable) } else { self.surge(surge) }
    }

    /// Deletes old pods, as long as few are missing.
    fn replace(&mut self, most: usize) {
        let (mut missing, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
        for (_, pods) in self.concerned() {
            match self.pair(&pods) {
                None | Some(Pair { new: None, old: None } | Pair { new: Some(_), old: Some(_) }) => missing += 1,
                Some(Pair { new: Some(new), .. }) => missing += usize::from(!self.is_available(new)),
                Some(Pair { old: Some(old), .. }) if !self.is_available(old) => {
                    broken.push(old);
                    missing += 1;
                }
                Some(Pair { old: Some(old), .. }) => candidates.push(old),
            }
        }
        let room = most.saturating_sub(missing);
        broken.into_iter().chain(candidates.into_iter().take(room)).for_each(|pod| self.delete(pod));
    }

    /// Creates new pods beside old ones, and deletes an old one when its new one is available.
    fn surge(&mut self, most: usize) {
        let (mut surging, mut available) = (0, 0);
        let (mut allowed, mut candidates, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
        for (node, pods) in self.concerned() {
            let Some(pair) = self.pair(&pods) else {
                surging += 1;
                continue;
            };
            available += usize::from(pair.old.or(pair.new).is_some_and(|pod| self.is_available(pod)));
            let runs = self.place(node) == Place::Runs;
            match (pair.old, pair.new) {
                (None, _) => {}
                (Some(old), None) if !self.is_available(old) => {
                    if runs {
                        allowed.push(node)
                    } else {
                        self.delete(old)
                    }
                }
                (Some(old), None) if !runs => leaving.push(old),
                (Some(_), None) => candidates.push(node),
                (Some(_), Some(new)) if !self.is_available(new) => surging += 1,
                (Some(old), Some(_)) => self.delete(old),
            }
        }
        let spare = available.saturating_sub(usize::try_from(self.desired()).unwrap_or(0));
        leaving.into_iter().take(spare).for_each(|pod| self.delete(pod));
        let room = most.saturating_sub(surging);
        let nodes = allowed.into_iter().chain(candidates.into_iter().take(room));
        self.plan.create.extend(nodes.map(str::to_owned));
    }

    fn status(&self, collisions: i32) -> DaemonSetStatus {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: (collisions > 0).then_some(collisions),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (node, place) in &self.places {
            let first = self.pods.get(node).and_then(|pods| pods.first());
            if *place != Place::Runs {
                status.number_misscheduled += i32::from(first.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = first else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pods::is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(revision_of(pod) == self.revision);
        }
        status.updated_number_scheduled = meta::counted(updated);
        status.number_available = meta::counted(available);
        status.number_unavailable = meta::counted(status.desired_number_scheduled - available);
        status
    }
}
