//! What is accepted but deprecated, odd or not enforced: upstream's warnings (`pkg/api/pod/warnings.go`), then sampan's own, which are in
//! [`unenforced`].

use super::{MAX_WARNINGS, apparmor, containers, unenforced};
use crate::{address, annotations, at::At, capabilities::Capabilities, quantities};
use api::Object;
use std::collections::{HashMap, HashSet};

/// Warnings about a Pod.
pub(crate) fn pod(capabilities: &Capabilities, object: &Object) -> Vec<String> {
    warnings(capabilities, At::of(object, "spec"), At::of(object, "metadata"))
}

/// Warnings about annotations of `sampan.dev`, in the metadata of a Pod or template with this spec.
pub(crate) fn our_annotations(spec: At<'_>, metadata: At<'_>) -> Vec<String> {
    annotations::of_pod(metadata, &containers(spec).map(|container| container.get("name").str()).collect())
}

/// Warnings about a template.
pub(crate) fn template(capabilities: &Capabilities, template: At<'_>) -> Vec<String> {
    let mut out = warnings(capabilities, template.get("spec"), template.get("metadata"));
    out.extend(apparmor::warnings(template.get("spec"), template.get("metadata").get("annotations")));
    out
}

fn warnings(capabilities: &Capabilities, spec: At<'_>, metadata: At<'_>) -> Vec<String> {
    let mut out = Vec::new();
    node_labels(spec, &mut out);
    upstreams_annotations(spec, metadata.get("annotations"), &mut out);
    out.extend(our_annotations(spec, metadata));
    old_volumes(spec, &mut out);
    repeated(spec.get("hostAliases"), "ip", &mut out);
    repeated(spec.get("imagePullSecrets"), "name", &mut out);
    for secret in spec.get("imagePullSecrets").items().filter(|s| s.get("name").is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", secret.get("name").field()));
    }
    fractions(spec.get("overhead"), &mut out);
    for container in containers(spec) {
        for list in ["limits", "requests"] {
            fractions(container.get("resources").get(list), &mut out);
        }
        hidden_variables(container, &mut out);
        if out.len() >= MAX_WARNINGS {
            break;
        }
    }
    ports(spec, &mut out);
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|n| n < 0) {
        out.push(format!("{}: must be >= 0; negative values are invalid and will be treated as 1", grace.field()));
    }
    selectors(spec, &mut out);
    for at in
        spec.down(&["dnsConfig", "nameservers"]).items().chain(spec.get("hostAliases").items().map(|a| a.get("ip")))
    {
        out.extend(address::warning(&at.field().to_string(), at.str()));
    }
    unenforced::all(capabilities, spec, &mut out);
    out
}

/// What upstream says of a deprecated label of nodes.
pub(crate) fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => "deprecated since v1.22; use Taints and Tolerations instead",
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

fn node_labels(spec: At<'_>, out: &mut Vec<String>) {
    for (key, at) in spec.get("nodeSelector").entries() {
        out.extend(deprecated_label(key).map(|text| format!("{}: {text}", at.field())));
    }
    let node = spec.down(&["affinity", "nodeAffinity"]);
    let required = node.down(&["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]);
    let preferred = node.get("preferredDuringSchedulingIgnoredDuringExecution");
    let terms = required.items().chain(preferred.items().map(|p| p.get("preference")));
    for key in terms.flat_map(|term| term.get("matchExpressions").items()).map(|e| e.get("key")) {
        if out.len() >= MAX_WARNINGS {
            return;
        }
        out.extend(deprecated_label(key.str()).map(|text| format!("{}: {} is {text}", key.field(), key.str())));
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        let key = constraint.get("topologyKey");
        out.extend(deprecated_label(key.str()).map(|text| format!("{}: {} is {text}", key.field(), key.str())));
        no_selector(constraint, out);
    }
}

fn no_selector(owner: At<'_>, out: &mut Vec<String>) {
    let selector = owner.get("labelSelector");
    if !selector.is_set() {
        out.push(format!("{}: a null labelSelector results in matching no pod", selector.field()));
    }
}

fn selectors(spec: At<'_>, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = spec.get("affinity").get(kind);
        let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution").items();
        let preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution").items();
        required.for_each(|term| no_selector(term, out));
        preferred.for_each(|term| no_selector(term.get("podAffinityTerm"), out));
    }
}

fn upstreams_annotations(spec: At<'_>, annotations: At<'_>, out: &mut Vec<String>) {
    const SYSCTLS: &str = "non-functional in v1.11+; use the \"sysctls\" field instead";
    const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    for (key, text) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", SYSCTLS),
        ("security.alpha.kubernetes.io/unsafe-sysctls", SYSCTLS),
    ] {
        if annotations.key(key).is_set() {
            out.push(format!("{}: {text}", annotations.key(key).field()));
        }
    }
    let pod = annotations.key("seccomp.security.alpha.kubernetes.io/pod");
    if pod.is_set() && !spec.down(&["securityContext", "seccompProfile"]).is_set() {
        out.push(format!("{}: {SECCOMP}", pod.field()));
    }
    for container in containers(spec).filter(|c| !c.down(&["securityContext", "seccompProfile"]).is_set()) {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", container.get("name").str());
        if annotations.value().get(&key).is_some() {
            out.push(format!("{}: {SECCOMP}", annotations.field().key(&key)));
        }
    }
}

