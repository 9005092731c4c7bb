//! Security contexts and the operating system of a pod.

use super::apparmor;
use crate::{at::At, rules};
use api::Cause;
use serde_json::Value;
use std::collections::HashSet;

/// `securityContext` of the pod, and the fields that it excludes.
pub(super) fn pod(spec: At<'_>, out: &mut Vec<Cause>) {
    let context = spec.get("securityContext");
    if spec.get("hostPID").bool() && spec.get("shareProcessNamespace").bool() {
        out.push(spec.get("shareProcessNamespace").invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    for name in ["fsGroup", "runAsGroup", "runAsUser"] {
        id(context.get(name), out);
    }
    for group in context.get("supplementalGroups").items() {
        id(group, out);
    }
    for (name, supported) in [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
    ] {
        let policy = context.get(name);
        if policy.is_set() && !supported.contains(&policy.str()) {
            out.push(policy.not_supported(supported));
        }
    }
    sysctls(spec, context.get("sysctls"), out);
    profiles(context, out);
    if spec.get("hostUsers").is_set() && !spec.get("hostUsers").bool() {
        for (field, named) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if spec.get(field).bool() {
                out.push(spec.get(named).forbidden("when `hostUsers` is false"));
            }
        }
    }
}

fn id(at: At<'_>, out: &mut Vec<Cause>) {
    if at.int().is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
        out.push(at.invalid("must be between 0 and 2147483647, inclusive"));
    }
}

fn sysctls(spec: At<'_>, list: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            out.push(name.required(""));
            continue;
        }
        let repeated = !seen.insert(name.str());
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let segment = |s: &str| {
            s.bytes().next().is_some_and(plain)
                && s.bytes().last().is_some_and(plain)
                && s.bytes().all(|b| plain(b) || b == b'-' || b == b'_')
        };
        if name.str().len() > 253 || !name.str().split(['.', '/']).all(segment) {
            out.push(name.invalid("must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"));
        } else if repeated {
            out.push(name.duplicate());
        }
        let dotted = name.str().replace('/', ".");
        if spec.get("hostNetwork").bool() && dotted.starts_with("net.") {
            out.push(name.invalid("may not be specified when 'hostNetwork' is set to true"));
        }
        if spec.get("hostIPC").bool()
            && ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p))
        {
            out.push(name.invalid("may not be specified when 'hostIPC' is set to true"));
        }
    }
}

fn profiles(context: At<'_>, out: &mut Vec<Cause>) {
    const TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
    for (name, what) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = context.get(name);
        if !profile.is_set() {
            continue;
        }
        let (kind, file) = (profile.get("type"), profile.get("localhostProfile"));
        match kind.str() {
            "" => out.push(kind.required(&format!("type is required when {name} is set"))),
            "Localhost" if !file.is_set() => {
                out.push(file.required(&format!("must be set when {what} type is Localhost")));
            }
            "Localhost" if name == "appArmorProfile" => apparmor::file(file, out),
            "Localhost" => rules::local_descending_path(file, out),
            other => {
                if !TYPES.contains(&other) {
                    out.push(kind.not_supported(TYPES));
                }
                if file.is_set() {
                    let why = format!("can only be set when {what} type is Localhost");
                    let shown = match name {
                        // Upstream prints all of it.
                        "seccompProfile" => profile.printed("io.k8s.api.core.v1.SeccompProfile"),
                        _ => file.value().to_string(),
                    };
                    out.push(Cause::invalid_shown(&file.field(), &shown, &why));
                }
            }
        }
    }
}

/// `securityContext` of a container.
pub(super) fn container(spec: At<'_>, context: At<'_>, out: &mut Vec<Cause>) {
    id(context.get("runAsUser"), out);
    id(context.get("runAsGroup"), out);
    let mount = context.get("procMount");
    match mount.str() {
        _ if !mount.is_set() => {}
        "Default" => {}
        "Unmasked" => {
            if spec.get("hostUsers").value() != &Value::Bool(false) {
                out.push(mount.invalid("`hostUsers` must be false to use `Unmasked`"));
            }
        }
        _ => out.push(mount.not_supported(&["Default", "Unmasked"])),
    }
    profiles(context, out);
    if context.get("allowPrivilegeEscalation").value() == &Value::Bool(false) {
        if context.get("privileged").bool() {
            out.push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        if context.down(&["capabilities", "add"]).items().any(|c| c.str() == "CAP_SYS_ADMIN") {
            out.push(
                context.invalid("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"),
            );
        }
    }
}

/// `spec.os`, and the fields that pods of the operating system may not have.
pub(super) fn os(spec: At<'_>, out: &mut Vec<Cause>) {
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    let contexts = || {
        let containers = super::CONTAINERS.iter().flat_map(|kind| spec.get(kind).items());
        std::iter::once(spec.get("securityContext")).chain(containers.map(|c| c.get("securityContext")))
    };
    match os.get("name").str() {
        "" => out.push(os.get("name").required("")),
        "linux" => {
            for options in contexts().map(|c| c.get("windowsOptions")).filter(|o| o.is_set()) {
                out.push(options.forbidden("windows options cannot be set for a linux pod"));
            }
        }
        "windows" => {
            const TEXT: &str = "cannot be set for a windows pod";
            for name in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"].map(|name| spec.get(name)) {
                if name.is_set() && name.value() != &Value::Bool(false) {
                    out.push(name.forbidden(TEXT));
                }
            }
            for context in contexts() {
                for name in LINUX_ONLY.iter().map(|name| context.get(name)).filter(|at| at.is_set()) {
                    out.push(name.forbidden(TEXT));
                }
            }
        }
        _ => out.push(os.with(os.get("name").value()).not_supported(&["linux", "windows"])),
    }
}

const LINUX_ONLY: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
