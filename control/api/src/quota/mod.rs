//! What objects use of a ResourceQuota. The API server charges by these rules and the controller counts by them. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.

mod claim;
mod pod;
mod scope;

#[cfg(test)]
mod tests;

pub use self::{
    pod::{missing, total},
    scope::Scope,
};

use crate::quantity::{Format, Quantity};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Amounts by the names that a quota uses: `pods`, `requests.cpu`, `count/jobs.batch`.
pub type Usage = BTreeMap<String, Quantity>;

/// A group and a resource: `("batch", "jobs")`.
pub type GroupResource = (String, String);

/// The limits of a quota, and what they are for.
#[derive(Clone, Debug, Default)]
pub struct Quota {
    /// `spec.hard`.
    pub hard: Usage,
    /// The requirements of `spec.scopes` and `spec.scopeSelector`; an object counts if it fits all of them.
    pub scopes: Vec<Scope>,
}

impl Quota {
    /// From the spec of a ResourceQuota.
    pub fn of(spec: &Value) -> Self {
        Self { hard: amounts(&spec["hard"]), scopes: scope::of(spec) }
    }

    /// The names of its limits that objects of a resource count for.
    pub fn names(&self, group: &str, resource: &str) -> Vec<&str> {
        self.hard.keys().map(String::as_str).filter(|name| counts_for(name, group, resource)).collect()
    }

    /// Whether an object of a resource counts.
    pub fn covers(&self, group: &str, resource: &str, object: &Value) -> bool {
        let fits = |scope: &Scope| scope.fits(group, resource, object);
        self.hard.keys().any(|name| counts_for(name, group, resource)) && self.scopes.iter().all(fits)
    }

    /// The resources whose objects count for its limits.
    pub fn resources(&self) -> BTreeSet<GroupResource> {
        self.hard.keys().filter_map(|name| resource_of(name)).collect()
    }
}

/// The quantities of a resource list; text that is none is left out.
pub fn amounts(list: &Value) -> Usage {
    let quantity = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text.trim()).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    list.as_object().into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

/// Those of the amounts that have one of these names.
pub fn only(usage: &Usage, names: &[&str]) -> Usage {
    usage.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(name, q)| (name.clone(), *q)).collect()
}

/// Adds amounts to others.
pub fn add(to: &mut Usage, more: &Usage) {
    for (name, amount) in more {
        match to.get_mut(name) {
            Some(sum) => *sum += *amount,
            None => drop(to.insert(name.clone(), *amount)),
        }
    }
}

/// How far amounts exceed others; what does not is left out.
pub fn excess(new: &Usage, old: &Usage) -> Usage {
    let less = |(name, amount): (&String, &Quantity)| {
        let left = old.get(name).map_or(*amount, |before| *amount - *before);
        (left.signum() > 0).then(|| (name.clone(), left))
    };
    new.iter().filter_map(less).collect()
}

/// The amounts as upstream prints them: `cpu=1,pods=2`.
pub fn print(usage: &Usage) -> String {
    usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

/// What an object of a resource uses.
pub fn usage(group: &str, resource: &str, object: &Value, now: Timestamp) -> Usage {
    match (group, resource) {
        ("", "pods") => pod::usage(object, now),
        ("", "services") => service(object),
        ("", "persistentvolumeclaims") => claim::usage(object),
        _ => count(group, resource, 1),
    }
}

/// What so many objects use of a resource that is only counted: neither pods nor Services nor claims.
pub fn count(group: &str, resource: &str, number: i64) -> Usage {
    let amount = Quantity::new(number, Format::DecimalSi);
    let alias = (group.is_empty() && ALIASES.contains(&resource)).then(|| resource.to_owned());
    alias.into_iter().chain([count_name(group, resource)]).map(|name| (name, amount)).collect()
}

/// Whether all that counts of a resource's objects is their number.
pub fn is_counted_only(group: &str, resource: &str) -> bool {
    !group.is_empty() || !matches!(resource, "pods" | "services" | "persistentvolumeclaims")
}

/// Whether quotas leave a resource out: it is not stored, or was never counted.
pub fn is_ignored(group: &str, resource: &str) -> bool {
    match group {
        "" => matches!(resource, "bindings" | "componentstatuses" | "events"),
        "events.k8s.io" => resource == "events",
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        _ => false,
    }
}

/// Resources that have their plain name too, from before there was `count/`.
const ALIASES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// `count/pods`, `count/jobs.batch`.
fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// Whether objects of a resource count for a limit.
fn counts_for(name: &str, group: &str, resource: &str) -> bool {
    resource_of(name).is_some_and(|(g, r)| g == group && r == resource)
}

/// The resource whose objects count for a limit.
fn resource_of(name: &str) -> Option<GroupResource> {
    let core = |resource: &str| Some((String::new(), resource.to_owned()));
    if let Some(counted) = name.strip_prefix("count/") {
        let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
        return (!is_ignored(group, resource)).then(|| (group.to_owned(), resource.to_owned()));
    }
    match name {
        "services" | "services.nodeports" | "services.loadbalancers" => core("services"),
        _ if ALIASES.contains(&name) => core(name),
        _ if claim::counts_for(name) => core("persistentvolumeclaims"),
        _ if pod::counts_for(name) => core("pods"),
        _ => None,
    }
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

fn service(service: &Value) -> Usage {
    let spec = &service["spec"];
    let ports: &[Value] = spec["ports"].as_array().map_or(&[], Vec::as_slice);
    let with_number = || ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        // Its node ports are not allocated yet: what counts is that they will be.
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (with_number(), 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let number = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi);
    [("count/services", 1), ("services", 1), ("services.loadbalancers", balancers), ("services.nodeports", node_ports)]
        .map(|(name, n)| (name.to_owned(), number(n)))
        .into()
}
