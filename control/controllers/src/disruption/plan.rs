//! What a PodDisruptionBudget allows, given its pods and the scale of their owners. Pure.

use crate::{meta, pods};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long after an eviction the pod's deletion must have been seen; else it counts again.
pub(super) const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// How a budget counts what there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    /// By the pods that are there.
    Pods,
    /// By the scale of their owners.
    Scale,
}

/// How the pods of a budget are counted.
pub(super) fn counting(pdb: &PodDisruptionBudget) -> Counting {
    let Some(spec) = &pdb.spec else { return Counting::Pods };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(_), _) | (None, Some(IntOrString::String(_))) => Counting::Scale,
        (None, _) => Counting::Pods,
    }
}

/// How many pods there should be, and how many of them healthy. `scale`: by the owners, where it is asked for.
///
/// # Errors
/// Upstream's text for an amount that is none.
pub(super) fn expected(pdb: &PodDisruptionBudget, pods: usize, scale: i32) -> Result<(i32, i32), String> {
    let Some(spec) = &pdb.spec else { return Ok((0, 0)) };
    let amount = |value: &IntOrString| {
        meta::scaled(value, scale, true)
            .ok_or_else(|| "invalid value for IntOrString: invalid type: string is not a percentage".to_owned())
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => Ok((scale, scale.saturating_sub(amount(most)?).max(0))),
        (None, Some(IntOrString::Int(least))) => Ok((i32::try_from(pods).unwrap_or(i32::MAX), *least)),
        (None, Some(least)) => Ok((scale, amount(least)?)),
        (None, None) => Ok((0, 0)),
    }
}

/// The pods whose eviction is on its way.
#[derive(Debug, Default)]
pub(super) struct Disrupted {
    /// By name, with when they were evicted.
    pub(super) pods: BTreeMap<String, Time>,
    /// Those that should have been deleted and were not.
    pub(super) undeleted: Vec<Arc<Pod>>,
    /// When the first of `pods` should have been deleted.
    pub(super) recheck: Option<Duration>,
}

/// Leaves out of a status' disrupted pods which are gone, are being deleted, or stayed.
pub(super) fn disrupted(pdb: &PodDisruptionBudget, pods: &[Arc<Pod>], now: Timestamp) -> Disrupted {
    let mut out = Disrupted::default();
    let Some(told) = pdb.status.as_ref().and_then(|status| status.disrupted_pods.as_ref()) else { return out };
    for pod in pods.iter().filter(|pod| !meta::is_deleting(&pod.metadata)) {
        let name = meta::name(&pod.metadata);
        let Some(at) = told.get(name) else { continue };
        let due = at.0.saturating_add(DELETION_TIMEOUT).unwrap_or(at.0);
        if due < now {
            out.undeleted.push(pod.clone());
            continue;
        }
        let left = meta::non_negative(due.duration_since(now));
        out.recheck = Some(out.recheck.map_or(left, |first| first.min(left)));
        out.pods.insert(name.to_owned(), at.clone());
    }
    out
}

/// How many pods are ready and will stay.
pub(super) fn healthy(pods: &[Arc<Pod>], disrupted: &BTreeMap<String, Time>) -> i32 {
    let stays = |pod: &&Arc<Pod>| {
        !meta::is_deleting(&pod.metadata) && !disrupted.contains_key(meta::name(&pod.metadata)) && pods::is_ready(pod)
    };
    i32::try_from(pods.iter().filter(stays).count()).unwrap_or(i32::MAX)
}

/// The counts of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) healthy: i32,
    pub(super) desired: i32,
    pub(super) expected: i32,
}

/// The status of a budget with these counts.
pub(super) fn status(
    pdb: &PodDisruptionBudget,
    counts: Counts,
    disrupted: BTreeMap<String, Time>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let old = pdb.status.clone().unwrap_or_default();
    let surplus = counts.healthy.saturating_sub(counts.desired);
    // Nothing is allowed before the first pods have been counted.
    let allowed = if counts.expected <= 0 { 0 } else { surplus.max(0) };
    let generation = pdb.metadata.generation;
    let (answer, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    PodDisruptionBudgetStatus {
        current_healthy: Some(counts.healthy),
        desired_healthy: Some(counts.desired),
        expected_pods: Some(counts.expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: generation,
        conditions: Some(with_condition(old.conditions, (answer, reason, ""), generation, now)),
    }
}

/// The status of a budget that could not be counted: nothing may be evicted.
pub(super) fn failed(pdb: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let old = pdb.status.clone().unwrap_or_default();
    let conditions = with_condition(old.conditions, ("False", "SyncFailed", why), old.observed_generation, now);
    PodDisruptionBudgetStatus { disruptions_allowed: Some(0), conditions: Some(conditions), ..old }
}

/// Sets the condition DisruptionAllowed: status, reason, message.
fn with_condition(
    old: Option<Vec<Condition>>,
    (status, reason, message): (&str, &str, &str),
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    const TYPE: &str = "DisruptionAllowed";
    let mut conditions = old.unwrap_or_default();
    let same = conditions.iter().find(|c| c.type_ == TYPE && c.status == status);
    let new = Condition {
        last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
        type_: TYPE.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
    };
    match conditions.iter_mut().find(|c| c.type_ == TYPE) {
        Some(place) => *place = new,
        None => conditions.push(new),
    }
    conditions
}
