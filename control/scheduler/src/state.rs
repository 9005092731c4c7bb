//! The state of the loop: cache, queue, random numbers. Only the loop owns it, so that it needs no lock. It makes no calls.

use crate::{
    cache::Cache,
    cycle::{Decision, Nomination, schedule},
    cycle_state::CycleState,
    inbox::{Change, Outcome, Rejection, Updates},
    plugin::{Event, catch},
    pod::{PodInfo, is_finished, node_name, uid},
    profile::Profiles,
    queue::Queue,
    search::Search,
    status::Failure,
    waiting::WaitingPods,
};
use client::fit::resources;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use std::sync::Arc;
use tokio::time::Instant;

/// Everything a decision needs.
pub(crate) struct State {
    profiles: Profiles,
    cache: Cache,
    pub(crate) queue: Queue,
    /// Of each profile.
    searches: Vec<Search>,
    chance: fastrand::Rng,
    waiting: WaitingPods,
}

impl State {
    pub(crate) fn new(profiles: impl Into<Profiles>, seed: u64, waiting: WaitingPods) -> Self {
        let profiles = profiles.into();
        let searches = profiles.all().iter().map(|profile| Search::new(profile.percentage)).collect();
        let (queue, chance) = (Queue::new(profiles.clone()), fastrand::Rng::with_seed(seed));
        Self { profiles, cache: Cache::default(), queue, searches, chance, waiting }
    }

    /// Applies updates.
    pub(crate) fn take(&mut self, updates: Updates) {
        updates.namespaces.into_iter().for_each(|change| self.on_namespace(&change));
        updates.nodes.into_iter().for_each(|change| self.on_node(&change));
        updates.pods.into_iter().for_each(|change| self.on_pod(&change));
        if updates.volumes {
            self.queue.on(&Event::VolumesChanged, Instant::now());
        }
        for outcome in updates.outcomes {
            match outcome {
                Outcome::Bound(uid) => self.queue.remove(&uid),
                Outcome::Failed(pod, rejection) => self.failed(&pod, rejection),
                Outcome::Preempted { uid, failed } => self.queue.preempted(&uid, failed, Instant::now()),
            }
        }
    }

    /// Runs the scheduling cycle of the next pod, if one is ready. Updates that arrive meanwhile are applied after it: a pod that is
    /// rejected here waits for updates that are not applied yet.
    pub(crate) fn decide(&mut self) -> Option<(Arc<PodInfo>, Decision, CycleState)> {
        let now = Instant::now();
        let pod = self.queue.pop(now)?;
        let mut state = CycleState::default();
        let Self { cache, profiles, searches, chance, .. } = self;
        let index = profiles.index(&pod.pod).unwrap_or(0);
        let (plugins, search) = (&profiles.all()[index].plugins, &mut searches[index]);
        let decide = || schedule(&mut state, &pod, &cache.snapshot(), plugins, search, chance);
        let decision = catch(decide).unwrap_or_else(|| Decision::Error("a plugin panicked".to_owned()));
        match &decision {
            Decision::Error(_) => {
                self.withdraw(pod.uid(), "");
                self.queue.retry(pod.uid(), now);
            }
            Decision::Bind(node) => {
                self.withdraw(pod.uid(), node);
                self.cache.assume(pod.clone(), node);
            }
            Decision::Refuse { refused_by, nomination, .. } => {
                // before the pod is queued: its own nomination is no reason to try it again
                match nomination {
                    Nomination::Kept => {}
                    Nomination::Cleared => self.withdraw(pod.uid(), ""),
                    Nomination::To { node, .. } => self.withdraw(pod.uid(), node),
                }
                self.queue.refuse(pod.uid(), refused_by.clone(), now);
                if let Nomination::To { node, .. } = nomination {
                    self.cache.nominate(pod.clone(), node);
                    self.queue.preempting(pod.uid());
                }
            }
        }
        Some((pod, decision, state))
    }

