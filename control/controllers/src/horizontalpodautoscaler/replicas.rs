//! How many replicas a metric asks for. Pure.
//!
//! Follows "Algorithm details" of <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>. A pod that is not ready or has no
//! metric never makes a change larger: of a decrease it is taken to use what is wanted, of an increase nothing.

use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How long after a pod's start its CPU counts only while it is ready. Upstream's default.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_secs(300);
/// How long after a pod's start a change to unready is its first. Upstream's default.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What is known of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodMetric {
    /// When it was read.
    pub at: Timestamp,
    /// The time of which it is the mean.
    pub window: SignedDuration,
    /// In thousandths.
    pub value: i64,
}

/// Metrics by the name of the pod.
pub(super) type PodMetrics = BTreeMap<String, PodMetric>;

/// By how much a ratio may differ from one before anything changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerances {
    /// Of a decrease.
    pub down: f64,
    /// Of an increase.
    pub up: f64,
}

impl Tolerances {
    fn cover(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What an autoscaler compares its metrics with.
pub(super) struct Scaled<'a> {
    /// The pods that the target selects.
    pub pods: &'a [Arc<Pod>],
    /// `spec.replicas` of the target.
    pub wanted: i32,
    /// `status.replicas` of the target.
    pub observed: i32,
    /// What counts as no change.
    pub tolerances: Tolerances,
    /// The time.
    pub now: Timestamp,
}

/// What the target of a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A share of what the containers request, in percent.
    Utilization(i32),
    /// A mean of the pods, in thousandths.
    Mean(i64),
}

/// The answer for a metric of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    /// The replicas that it asks for.
    pub replicas: i32,
    /// The share of the requests that is used, in percent, if that is the target.
    pub utilization: Option<i32>,
    /// What is used: the mean of the pods, in thousandths.
    pub mean: i64,
}

/// The pods, by what is known of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

fn group<'a>(pods: &'a [Arc<Pod>], metrics: &PodMetrics, of_cpu: bool, now: Timestamp) -> Groups<'a> {
    let mut groups = Groups::default();
    for pod in pods {
        let name = client::pod::name(pod);
        if client::pod::is_deleting(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(metric) = metrics.get(name) {
            if of_cpu && is_unsettled(pod, metric, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether the CPU of a pod says nothing yet: it may be that of its start.
fn is_unsettled(pod: &Pod, metric: &PodMetric, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return true };
    let later = |time: Timestamp, by: SignedDuration| time.saturating_add(by).unwrap_or(time);
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0);
    let is_unready = ready.status == "False";
    if later(started, CPU_INITIALIZATION) > now {
        is_unready || metric.at < later(changed, metric.window)
    } else {
        is_unready && later(started, INITIAL_READINESS) > changed
    }
}

/// What the metrics use together, compared with the target: the ratio, and the shown amounts.
fn compare(
    metrics: &PodMetrics,
    requests: &BTreeMap<&str, i64>,
    target: Target,
) -> Result<(f64, Option<i32>, i64), String> {
    let sum = |values: &mut dyn Iterator<Item = i64>| values.map(i128::from).sum::<i128>();
    let narrow = |n: i128| i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX });
    match target {
        Target::Mean(wanted) => {
            let used = sum(&mut metrics.values().map(|m| m.value));
            let mean = narrow(used / i128::try_from(metrics.len().max(1)).unwrap_or(1));
            Ok((mean as f64 / wanted as f64, None, mean))
        }
        Target::Utilization(wanted) => {
            let known = || metrics.iter().filter(|(name, _)| requests.contains_key(name.as_str()));
            let used = sum(&mut known().map(|(_, m)| m.value));
            let requested = sum(&mut known().map(|(name, _)| requests[name.as_str()]));
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let percent = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            let mean = narrow(used / i128::try_from(known().count()).unwrap_or(1));
            Ok((f64::from(percent) / f64::from(wanted), Some(percent), mean))
        }
    }
}

