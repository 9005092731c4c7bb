//! Validation of containers of all three kinds.

use super::{env, probes, resources, security, volumes};
use crate::{
    at::At,
    rules::{self, full},
};
use api::Cause;
use serde_json::json;
use std::collections::HashSet;

/// Validates all containers of a pod spec; `known` are its volumes.
pub(super) fn validate(spec: At<'_>, known: &volumes::Known<'_>, out: &mut Vec<Cause>) {
    let containers = spec.get("containers");
    if containers.is_empty() {
        out.push(containers.required(""));
    }
    let mut seen = HashSet::new();
    for container in containers.items() {
        if full(out) {
            return;
        }
        common(spec, container, known, out);
        if !seen.insert(container.get("name").str()) {
            out.push(container.get("name").duplicate());
        }
        probes::lifecycle(spec, container.get("lifecycle"), out);
        probes::all(spec, container, out);
        restart_policy(container, out);
    }
    host_ports(containers.items(), out);
    init_containers(spec, known, out);
    ephemeral_containers(spec, known, out);
}

fn names(list: At<'_>) -> impl Iterator<Item = &str> {
    list.items().map(|container| container.get("name").str())
}

fn init_containers(spec: At<'_>, known: &volumes::Known<'_>, out: &mut Vec<Cause>) {
    let list = spec.get("initContainers");
    let mut others: HashSet<&str> = names(spec.get("containers")).collect();
    for container in list.items() {
        if full(out) {
            return;
        }
        common(spec, container, known, out);
        restart_policy(container, out);
        let name = container.get("name");
        if !others.insert(name.str()) && !name.is_empty() {
            out.push(name.duplicate());
        }
        host_ports(std::iter::once(container), out);
        if container.get("restartPolicy").str() == "Always" {
            probes::lifecycle(spec, container.get("lifecycle"), out);
            probes::all(spec, container, out);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.get(field).is_set() {
                out.push(
                    container.get(field).forbidden("may not be set for init containers without restartPolicy=Always"),
                );
            }
        }
        for policy in container.get("resizePolicy").items().map(|p| p.get("restartPolicy")) {
            if policy.str() == "RestartContainer" {
                out.push(policy.invalid("must not be set to 'RestartContainer' for non-sidecar initContainers"));
            }
        }
    }
}

/// The fields that an ephemeral container may have.
const EPHEMERAL_FIELDS: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

fn ephemeral_containers(spec: At<'_>, known: &volumes::Known<'_>, out: &mut Vec<Cause>) {
    const NOT_HERE: &str = "cannot be set for an Ephemeral Container";
    let list = spec.get("ephemeralContainers");
    let others: HashSet<&str> = names(spec.get("containers")).chain(names(spec.get("initContainers"))).collect();
    let mut seen = others.clone();
    for container in list.items() {
        if full(out) {
            return;
        }
        common(spec, container, known, out);
        only_in_pods(container, out);
        let name = container.get("name");
        if !seen.insert(name.str()) {
            out.push(name.duplicate());
        }
        let target = container.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.str()) {
            out.push(target.not_found());
        }
        for key in container.value().as_object().into_iter().flatten().map(|(key, _)| key.as_str()) {
            if !EPHEMERAL_FIELDS.contains(&key) && !container.get(key).is_empty() {
                out.push(container.get(key).forbidden(NOT_HERE));
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.get(field).is_empty() {
                    out.push(mount.get(field).forbidden(NOT_HERE));
                }
            }
        }
    }
}

/// Rules for a Pod that do not apply to a template.
pub(super) fn only_in_pods(container: At<'_>, out: &mut Vec<Cause>) {
    let image = container.get("image");
    if image.str().trim() != image.str() {
        out.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn common(spec: At<'_>, container: At<'_>, known: &volumes::Known<'_>, out: &mut Vec<Cause>) {
    let name = container.get("name");
    if name.is_empty() {
        out.push(name.required(""));
    } else {
        rules::label_name(name, out);
    }
    if container.get("image").is_empty() {
        out.push(container.get("image").required(""));
    }
    container.get("terminationMessagePolicy").one_of(&["File", "FallbackToLogsOnError"], out);
    ports(container.get("ports"), out);
    env::validate(container, out);
    volumes::mounts(container, known, out);
    container.get("imagePullPolicy").one_of(&["Always", "IfNotPresent", "Never"], out);
    resources::container(spec, container.get("resources"), out);
    resize_policy(spec, container.get("resizePolicy"), out);
    security::container(spec, container.get("securityContext"), out);
}

fn ports(ports: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let problems = api::names::port_name(name.str());
            let repeated = !seen.insert(name.str());
            if problems.is_empty() && repeated {
                out.push(name.duplicate());
            }
            name.invalid_all(problems, out);
        }
        let number = port.get("containerPort");
        match number.int().unwrap_or(0) {
            0 => out.push(number.required("")),
            _ => rules::port_number(number, out),
        }
        let host = port.get("hostPort");
        if host.int().unwrap_or(0) != 0 {
            rules::port_number(host, out);
        }
        port.get("protocol").one_of(rules::PROTOCOLS, out);
    }
}

fn host_ports<'a>(containers: impl Iterator<Item = At<'a>>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for port in containers.flat_map(|container| container.get("ports").items()) {
        let number = port.get("hostPort").int().unwrap_or(0);
        if number == 0 {
            continue;
        }
        let key = format!("{}/{}/{number}", port.get("protocol").str(), port.get("hostIP").str());
        if !seen.insert(key.clone()) {
            out.push(Cause::duplicate(&port.get("hostPort").field(), &json!(key)));
        }
    }
}

fn resize_policy(spec: At<'_>, list: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for policy in list.items() {
        let (resource, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !seen.insert(resource.str()) {
            out.push(Cause::duplicate(&policy.field(), resource.value()));
        }
        for (at, supported) in [(resource, &["cpu", "memory"]), (restart, &["NotRequired", "RestartContainer"])] {
            if at.is_empty() {
                out.push(list.required(""));
            } else if !supported.contains(&at.str()) {
                out.push(list.with(at.value()).not_supported(supported));
            }
        }
        if spec.get("restartPolicy").str() == "Never" && restart.str() != "NotRequired" {
            out.push(list.with(restart.value()).invalid("must be 'NotRequired' when pod `restartPolicy` is 'Never'"));
        }
    }
}

fn restart_policy(container: At<'_>, out: &mut Vec<Cause>) {
    let (policy, list) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    if policy.is_set() {
        if !matches!(policy.str(), "Always" | "Never" | "OnFailure") {
            out.push(policy.not_supported(&["Always", "Never", "OnFailure"]));
        }
    } else if !list.is_empty() {
        out.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    if list.len() > 20 {
        out.push(Cause::too_many(&list.field(), list.len(), 20));
    }
    for rule in list.items() {
        let (action, codes) = (rule.get("action"), rule.get("exitCodes"));
        if !matches!(action.str(), "Restart" | "RestartAllContainers") {
            out.push(action.or_empty().not_supported(&["Restart", "RestartAllContainers"]));
        }
        if !codes.is_set() {
            out.push(codes.required("must be specified"));
            continue;
        }
        let operator = codes.get("operator");
        if !matches!(operator.str(), "In" | "NotIn") {
            out.push(operator.or_empty().not_supported(&["In", "NotIn"]));
        }
        let values = codes.get("values");
        if values.len() > 255 {
            out.push(Cause::too_many(&values.field(), values.len(), 255));
        }
    }
}