fn old_volumes(spec: At<'_>, out: &mut Vec<String>) {
    for volume in spec.get("volumes").items() {
        for (name, text) in [
            ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
            ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
            ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if volume.get(name).is_set() {
                let shown = if name == "storageos" { "storageOS" } else { name };
                out.push(format!("{}: {text}", volume.get(shown).field()));
            }
        }
    }
}

fn repeated(list: At<'_>, field: &'static str, out: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for item in list.items() {
        let value = item.get(field);
        if !seen.insert(value.str()) {
            out.push(format!("{}: duplicate {field} \"{}\"", value.field(), value.str()));
        }
    }
}

fn fractions(list: At<'_>, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let at = list.key(name);
        if let Some(quantity) = quantities::parse(at.value()).filter(quantities::is_fractional) {
            out.push(format!("{}: fractional byte value \"{quantity}\" is invalid, must be an integer", at.field()));
        }
    }
}

fn hidden_variables(container: At<'_>, out: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for variable in container.get("env").items() {
        let name = variable.get("name").str();
        if out.len() >= MAX_WARNINGS || seen.insert(name) {
            continue;
        }
        let itself = format!("$({name})");
        let value = variable.get("value").str();
        if variable.get("valueFrom").is_set() || value == itself || !value.contains(&itself) {
            out.push(format!(
                "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                variable.field()
            ));
        }
    }
}

/// The ports of one number and protocol that were seen, so that each new one is only compared with those that it clashes with.
#[derive(Default)]
struct SamePorts<'a> {
    all: Vec<At<'a>>,
    /// Without a host port.
    inner: Vec<usize>,
    /// By host port and address.
    outer: HashMap<(i64, &'a str), Vec<usize>>,
    /// By host port, those that name an address.
    addressed: HashMap<i64, Vec<usize>>,
}

impl<'a> SamePorts<'a> {
    /// Adds a port; calls back for the ones before it, in their order, with how they clash.
    fn add(&mut self, port: At<'a>, mut clash: impl FnMut(&str, At<'a>)) {
        let (number, ip) = (port.get("hostPort").int().unwrap_or(0), port.get("hostIP").str());
        let mut clashes: Vec<(usize, &str)> = Vec::new();
        const DUPLICATE: &str = "duplicate port definition with";
        const OVERLAPPING: &str = "overlapping port definition with";
        const AMBIGUOUS: &str = "dangerously ambiguous port definition with";
        let at = |key: (i64, &'a str)| self.outer.get(&key).into_iter().flatten().copied();
        clashes.extend(at((number, ip)).map(|i| (i, DUPLICATE)));
        if number == 0 {
            let others = (0..self.all.len()).filter(|i| {
                let other = self.all[*i];
                other.get("hostPort").int().unwrap_or(0) != 0 || other.get("hostIP").str() != ip
            });
            clashes.extend(others.take(MAX_WARNINGS).map(|i| (i, OVERLAPPING)));
        } else {
            clashes.extend(self.inner.iter().map(|i| (*i, OVERLAPPING)));
            if ip.is_empty() {
                clashes.extend(self.addressed.get(&number).into_iter().flatten().map(|i| (*i, AMBIGUOUS)));
            } else {
                clashes.extend(at((number, "")).map(|i| (i, AMBIGUOUS)));
            }
        }
        clashes.sort_unstable();
        clashes.into_iter().for_each(|(i, how)| clash(how, self.all[i]));
        let own = self.all.len();
        self.all.push(port);
        self.outer.entry((number, ip)).or_default().push(own);
        if number == 0 {
            self.inner.push(own);
        } else if !ip.is_empty() {
            self.addressed.entry(number).or_default().push(own);
        }
    }
}

fn ports(spec: At<'_>, out: &mut Vec<String>) {
    let mut by_number: HashMap<(i64, &str), SamePorts<'_>> = HashMap::new();
    let mut by_name: HashMap<&str, At<'_>> = HashMap::new();
    let mut names = Vec::new();
    for port in containers(spec).flat_map(|c| c.get("ports").items()) {
        if out.len() + names.len() >= MAX_WARNINGS {
            break;
        }
        let same =
            by_number.entry((port.get("containerPort").int().unwrap_or(0), port.get("protocol").str())).or_default();
        same.add(port, |how, other| {
            if out.len() < MAX_WARNINGS {
                out.push(format!("{}: {how} {}", port.field(), other.field()));
            }
        });
        let name = port.get("name").str();
        match by_name.get(name).map(|other| other.field()) {
            Some(other) => names.push(format!(
                "{}: duplicate port name \"{name}\" with {other}, services and probes that select ports by name will use {other}",
                port.field()
            )),
            None if !name.is_empty() => drop(by_name.insert(name, port)),
            None => {}
        }
    }
    out.extend(names);
}
