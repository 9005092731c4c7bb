//! The scheduling queue: pods without a node that are active, backing off, or waiting for an event that may help. Pure: time is passed in.
//!
//! While no pod is active, one that an event has woken leaves its back-off early, as upstream's `SchedulerPopFromBackoffQ` has it: it may be
//! tried where nobody else waits for the time. After an error the back-off always lasts.
//!
//! Bounded: it holds one entry per pod that exists and has no node.

use crate::{
    plugin::{Event, catch},
    pod::PodInfo,
    profile::Profiles,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// The back-off after the first failure; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// The longest back-off.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Pods whose back-off ends within the same of these leave it early by rank.
const WINDOW: Duration = Duration::from_secs(1);
/// How long a pod waits for an event before it is tried anyway.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// The order of the queue: higher priority first, then first come.
type Rank = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Ready for a scheduling cycle.
    Active(Rank),
    /// Backing off until this time.
    Backoff(Instant, u64),
    /// Backing off until this time, unless it leaves early: it was woken. With its key in `early`.
    Woken(Instant, u64, (u64, Rank)),
    /// Rejected at this time.
    Unschedulable(Instant, u64),
    /// Held back by preEnqueue of a plugin.
    Gated,
    /// In a scheduling or binding cycle.
    InFlight,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    /// How often no node fitted.
    refusals: u32,
    /// How often in a row its cycle failed.
    errors: u32,
    /// When its back-off ends.
    not_before: Instant,
    order: u64,
    /// Names of the plugins that rejected it.
    refused_by: Vec<&'static str>,
    /// The event counter when its last scheduling cycle began.
    events: u64,
    /// Whether victims are being deleted for it: it is not tried before that has ended.
    preempting: bool,
    /// Whether an event that may help came meanwhile.
    woken: bool,
    /// Whether its back-off lasts to the end: no event has ended it.
    waits: bool,
}

/// The scheduling queue.
pub struct Queue {
    profiles: Profiles,
    entries: HashMap<String, Entry>,
    active: BTreeMap<Rank, String>,
    backoff: BTreeMap<(Instant, u64), String>,
    /// Those of `backoff` that may leave it early, by window and rank.
    early: BTreeMap<(u64, Rank), String>,
    /// Where windows begin to count.
    origin: Option<Instant>,
    unschedulable: BTreeMap<(Instant, u64), String>,
    /// The keys of `unschedulable` by the plugins that rejected the pods; "" for those that no plugin did.
    refused: HashMap<&'static str, BTreeSet<(Instant, u64)>>,
    next_order: u64,
    /// The number of [`Place::Gated`] entries.
    gated: usize,
    /// Counts events.
    events: u64,
    /// The counter at the last event that each plugin listened to.
    heard: HashMap<&'static str, u64>,
}

