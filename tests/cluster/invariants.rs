//! What must hold at every revision, whatever happens: followed from a revision on, event by event.
//!
//! A rule about what a controller does counts what it could have known: it may act on a view that is [`VIEW`] old.

use crate::world::World;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// How old the view of a component may be: longer than any storm keeps news from it.
const VIEW: Duration = Duration::from_secs(60);

/// What was broken so far. Cheap to clone.
#[derive(Clone, Default)]
pub struct Invariants {
    broken: Arc<Mutex<Vec<String>>>,
    /// Until when nobody can be blamed for what he counts.
    excused: Arc<Mutex<Option<Instant>>>,
}

/// The objects at a revision, and what they were.
#[derive(Default)]
struct Known {
    objects: BTreeMap<String, Value>,
    /// When an object was last of a kind of state: by its uid and the name of the state.
    last: BTreeMap<(String, &'static str), Instant>,
    /// The largest value that something had, with the time until which it counts.
    highest: BTreeMap<String, Vec<(i64, Instant)>>,
    /// Uids by what they were made for: there may be one.
    made: BTreeMap<String, BTreeSet<String>>,
    /// Whether rules hold that need a view of the present.
    counts: bool,
    broken: Vec<String>,
}

impl Invariants {
    /// Follows a cluster from now on.
    pub fn follow(world: &World) -> Self {
        let this = Self::default();
        let snapshot = world.store.snapshot(None).unwrap();
        let mut known = Known::default();
        for entry in snapshot.range("/", None) {
            known.objects.insert(entry.key.to_string(), serde_json::from_slice(&entry.stored).unwrap());
        }
        let mut events = world.store.watch("/", snapshot.revision()).unwrap();
        let Self { broken, excused } = this.clone();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let key = event.key().to_string();
                if key.starts_with("/core/events/") || key.contains("/leases/") {
                    continue;
                }
                let after = event.after.as_ref().map(|entry| serde_json::from_slice(&entry.stored).unwrap());
                known.counts = excused.lock().is_none_or(|until| until < Instant::now());
                known.change(&key, after, Instant::now());
                let at = event.revision;
                broken.lock().extend(known.broken.drain(..).map(|what| format!("at revision {at}: {what}")));
            }
            if events.lagged() {
                broken.lock().push("the rules could not follow".to_owned());
            }
        });
        this
    }

    /// A component has been given the past for the present, which the API never does: for a while, who counts what is there counts wrong.
    pub fn excuse(&self) {
        *self.excused.lock() = Some(Instant::now() + VIEW);
    }

    /// Fails if any was broken.
    pub fn hold(&self) {
        let broken = self.broken.lock();
        assert!(broken.is_empty(), "{} invariants were broken: {:#?}", broken.len(), &broken[..broken.len().min(20)]);
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, path: &str) -> Option<i64> {
    value.pointer(path).and_then(Value::as_i64)
}

fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

fn deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

fn active(pod: &Value) -> bool {
    !deleting(pod) && !["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
}

fn is_ready(pod: &Value) -> bool {
    let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.any(|c| c["type"] == "Ready" && c["status"] == "True") && !deleting(pod)
}

/// Kind and uid of the controlling owner.
fn owner(object: &Value) -> Option<(&str, &str)> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((text(owner, "/kind"), text(owner, "/uid")))
}

/// A number or a share of a total, rounded up or down.
fn share(value: &Value, total: i64, up: bool) -> i64 {
    match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok()) {
        Some(percent) if up => (percent * total + 99) / 100,
        Some(percent) => percent * total / 100,
        None => value.as_i64().unwrap_or(0),
    }
}

