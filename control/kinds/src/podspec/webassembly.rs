//! Warnings about what has no effect on WebAssembly containers. They are given only of images that are known to be WebAssembly, since a Linux image
//! has all of it.

use super::{CONTAINERS, MAX_WARNINGS};
use crate::at::At;

const NO_EFFECT: &str = "has no effect on WebAssembly containers";

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

/// Whether an image is the name of a file, which plain kubectl does not upload.
pub(super) fn is_file(image: &str) -> bool {
    ["./", "../", "/"].iter().any(|start| image.starts_with(start))
        || [".wasm", ".wat"].iter().any(|end| image.ends_with(end))
}

/// Warnings about a pod spec; `is_wasm` knows images.
pub(crate) fn warnings(spec: At<'_>, is_wasm: impl Fn(&str) -> bool) -> Vec<String> {
    let mut out = Warnings(Vec::new());
    let mut any = false;
    for container in CONTAINERS.iter().flat_map(|kind| spec.get(kind).items()) {
        let image = container.get("image").str();
        if is_file(image) || is_wasm(image) {
            any = true;
            self::container(container, &mut out);
        }
    }
    if any {
        pod(spec, &mut out);
    }
    out.0
}

struct Warnings(Vec<String>);

impl Warnings {
    fn add(&mut self, at: At<'_>, text: &str) {
        if self.0.len() < MAX_WARNINGS {
            self.0.push(format!("{}: {text}", at.field()));
        }
    }

    fn if_set(&mut self, at: At<'_>, text: &str) {
        if !at.is_empty() {
            self.add(at, text);
        }
    }

    fn if_true(&mut self, at: At<'_>, text: &str) {
        if at.bool() {
            self.add(at, text);
        }
    }
}

fn pod(spec: At<'_>, out: &mut Warnings) {
    for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        out.if_true(spec.get(name), NO_EFFECT);
    }
    const NAMES: &str = "has no effect on WebAssembly containers: names are resolved as with ClusterFirst";
    if matches!(spec.get("dnsPolicy").str(), "Default" | "None") {
        out.add(spec.get("dnsPolicy"), NAMES);
    }
    out.if_set(spec.get("dnsConfig"), NAMES);
    identity(spec.get("securityContext"), out);
    for medium in spec.get("volumes").items().map(|volume| volume.down(&["emptyDir", "medium"])) {
        if medium.str() == "Memory" {
            out.add(medium, "has no effect on pods of WebAssembly: the volume is on disk");
        }
    }
}

fn identity(context: At<'_>, out: &mut Warnings) {
    for name in IDENTITY {
        out.if_set(context.get(name), NO_EFFECT);
    }
}

/// A guest with `command: [/bin/sh, -c, ...]` gets these words as its arguments.
fn shell(command: At<'_>, out: &mut Warnings) {
    let program = command.items().next().map_or("", At::str);
    if matches!(program.rsplit('/').next(), Some("sh" | "bash")) {
        out.add(command, "there is no shell in a WebAssembly container; command is its argv");
    }
}

fn container(container: At<'_>, out: &mut Warnings) {
    shell(container.get("command"), out);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        shell(container.get(name).down(&["exec", "command"]), out);
    }
    let lifecycle = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        shell(lifecycle.get(hook).down(&["exec", "command"]), out);
    }
    out.if_set(lifecycle.get("stopSignal"), NO_EFFECT);
    let context = container.get("securityContext");
    out.if_true(context.get("privileged"), NO_EFFECT);
    out.if_set(context.down(&["capabilities", "add"]), NO_EFFECT);
    identity(context, out);
    for mount in container.get("volumeMounts").items().map(|mount| mount.get("mountPropagation")) {
        if !matches!(mount.str(), "" | "None") {
            out.add(mount, NO_EFFECT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Object;
    use serde_json::{Value, json};

    fn warned(spec: Value) -> Vec<String> {
        let object = Object::from_value(json!({"kind": "Pod", "spec": spec})).expect("an object");
        warnings(At::of(&object, "spec"), |image| image.starts_with("wasm"))
    }

    #[test]
    fn what_a_guest_has_no_use_for_is_told_of_guests_only() {
        let spec = |image: &str| {
            json!({"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["10.0.0.1"]}, "hostPID": true, "hostIPC": false,
                "securityContext": {"runAsUser": 1, "runAsNonRoot": true, "supplementalGroups": [1], "sysctls": []},
                "containers": [{"name": "a", "image": image, "lifecycle": {"stopSignal": "SIGTERM"},
                    "volumeMounts": [{"mountPropagation": "None"}, {"mountPropagation": "HostToContainer"}],
                    "securityContext": {"privileged": true, "capabilities": {"add": ["X"], "drop": ["ALL"]}, "runAsGroup": 1}}]})
        };
        let names = "has no effect on WebAssembly containers: names are resolved as with ClusterFirst";
        let expected = [
            format!("spec.containers[0].lifecycle.stopSignal: {NO_EFFECT}"),
            format!("spec.containers[0].securityContext.privileged: {NO_EFFECT}"),
            format!("spec.containers[0].securityContext.capabilities.add: {NO_EFFECT}"),
            format!("spec.containers[0].securityContext.runAsGroup: {NO_EFFECT}"),
            format!("spec.containers[0].volumeMounts[1].mountPropagation: {NO_EFFECT}"),
            format!("spec.hostPID: {NO_EFFECT}"),
            format!("spec.dnsPolicy: {names}"),
            format!("spec.dnsConfig: {names}"),
            format!("spec.securityContext.runAsUser: {NO_EFFECT}"),
            format!("spec.securityContext.supplementalGroups: {NO_EFFECT}"),
        ];
        assert_eq!(warned(spec("wasm:1")), expected);
        assert_eq!(warned(spec("./hello.wasm")), expected);
        assert_eq!(warned(spec("linux:1")), [""; 0]);
    }

    #[test]
    fn shells_are_warned_of() {
        let warned = |image: &str, command: Value| {
            warned(
                json!({"containers": [{"name": "l", "image": "linux:1", "command": ["sh"]}, {"name": "a", "image": image, "command": command}]}),
            )
        };
        let told = "spec.containers[1].command: there is no shell in a WebAssembly container; command is its argv";
        for command in [json!(["/bin/sh", "-c", "ls"]), json!(["sh"]), json!(["/usr/bin/bash"])] {
            assert_eq!(warned("wasm:1", command.clone()), [told], "{command}");
            assert_eq!(warned("linux:2", command), [""; 0]);
        }
        for command in [json!([]), json!(["hello", "sh"]), json!(["/bin/shell"]), json!([""])] {
            assert_eq!(warned("wasm:1", command.clone()), [""; 0], "{command}");
        }
    }
}
