//! Validation and defaulting of pod specs: in a Pod, in a workload's template, in a PodTemplate.

pub(crate) mod apparmor;
mod container;
mod defaults;
mod disks;
mod env;
mod image;
mod label_keys;
mod probes;
pub(crate) mod resources;
mod scheduling;
mod security;
mod unenforced;
mod volumes;
mod warnings;
pub(crate) mod webassembly;

use crate::{address, at::At, rules};
use api::{Cause, names};
use serde_json::json;
use std::collections::HashSet;

pub(crate) use defaults::{
    CONTAINERS, VOLUME_SOURCES, disk as default_disk, pod as default_pod, pod_spec as default_pod_spec,
    service_account as service_account_mirror, template as default_template,
};
pub(crate) use disks::csi_driver;
pub(crate) use label_keys::merge as merge_label_keys;
pub(crate) use resources::{container_name as container_resource_name, container_resources, qos_class, whole_number};
pub(crate) use scheduling::{TAINT_EFFECTS, node_selector, tolerations};
pub(crate) use volumes::one_source as validate_volume_source;
pub(crate) use warnings::{
    deprecated_label as deprecated_node_label, our_annotations as annotation_warnings, pod as pod_warnings,
    template as template_warnings,
};

/// Most warnings that are collected; these are already more than the headers can hold (4 KiB).
const MAX_WARNINGS: usize = 200;

/// All containers of a pod spec, of every kind.
fn containers<'a>(spec: At<'a>) -> impl Iterator<Item = At<'a>> {
    CONTAINERS.iter().flat_map(move |kind| spec.get(kind).items())
}

/// The spec of a Pod itself.
pub(crate) fn validate_pod_spec(spec: At<'_>, out: &mut Vec<Cause>) {
    validate_spec(spec, true, out);
    for kind in ["containers", "initContainers"] {
        for container in spec.get(kind).items() {
            container::only_in_pods(container, out);
        }
    }
}

/// A pod template. Upstream's errors name its labels and annotations as if they were beside the spec.
pub(crate) fn validate_template(template: At<'_>, out: &mut Vec<Cause>) {
    validate_template_metadata(template, out);
    let spec = template.get("spec");
    validate_spec(spec, false, out);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        out.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// The labels and annotations of a pod template.
pub(crate) fn validate_template_metadata(template: At<'_>, out: &mut Vec<Cause>) {
    let metadata = template.get("metadata");
    let mut causes = Vec::new();
    rules::labels(metadata.get("labels"), &mut causes);
    let (wrong, right) = (metadata.get("labels").field(), template.get("labels").field());
    out.extend(
        causes
            .into_iter()
            .map(|cause| if cause.field == wrong { Cause { field: right.clone(), ..cause } } else { cause }),
    );
    let annotations = template.get("annotations").with(metadata.get("annotations").value());
    annotation_keys(annotations, out);
    validate_annotations(template.get("spec"), annotations, out);
}

const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The keys of annotations, and how large they are in all.
pub(crate) fn annotation_keys(annotations: At<'_>, out: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations.entries() {
        if rules::full(out) {
            return;
        }
        let problems = names::qualified_name(&key.to_lowercase());
        out.extend(problems.iter().map(|text| Cause::invalid(&annotations.field(), &json!(key), text)));
        size += key.len() + value.str().len();
    }
    if size > MAX_ANNOTATIONS {
        out.push(Cause::too_long(&annotations.field(), MAX_ANNOTATIONS));
    }
}

/// Annotations that have a meaning for pods.
pub(crate) fn validate_annotations(spec: At<'_>, annotations: At<'_>, out: &mut Vec<Cause>) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    let cost = annotations.key(COST);
    if cost.is_set() {
        let text = cost.str();
        let plain = text == "0" || !text.trim_start_matches('-').starts_with('0');
        if text.starts_with('+') || !plain || text.parse::<i32>().is_err() {
            out.push(cost.invalid("must be a 32bit integer"));
        }
    }
    apparmor::annotations(spec, annotations, out);
}

