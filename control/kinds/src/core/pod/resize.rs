//! `pods/resize`: CPU and memory of containers, and of the pod as a whole, may change while the pod runs (KEP-1287, KEP-5419). The write is
//! reduced to `resources` and `resizePolicy` before; what else may not change is told here.

use crate::{at::At, edit, podspec};
use api::{Cause, FieldPath, Object};
use serde_json::{Value, json};

/// What may be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
const LISTS: [&str; 2] = ["limits", "requests"];
const MIRROR: [&str; 3] = ["metadata", "annotations", "kubernetes.io/config.mirror"];
const ONLY: &str = "only cpu and memory resources are mutable";

/// All violations of a resize.
pub(super) fn validate(object: &Object, old: &Object) -> Vec<Cause> {
    // An empty path is printed so by upstream.
    let whole = |text: &str| vec![Cause::forbidden(&FieldPath::new("[]"), text)];
    if old.at(&MIRROR).is_some() {
        return whole("static pods cannot be resized");
    }
    let (spec, before) = (At::of(object, "spec"), At::of(old, "spec"));
    if before.down(&["os", "name"]).str() == "windows" {
        return whole("windows pods cannot be resized");
    }
    let mut out = Vec::new();
    let status = At::of(old, "status");
    let told = status.get("qosClass").str();
    let class = if told.is_empty() { podspec::qos_class(before) } else { told };
    if class != podspec::qos_class(spec) {
        out.push(Cause::invalid(&spec.field(), &json!(told), "Pod QOS Class may not change as a result of resizing"));
    }
    if !is_supported(status) {
        out.push(spec.forbidden("Pod running on node without support for resize"));
    }
    pod_level(spec, before, &mut out);
    if !status.get("nodeAllocatableResourceClaimStatuses").is_empty() {
        out.push(spec.forbidden("pods with node allocatable resource claims cannot be resized"));
    }
    if order(spec, before, &mut out) {
        containers(spec, before, &mut out);
    }
    out
}

/// Whether the node resizes: it reports the resources of what runs. Before anything runs nobody knows.
fn is_supported(status: At<'_>) -> bool {
    let running = |status: &At<'_>| status.down(&["state", "running"]).is_set();
    let first = status.get("containerStatuses").items().find(running);
    first.is_none_or(|first| first.get("resources").is_set())
}

fn pod_level(spec: At<'_>, before: At<'_>, out: &mut Vec<Cause>) {
    let (new, old) = (spec.get("resources"), before.get("resources"));
    let any = |at: At<'_>| LISTS.iter().any(|list| !at.get(list).is_empty());
    if !any(new) && !any(old) {
        return;
    }
    if old.is_set() && !new.is_set() {
        out.push(new.forbidden("pod-level resources cannot be removed"));
        return;
    }
    for list in ["requests", "limits"] {
        if is_removed(new.get(list), old.get(list)) {
            out.push(new.get(list).forbidden(&format!("pod-level resource {list} cannot be removed")));
        }
    }
    if !edit::deep_equal(&masked(new, old, true), old.value()) {
        out.push(spec.forbidden("only cpu and memory resources are mutable at pod-level"));
    }
}

/// Whether the containers are the same in the same order; what is not is told.
fn order(spec: At<'_>, before: At<'_>, out: &mut Vec<Cause>) -> bool {
    let known = out.len();
    for kind in ["containers", "initContainers"] {
        let (new, old) = (spec.get(kind), before.get(kind));
        if new.len() != old.len() {
            out.push(new.forbidden(&format!("{kind} may not be added or removed on resize")));
            continue;
        }
        for (new, old) in new.items().zip(old.items()) {
            let name = new.get("name");
            if name.str() != old.get("name").str() {
                out.push(name.forbidden(&format!("{kind} may not be renamed or reordered on resize")));
            }
        }
    }
    out.len() == known
}

fn containers(spec: At<'_>, before: At<'_>, out: &mut Vec<Cause>) {
    let pairs = |kind: &'static str| spec.get(kind).items().zip(before.get(kind).items());
    for (new, old) in pairs("initContainers").chain(pairs("containers")) {
        let (new, old) = (new.get("resources"), old.get("resources"));
        for list in ["requests", "limits"] {
            if is_removed(new.get(list), old.get(list)) {
                out.push(new.get(list).forbidden(&format!("resource {list} cannot be removed")));
            }
        }
    }
    for (new, old) in pairs("containers") {
        if !is_only_resized(new, old) {
            out.push(spec.forbidden(ONLY));
        }
    }
    for (new, old) in pairs("initContainers") {
        if !is_only_resized(new, old) {
            out.push(new.forbidden("only cpu and memory resources for init or sidecar containers are mutable"));
        }
        let changed = !edit::deep_equal(new.value(), old.value());
        if !changed || new.get("restartPolicy").str() == "Always" {
            continue;
        }
        for policy in new.get("resizePolicy").items() {
            if policy.get("restartPolicy").str() == "RestartContainer" {
                let text = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                out.push(new.forbidden(text));
            }
        }
    }
}

/// Whether an amount that was named is named no more.
fn is_removed(new: At<'_>, old: At<'_>) -> bool {
    old.entries().any(|(name, _)| !new.key(name).is_set())
}

/// Whether two containers differ in no more than CPU and memory. One with claims of devices is never resized (as upstream, whose comparison
/// leaves them out on one side).
fn is_only_resized(new: At<'_>, old: At<'_>) -> bool {
    let mut container = new.value().clone();
    container["resources"] = masked(new.get("resources"), old.get("resources"), false);
    edit::deep_equal(&container, old.value())
}

/// The new resources with the old CPU and memory; with the claims, if those are to be compared.
fn masked(new: At<'_>, old: At<'_>, claims: bool) -> Value {
    let mut all = serde_json::Map::new();
    for list in LISTS {
        let mut amounts = new.get(list).value().as_object().cloned().unwrap_or_default();
        for name in RESIZABLE {
            match old.get(list).value().get(name) {
                Some(amount) => drop(amounts.insert(name.to_owned(), amount.clone())),
                None => drop(amounts.remove(name)),
            }
        }
        if !amounts.is_empty() {
            all.insert(list.to_owned(), amounts.into());
        }
    }
    if claims && new.get("claims").is_set() {
        all.insert("claims".to_owned(), new.get("claims").value().clone());
    }
    // To upstream no resources are the same as empty ones.
    if all.is_empty() && !old.is_set() { Value::Null } else { all.into() }
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
