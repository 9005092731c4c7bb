//! Requests and limits: names, amounts, and the quality of service class of a pod.

use crate::{at::At, quantities, rules};
use api::{Cause, names, quantity::Quantity};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};

const STANDARD: &[&str] = &[
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
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// The name of any resource.
pub(super) fn resource_name(at: At<'_>, name: &str, out: &mut Vec<Cause>) {
    let problems = names::qualified_name(name);
    if !problems.is_empty() {
        out.extend(problems.iter().map(|text| Cause::invalid(&at.field(), &json!(name), text)));
    } else if !name.contains('/')
        && !STANDARD.contains(&name)
        && !is_huge_pages(name)
        && !name.starts_with("requests.hugepages-")
    {
        out.push(Cause::invalid(&at.field(), &json!(name), "must be a standard resource type or fully qualified"));
    }
}

/// The name of a resource that a container can have.
pub(crate) fn container_name(at: At<'_>, name: &str, out: &mut Vec<Cause>) {
    resource_name(at, name, out);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name) {
            out.push(Cause::invalid(&at.field(), &json!(name), "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        out.push(Cause::invalid(&at.field(), &json!(name), "doesn't follow extended resource name standard"));
    }
}

fn pod_name(at: At<'_>, name: &str, out: &mut Vec<Cause>) {
    let before = out.len();
    resource_name(at, name, out);
    if out.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_pages(name) {
        out.push(Cause::not_supported(&at.field(), &json!(name), &["cpu", "memory"]));
    }
}

/// Countable resources must be whole numbers.
pub(crate) fn whole_number(at: At<'_>, name: &str, out: &mut Vec<Cause>) {
    let measured = ["cpu", "memory", "storage"].iter().any(|unit| name.ends_with(unit));
    let counted = STANDARD.contains(&name) && !measured;
    let Some(quantity) = quantities::parse(at.value()) else { return };
    if (counted || is_extended(name)) && quantity.milli_value() % 1000 != 0 {
        out.push(at.invalid("must be an integer"));
    }
}

/// A list of amounts by name.
pub(super) fn list(list: At<'_>, check: fn(At<'_>, &str, &mut Vec<Cause>), out: &mut Vec<Cause>) {
    for (name, at) in list.entries() {
        if rules::full(out) {
            return;
        }
        check(at, name, out);
        rules::quantity_not_negative(at, out);
        whole_number(at, name, out);
    }
}

/// Resources of a container: their names and amounts.
pub(crate) fn container_resources(resources: At<'_>, out: &mut Vec<Cause>) {
    list(resources, container_name, out);
}

fn amount(list: At<'_>, name: &str) -> Option<Quantity> {
    quantities::parse(list.value().get(name)?)
}

fn requirements(at: At<'_>, check: fn(At<'_>, &str, &mut Vec<Cause>), out: &mut Vec<Cause>) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    list(limits, check, out);
    for (name, request) in requests.entries() {
        if rules::full(out) {
            return;
        }
        check(request, name, out);
        rules::quantity_not_negative(request, out);
        whole_number(request, name, out);
        let Some(wanted) = quantities::parse(request.value()) else { continue };
        let refuse = |text: String| Cause::invalid(&requests.field(), &json!(wanted.to_string()), &text);
        match amount(limits, name) {
            Some(limit) if wanted != limit && !overcommits(name) => {
                out.push(refuse(format!("must be equal to {name} limit of {limit}")));
            }
            Some(limit) if wanted > limit => {
                out.push(refuse(format!("must be less than or equal to {name} limit of {limit}")));
            }
            None if !overcommits(name) => {
                out.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
    let any = |check: fn(&str) -> bool| limits.entries().chain(requests.entries()).any(|(name, _)| check(name));
    if any(is_huge_pages) && !any(|name| matches!(name, "cpu" | "memory")) {
        out.push(at.forbidden("HugePages require cpu or memory"));
    }
}

/// `resources` of a container.
pub(super) fn container(spec: At<'_>, at: At<'_>, out: &mut Vec<Cause>) {
    requirements(at, container_name, out);
    let wanted = at.get("claims");
    if wanted.is_empty() {
        return;
    }
    let mut claims: Vec<&str> = spec.get("resourceClaims").items().map(|claim| claim.get("name").str()).collect();
    claims.retain(|name| !name.is_empty());
    claims.sort_unstable();
    claims.dedup();
    let known: HashSet<&str> = claims.iter().copied().collect();
    // The requests of each claim by its name; an empty one is all requests.
    let mut seen: HashMap<&str, HashSet<&str>> = HashMap::new();
    for claim in wanted.items() {
        let name = claim.get("name");
        if name.is_empty() {
            out.push(claim.required(""));
            continue;
        }
        let (request, asked) = (claim.get("request").str(), seen.entry(name.str()).or_default());
        if asked.contains("") || asked.contains(request) || (request.is_empty() && !asked.is_empty()) {
            out.push(Cause::duplicate(&claim.field(), name.value()));
        }
        asked.insert(request);
        if !known.contains(name.str()) {
            let mut cause = Cause::not_found(&claim.field(), name.value());
            let shown = &claims[..claims.len().min(20)];
            let more = if claims.len() > shown.len() { ", ..." } else { "" };
            let list =
                if claims.is_empty() { " which is empty".to_owned() } else { format!(": {}{more}", shown.join(", ")) };
            cause.message.push_str(&format!(": must be one of the names in pod.spec.resourceClaims{list}"));
            out.push(cause);
        }
    }
}

/// `spec.resources`, for the pod as a whole.
pub(super) fn pod_level(spec: At<'_>, out: &mut Vec<Cause>) {
    let at = spec.get("resources");
    if !at.is_set() {
        return;
    }
    if at.get("claims").is_set() {
        out.push(at.get("claims").forbidden("claims may not be set for Resources at pod-level"));
    }
    requirements(at, pod_name, out);
    let mut totals: HashMap<&str, Quantity> = HashMap::new();
    for container in spec.get("containers").items() {
        for (name, request) in container.down(&["resources", "requests"]).entries() {
            let Some(amount) = quantities::parse(request.value()) else { continue };
            *totals.entry(name).or_default() += amount;
        }
    }
    for (name, request) in at.get("requests").entries() {
        let total = totals.remove(name).unwrap_or_default();
        if quantities::parse(request.value()).is_some_and(|pod| total > pod) {
            out.push(
                request.invalid(&format!("must be greater than or equal to aggregate container requests of {total}")),
            );
        }
    }
    for (i, container) in spec.get("containers").items().enumerate() {
        for (name, limit) in container.down(&["resources", "limits"]).entries() {
            let (Some(own), Some(pod)) = (quantities::parse(limit.value()), amount(at.get("limits"), name)) else {
                continue;
            };
            if own > pod {
                let place = at.field().child("containers").index(i).key(name).child("limits");
                out.push(Cause::invalid(
                    &place,
                    &json!(own.to_string()),
                    &format!("must be less than or equal to pod limits of {pod}"),
                ));
            }
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(spec: At<'_>) -> &'static str {
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut guaranteed = true;
    let pod = spec.get("resources");
    let of_pod = !pod.get("requests").is_empty() || !pod.get("limits").is_empty();
    let all: Vec<At<'_>> = if of_pod {
        vec![pod]
    } else {
        ["containers", "initContainers"]
            .iter()
            .flat_map(|kind| spec.get(kind).items())
            .map(|c| c.get("resources"))
            .collect()
    };
    for resources in all {
        let mut limited = 0;
        for (list, sums) in [("requests", &mut requests), ("limits", &mut limits)] {
            for (name, at) in resources.get(list).entries().filter(|(name, _)| matches!(*name, "cpu" | "memory")) {
                let Some(quantity) = quantities::parse(at.value()).filter(|q| q.signum() > 0) else { continue };
                limited += usize::from(list == "limits");
                match sums.get_mut(name) {
                    Some(sum) => *sum += quantity,
                    None => drop(sums.insert(name, quantity)),
                }
            }
        }
        guaranteed &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed
        && requests.iter().all(|(name, sum)| limits.get(name) == Some(sum))
        && requests.len() == limits.len()
    {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
