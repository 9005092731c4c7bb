//! Validation of updates of a Pod and of its status. In the spec only images, a shorter deadline, more tolerations and fewer scheduling
//! gates may change.

use crate::{address, at::At, edit, podspec, rules};
use api::{Cause, FieldPath, Object};
use serde_json::{Value, json};
use server::{Context, Operation};
use std::collections::{HashMap, HashSet};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Fields that a new Pod may not have.
pub(super) fn creation(cx: &Context, object: &Object, out: &mut Vec<Cause>) {
    if cx.operation != Operation::Create || !cx.subresource.is_empty() {
        return;
    }
    let spec = At::of(object, "spec");
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        out.push(ephemeral.forbidden("cannot be set on create"));
    }
    if !spec.get("nodeName").is_empty() && !spec.get("schedulingGates").is_empty() {
        out.push(spec.get("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    podspec::apparmor::agree(spec, At::of(object, "metadata").get("annotations"), out);
}

pub(super) fn spec(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    fixed_annotations(object, old, &mut out);
    let (spec, before) = (At::of(object, "spec"), At::of(old, "spec"));
    for list in ["containers", "initContainers"] {
        let (new, old) = (spec.get(list), before.get(list));
        if new.len() != old.len() {
            out.push(new.forbidden("pod updates may not add or remove containers"));
            return out;
        }
        for image in new.items().map(|container| container.get("image")) {
            if image.is_empty() {
                out.push(image.required(""));
            }
            if image.str().trim() != image.str() {
                out.push(image.invalid("must not have leading or trailing whitespace"));
            }
        }
    }
    if !deadline(spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"), &mut out) {
        return out;
    }
    tolerations(spec.get("tolerations"), before.get("tolerations"), &mut out);
    gates(spec.get("schedulingGates"), before.get("schedulingGates"), &mut out);
    let allowed = allowed(spec, before, &mut out);
    if !edit::deep_equal(&allowed, before.value()) {
        let text = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            difference("PodSpec", before.value(), &allowed)
        );
        out.push(spec.forbidden(&text));
    }
    out
}

/// Of ephemeral containers others may be added, and nothing else may change.
pub(super) fn ephemeral_containers(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    fixed_annotations(object, old, &mut out);
    let list = At::of(object, "spec").get("ephemeralContainers");
    for was in At::of(old, "spec").get("ephemeralContainers").items() {
        let name = was.get("name").str();
        match list.items().find(|container| container.get("name").str() == name) {
            None => {
                let text = format!("existing ephemeral containers {name:?} may not be removed\n");
                out.push(list.forbidden(&text));
            }
            Some(container) if !edit::deep_equal(container.value(), was.value()) => {
                let text = format!(
                    "existing ephemeral containers {name:?} may not be changed\n{}",
                    difference("EphemeralContainer", was.value(), container.value())
                );
                out.push(list.forbidden(&text));
            }
            Some(_) => {}
        }
    }
    out
}

fn fixed_annotations(object: &Object, old: &Object, out: &mut Vec<Cause>) {
    let of = |object| At::of(object, "metadata").get("annotations");
    podspec::apparmor::fixed(of(object), of(old), out);
}

/// `activeDeadlineSeconds` may be set once, and then only shortened. False when no other error needs to be reported.
fn deadline(new: At<'_>, old: At<'_>, out: &mut Vec<Cause>) -> bool {
    match (new.int(), old.int()) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            out.push(new.invalid("must be between 0 and 2147483647, inclusive"));
            return false;
        }
        (Some(n), Some(before)) if before < n => {
            out.push(new.invalid("must be less than or equal to previous value"));
            return false;
        }
        (None, Some(_)) => out.push(new.invalid("must not update from a positive integer to nil value")),
        _ => {}
    }
    true
}

fn tolerations(new: At<'_>, old: At<'_>, out: &mut Vec<Cause>) {
    let plain = |toleration: At<'_>| {
        let mut value = toleration.value().clone();
        value.as_object_mut().map(|fields| fields.remove("tolerationSeconds"));
        edit::without_empty(&value)
    };
    let kept: HashSet<Value> = new.items().map(plain).collect();
    if !old.items().all(|old| kept.contains(&plain(old))) {
        out.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
        return;
    }
    // Upstream validates them again here.
    podspec::tolerations(new, out);
}

fn gates(new: At<'_>, old: At<'_>, out: &mut Vec<Cause>) {
    let known: HashSet<&str> = old.items().map(|old| old.get("name").str()).collect();
    for gate in new.items() {
        let name = gate.get("name").str();
        if !known.contains(name) {
            out.push(
                gate.get("name")
                    .forbidden(&format!("only deletion is allowed, but found new scheduling gate '{name}'")),
            );
        }
    }
}

