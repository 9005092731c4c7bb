//! Warnings about fields of a pod spec that this cluster does not honour, or that have no effect for WebAssembly.

use super::{MAX_WARNINGS, containers};
use crate::{
    at::At,
    capabilities::{Capabilities, FieldWarnings},
};

const NOT_SCHEDULED: &str = "not considered by the scheduler of sampan yet";
const NO_EFFECT: &str = "has no effect on WebAssembly containers";
const NOT_HONOURED: &str = "not honoured by sampan yet";

/// What security contexts say about users, groups and kernels. What only forbids (`runAsNonRoot`, `readOnlyRootFilesystem`, dropped
/// capabilities, profiles) is kept by any sandbox.
const IDENTITY: &[&str] = &[
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "fsGroupChangePolicy",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxOptions",
    "seLinuxChangePolicy",
    "sysctls",
    "procMount",
    "windowsOptions",
];

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
    for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        warnings.if_true(spec.get(name), NO_EFFECT);
    }
    if matches!(spec.get("dnsPolicy").str(), "Default" | "None") {
        warnings.unless_honoured(
            spec.get("dnsPolicy"),
            "not honoured by sampan yet; names are resolved as with ClusterFirst",
        );
    }
    warnings.if_set(spec.get("dnsConfig"), NOT_HONOURED);
    warnings.if_true(spec.get("setHostnameAsFQDN"), NOT_HONOURED);
    identity(spec.get("securityContext"), &mut warnings);
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
    let folder = volume.get("emptyDir");
    if folder.get("medium").str() == "Memory" {
        warnings.unless_honoured(folder.get("medium"), "not honoured by sampan yet; the volume is on disk");
    }
}

fn identity(context: At<'_>, warnings: &mut FieldWarnings<'_>) {
    for name in IDENTITY {
        warnings.if_set(context.get(name), NO_EFFECT);
    }
}

/// Whether an image is the name of a file, which plain kubectl does not upload.
fn is_file(image: &str) -> bool {
    ["./", "../", "/"].iter().any(|start| image.starts_with(start))
        || [".wasm", ".wat"].iter().any(|end| image.ends_with(end))
}

/// A guest with `command: [/bin/sh, -c, ...]` gets these words as its arguments.
fn shell(command: At<'_>, warnings: &mut FieldWarnings<'_>) {
    let program = command.items().next().map_or("", At::str);
    if matches!(program.rsplit('/').next(), Some("sh" | "bash")) {
        warnings.always(command, "there is no shell in a WebAssembly container; command is its argv");
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
        shell(container.get(name).down(&["exec", "command"]), warnings);
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
        shell(exec.get("command"), warnings);
        let scheme = lifecycle.get(hook).down(&["httpGet", "scheme"]);
        if scheme.str() == "HTTPS" {
            warnings.unless_honoured(scheme, "sampan does not ask by HTTPS yet; the hook fails");
        }
    }
    warnings.if_set(lifecycle.get("stopSignal"), NO_EFFECT);
}

fn container(container: At<'_>, host_network: bool, warnings: &mut FieldWarnings<'_>) {
    if is_file(container.get("image").str()) {
        warnings.always(
            container.get("image"),
            "looks like a file, which no node can pull; `sampan apply -f` and `sampan up -f` package relative images, `sampan image load` loads others",
        );
    }
    shell(container.get("command"), warnings);
    warnings.if_set(
        container.get("workingDir"),
        "a WebAssembly container is told it, but its relative paths do not begin there",
    );
    probes_and_hooks(container, warnings);
    let context = container.get("securityContext");
    warnings.if_true(context.get("privileged"), NO_EFFECT);
    warnings.if_set(context.down(&["capabilities", "add"]), NO_EFFECT);
    identity(context, warnings);
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
    for mount in container.get("volumeMounts").items().map(|mount| mount.get("mountPropagation")) {
        if !matches!(mount.str(), "" | "None") {
            warnings.unless_honoured(mount, NO_EFFECT);
        }
    }
    for name in ["stdin", "tty"] {
        warnings.if_true(container.get(name), "sampan does not attach to containers yet");
    }
    warnings.if_set(container.get("restartPolicyRules"), NOT_HONOURED);
}