impl Known {
    fn change(&mut self, key: &str, after: Option<Value>, now: Instant) {
        let before = match &after {
            Some(object) => self.objects.insert(key.to_owned(), object.clone()),
            None => self.objects.remove(key),
        };
        let kind = key.split('/').nth(2).unwrap_or_default();
        // Remembered before it is judged: what is lower now was higher a moment ago.
        for object in before.iter().chain(&after) {
            self.remember(kind, object, now);
            if kind == "pods" && is_ready(object) {
                self.last.insert((key.to_owned(), "ready"), now);
            }
        }
        match (kind, before, after) {
            ("pods", before, Some(pod)) => self.pod(before.as_ref(), &pod, now),
            ("replicasets", Some(before), Some(set)) => self.replica_set(&before, &set, now),
            ("jobs", before, Some(job)) => self.job(before.as_ref(), &job),
            ("poddisruptionbudgets", Some(before), Some(budget)) => self.budget(&before, &budget, now),
            ("persistentvolumeclaims", Some(claim), None) => self.claim_gone(&claim),
            ("persistentvolumeclaims", _, Some(claim)) => self.claim(&claim),
            _ => {}
        }
    }

    fn remember(&mut self, kind: &str, object: &Value, now: Instant) {
        let of = uid(object).to_owned();
        let mut note = |what: &str, value: i64| {
            let all = self.highest.entry(format!("{of} {what}")).or_default();
            all.retain(|(known, until)| *until > now && *known != value);
            all.push((value, now + VIEW));
        };
        match kind {
            "replicasets" | "statefulsets" | "replicationcontrollers" => {
                note("replicas", number(object, "/spec/replicas").unwrap_or(1))
            }
            "deployments" => {
                let replicas = number(object, "/spec/replicas").unwrap_or(1);
                note("replicas", replicas);
                note("fewest", -replicas);
            }
            "jobs" => note("parallelism", number(object, "/spec/parallelism").unwrap_or(1)),
            "pods" => {
                if is_ready(object) {
                    self.last.insert((of.clone(), "ready"), now);
                }
                match text(object, "/status/phase") {
                    "Succeeded" => drop(self.last.insert((of, "succeeded"), now)),
                    "Failed" => drop(self.last.insert((of, "failed"), now)),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// The highest value that somebody may still see.
    fn highest(&self, uid: &str, what: &str, now: Instant) -> Option<i64> {
        let all = self.highest.get(&format!("{uid} {what}"))?;
        // The newest counts for as long as it is the newest.
        let newest = all.last().map(|(value, _)| *value);
        all.iter().filter(|(_, until)| *until > now).map(|(value, _)| *value).chain(newest).max()
    }

    fn was_ready(&self, pod: &Value, now: Instant) -> bool {
        is_ready(pod) || self.last.get(&(uid(pod).to_owned(), "ready")).is_some_and(|at| now - *at < VIEW)
    }

    fn all(&self, prefix: &str) -> impl Iterator<Item = &Value> + use<'_> {
        let end = format!("{prefix}~");
        self.objects.range(prefix.to_owned()..end).map(|(_, object)| object)
    }

    fn pods_of<'a>(&'a self, of: &'a str) -> impl Iterator<Item = &'a Value> {
        self.all("/core/pods/").filter(move |pod| owner(pod).is_some_and(|(_, uid)| uid == of))
    }

    fn by_uid(&self, prefix: &str, of: &str) -> Option<&Value> {
        self.all(prefix).find(|object| uid(object) == of)
    }

    fn pod(&mut self, before: Option<&Value>, pod: &Value, now: Instant) {
        let mut broken = Vec::new();
        let name = text(pod, "/metadata/name");
        let (was, is) = (before.map_or("", |pod| text(pod, "/spec/nodeName")), text(pod, "/spec/nodeName"));
        if before.is_some_and(|before| uid(before) == uid(pod)) && !was.is_empty() && was != is {
            broken.push(format!("pod {name} was bound to {was} and to {is}"));
        }
        if before.is_none() {
            self.quota(pod, &mut broken);
            let (kind, of) = owner(pod).filter(|_| self.counts).unwrap_or_default();
            let number_of = self.pods_of(of).filter(|pod| active(pod)).count();
            let count = i64::try_from(number_of).unwrap();
            match kind {
                "ReplicaSet" | "ReplicationController" | "StatefulSet" => {
                    let most = self.highest(of, "replicas", now).unwrap_or(i64::MAX);
                    if count > most {
                        broken.push(format!("{count} pods of {kind} of {name}, which had at most {most} replicas"));
                    }
                }
                "Job" => {
                    let most = self.highest(of, "parallelism", now).unwrap_or(i64::MAX);
                    if count > most {
                        broken.push(format!("{count} active pods of the Job of {name} with parallelism {most}"));
                    }
                }
                _ => {}
            }
            if kind == "StatefulSet" {
                self.order(pod, of, now, &mut broken);
            }
        }
        self.broken.extend(broken);
    }

    /// A pod of an ordered set comes after those before it.
    fn order(&self, pod: &Value, of: &str, now: Instant, broken: &mut Vec<String>) {
        let Some(set) = self.by_uid("/apps/statefulsets/", of) else { return };
        if text(set, "/spec/podManagementPolicy") == "Parallel" {
            return;
        }
        let name = text(pod, "/metadata/name");
        let Some((set_name, ordinal)) = name.rsplit_once('-').and_then(|(set, n)| Some((set, n.parse::<i64>().ok()?)))
        else {
            return;
        };
        for earlier in 0..ordinal {
            let key = format!("/core/pods/default/{set_name}-{earlier}");
            // One that was ready a moment ago, and has gone since, may still be seen.
            let seen = self.last.get(&(key.clone(), "ready")).is_some_and(|at| now - *at < VIEW);
            if !seen && !self.objects.get(&key).is_some_and(is_ready) {
                broken.push(format!("{name} was made before {set_name}-{earlier} was ready"));
            }
        }
    }

    fn quota(&self, pod: &Value, broken: &mut Vec<String>) {
        let namespace = text(pod, "/metadata/namespace");
        for quota in self.all(&format!("/core/resourcequotas/{namespace}/")) {
            let Some(hard) = quota["spec"]["hard"]["pods"].as_str().and_then(|n| n.parse::<usize>().ok()) else {
                continue;
            };
            let there = self.all(&format!("/core/pods/{namespace}/"));
            let used = there.filter(|pod| !["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))).count();
            if used > hard {
                broken.push(format!("{used} pods in {namespace}, whose quota has {hard}"));
            }
        }
    }

    /// What a Deployment does to its ReplicaSets: never more than its surge, never fewer available than it promises.
    fn replica_set(&mut self, before: &Value, set: &Value, now: Instant) {
        let (was, is) = (number(before, "/spec/replicas").unwrap_or(1), number(set, "/spec/replicas").unwrap_or(1));
        let rolls = |kind: &str| kind == "Deployment" && was != is && self.counts;
        let Some((_, of)) = owner(set).filter(|(kind, _)| rolls(kind)) else { return };
        let of = of.to_owned();
        let Some(deployment) = self.by_uid("/apps/deployments/", &of) else { return };
        let name = text(deployment, "/metadata/name").to_owned();
        let most = self.highest(&of, "replicas", now).unwrap_or(0);
        let fewest = -self.highest(&of, "fewest", now).unwrap_or(0);
        let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
        let (surge, unavailable) =
            (share(&rolling["maxSurge"], most, true), share(&rolling["maxUnavailable"], most, false));
        let sets: Vec<&Value> =
            self.all("/apps/replicasets/").filter(|set| owner(set).is_some_and(|(_, uid)| uid == of)).collect();
        let sum: i64 = sets.iter().map(|set| number(set, "/spec/replicas").unwrap_or(1)).sum();
        let mut broken = Vec::new();
        if is > was && sum > most + surge {
            broken.push(format!("{sum} replicas of Deployment {name}, which had {most} and a surge of {surge}"));
        }
        // Only where the Deployment rolls: fewer replicas of its own are fewer available ones.
        if is < was && most == fewest {
            let available = |set: &&Value| {
                let ready = self.pods_of(uid(set)).filter(|pod| self.was_ready(pod, now)).count();
                number(set, "/spec/replicas").unwrap_or(1).min(i64::try_from(ready).unwrap())
            };
            let left: i64 = sets.iter().map(available).sum();
            // Those that others have taken away are not its doing.
            let before: i64 = left
                + (was.min(i64::try_from(self.pods_of(uid(set)).filter(|p| self.was_ready(p, now)).count()).unwrap())
                    - available(&set))
                .max(0);
            let promised = most - unavailable;
            if left < promised && left < before {
                broken.push(format!("{left} available pods are left of Deployment {name}, which promises {promised}; there were {before}"));
            }
        }
        self.broken.extend(broken);
    }

    fn job(&mut self, before: Option<&Value>, job: &Value) {
        let (name, of) = (text(job, "/metadata/name").to_owned(), uid(job).to_owned());
        let mut broken = Vec::new();
        if before.is_none()
            && let Some((_, cron)) = owner(job).filter(|(kind, _)| *kind == "CronJob")
        {
            let cron = cron.to_owned();
            let time = text(job, "/metadata/annotations/batch.kubernetes.io~1cronjob-scheduled-timestamp");
            let made = self.made.entry(format!("{cron} at {time}")).or_default();
            made.insert(of.clone());
            if made.len() > 1 {
                broken.push(format!("Job {name} is the second one of its CronJob for {time}"));
            }
            let forbids =
                self.by_uid("/batch/cronjobs/", &cron).is_some_and(|c| text(c, "/spec/concurrencyPolicy") == "Forbid");
            let finished = |job: &Value| {
                let mut all = job["status"]["conditions"].as_array().into_iter().flatten();
                all.any(|c| ["Complete", "Failed"].contains(&text(c, "/type")) && c["status"] == "True")
            };
            let others = self.all("/batch/jobs/").filter(|other| owner(other).is_some_and(|(_, uid)| uid == cron));
            let running = others.filter(|other| uid(other) != of && !finished(other) && !deleting(other)).count();
            if forbids && running > 0 {
                broken.push(format!("Job {name} overlaps with another of a CronJob that forbids it"));
            }
        }
        let seen = |state: &'static str| self.last.keys().filter(|(_, known)| *known == state).count();
        // Counted over all Jobs, since a pod that is gone tells no owner: still no more than there were.
        let (succeeded, failed) =
            (number(job, "/status/succeeded").unwrap_or(0), number(job, "/status/failed").unwrap_or(0));
        if succeeded > i64::try_from(seen("succeeded")).unwrap() {
            broken.push(format!("Job {name} counts {succeeded} successes, of pods that never succeeded"));
        }
        if let Some(completions) = number(job, "/spec/completions").filter(|completions| succeeded > *completions) {
            broken.push(format!("Job {name} has {succeeded} successes of {completions}"));
        }
        if before.is_some_and(|b| {
            uid(b) == of
                && (number(b, "/status/succeeded").unwrap_or(0) > succeeded
                    || number(b, "/status/failed").unwrap_or(0) > failed)
        }) {
            broken.push(format!("Job {name} counts fewer than before"));
        }
        self.broken.extend(broken);
    }

    /// An eviction takes one of the disruptions that are allowed, and leaves as many healthy pods as the budget wants.
    fn budget(&mut self, before: &Value, budget: &Value, now: Instant) {
        let none = json!({});
        let disrupted = |budget: &Value| budget["status"]["disruptedPods"].as_object().cloned().unwrap_or_default();
        let (old, new) = (disrupted(before), disrupted(budget));
        let taken = new.keys().filter(|name| !old.contains_key(*name)).count();
        let allowed = |budget: &Value| number(budget, "/status/disruptionsAllowed").unwrap_or(0);
        if taken == 0 {
            return;
        }
        let name = text(budget, "/metadata/name").to_owned();
        let mut broken = Vec::new();
        if allowed(before) < i64::try_from(taken).unwrap() || allowed(budget) < 0 {
            broken.push(format!("{taken} evictions of budget {name}, which allowed {}", allowed(before)));
        }
        let labels = budget["spec"]["selector"]["matchLabels"].as_object().or(none.as_object()).unwrap();
        let selected = |pod: &&Value| labels.iter().all(|(label, value)| &pod["metadata"]["labels"][label] == value);
        let healthy = self
            .all("/core/pods/default/")
            .filter(selected)
            .filter(|pod| self.was_ready(pod, now) && !new.contains_key(text(pod, "/metadata/name")));
        let (healthy, desired) =
            (i64::try_from(healthy.count()).unwrap(), number(budget, "/status/desiredHealthy").unwrap_or(0));
        if healthy < desired {
            broken.push(format!("{healthy} healthy pods are left of budget {name}, which wants {desired}"));
        }
        self.broken.extend(broken);
    }

    fn claim(&mut self, claim: &Value) {
        let volume = text(claim, "/spec/volumeName").to_owned();
        if volume.is_empty() {
            return;
        }
        let holders: Vec<String> = self
            .all("/core/persistentvolumeclaims/")
            .filter(|other| text(other, "/spec/volumeName") == volume)
            .map(|other| text(other, "/metadata/name").to_owned())
            .collect();
        if holders.len() > 1 {
            self.broken.push(format!("volume {volume} has the claims {holders:?}"));
        }
    }

    fn claim_gone(&mut self, claim: &Value) {
        if text(claim, "/metadata/labels/keep") == "always" {
            self.broken.push(format!("claim {} is gone against its policy", text(claim, "/metadata/name")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, owner: &str, more: Value) -> Value {
        let kind = owner.split('-').next().unwrap();
        let mut object = json!({"metadata": {"name": name, "namespace": "default", "uid": name,
            "ownerReferences": [{"kind": kind, "uid": owner, "controller": true}]}});
        for (key, part) in more.as_object().unwrap() {
            object[key] = part.clone();
        }
        object
    }

    fn ready(name: &str, owner: &str) -> Value {
        object(
            name,
            owner,
            json!({"spec": {"nodeName": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        )
    }

    /// What is said of changes, of which the last one breaks a rule. Each is a key, and what is there then.
    fn said(changes: &[(&str, Value)]) -> Vec<String> {
        let mut known = Known { counts: true, ..Known::default() };
        for (at, (key, after)) in changes.iter().enumerate() {
            assert!(known.broken.is_empty(), "before change {at}: {:?}", known.broken);
            let after = Some(after.clone()).filter(|after| !after.is_null());
            known.change(key, after, Instant::now());
        }
        known.broken
    }

    #[tokio::test(start_paused = true)]
    async fn each_rule_can_be_broken() {
        let deployment = object(
            "Deployment-d",
            "",
            json!({"spec": {"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}),
        );
        let set = |name: &str, replicas: i64| object(name, "Deployment-d", json!({"spec": {"replicas": replicas}}));
        let job = |uid: &str, time: &str, status: Value| {
            let mut job =
                object(uid, "CronJob-c", json!({"spec": {"parallelism": 1, "completions": 1}, "status": status}));
            job["metadata"]["annotations"] = json!({"batch.kubernetes.io/cronjob-scheduled-timestamp": time});
            job
        };
        let cron = object("CronJob-c", "", json!({"spec": {"concurrencyPolicy": "Forbid"}}));
        let budget = |allowed: i64, disrupted: Value| {
            object(
                "b",
                "",
                json!({"spec": {"selector": {"matchLabels": {"app": "x"}}},
            "status": {"disruptionsAllowed": allowed, "desiredHealthy": 1, "disruptedPods": disrupted}}),
            )
        };
        let claim = |name: &str| object(name, "", json!({"spec": {"volumeName": "v"}}));
        let mut kept = claim("kept");
        kept["metadata"]["labels"] = json!({"keep": "always"});
        let bound = |node: &str| object("p", "", json!({"spec": {"nodeName": node}}));
        let quota = object("q", "", json!({"spec": {"hard": {"pods": "1"}}}));
        let ordered = object("StatefulSet-s", "", json!({"spec": {"replicas": 3}}));
        let (d, r1, r2) =
            ("/apps/deployments/default/d", "/apps/replicasets/default/r1", "/apps/replicasets/default/r2");
        let pod = |name: &str| format!("/core/pods/default/{name}");
        let (a, b, s0, s1) = (pod("a"), pod("b"), pod("s-0"), pod("s-1"));
        for (changes, expected) in [
            (vec![(&*a, bound("n1")), (&a, bound("n2"))], "was bound to n1 and to n2"),
            (
                vec![("/core/resourcequotas/default/q", quota), (&a, ready("a", "")), (&b, ready("b", ""))],
                "2 pods in default, whose quota has 1",
            ),
            (
                vec![(r1, set("ReplicaSet-r", 1)), (&a, ready("a", "ReplicaSet-r")), (&b, ready("b", "ReplicaSet-r"))],
                "had at most 1 replicas",
            ),
            (
                vec![
                    ("/batch/jobs/default/j", job("Job-j", "1", json!({}))),
                    (&a, ready("a", "Job-j")),
                    (&b, ready("b", "Job-j")),
                ],
                "with parallelism 1",
            ),
            (
                vec![("/apps/statefulsets/default/s", ordered.clone()), (&s1, ready("s-1", "StatefulSet-s"))],
                "s-1 was made before s-0 was ready",
            ),
            (
                vec![(d, deployment.clone()), (r1, set("r1", 2)), (r2, set("r2", 0)), (r2, set("r2", 2))],
                "4 replicas of Deployment Deployment-d, which had 2 and a surge of 1",
            ),
            (
                vec![
                    (d, deployment),
                    (r1, set("r1", 2)),
                    (&a, ready("a", "r1")),
                    (&b, ready("b", "r1")),
                    (r1, set("r1", 1)),
                ],
                "1 available pods are left",
            ),
            (vec![("/batch/jobs/default/j", job("x", "1", json!({"succeeded": 1})))], "of pods that never succeeded"),
            (
                vec![
                    ("/batch/cronjobs/default/c", cron),
                    ("/batch/jobs/default/j", job("x", "1", json!({}))),
                    ("/batch/jobs/default/k", job("y", "2", json!({}))),
                ],
                "overlaps with another",
            ),
            (
                vec![
                    ("/batch/jobs/default/j", job("x", "1", json!({}))),
                    ("/batch/jobs/default/j", Value::Null),
                    ("/batch/jobs/default/j", job("y", "1", json!({}))),
                ],
                "the second one of its CronJob for 1",
            ),
            (
                vec![
                    ("/policy/poddisruptionbudgets/default/b", budget(1, json!({}))),
                    ("/policy/poddisruptionbudgets/default/b", budget(0, json!({"a": "t"}))),
                ],
                "0 healthy pods are left of budget b",
            ),
            (
                vec![
                    ("/core/persistentvolumeclaims/default/a", claim("a")),
                    ("/core/persistentvolumeclaims/default/b", claim("b")),
                ],
                "volume v has the claims",
            ),
            (
                vec![
                    ("/core/persistentvolumeclaims/default/kept", kept),
                    ("/core/persistentvolumeclaims/default/kept", Value::Null),
                ],
                "is gone against its policy",
            ),
        ] {
            let said = said(&changes);
            assert!(said.iter().any(|text| text.contains(expected)), "{expected}: {said:?}");
        }
        let in_order = [
            ("/apps/statefulsets/default/s", ordered),
            (&*s0, ready("s-0", "StatefulSet-s")),
            (&s1, ready("s-1", "StatefulSet-s")),
        ];
        assert!(said(&in_order).is_empty());
    }
}
