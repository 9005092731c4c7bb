//! Warnings about fields of a pod spec that this cluster does not honour.

use super::{MAX_WARNINGS, containers, webassembly::is_file};
use crate::{
    at::At,
    capabilities::{Capabilities, FieldWarnings},
};

const NOT_SCHEDULED: &str = "not considered by the scheduler of sampan yet";
const NOT_HONOURED: &str = "not honoured by sampan yet";

/// Warnings about the spec of a pod.
pub(super) fn all(capabilities: &Capabilities, spec: At<'_>, out: &mut Vec<String>) {
    let mut warnings = capabilities.warn("pod.spec", spec, MAX_WARNINGS, out);
    spec.get("volumes").items().for_each(|volume| self::volume(volume, &mut warnings));
    for kind in ["podAffinity", "podAntiAffinity"] {
        warnings.if_set(spec.get("affinity").get(kind), NOT_SCHEDULED);
    }
    for name in ["topologySpreadConstraints", "schedulingGroup", "workloadRef"] {
        warnings.if_set(spec.get(name), NOT_SCHEDULED);
    }
    warnings.if_set(spec.get("resourceClaims"), "sampan does not allocate devices yet");
    warnings.if_true(spec.get("hostNetwork"), "not honoured by sampan yet: the pod has an address of its own");
    warnings.if_true(spec.get("setHostnameAsFQDN"), NOT_HONOURED);
    for container in containers(spec) {
        self::container(container, spec.get("hostNetwork").bool(), &mut warnings);
    }
}

fn volume(volume: At<'_>, warnings: &mut FieldWarnings<'_>) {
    for source in super::VOLUME_SOURCES.iter().map(|name| volume.get(name)) {
        if source.is_set() {
            warnings.unless_honoured(
                source,
                "sampan does not mount this kind of volume yet; the pod will wait in ContainerCreating",
            );
        }
    }
}

fn probes_and_hooks(container: At<'_>, warnings: &mut FieldWarnings<'_>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        for (kind, shown) in [("exec", "exec"), ("grpc", "gRPC")] {
            let action = container.get(name).get(kind);
            if action.is_set() {
                warnings.unless_honoured(action, &format!("sampan does not run {shown} probes yet; the probe fails"));
            }
        }
        let scheme = container.get(name).down(&["httpGet", "scheme"]);
        if scheme.str() == "HTTPS" {
            warnings.unless_honoured(scheme, "sampan does not ask by HTTPS yet; the probe never passes");
        }
    }
    let lifecycle = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        let exec = lifecycle.get(hook).get("exec");
        if exec.is_set() {
            warnings.unless_honoured(exec, "sampan does not run exec hooks yet; the hook is skipped");
        }
        let scheme = lifecycle.get(hook).down(&["httpGet", "scheme"]);
        if scheme.str() == "HTTPS" {
            warnings.unless_honoured(scheme, "sampan does not ask by HTTPS yet; the hook fails");
        }
    }
}

fn container(container: At<'_>, host_network: bool, warnings: &mut FieldWarnings<'_>) {
    if is_file(container.get("image").str()) {
        warnings.always(
            container.get("image"),
            "looks like a file, which no node can pull; `sampan apply -f` and `sampan up -f` package relative images, `sampan image load` loads others",
        );
    }
    probes_and_hooks(container, warnings);
    for port in container.get("ports").items() {
        let host = port.get("hostPort");
        if host.int().unwrap_or(0) != 0 && !host_network {
            warnings
                .unless_honoured(host, "sampan does not open ports of the host yet; use a Service of type NodePort");
        }
        if port.get("protocol").str() == "SCTP" {
            warnings.unless_honoured(port.get("protocol"), "sampan does not carry SCTP yet");
        }
    }
    for name in ["stdin", "tty"] {
        warnings.if_true(container.get(name), "sampan does not attach to containers yet");
    }
    warnings.if_set(container.get("restartPolicyRules"), NOT_HONOURED);
}