    /// Handles an assumed pod that is not bound: its resources are free again.
    pub(crate) fn failed(&mut self, pod: &PodInfo, Rejection { plugin, failure }: Rejection) {
        let now = Instant::now();
        self.cache.forget(pod.uid());
        let missed = self.queue.missed_events(pod.uid(), plugin);
        // before the pod is queued: its own removal is no reason to try it again
        self.queue.on(&Event::PodRemoved(pod), now);
        match failure {
            failure if failure.is_gone() => self.queue.remove(pod.uid()),
            Failure::Unschedulable(_) if !missed => self.queue.refuse(pod.uid(), vec![plugin], now),
            _ => self.queue.retry(pod.uid(), now),
        }
    }

    /// Takes a nomination back, because the pod goes to `node` or nowhere: the room that it kept elsewhere is free.
    fn withdraw(&mut self, uid: &str, node: &str) {
        if let Some((pod, _)) = self.cache.withdraw(uid).filter(|(_, before)| before != node) {
            self.queue.on(&Event::PodRemoved(&pod), Instant::now());
        }
    }

    pub(crate) fn on_namespace(&mut self, Change { object, gone }: &Change<Namespace>) {
        let labels = (!gone).then(|| object.metadata.labels.clone().unwrap_or_default());
        self.cache.set_namespace(object.metadata.name.as_deref().unwrap_or(""), labels);
    }

    pub(crate) fn on_node(&mut self, Change { object: node, gone }: &Change<Node>) {
        let now = Instant::now();
        if *gone {
            self.cache.remove_node(node.metadata.name.as_deref().unwrap_or(""));
            return self.queue.on(&Event::NodeRemoved(node), now);
        }
        match self.cache.set_node(node.clone()) {
            None => self.queue.on(&Event::NodeAdded(node), now),
            Some(old) if is_relevant(&old, node) => self.queue.on(&Event::NodeUpdated { old: &old, new: node }, now),
            Some(_) => {}
        }
    }

    pub(crate) fn on_pod(&mut self, Change { object: pod, gone }: &Change<Pod>) {
        let id = uid(pod);
        if *gone || is_finished(pod) {
            self.waiting.cancel(id);
            self.queue.remove(id);
            self.withdraw(id, "");
            if let Some(info) = self.cache.remove_pod(id) {
                self.queue.on(&Event::PodRemoved(&info), Instant::now());
            }
        } else if !node_name(pod).is_empty() {
            self.queue.remove(id);
            self.withdraw(id, node_name(pod));
            self.on_bound_pod(pod);
        } else if pod.metadata.deletion_timestamp.is_some() {
            self.waiting.cancel(id);
            self.queue.remove(id);
            self.withdraw(id, "");
        } else if self.is_responsible_for(pod) {
            self.on_pending_pod(Arc::new(PodInfo::new(pod.clone())));
        }
    }

    fn on_bound_pod(&mut self, pod: &Arc<Pod>) {
        let (id, now) = (uid(pod), Instant::now());
        // of a status only what a resize has given the containers is relevant here
        let same = |known: &PodInfo| {
            let (old, new) = (&known.pod.metadata, &pod.metadata);
            let asks = || resources::has_same_shares(&known.pod, pod) || resources::pod_requests(pod) == known.requests;
            known.pod.spec == pod.spec
                && asks()
                && (&old.labels, &old.deletion_timestamp) == (&new.labels, &new.deletion_timestamp)
        };
        let before = self.cache.pod(id).filter(|_| !self.cache.is_assumed(id)).cloned();
        if before.as_deref().is_some_and(same) {
            return self.cache.refresh(pod);
        }
        let info = Arc::new(PodInfo::new(pod.clone()));
        self.cache.set_pod(info.clone());
        let Some(before) = before else { return self.queue.on(&Event::PodAdded(&info), now) };
        if before.labels() != info.labels() {
            self.queue.on(&Event::PodChanged { old: &before, new: &info }, now);
        }
        let containers = |pod: &PodInfo| pod.pod.spec.as_ref().map(|s| s.containers.clone());
        if containers(&before) != containers(&info) || before.requests != info.requests {
            self.queue.on(&Event::PodRemoved(&before), now);
        }
    }