/// The new spec with the old values of all mutable fields.
fn allowed(spec: At<'_>, before: At<'_>, out: &mut Vec<Cause>) -> Value {
    let mut munged = spec.value().clone();
    let Some(fields) = munged.as_object_mut() else { return munged };
    let old = before.value();
    for list in ["containers", "initContainers"] {
        for (container, was) in edit::objects(fields, list).zip(before.get(list).items()) {
            container.insert("image".into(), was.get("image").value().clone());
        }
    }
    let put_back = |fields: &mut edit::Fields, name: &str| match old.get(name) {
        Some(value) => drop(fields.insert(name.to_owned(), value.clone())),
        None => drop(fields.remove(name)),
    };
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(fields, name);
    }
    let grace = |at: At<'_>| at.get("terminationGracePeriodSeconds").int();
    if grace(before).is_some_and(|n| n < 0) && grace(spec) == Some(1) {
        put_back(fields, "terminationGracePeriodSeconds");
    }
    if !before.get("schedulingGates").is_empty() {
        // While a pod is gated, its node selector may become narrower.
        let (new, was) = (spec.get("nodeSelector"), before.get("nodeSelector"));
        if was.entries().any(|(key, value)| new.key(key).str() != value.str()) {
            out.push(new.invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)"));
        }
        put_back(fields, "nodeSelector");
        node_affinity(fields, old);
    }
    munged
}

fn node_affinity(fields: &mut edit::Fields, old: &Value) {
    let was = old.get("affinity").and_then(|a| a.get("nodeAffinity")).cloned();
    let affinity = edit::object(fields, "affinity");
    match was {
        Some(was) => drop(affinity.insert("nodeAffinity".into(), was)),
        None => drop(affinity.remove("nodeAffinity")),
    }
}

/// The lines that differ, old ones marked `-` and new ones `+`, with the names above them. It is a hint, not an exact diff.
fn difference(kind: &str, old: &Value, new: &Value) -> String {
    let mut out = format!("  core.{kind}{{\n");
    let empty = serde_json::Map::new();
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_else(|| empty.clone());
    let (old, new) = (fields(old), fields(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (was, is) = (old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null));
        if !edit::deep_equal(was, is) {
            out.push_str(&format!("- \t{name}: {was},\n+ \t{name}: {is},\n"));
        }
    }
    out.push_str("  }\n");
    out
}

pub(super) fn status(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    fixed_annotations(object, old, &mut out);
    let (status, before) = (At::of(object, "status"), At::of(old, "status"));
    for condition in status.get("conditions").items() {
        let seen = condition.get("observedGeneration");
        if seen.int().is_some_and(|n| n < 0) {
            out.push(seen.invalid("must be a non-negative integer"));
        }
        let kind = condition.get("type");
        if !matches!(kind.str(), "PodScheduled" | "Ready" | "Initialized") {
            rules::qualified(condition.get("Type").with(kind.value()), &mut out);
        }
    }
    let nominated = status.get("nominatedNodeName");
    if !nominated.is_empty() && nominated.str() != before.get("nominatedNodeName").str() {
        rules::subdomain_name(nominated, &mut out);
    }
    addresses(status, &mut out);
    let spec = At::of(object, "spec");
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        restarts(spec, list, status.get(list), before.get(list), &mut out);
    }
    if let (Some(class), Some(was)) = (object.str_at(&["status", "qosClass"]), old.str_at(&["status", "qosClass"]))
        && class != was
    {
        out.push(Cause::immutable(&FieldPath::new("status.qosClass"), &json!(class)));
    }
    out
}

/// Aligns `podIP` and `podIPs`. Older kubelets only know `podIP`: if it is set, it counts; else it becomes the first of `podIPs`.
pub(super) fn align_ips(status: &mut edit::Fields) {
    let first = status.get("podIPs").and_then(|all| all.get(0)?.get("ip")).cloned();
    let one = status.get("podIP").filter(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty())).cloned();
    match (one, first) {
        (Some(one), first) if first.as_ref() != Some(&one) => {
            status.insert("podIPs".into(), json!([{"ip": one}]));
        }
        (None, Some(first)) => {
            status.insert("podIP".into(), first);
        }
        _ => {}
    }
}

fn addresses(status: At<'_>, out: &mut Vec<Cause>) {
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let (one, all) = (status.get(one), status.get(all));
        if all.is_empty() {
            continue;
        }
        let first = all.index(0).get("ip");
        if one.str() != first.str() && one.field().to_string().ends_with("hostIP") {
            out.push(first.invalid("must be equal to `hostIP`"));
        }
        let parsed: Vec<_> = all
            .items()
            .filter_map(|entry| {
                let mut causes = Vec::new();
                let ip = address::valid(entry.get("ip"), &mut causes);
                out.extend(causes.into_iter().map(|cause| Cause { field: entry.field(), ..cause }));
                ip
            })
            .collect();
        if all.len() > 2 || (parsed.len() == 2 && parsed[0].is_ipv4() == parsed[1].is_ipv4()) {
            let shown = all.printed("io.k8s.api.core.v1.PodIP");
            out.push(Cause::invalid_shown(&all.field(), &shown, "may specify no more than one IP for each IP family"));
        }
    }
}