/// The number of pending pods by queue: the gauge `scheduler_pending_pods`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Ready for a scheduling cycle.
    pub active: usize,
    /// Backing off.
    pub backoff: usize,
    /// Waiting for an event.
    pub unschedulable: usize,
    /// Held back by gates.
    pub gated: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(profiles: impl Into<Profiles>) -> Self {
        Self {
            profiles: profiles.into(),
            entries: HashMap::new(),
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            early: BTreeMap::new(),
            origin: None,
            unschedulable: BTreeMap::new(),
            refused: HashMap::new(),
            next_order: 0,
            gated: 0,
            events: 0,
            heard: HashMap::new(),
        }
    }

    /// Adds or updates a pod without a node.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid().to_owned();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.next_order += 1;
            let order = self.next_order;
            let place = Place::InFlight;
            let entry = Entry {
                pod,
                place,
                refusals: 0,
                errors: 0,
                not_before: now,
                order,
                refused_by: Vec::new(),
                events: 0,
                preempting: false,
                woken: false,
                waits: false,
            };
            self.entries.insert(uid.clone(), entry);
            return self.activate(&uid, now);
        };
        let respecified =
            entry.pod.pod.spec != pod.pod.spec || entry.pod.pod.metadata.labels != pod.pod.metadata.labels;
        let priority = pod.priority;
        entry.pod = pod;
        match entry.place {
            Place::Gated => self.activate(&uid, now),
            Place::Unschedulable(..) if respecified => self.wake(&uid, &Event::PodUpdated, now),
            Place::Active(rank) | Place::Woken(_, _, (_, rank)) if rank.0.0 != priority => self.activate(&uid, now),
            _ => {}
        }
    }

    /// Updates a pod that is being bound, in case its binding fails. An unknown pod is ignored.
    pub fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(entry) = self.entries.get_mut(pod.uid()) {
            entry.pod = pod;
        }
    }

    /// The last known state of a pod.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(uid).map(|entry| &entry.pod)
    }

    /// Removes a pod that is deleted, finished or bound.
    pub fn remove(&mut self, uid: &str) {
        self.unlink(uid);
        self.entries.remove(uid);
    }

    /// Whether a pod is ready for a scheduling cycle.
    pub fn is_ready(&mut self, now: Instant) -> bool {
        self.promote(now);
        !(self.active.is_empty() && self.early.is_empty())
    }

    /// The next pod to schedule; it stays in flight until [`Queue::remove`] or [`Queue::refuse`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.promote(now);
        let uid = self.active.values().next().or_else(|| self.early.values().next())?.clone();
        self.unlink(&uid);
        let entry = self.entries.get_mut(&uid).expect("pods of the queue are known");
        entry.place = Place::InFlight;
        entry.waits = false;
        entry.events = self.events;
        Some(entry.pod.clone())
    }

    /// No node fits: the pod waits for an event, and at least for its back-off.
    pub fn refuse(&mut self, uid: &str, refused_by: Vec<&'static str>, now: Instant) {
        self.unlink(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.refused_by = refused_by;
        (entry.refusals, entry.errors) = (entry.refusals + 1, 0);
        entry.not_before = now + backoff(entry.refusals);
        entry.place = Place::Unschedulable(now, entry.order);
        self.unschedulable.insert((now, entry.order), uid.to_owned());
        for plugin in index_keys(&entry.refused_by) {
            self.refused.entry(plugin).or_default().insert((now, entry.order));
        }
    }

    /// Victims are being deleted for a rejected pod: it is not tried before [`Queue::preempted`].
    pub fn preempting(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid) {
            (entry.preempting, entry.woken) = (true, false);
        }
    }

    /// The victims for a pod are being deleted, or that failed: the pod is tried again then, or if it was woken meanwhile.
    pub fn preempted(&mut self, uid: &str, failed: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.preempting = false;
        if failed {
            self.reconsider(uid, now);
        } else if entry.woken && matches!(entry.place, Place::Unschedulable(..)) {
            self.activate(uid, now);
        }
    }

    /// The cycle failed with an error that may be temporary: the pod is tried again after its back-off.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.errors += 1;
        entry.waits = true;
        entry.not_before = now + backoff(entry.errors);
        self.activate(uid, now);
    }

    /// A rejected pod is tried again after its whole back-off, without an event.
    pub fn reconsider(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid).filter(|entry| matches!(entry.place, Place::Unschedulable(..))) {
            entry.waits = true;
            self.activate(uid, now);
        }
    }

    /// Whether an event to which the plugin listens occurred since the pod's cycle began. The pod has missed that event, so that it must not
    /// wait for another one.
    pub fn missed_events(&self, uid: &str, plugin: &str) -> bool {
        let since = self.heard.get(plugin).copied().unwrap_or(0);
        self.entries.get(uid).is_some_and(|entry| since > entry.events)
    }

    /// Handles an event: the pods that it may help are tried again.
    pub fn on(&mut self, event: &Event<'_>, now: Instant) {
        self.events += 1;
        let mut waiting = self.refused.get("").cloned().unwrap_or_default();
        for plugin in self.profiles.all().iter().flat_map(|profile| profile.plugins.iter()) {
            // A plugin that panics may have missed an event that helps.
            if catch(|| plugin.listens(event)).unwrap_or(true) {
                self.heard.insert(plugin.name(), self.events);
                waiting.extend(self.refused.get(plugin.name()).into_iter().flatten());
            }
        }
        for slot in waiting {
            if let Some(uid) = self.unschedulable.get(&slot).cloned() {
                self.wake(&uid, event, now);
            }
        }
    }

    /// When the next pod is due by time alone.
    pub fn next_due(&self) -> Option<Instant> {
        let backoff = self.backoff.first_key_value().map(|((at, _), _)| *at);
        let wait = self.unschedulable.first_key_value().map(|((since, _), _)| *since + MAX_WAIT);
        backoff.into_iter().chain(wait).min()
    }

    /// The number of pending pods by queue.
    pub fn pending(&self) -> Pending {
        Pending {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated,
        }
    }

    fn wake(&mut self, uid: &str, event: &Event<'_>, now: Instant) {
        let entry = &self.entries[uid];
        let late = matches!(event, Event::Timeout);
        if entry.preempting && entry.woken && !late {
            return;
        }
        let helps = entry.refused_by.is_empty()
            || late
            || self.profiles.plugins(&entry.pod.pod).iter().any(|p| {
                // A plugin that panics may have missed an event that helps.
                let wakes = || catch(|| p.wakes_on(event, &entry.pod)).unwrap_or(true);
                entry.refused_by.contains(&p.name()) && wakes()
            });
        if !helps {
            return;
        }
        match self.entries.get_mut(uid) {
            Some(entry) if entry.preempting && !late => entry.woken = true,
            _ => self.activate(uid, now),
        }
    }

    /// Moves the pod to where it is tried as soon as its back-off and preEnqueue allow.
    fn activate(&mut self, uid: &str, now: Instant) {
        self.unlink(uid);
        let origin = *self.origin.get_or_insert(now);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        // A plugin that panics may have meant to hold the pod back.
        let plugins = self.profiles.plugins(&entry.pod.pod);
        if !plugins.iter().all(|p| catch(|| p.pre_enqueue(&entry.pod)).unwrap_or(false)) {
            entry.place = Place::Gated;
            self.gated += 1;
            return;
        }
        let rank = (Reverse(entry.pod.priority), entry.order);
        if entry.not_before > now {
            let (until, order) = (entry.not_before, entry.order);
            self.backoff.insert((until, order), uid.to_owned());
            entry.place = if entry.waits {
                Place::Backoff(until, order)
            } else {
                let window = until.saturating_duration_since(origin).as_nanos() / WINDOW.as_nanos();
                let early = (u64::try_from(window).unwrap_or(u64::MAX), rank);
                self.early.insert(early, uid.to_owned());
                Place::Woken(until, order, early)
            };
        } else {
            entry.place = Place::Active(rank);
            self.active.insert(rank, uid.to_owned());
        }
    }

    fn unlink(&mut self, uid: &str) {
        match self.entries.get(uid).map(|e| e.place) {
            Some(Place::Active(rank)) => drop(self.active.remove(&rank)),
            Some(Place::Backoff(at, order)) => drop(self.backoff.remove(&(at, order))),
            Some(Place::Woken(at, order, early)) => {
                self.backoff.remove(&(at, order));
                self.early.remove(&early);
            }
            Some(Place::Unschedulable(since, order)) => {
                self.unschedulable.remove(&(since, order));
                for plugin in self.entries.get(uid).map(|e| index_keys(&e.refused_by)).unwrap_or_default() {
                    if let Some(waiting) = self.refused.get_mut(plugin) {
                        waiting.remove(&(since, order));
                    }
                }
            }
            Some(Place::Gated) => self.gated -= 1,
            Some(Place::InFlight) | None => {}
        }
    }

    /// Moves the pods that are due.
    fn promote(&mut self, now: Instant) {
        while let Some((_, uid)) = self.backoff.first_key_value().filter(|((at, _), _)| *at <= now) {
            let uid = uid.clone();
            self.activate(&uid, now);
        }
        while let Some((_, uid)) = self.unschedulable.first_key_value().filter(|((t, _), _)| *t + MAX_WAIT <= now) {
            let uid = uid.clone();
            self.wake(&uid, &Event::Timeout, now);
        }
    }
}

