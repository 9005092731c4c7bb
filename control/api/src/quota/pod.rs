//! What a pod uses.

use super::{Usage, add, amounts, one};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The names of the limits for pods.
const NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// Limits that each container must have an amount for.
const REQUIRED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Whether pods count for a limit.
pub(super) fn counts_for(name: &str) -> bool {
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    NAMES.contains(&name) || huge || is_extended(name)
}

/// `requests.example.com/gpu`.
fn is_extended(name: &str) -> bool {
    name.strip_prefix("requests.").is_some_and(|name| !is_native(name))
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// Whether the pod has an end by itself.
pub(super) fn has_deadline(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

/// Whether its quality of service class is BestEffort.
pub(super) fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod["status"]["qosClass"].as_str().filter(|class| !class.is_empty()) {
        return class == "BestEffort";
    }
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|which| {
            let amounts = amounts(&resources[*which]);
            ["cpu", "memory"].iter().any(|name| amounts.get(*name).is_some_and(|amount| amount.signum() > 0))
        })
    };
    let spec = &pod["spec"];
    let containers = list(spec, "containers").iter().chain(list(spec, "initContainers"));
    !asks(&spec["resources"]) && !containers.into_iter().any(|container| asks(&container["resources"]))
}

/// Whether a term of its affinity concerns other namespaces.
pub(super) fn looks_beyond_its_namespace(pod: &Value) -> bool {
    let beyond = |term: &Value| !list(term, "namespaces").is_empty() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(beyond)
            || list(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| beyond(&weighted["podAffinityTerm"]))
    })
}

/// What it uses. One that has ended, or should have, is only counted.
pub(super) fn usage(pod: &Value, now: Timestamp) -> Usage {
    let mut usage = Usage::from([("count/pods".to_owned(), one())]);
    if has_ended(pod, now) {
        return usage;
    }
    let spec = &pod["spec"];
    let (mut requests, mut limits) = (effective(pod, "requests"), effective(pod, "limits"));
    let mut overhead = amounts(&spec["overhead"]);
    add(&mut requests, &overhead);
    // What has no limit gets none by the overhead.
    overhead.retain(|name, _| limits.contains_key(name));
    add(&mut limits, &overhead);
    add(&mut usage, &named(&requests, &limits));
    usage
}

fn has_ended(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return true;
    }
    let meta = &pod["metadata"];
    let since = meta["deletionTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let (Some(since), Some(grace)) = (since, meta["deletionGracePeriodSeconds"].as_i64()) else { return false };
    since.saturating_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
}

/// Amounts under the names of limits.
fn named(requests: &Usage, limits: &Usage) -> Usage {
    let mut usage = Usage::from([("pods".to_owned(), one())]);
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                usage.insert(name.clone(), *amount);
                usage.insert(format!("requests.{name}"), *amount);
            }
            _ if name.starts_with("hugepages-") => {
                usage.insert(name.clone(), *amount);
                usage.insert(format!("requests.{name}"), *amount);
            }
            _ if !is_native(name) => drop(usage.insert(format!("requests.{name}"), *amount)),
            _ => {}
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), *amount);
        }
    }
    usage
}

/// The effective `requests` or `limits` of a pod's spec, without its overhead: containers run together, init containers one after another
/// beside the sidecars before them; the higher counts. Amounts of the pod replace sums.
pub fn total(spec: &Value, which: &str) -> Usage {
    sum(spec, which, |container, _| amounts(&container["resources"][which]))
}

/// As [`total`], where a container that is being resized counts by the highest of what it asks for, was given and has (KEP-1287); where its node
/// can never give it what it asks for, that does not count.
fn effective(pod: &Value, which: &str) -> Usage {
    let infeasible = list(&pod["status"], "conditions")
        .iter()
        .find(|condition| condition["type"] == "PodResizePending")
        .is_some_and(|condition| condition["reason"] == "Infeasible");
    let all = list(&pod["status"], "containerStatuses").iter().chain(list(&pod["status"], "initContainerStatuses"));
    let told = all.filter(|status| !status["resources"].is_null());
    let statuses: HashMap<&str, &Value> =
        told.map(|status| (status["name"].as_str().unwrap_or_default(), status)).collect();
    sum(&pod["spec"], which, |container, lasts| {
        let wanted = amounts(&container["resources"][which]);
        let name = container["name"].as_str().unwrap_or_default();
        // An init container that ends is counted by what it asks for.
        let Some(status) = statuses.get(name).filter(|_| lasts) else { return wanted };
        let mut highest = amounts(&status["resources"][which]);
        if which == "requests" {
            raise(&mut highest, &amounts(&status["allocatedResources"]));
        }
        if !infeasible {
            raise(&mut highest, &wanted);
        }
        highest
    })
}

/// The sum of containers. `of` is told whether a container runs as long as the pod.
fn sum(spec: &Value, which: &str, of: impl Fn(&Value, bool) -> Usage) -> Usage {
    let mut sum = Usage::new();
    list(spec, "containers").iter().for_each(|container| add(&mut sum, &of(container, true)));
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in list(spec, "initContainers") {
        let lasts = container["restartPolicy"] == "Always";
        let mut step = of(container, lasts);
        if lasts {
            add(&mut sum, &step);
            add(&mut sidecars, &step);
            step = sidecars.clone();
        } else {
            add(&mut step, &sidecars);
        }
        raise(&mut peak, &step);
    }
    raise(&mut sum, &peak);
    let whole = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    sum.extend(amounts(&spec["resources"][which]).into_iter().filter(|(name, _)| whole(name)));
    sum
}

/// The higher of each amount.
fn raise(to: &mut Usage, other: &Usage) {
    for (name, amount) in other {
        let mine = to.entry(name.clone()).or_insert(*amount);
        *mine = (*mine).max(*amount);
    }
}

/// Which containers lack an amount for which of these limits, as upstream prints it.
pub fn missing(names: &[&str], pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let whole = ["requests", "limits"].iter().any(|which| {
        amounts(&spec["resources"][*which])
            .keys()
            .any(|name| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-"))
    });
    if whole {
        return None;
    }
    let mut lacking = BTreeMap::<&str, BTreeSet<&str>>::new();
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        let resources = &container["resources"];
        let has = named(&amounts(&resources["requests"]), &amounts(&resources["limits"]));
        for name in names.iter().filter(|name| REQUIRED.contains(name) && !has.contains_key(**name)) {
            lacking.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    let each = |(name, containers): (&&str, &BTreeSet<&str>)| {
        format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(","))
    };
    let all: Vec<String> = lacking.iter().map(each).collect();
    (!all.is_empty()).then(|| format!("must specify {}", all.join("; ")))
}