/// A metric of each pod; `of_cpu`: of a pod that has just started it says nothing. `requests` is asked for a share only.
pub(super) fn of_pods(
    scaled: &Scaled<'_>,
    mut metrics: PodMetrics,
    of_cpu: bool,
    target: Target,
    requests: impl FnOnce() -> Result<BTreeMap<String, i64>, String>,
) -> Result<Proposal, String> {
    if scaled.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(scaled.pods, &metrics, of_cpu, scaled.now);
    metrics.retain(|name, _| !groups.ignored.contains(name.as_str()) && !groups.unready.contains(name.as_str()));
    if metrics.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = if matches!(target, Target::Utilization(_)) { requests()? } else { BTreeMap::new() };
    let requests: BTreeMap<&str, i64> = requests.iter().map(|(name, request)| (name.as_str(), *request)).collect();
    let (ratio, utilization, mean) = compare(&metrics, &requests, target)?;
    let proposal = |replicas: i32| Ok(Proposal { replicas, utilization, mean });
    let grows_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !grows_with_unready && groups.missing.is_empty() {
        if scaled.tolerances.cover(ratio) {
            return proposal(scaled.wanted);
        }
        return proposal((ratio * groups.ready as f64).ceil() as i32);
    }
    let assumed = |value: i64| PodMetric { at: scaled.now, window: SignedDuration::ZERO, value };
    for name in &groups.missing {
        let value = match target {
            _ if ratio > 1.0 => 0,
            _ if ratio == 1.0 => continue,
            Target::Mean(wanted) => wanted,
            Target::Utilization(percent) => {
                let used = i128::from(requests.get(name).copied().unwrap_or(0)) * i128::from(percent.max(100)) / 100;
                i64::try_from(used).unwrap_or(i64::MAX)
            }
        };
        metrics.insert((*name).to_owned(), assumed(value));
    }
    if grows_with_unready {
        metrics.extend(groups.unready.iter().map(|name| ((*name).to_owned(), assumed(0))));
    }
    let (again, _, _) = compare(&metrics, &requests, target)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if scaled.tolerances.cover(again) || turned {
        return proposal(scaled.wanted);
    }
    let replicas = (again * metrics.len() as f64).ceil() as i32;
    let against = (again < 1.0 && replicas > scaled.wanted) || (again > 1.0 && replicas < scaled.wanted);
    proposal(if against { scaled.wanted } else { replicas })
}

/// An amount that stands for the whole target, in thousandths: the replicas, and the amount.
pub(super) fn of_whole(scaled: &Scaled<'_>, used: i64, wanted: i64) -> Result<(i32, i64), String> {
    let ratio = used as f64 / wanted as f64;
    if scaled.wanted == 0 {
        // from nothing; nothing else can be compared
        return Ok((ratio.ceil() as i32, used));
    }
    if scaled.tolerances.cover(ratio) {
        return Ok((scaled.wanted, used));
    }
    if scaled.pods.is_empty() {
        let text = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
        return Err(text.to_owned());
    }
    let ready = scaled.pods.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count();
    Ok(((ratio * ready as f64).ceil() as i32, used))
}

/// An amount that is shared by the pods, in thousandths: the replicas, and the share of each.
pub(super) fn of_share(scaled: &Scaled<'_>, used: i64, wanted: i64) -> (i32, i64) {
    let pods = f64::from(scaled.observed);
    let ratio = used as f64 / (wanted as f64 * pods);
    let needed = || (used as f64 / wanted as f64).ceil() as i32;
    let replicas = if scaled.tolerances.cover(ratio) { scaled.observed } else { needed() };
    let share = if scaled.observed == 0 { used } else { (used as f64 / pods).ceil() as i64 };
    (replicas, share)
}

/// What the pods request of a resource, in thousandths, by name: of one container, or of all that last.
pub(super) fn requests(pods: &[Arc<Pod>], container: &str, resource: &str) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        all.insert(client::pod::name(pod).to_owned(), request(pod, container, resource)?);
    }
    Ok(all)
}

fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let name = client::pod::name(pod);
    let milli = |text: &str| text.parse::<api::quantity::Quantity>().map_or(0, |amount| amount.milli_value());
    let of_pod = client::pod::spec(pod).resources.as_ref().and_then(|r| r.requests.as_ref());
    if let Some(requests) = of_pod.filter(|requests| container.is_empty() && !requests.is_empty()) {
        let missing = || format!("missing pod-level request for {resource} in Pod {name}");
        return Ok(milli(&requests.get(resource).ok_or_else(missing)?.0));
    }
    let (mut total, mut found) = (0_i64, false);
    let named = |c: &&k8s_openapi::api::core::v1::Container| container.is_empty() || c.name == container;
    for one in client::pod::lasting_containers(pod).filter(named) {
        let requests = one.resources.as_ref().and_then(|r| r.requests.as_ref());
        let missing = || format!("missing request for {resource} in container {} of Pod {name}", one.name);
        total = total.saturating_add(milli(&requests.and_then(|r| r.get(resource)).ok_or_else(missing)?.0));
        found = true;
    }
    if found || container.is_empty() {
        Ok(total)
    } else {
        Err(format!("container {container} not found in Pod {name}"))
    }
}