/// The names under which a rejected pod is found.
fn index_keys(refused_by: &[&'static str]) -> Vec<&'static str> {
    if refused_by.is_empty() { vec![""] } else { refused_by.to_vec() }
}

/// 1 s, 2 s, 4 s, … 10 s.
fn backoff(attempts: u32) -> Duration {
    INITIAL_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Listers, Plugins,
        plugins::{Strategy, defaults},
    };
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value) -> Arc<PodInfo> {
        let mut value = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": []}});
        for (k, v) in spec.as_object().into_iter().flatten() {
            value["spec"][k] = v.clone();
        }
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn queue() -> (Queue, Instant) {
        (Queue::new(defaults(Strategy::default(), &Listers::default())), Instant::now())
    }

    fn drain(q: &mut Queue, now: Instant) -> String {
        std::iter::from_fn(|| q.pop(now)).map(|p| p.uid().to_owned()).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn priority_goes_before_age() {
        let (mut q, now) = queue();
        for (uid, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            q.set(pod(uid, json!({"priority": priority})), now);
        }
        assert_eq!(drain(&mut q, now), "b d a c");
    }

    #[tokio::test(start_paused = true)]
    async fn gated_pods_wait_for_their_gates() {
        let (mut q, now) = queue();
        q.set(pod("a", json!({"schedulingGates": [{"name": "x"}]})), now);
        assert_eq!((drain(&mut q, now), q.pending().gated), (String::new(), 1));
        q.set(pod("a", json!({})), now);
        assert_eq!(drain(&mut q, now), "a");
    }

    /// Panics over the pods that it is asked about by name.
    struct Broken;

    impl crate::Plugin for Broken {
        fn name(&self) -> &'static str {
            "Broken"
        }

        fn pre_enqueue(&self, pod: &PodInfo) -> bool {
            assert!(pod.uid() != "held", "a plugin of a test");
            true
        }

        fn wakes_on(&self, _: &Event<'_>, pod: &PodInfo) -> bool {
            assert!(pod.uid() != "woken", "a plugin of a test");
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_panics_holds_back_its_pod_and_wakes_it_and_stops_no_other() {
        let mut q = Queue::new(Plugins::from([Box::new(Broken) as Box<dyn crate::Plugin>]));
        let now = Instant::now();
        for uid in ["held", "woken", "good"] {
            q.set(pod(uid, json!({})), now);
        }
        assert_eq!((drain(&mut q, now), q.pending().gated), ("woken good".to_owned(), 1));
        for uid in ["woken", "good"] {
            q.refuse(uid, vec!["Broken"], now);
        }
        let node = Node::default();
        q.on(&Event::NodeAdded(&node), now);
        assert_eq!((q.pending().backoff, q.pending().unschedulable), (1, 1));
        q.remove("held");
        assert_eq!(q.pending().gated, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_pods_wake_on_events_that_help_and_back_off() {
        let (mut q, now) = queue();
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a"}}})).expect("a node");
        q.set(pod("p", json!({"nodeSelector": {"zone": "b"}})), now);
        drain(&mut q, now);
        q.refuse("p", vec!["NodeAffinity"], now);
        q.on(&Event::NodeAdded(&node), now + Duration::from_secs(60));
        assert_eq!(drain(&mut q, now + Duration::from_secs(60)), "", "that node does not help");
        let mut other = node.clone();
        other.metadata.labels = Some([("zone".to_owned(), "b".to_owned())].into());
        q.on(&Event::NodeUpdated { old: &node, new: &other }, now);
        assert_eq!(
            (q.pending().backoff, q.next_due()),
            (1, Some(now + Duration::from_secs(1))),
            "backing off for a second"
        );
        // Others come first, as long as there are any.
        q.set(pod("new", json!({})), now);
        assert!(q.is_ready(now));
        assert_eq!(drain(&mut q, now), "new p", "it leaves its back-off early, since nobody else waits");
        assert_eq!(q.pending(), Pending::default());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_back_off_early_does_so_by_time_and_then_by_rank_and_not_after_an_error() {
        let (mut q, now) = queue();
        let node = Node::default();
        for (uid, priority, refusals) in [("slow", 9, 3), ("low", 0, 1), ("high", 5, 1), ("failed", 9, 0)] {
            q.set(pod(uid, json!({"priority": priority})), now);
            for _ in 0..refusals {
                drain(&mut q, now);
                q.refuse(uid, vec!["NodeUnschedulable"], now);
                q.on(&Event::NodeAdded(&node), now);
            }
            if refusals == 0 {
                drain(&mut q, now);
                q.retry(uid, now);
            }
        }
        for uid in ["slow", "low", "high"] {
            q.refuse(uid, vec!["NodeUnschedulable"], now);
        }
        q.on(&Event::NodeAdded(&node), now);
        assert_eq!(drain(&mut q, now), "high low slow");
        assert_eq!(drain(&mut q, now + Duration::from_millis(999)), "", "an error is no reason to try again at once");
        assert_eq!(drain(&mut q, now + Duration::from_secs(1)), "failed");
    }

    #[tokio::test(start_paused = true)]
    async fn an_uncordoned_node_is_tried_once_its_taint_is_gone_and_at_once() {
        let node = |cordoned: bool, tainted: bool| -> Node {
            let taint = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
            let taints = if tainted { json!([taint]) } else { json!([]) };
            let node = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": cordoned, "taints": taints}});
            serde_json::from_value(node).expect("a node")
        };
        for refused_by in ["NodeUnschedulable", "TaintToleration"] {
            let (mut q, now) = queue();
            let later = now + Duration::from_secs(5);
            q.set(pod("p", json!({})), now);
            drain(&mut q, now);
            q.refuse("p", vec![refused_by], now);
            q.on(&Event::NodeUpdated { old: &node(true, true), new: &node(false, true) }, later);
            assert_eq!(drain(&mut q, later), "", "{refused_by}: the taint is still there");
            q.on(&Event::NodeUpdated { old: &node(false, true), new: &node(false, false) }, later);
            assert_eq!(drain(&mut q, later), "p", "{refused_by}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_after_five_minutes_without_any_event() {
        let (mut q, now) = queue();
        q.set(pod("p", json!({})), now);
        drain(&mut q, now);
        q.refuse("p", vec!["NodeResourcesFit"], now);
        assert_eq!(drain(&mut q, now + Duration::from_secs(299)), "");
        assert_eq!(drain(&mut q, now + Duration::from_secs(300)), "p");
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_doubles_up_to_ten_seconds() {
        let (mut q, mut now) = queue();
        q.set(pod("p", json!({})), now);
        let mut waits = Vec::new();
        for _ in 0..6 {
            assert_eq!(drain(&mut q, now), "p");
            q.retry("p", now);
            let due = q.next_due().expect("a time");
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_spec_is_reason_to_try_again_and_a_removed_pod_is_not() {
        let (mut q, now) = queue();
        let later = now + Duration::from_secs(5);
        q.set(pod("p", json!({})), now);
        q.set(pod("gone", json!({})), now);
        drain(&mut q, now);
        q.refuse("p", vec!["TaintToleration"], now);
        q.refuse("gone", vec!["TaintToleration"], now);
        q.set(pod("p", json!({})), later);
        assert_eq!(drain(&mut q, later), "", "nothing changed");
        q.remove("gone");
        q.set(pod("p", json!({"tolerations": [{"operator": "Exists"}]})), later);
        assert_eq!(drain(&mut q, later), "p");
        assert_eq!(q.pending(), Pending::default());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_wakes_only_pods_of_plugins_that_listen_to_it() {
        let (mut q, now) = queue();
        let later = now + Duration::from_secs(5);
        let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}]}}});
        for (uid, spec, refused_by) in [
            ("near", near, "InterPodAffinity"),
            ("large", json!({}), "NodeResourcesFit"),
            ("odd", json!({}), "NodeName"),
        ] {
            q.set(pod(uid, spec), now);
            drain(&mut q, now);
            q.refuse(uid, vec![refused_by], now);
        }
        let other = pod("other", json!({"nodeName": "n"}));
        q.on(&Event::PodAdded(&other), later);
        assert_eq!(drain(&mut q, later), "near");
        assert!(q.missed_events("large", "InterPodAffinity") && !q.missed_events("large", "NodeResourcesFit"));
        q.on(&Event::PodRemoved(&other), later);
        assert_eq!(drain(&mut q, later), "large");
        assert_eq!(q.pending().unschedulable, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_not_tried_while_its_victims_are_being_deleted() {
        let other = pod("other", json!({"nodeName": "n"}));
        for (wakes, failed, expected) in [(false, false, ""), (true, false, "p"), (false, true, "p")] {
            let (mut q, now) = queue();
            let later = now + Duration::from_secs(5);
            q.set(pod("p", json!({})), now);
            drain(&mut q, now);
            q.refuse("p", vec!["NodeResourcesFit"], now);
            q.preempting("p");
            if wakes {
                q.on(&Event::PodRemoved(&other), later);
            }
            assert_eq!(drain(&mut q, later), "");
            q.preempted("p", failed, later);
            assert_eq!(drain(&mut q, later), expected, "{wakes} {failed}");
        }
    }
}