    fn on_pending_pod(&mut self, pod: Arc<PodInfo>) {
        let now = Instant::now();
        if self.cache.is_assumed(pod.uid()) {
            return self.queue.refresh(pod);
        }
        let was_nominated = self.queue.pod(pod.uid()).is_some_and(|known| !known.nominated_node().is_empty());
        self.queue.set(pod.clone(), now);
        match (pod.nominated_node(), self.cache.nomination(pod.uid()).map(str::to_owned)) {
            ("", Some(_)) if was_nominated => {
                self.withdraw(pod.uid(), "");
                self.queue.reconsider(pod.uid(), now);
            }
            // the nomination is not written yet
            ("", Some(node)) => self.cache.nominate(pod, &node),
            ("", None) => {}
            (node, _) => self.cache.nominate(pod.clone(), node),
        }
    }

    fn is_responsible_for(&self, pod: &Pod) -> bool {
        self.profiles.index(pod).is_some()
    }
}

/// Whether a change of a node may make a pod fit; heartbeats do not.
fn is_relevant(old: &Node, new: &Node) -> bool {
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.unschedulable, s.taints.clone()));
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels || spec(old) != spec(new) || allocatable(old) != allocatable(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Listers, Plugins,
        plugins::{Strategy, defaults},
    };
    use serde_json::{Value, json};
    use std::time::Duration;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    fn state() -> State {
        let plugins = defaults(Strategy::default(), &Listers::default());
        State::new(plugins, 0, WaitingPods::default())
    }

    fn new<K>(object: K) -> Change<K> {
        Change { object: Arc::new(object), gone: false }
    }

    fn node(name: &str) -> Change<Node> {
        let value =
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
        new(serde_json::from_value(value).expect("a node"))
    }

    fn waiting(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_a_finished_pod_leaves_goes_to_the_one_that_waits() {
        let mut s = state();
        s.on_node(&node("n"));
        let a = pod(waiting("a", "1"));
        s.on_pod(&new(a.clone()));
        s.on_pod(&new(pod(waiting("b", "1"))));
        let (first, decision, _) = s.decide().expect("a pod");
        assert_eq!((first.uid(), decision), ("a", Decision::Bind("n".into())));
        let (second, decision, _) = s.decide().expect("a pod");
        assert!(second.uid() == "b" && matches!(decision, Decision::Refuse { .. }), "assumed room is taken");
        let mut bound = a.clone();
        bound.spec.as_mut().expect("a spec").node_name = Some("n".into());
        s.on_pod(&new(bound.clone()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(s.decide().is_none(), "nothing has become free");
        let mut done = bound.clone();
        done.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status");
        s.on_pod(&new(done));
        assert_eq!(s.decide().map(|d| d.1), Some(Decision::Bind("n".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_resize_has_not_taken_back_yet_is_not_free() {
        let mut s = state();
        s.on_node(&node("n"));
        let resized = |has: &str| {
            let mut value = waiting("a", "400m");
            value["spec"]["nodeName"] = json!("n");
            value["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true,
                "restartCount": 0, "allocatedResources": {"cpu": "400m"}, "resources": {"requests": {"cpu": has}}}]});
            pod(value)
        };
        s.on_pod(&new(resized("900m")));
        s.on_pod(&new(pod(waiting("b", "500m"))));
        let (_, decision, _) = s.decide().expect("decided");
        assert!(matches!(decision, Decision::Refuse { .. }), "{decision:?}");
        s.on_pod(&new(resized("400m")));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(s.decide().map(|d| d.1), Some(Decision::Bind("n".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_other_schedulers_and_pods_being_deleted_are_left_alone() {
        let mut s = state();
        s.on_node(&node("n"));
        let mut other = waiting("a", "1");
        other["spec"]["schedulerName"] = json!("other");
        let mut deleted = waiting("b", "1");
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        s.on_pod(&new(pod(other)));
        s.on_pod(&new(pod(deleted)));
        assert!(s.decide().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn profiles_have_rules_of_their_own_and_one_cache() {
        let configuration = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "profiles": [
            {"schedulerName": "spreading"},
            {"schedulerName": "packing", "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit"}]}},
                "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}]},
            {"schedulerName": "blind", "plugins": {"multiPoint": {"disabled": [{"name": "NodeResourcesFit"}]}}}]});
        let configuration = crate::Configuration::parse(&configuration).expect("right");
        let mut s = State::new(configuration.profiles(&Listers::default()), 0, WaitingPods::default());
        s.on_node(&node("m"));
        s.on_node(&node("n"));
        let mut placed = |name: &str, cpu: &str, scheduler: &str| {
            let mut waiting = waiting(name, cpu);
            waiting["spec"]["schedulerName"] = json!(scheduler);
            s.on_pod(&new(pod(waiting)));
            s.decide().map(|(_, decision, _)| match decision {
                Decision::Bind(node) => node,
                other => format!("{other:?}"),
            })
        };
        let first = placed("a", "400m", "spreading").expect("decided");
        let other = if first == "m" { "n" } else { "m" };
        assert_eq!(placed("b", "300m", "packing").as_ref(), Some(&first), "it sees the other profile's pod");
        assert_eq!(placed("c", "300m", "spreading").as_deref(), Some(other));
        assert_eq!(placed("d", "600m", "packing").as_deref(), Some(other));
        assert!(placed("e", "600m", "spreading").expect("decided").contains("Insufficient cpu"));
        assert!(placed("f", "9", "blind").is_some_and(|node| node.len() == 1), "it does not look at requests");
        assert_eq!(placed("g", "1m", "default-scheduler"), None, "nobody's");
    }

    /// A pod that was assumed on a node.
    fn assumed() -> State {
        let mut s = state();
        s.on_node(&node("n"));
        s.on_pod(&new(pod(waiting("a", "1"))));
        assert_eq!(s.decide().map(|d| d.1), Some(Decision::Bind("n".into())));
        s
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_a_plugin_refused_late_does_not_wait_for_what_has_happened_already() {
        let refused = || Rejection { plugin: "NodeResourcesFit", failure: Failure::Unschedulable("why".into()) };
        let error = || Rejection { plugin: "X", failure: Failure::Error("why".into()) };
        let gone = || Rejection { plugin: "", failure: Failure::Canceled };
        for (rejection, event, expected) in [
            (refused(), false, (0, 1)),
            (refused(), true, (1, 0)),
            (error(), false, (1, 0)),
            (error(), true, (1, 0)),
            (gone(), false, (0, 0)),
        ] {
            let mut s = assumed();
            if event {
                s.on_node(&node("m"));
            }
            s.failed(&PodInfo::new(Arc::new(pod(waiting("a", "1")))), rejection);
            let pending = s.queue.pending();
            assert_eq!((pending.backoff, pending.unschedulable), expected, "event {event}");
            s.on_pod(&new(pod(waiting("b", "1"))));
            assert!(matches!(s.decide(), Some((_, Decision::Bind(_), _))), "its room is free");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_comes_back_is_what_it_was_changed_to_meanwhile() {
        let mut s = assumed();
        s.on_pod(&new(pod(waiting("a", "2"))));
        assert!(s.decide().is_none(), "it is assumed");
        let rejection = Rejection { plugin: "X", failure: Failure::Error("why".into()) };
        s.failed(&PodInfo::new(Arc::new(pod(waiting("a", "1")))), rejection);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(s.decide(), Some((_, Decision::Refuse { .. }, _))), "two cores are too many");
    }

    /// Panics over one pod.
    struct Broken;

    impl crate::Plugin for Broken {
        fn name(&self) -> &'static str {
            "Broken"
        }

        fn filter(&self, _: &CycleState, pod: &PodInfo, _: &crate::node::NodeInfo) -> crate::Status {
            assert!(pod.uid() != "bad", "a plugin of a test");
            crate::Status::Success
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_panics_stops_no_other_pod() {
        let plugins = Plugins::from([Box::new(Broken) as Box<dyn crate::Plugin>]);
        let mut s = State::new(plugins, 0, WaitingPods::default());
        s.on_node(&node("n"));
        s.on_pod(&new(pod(waiting("bad", "1"))));
        s.on_pod(&new(pod(waiting("good", "1"))));
        assert_eq!(s.decide().map(|d| d.1), Some(Decision::Error("a plugin panicked".into())));
        assert_eq!(s.decide().map(|d| d.1), Some(Decision::Bind("n".into())));
        assert_eq!(s.queue.pending().backoff, 1);
    }
}