fn validate_spec(spec: At<'_>, is_pod: bool, out: &mut Vec<Cause>) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if !grace.is_set() {
        out.push(grace.required(""));
    }
    let known = volumes::validate(spec.get("volumes"), out);
    claims(spec.get("resourceClaims"), out);
    container::validate(spec, &known, out);
    resources::pod_level(spec, out);
    host_network(spec, is_pod, out);
    spec.get("restartPolicy").one_of(&["Always", "OnFailure", "Never"], out);
    spec.get("dnsPolicy").one_of(&["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], out);
    rules::labels(spec.get("nodeSelector"), out);
    security::pod(spec, out);
    scheduling::affinity(spec.get("affinity"), out);
    dns(spec, out);
    for gate in spec.get("readinessGates").items() {
        rules::qualified(gate.get("conditionType"), out);
    }
    scheduling::gates(spec.get("schedulingGates"), out);
    scheduling::spread(spec.get("topologySpreadConstraints"), out);
    host_name(spec, out);
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let at = spec.get(name);
        if !at.is_empty() {
            rules::subdomain_name(at, out);
        }
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n)) {
        out.push(deadline.invalid("must be between 1 and 2147483647, inclusive"));
    }
    for name in ["hostname", "subdomain"] {
        if !spec.get(name).is_empty() {
            rules::label_name(spec.get(name), out);
        }
    }
    tolerations(spec.get("tolerations"), out);
    host_aliases(spec.get("hostAliases"), out);
    let preemption = spec.get("preemptionPolicy");
    if preemption.is_set() {
        preemption.one_of(&["PreemptLowerPriority", "Never"], out);
    }
    resources::list(spec.get("overhead"), resources::container_name, out);
    security::os(spec, out);
    env::file_volumes(spec, out);
}

fn claims(claims: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if name.is_empty() {
            out.push(name.required(""));
        } else if !seen.insert(name.str()) {
            out.push(name.duplicate());
        } else {
            rules::label_name(name, out);
        }
        let (one, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        let choice = match (one.is_set(), template.is_set()) {
            (true, true) => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            (false, false) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => "",
        };
        if !choice.is_empty() {
            let shown = claim.printed("io.k8s.api.core.v1.PodResourceClaim");
            out.push(Cause::invalid_shown(&claim.field(), &shown, choice));
        }
        for at in [one, template] {
            if at.is_set() {
                rules::subdomain_name(at, out);
            }
        }
    }
}

fn host_network(spec: At<'_>, is_pod: bool, out: &mut Vec<Cause>) {
    if !spec.get("hostNetwork").bool() {
        return;
    }
    for port in spec.get("containers").items().flat_map(|c| c.get("ports").items()) {
        if rules::full(out) {
            return;
        }
        let number = |name: &'static str| port.get(name).int().unwrap_or(0);
        if (is_pod || number("hostPort") != 0) && number("hostPort") != number("containerPort") {
            let value = json!(number("hostPort"));
            let text = "must match `containerPort` when `hostNetwork` is true";
            out.push(Cause::invalid(&port.get("hostPort").field(), &value, text));
        }
    }
}

fn dns(spec: At<'_>, out: &mut Vec<Cause>) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").str() == "None" {
        if !config.is_set() {
            out.push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            out.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
            return;
        }
    }
    if servers.len() > 3 {
        out.push(servers.invalid("must not have more than 3 nameservers"));
    }
    for server in servers.items() {
        address::valid(server, out);
    }
    let searches = config.get("searches");
    if searches.len() > 32 {
        out.push(searches.invalid("must not have more than 32 search paths"));
    }
    let length: usize = searches.items().map(|s| s.str().len() + 1).sum();
    if length > 2049 {
        out.push(searches.invalid("must not have more than 2048 characters (including spaces) in the search list"));
    }
    for search in searches.items().filter(|s| s.str() != ".") {
        let name = search.str().strip_suffix('.').unwrap_or(search.str());
        let problems = names::dns1123_subdomain(&name.replace('_', "a"));
        if !problems.is_empty() {
            out.push(Cause::invalid(&search.field(), &json!(name), UNDERSCORE));
        }
    }
    for option in config.get("options").items().filter(|o| o.get("name").is_empty()) {
        out.push(option.required("must not be empty"));
    }
}

const UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9_]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9_]([-_a-z0-9]*[a-z0-9])?)*')";

fn host_name(spec: At<'_>, out: &mut Vec<Cause>) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    for (field, text) in [("setHostnameAsFQDN", "setHostnameAsFQDN"), ("hostNetwork", "hostNetwork")] {
        if spec.get(field).bool() {
            out.push(name.forbidden(&format!("may not be specified when {text} is true")));
        }
    }
    if name.str().len() > 64 {
        out.push(Cause::too_long(&name.field(), 64));
    }
    rules::subdomain_name(name, out);
}

fn host_aliases(aliases: At<'_>, out: &mut Vec<Cause>) {
    for alias in aliases.items() {
        if rules::full(out) {
            return;
        }
        address::valid(alias.get("ip"), out);
        for name in alias.get("hostnames").items() {
            rules::subdomain_name(name, out);
        }
    }
}

#[cfg(test)]
mod tests;