/// A container that has terminated for good may not run again.
fn restarts(spec: At<'_>, list: &str, new: At<'_>, old: At<'_>, out: &mut Vec<Cause>) {
    let pod_policy = spec.get("restartPolicy").str();
    let by_name: HashMap<&str, At<'_>> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|kind| spec.get(kind).items())
        .map(|container| (container.get("name").str(), container))
        .collect();
    let alive: HashSet<&str> = new
        .items()
        .filter(|now| !now.down(&["state", "terminated"]).is_set())
        .map(|now| now.get("name").str())
        .collect();
    for (i, was) in old.items().enumerate() {
        let ended = was.down(&["state", "terminated"]);
        if !ended.is_set() {
            continue;
        }
        let name = was.get("name").str();
        let container = by_name.get(name);
        let own = container.map_or("", |c| c.get("restartPolicy").str());
        let by_rules = container.is_some_and(|c| !c.get("restartPolicyRules").is_empty());
        let failed = ended.get("exitCode").int().unwrap_or(0) != 0;
        let policy = if own.is_empty() { pod_policy } else { own };
        let may = list != "ephemeralContainerStatuses"
            && (by_rules || policy == "Always" || (policy == "OnFailure" && failed));
        if alive.contains(name) && !may {
            out.push(new.index(i).get("state").forbidden("may not be transitioned to non-terminated state"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pods;
    use crate::testing::{context, created, update_errors};
    use expect_test::expect;
    use serde_json::json;
    use server::Strategy;

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: default}
spec: {containers: [{name: a, image: 'i:1'}], tolerations: [{key: a, operator: Exists, effect: NoExecute}]}
";

    #[test]
    fn images_deadlines_and_tolerations_may_change() {
        let old = created(&Pods(Default::default()), POD);
        let mut new = old.clone();
        new.entry(&["spec", "containers"])[0]["image"] = json!("i:2");
        new.set(&["spec", "activeDeadlineSeconds"], 5);
        new.set(
            &["spec", "tolerations"],
            json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}, {"operator": "Exists"}]),
        );
        assert_eq!(update_errors(&Pods(Default::default()), &new, &old), "");
    }

    #[test]
    fn nothing_else_may_change() {
        let old = created(&Pods(Default::default()), POD);
        let mut new = old.clone();
        new.set(&["spec", "hostname"], "h");
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
              core.PodSpec{
            - 	hostname: null,
            + 	hostname: "h",
              }

        "#]]
        .assert_eq(&update_errors(&Pods(Default::default()), &new, &old));
        let mut more = old.clone();
        more.entry(&["spec", "containers"]).as_array_mut().unwrap().push(json!({"name": "b", "image": "i"}));
        assert_eq!(
            update_errors(&Pods(Default::default()), &more, &old),
            "spec.containers: Forbidden: pod updates may not add or remove containers\n"
        );
    }

    #[test]
    fn a_container_that_ended_for_good_stays_so() {
        let mut old = created(&Pods(Default::default()), &POD.replace("spec: {", "spec: {restartPolicy: OnFailure, "));
        let mut new = old.clone();
        new.set(&["status", "containerStatuses"], json!([{"name": "a", "state": {"running": {}}}]));
        for (code, allowed) in [(1, true), (0, false)] {
            old.set(
                &["status", "containerStatuses"],
                json!([{"name": "a", "state": {"terminated": {"exitCode": code}}}]),
            );
            assert_eq!(Pods(Default::default()).validate_status(&context(), &new, &old).is_empty(), allowed);
        }
    }

    #[test]
    fn grace_is_for_pods_that_run() {
        let mut pod = created(&Pods(Default::default()), POD);
        assert_eq!(Pods(Default::default()).grace_period(&pod, Some(10)), Some(0));
        pod.set(&["spec", "nodeName"], "n");
        assert_eq!(Pods(Default::default()).grace_period(&pod, None), Some(30));
        assert_eq!(Pods(Default::default()).grace_period(&pod, Some(10)), Some(10));
        assert_eq!(Pods(Default::default()).grace_period(&pod, Some(-1)), Some(1));
        pod.set(&["status", "phase"], "Failed");
        assert_eq!(Pods(Default::default()).grace_period(&pod, Some(10)), Some(0));
    }
}
