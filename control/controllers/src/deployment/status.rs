//! The status of a Deployment: counts, availability, progress and its deadline. Pure.
//!
//! Follows "Deployment status" of <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>.

use super::rolling::{available, desired, max_unavailable, replicas};
use crate::meta;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{sync::Arc, time::Duration};

const PROGRESSING: &str = "Progressing";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const AVAILABLE: &str = "NewReplicaSetAvailable";

/// A condition that changed now.
pub(super) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The condition of this type.
pub(super) fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// Adds or replaces a condition; the same status and reason again change nothing.
pub(super) fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = find(status, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != type_);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// The progress deadline; absent, or the largest number, means none.
fn deadline(d: &Deployment) -> Option<i64> {
    let seconds = d.spec.as_ref()?.progress_deadline_seconds.filter(|s| *s != i32::MAX)?;
    Some(i64::from(seconds))
}

/// Records that `d` was paused or resumed, so that the progress deadline does not run while it is paused.
pub(super) fn note_pause(d: &mut Deployment, now: Timestamp) {
    if deadline(d).is_none() {
        return;
    }
    let paused = d.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    let status = d.status.get_or_insert_default();
    let reason = find(status, PROGRESSING).and_then(|c| c.reason.clone());
    let noted = reason.as_deref() == Some("DeploymentPaused");
    match (reason.as_deref(), paused) {
        (Some(TIMED_OUT), _) => {}
        (_, true) if !noted => {
            set(status, condition(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".into(), now));
        }
        (_, false) if noted => {
            set(status, condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now));
        }
        _ => {}
    }
}

/// Records that the current ReplicaSet was created, or found while no progress condition exists.
pub(super) fn note_new_set(d: &mut Deployment, name: &str, created: bool, now: Timestamp) {
    if deadline(d).is_none() {
        return;
    }
    let status = d.status.get_or_insert_default();
    if created {
        let message = format!("Created new replica set {name:?}");
        set(status, condition(PROGRESSING, "True", "NewReplicaSetCreated", message, now));
    } else if find(status, PROGRESSING).is_none() {
        let message = format!("Found new replica set {name:?}");
        set(status, condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now));
    }
}

/// Records that the current ReplicaSet could not be created.
pub(super) fn note_create_failure(d: &mut Deployment, message: &str, now: Timestamp) {
    if deadline(d).is_some() {
        let status = d.status.get_or_insert_default();
        set(status, condition(PROGRESSING, "False", "ReplicaSetCreateError", message.to_owned(), now));
    }
}

/// Counts and the `Available` condition.
pub(super) fn calculate(
    d: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> DeploymentStatus {
    let all = || old.iter().chain(new);
    let sum = |count: fn(&ReplicaSet) -> i32| all().map(|rs| count(rs)).sum::<i32>();
    let actual = |rs: &ReplicaSet| rs.status.as_ref().map_or(0, |s| s.replicas);
    let ready = |rs: &ReplicaSet| rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let available = sum(available);
    // unknown until every ReplicaSet reports it
    let terminating = all().map(|rs| rs.status.as_ref().and_then(|s| s.terminating_replicas)).sum::<Option<i32>>();
    let previous = d.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: meta::counted(sum(actual)),
        updated_replicas: meta::counted(new.map_or(0, |rs| actual(rs))),
        ready_replicas: meta::counted(sum(ready)),
        available_replicas: meta::counted(available),
        unavailable_replicas: meta::counted((sum(replicas) - available).max(0)),
        terminating_replicas: terminating,
        collision_count: previous.collision_count,
        conditions: previous.conditions,
    };
    let enough = available >= desired(d) - max_unavailable(d);
    let (value, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition("Available", value, reason, message.to_owned(), now));
    status
}

fn n(value: Option<i32>) -> i32 {
    value.unwrap_or(0)
}

/// Whether all pods are of the current revision and available.
pub(super) fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|v| n(*v) == desired(d))
        && status.observed_generation.unwrap_or(0) >= d.metadata.generation.unwrap_or(0)
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(status: &DeploymentStatus, seconds: i64, now: Timestamp) -> bool {
    let Some(c) = find(status, PROGRESSING) else { return false };
    match c.reason.as_deref() {
        Some(AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => c.last_update_time.as_ref().is_some_and(|t| now.duration_since(t.0) > SignedDuration::from_secs(seconds)),
    }
}

/// Adds the conditions Progressing and ReplicaFailure to the calculated `status`. `d.status` is the previous status.
pub(super) fn progress(
    d: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let before = d.status.clone().unwrap_or_default();
    let known = find(&before, PROGRESSING).cloned();
    let complete_already = status.replicas == status.updated_replicas
        && known.as_ref().is_some_and(|c| c.reason.as_deref() == Some(AVAILABLE));
    let subject = match new {
        Some(rs) => format!("ReplicaSet {:?}", meta::name(&rs.metadata)),
        None => format!("Deployment {:?}", meta::name(&d.metadata)),
    };
    match deadline(d) {
        None => remove(status, PROGRESSING),
        Some(_) if complete_already => {}
        Some(_) if is_complete(d, status) => {
            let message = format!("{subject} has successfully progressed.");
            set(status, condition(PROGRESSING, "True", AVAILABLE, message, now));
        }
        Some(_) if progressed(&before, status) => {
            let message = format!("{subject} is progressing.");
            let mut c = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            if let Some(known) = known {
                if known.status == "True" {
                    c.last_transition_time = known.last_transition_time;
                }
                remove(status, PROGRESSING);
            }
            set(status, c);
        }
        Some(seconds) if timed_out(status, seconds, now) => {
            let message = format!("{subject} has timed out progressing.");
            set(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
        Some(_) => {}
    }
    match failure(new, old) {
        Some(c) => set(status, c),
        None => remove(status, "ReplicaFailure"),
    }
}

/// The failure of the current ReplicaSet, else that of any other.
fn failure(new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> Option<DeploymentCondition> {
    let of = |rs: &Arc<ReplicaSet>| {
        let conditions = rs.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == "ReplicaFailure").cloned()
    };
    let c = new.and_then(of).or_else(|| old.iter().find_map(of))?;
    Some(DeploymentCondition {
        type_: c.type_,
        status: c.status,
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time.clone(),
        last_update_time: c.last_transition_time,
    })
}

/// When to check the progress deadline again.
pub(super) fn next_check(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let seconds = deadline(d)?;
    let c = find(status, PROGRESSING)?;
    if is_complete(d, status) || c.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let left =
        c.last_update_time.as_ref()?.0.saturating_add(SignedDuration::from_secs(seconds)).ok()?.duration_since(now);
    Some(meta::non_negative(left) + Duration::from_secs(1))
}
