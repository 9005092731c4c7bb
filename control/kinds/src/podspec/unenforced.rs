//! What a pod spec may ask for that not every cluster does, or that cannot be done for WebAssembly: a warning each, unless it is a
//! capability of this cluster.

use super::{MOST, containers};
use crate::{
    at::At,
    capabilities::{Capabilities, Warn},
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
    let mut say = capabilities.warn("pod.spec", spec, MOST, out);
    spec.get("volumes").items().for_each(|volume| self::volume(volume, &mut say));
    for kind in ["podAffinity", "podAntiAffinity"] {
        say.of(spec.get("affinity").get(kind), NOT_SCHEDULED);
    }
    for name in ["topologySpreadConstraints", "schedulingGroup", "workloadRef"] {
        say.of(spec.get(name), NOT_SCHEDULED);
    }
    say.of(spec.get("resourceClaims"), "sampan does not allocate devices yet");
    for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        say.on(spec.get(name), NO_EFFECT);
    }
    if matches!(spec.get("dnsPolicy").str(), "Default" | "None") {
        say.say(spec.get("dnsPolicy"), "not honoured by sampan yet; names are resolved as with ClusterFirst");
    }
    say.of(spec.get("dnsConfig"), NOT_HONOURED);
    say.on(spec.get("setHostnameAsFQDN"), NOT_HONOURED);
    identity(spec.get("securityContext"), &mut say);
    for container in containers(spec) {
        self::container(container, spec.get("hostNetwork").bool(), &mut say);
    }
}

fn volume(volume: At<'_>, say: &mut Warn<'_>) {
    for source in super::VOLUME_SOURCES.iter().map(|name| volume.get(name)) {
        if source.is_set() {
            say.say(source, "sampan does not mount this kind of volume yet; the pod will wait in ContainerCreating");
        }
    }
    let folder = volume.get("emptyDir");
    if folder.get("medium").str() == "Memory" {
        say.say(folder.get("medium"), "not honoured by sampan yet; the volume is on disk");
    }
}

fn identity(context: At<'_>, say: &mut Warn<'_>) {
    for name in IDENTITY {
        say.of(context.get(name), NO_EFFECT);
    }
}

/// Whether an image is meant as a file, which plain kubectl hands over as it is.
fn is_file(image: &str) -> bool {
    ["./", "../", "/"].iter().any(|start| image.starts_with(start))
        || [".wasm", ".wat"].iter().any(|end| image.ends_with(end))
}

fn probes_and_hooks(container: At<'_>, say: &mut Warn<'_>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        for (kind, shown) in [("exec", "exec"), ("grpc", "gRPC")] {
            let action = container.get(name).get(kind);
            if action.is_set() {
                say.say(action, &format!("sampan does not run {shown} probes yet; the probe fails"));
            }
        }
        let scheme = container.get(name).down(&["httpGet", "scheme"]);
        if scheme.str() == "HTTPS" {
            say.say(scheme, "sampan does not ask by HTTPS yet; the probe never passes");
        }
    }
    let lifecycle = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        let exec = lifecycle.get(hook).get("exec");
        if exec.is_set() {
            say.say(exec, "sampan does not run exec hooks yet; the hook is skipped");
        }
        let scheme = lifecycle.get(hook).down(&["httpGet", "scheme"]);
        if scheme.str() == "HTTPS" {
            say.say(scheme, "sampan does not ask by HTTPS yet; the hook fails");
        }
    }
    say.of(lifecycle.get("stopSignal"), NO_EFFECT);
}

fn container(container: At<'_>, host_network: bool, say: &mut Warn<'_>) {
    if is_file(container.get("image").str()) {
        say.advise(
            container.get("image"),
            "looks like a file, which no node can pull; `sampan apply -f` and `sampan up -f` package relative images, `sampan image load` loads others",
        );
    }
    // Of `command: [/bin/sh, -c, ...]` a guest reads the words as its own arguments.
    let program = container.get("command").items().next().map_or("", At::str);
    if matches!(program.rsplit('/').next(), Some("sh" | "bash")) {
        say.advise(container.get("command"), "there is no shell in a WebAssembly container; command is its argv");
    }
    say.of(
        container.get("workingDir"),
        "a WebAssembly container is told it, but its relative paths do not begin there",
    );
    probes_and_hooks(container, say);
    let context = container.get("securityContext");
    say.on(context.get("privileged"), NO_EFFECT);
    say.of(context.down(&["capabilities", "add"]), NO_EFFECT);
    identity(context, say);
    for port in container.get("ports").items() {
        let host = port.get("hostPort");
        if host.int().unwrap_or(0) != 0 && !host_network {
            say.say(host, "sampan does not open ports of the host yet; use a Service of type NodePort");
        }
        if port.get("protocol").str() == "SCTP" {
            say.say(port.get("protocol"), "sampan does not carry SCTP yet");
        }
    }
    for mount in container.get("volumeMounts").items().map(|mount| mount.get("mountPropagation")) {
        if !matches!(mount.str(), "" | "None") {
            say.say(mount, NO_EFFECT);
        }
    }
    for name in ["stdin", "tty"] {
        say.on(container.get(name), "sampan does not attach to containers yet");
    }
    say.of(container.get("restartPolicyRules"), NOT_HONOURED);
    say.of(container.get("resizePolicy"), "sampan does not resize running containers yet");
}
