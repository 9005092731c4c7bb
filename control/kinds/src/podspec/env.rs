//! Environment variables and the sources of their values.

use crate::{
    at::At,
    quantities,
    rules::{self, full},
};
use api::{Cause, names};
use serde_json::json;
use std::collections::HashMap;

pub(super) fn validate(container: At<'_>, out: &mut Vec<Cause>) {
    for variable in container.get("env").items() {
        let name = variable.get("name");
        if name.is_empty() {
            out.push(name.required(""));
        } else {
            variable_name(name, out);
        }
        source(variable, variable.get("valueFrom"), out);
    }
    let all = container.get("envFrom");
    for from in all.items() {
        if !from.get("prefix").is_empty() {
            variable_name(from.get("prefix"), out);
        }
        let sources = ["configMapRef", "secretRef"].map(|name| from.get(name));
        for reference in sources.into_iter().filter(|s| s.is_set()) {
            let name = reference.get("name");
            if name.is_empty() {
                out.push(name.required(""));
            } else {
                rules::subdomain_name(name, out);
            }
        }
        match sources.iter().filter(|s| s.is_set()).count() {
            0 => out.push(empty(all, "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => out.push(empty(all, "may not have more than one field specified at a time")),
        }
    }
}

/// An error about a whole structure, which upstream shows as an empty string.
fn empty(at: At<'_>, text: &str) -> Cause {
    Cause::invalid(&at.field(), &json!(""), text)
}

fn variable_name(at: At<'_>, out: &mut Vec<Cause>) {
    if !at.str().chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        out.push(at.invalid(
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
        ));
    }
}

const IN_ENV: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What files of a downward API volume can show.
pub(super) const IN_FILES: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// All field labels of a pod.
const LABELS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "spec.hostNetwork",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn source(variable: At<'_>, from: At<'_>, out: &mut Vec<Cause>) {
    if !from.is_set() {
        return;
    }
    let names = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let [field, resource, config, secret, file] = names.map(|name| from.get(name));
    if field.is_set() {
        field_selector(field, IN_ENV, out);
    }
    if resource.is_set() {
        resource_selector(resource, false, out);
    }
    for reference in [config, secret].into_iter().filter(|r| r.is_set()) {
        reference.get("name").invalid_all(names::dns1123_subdomain(reference.get("name").str()), out);
        let key = reference.get("key");
        if key.is_empty() {
            out.push(key.required(""));
        } else {
            key.invalid_all(names::config_map_key(key.str()), out);
        }
    }
    if file.is_set() {
        file_key(file, out);
    }
    match names.iter().filter(|name| from.get(name).is_set()).count() {
        0 => out.push(empty(
            from,
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        )),
        _ if !variable.get("value").is_empty() => {
            out.push(empty(from, "may not be specified when `value` is not empty"))
        }
        1 => {}
        _ => out.push(empty(from, "may not have more than one field specified at a time")),
    }
}

fn file_key(file: At<'_>, out: &mut Vec<Cause>) {
    for name in ["key", "volumeName", "path"] {
        let at = file.get(name);
        if at.is_empty() {
            out.push(at.required(""));
            continue;
        }
        match name {
            "key" => variable_name(at, out),
            "volumeName" => rules::label_name(at, out),
            _ => rules::no_backsteps(at, out),
        }
    }
}

/// A field of the pod; some have a subscript: `metadata.labels['app']`.
pub(super) fn field_selector(at: At<'_>, supported: &[&str], out: &mut Vec<Cause>) {
    for name in ["apiVersion", "fieldPath"] {
        if at.get(name).is_empty() {
            out.push(at.get(name).required(""));
            return;
        }
    }
    let (version, path) = (at.get("apiVersion").str(), at.get("fieldPath"));
    let subscript = path.str().strip_suffix("']").and_then(|p| p.split_once("['"));
    let plain = subscript.map_or(path.str(), |(plain, _)| plain);
    let subscripted = matches!(plain, "metadata.annotations" | "metadata.labels");
    let problem = if version != "v1" {
        Some(format!("unsupported pod version: {version}"))
    } else if plain == "spec.host" || LABELS.contains(&plain) && (subscript.is_none() || subscripted) {
        None
    } else if subscript.is_some() {
        Some(format!("field label does not support subscript: {}", path.str()))
    } else {
        Some(format!("field label not supported: {}", path.str()))
    };
    if let Some(problem) = problem {
        out.push(path.invalid(&format!("error converting fieldPath: {problem}")));
        return;
    }
    match subscript {
        Some((_, key)) => {
            let key = if plain == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
            out.extend(names::qualified_name(&key).iter().map(|text| Cause::invalid(&at.field(), &json!(key), text)));
        }
        None if supported.contains(&plain) || plain == "spec.host" => {}
        None => out.push(path.not_supported(supported)),
    }
}

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A resource of a container; in a file it must name the container.
pub(super) fn resource_selector(at: At<'_>, in_file: bool, out: &mut Vec<Cause>) {
    let (container, resource) = (at.get("containerName"), at.get("resource"));
    let huge = |text: &str| text.starts_with("requests.hugepages-") || text.starts_with("limits.hugepages-");
    if in_file && container.is_empty() {
        out.push(container.required(""));
    } else if resource.is_empty() {
        out.push(resource.required(""));
    } else if !RESOURCES.contains(&resource.str()) && !huge(resource.str()) {
        out.push(resource.not_supported(RESOURCES));
    }
    let divisor = at.get("divisor");
    let Some(quantity) = quantities::parse(divisor.value()).filter(|q| !q.is_zero()) else { return };
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (allowed, what) = match resource.str() {
        "limits.cpu" | "requests.cpu" => ("1m, 1", "cpu"),
        "limits.memory" | "requests.memory" => (SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (SIZES, "local ephemeral storage"),
        other if huge(other) => (SIZES, "hugepages"),
        _ => return,
    };
    if !allowed.split(", ").any(|a| a == quantity.to_string()) {
        let shown = if what == "cpu" { "1m and 1" } else { allowed };
        let text = format!("only divisor's values {shown} are supported with the {what} resource");
        out.push(Cause::invalid(&divisor.field(), resource.value(), &text));
    }
}

/// A variable from a file requires an emptyDir volume.
pub(super) fn file_volumes(spec: At<'_>, out: &mut Vec<Cause>) {
    let volumes: HashMap<&str, At<'_>> =
        spec.get("volumes").items().rev().map(|volume| (volume.get("name").str(), volume)).collect();
    for container in super::CONTAINERS.iter().flat_map(|kind| spec.get(kind).items()) {
        if full(out) {
            return;
        }
        for variable in container.get("env").items() {
            let reference = variable.down(&["valueFrom", "fileKeyRef"]);
            if !reference.is_set() {
                continue;
            }
            let name = reference.get("volumeName");
            match volumes.get(name.str()) {
                None => out.push(name.not_found()),
                Some(volume) if !volume.get("emptyDir").is_set() => {
                    out.push(name.invalid("referenced volume must be of type emptyDir"));
                }
                Some(_) => {}
            }
        }
    }
}
