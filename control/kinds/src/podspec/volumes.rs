//! Validation of volumes and their mounts.

use super::{defaults::VOLUME_SOURCES, disks, env};
use crate::{at::At, claims, quantities, rules};
use api::Cause;
use serde_json::json;
use std::collections::{BTreeSet, HashMap, HashSet};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Volumes that mounts may refer to, by name.
pub(super) type Known<'a> = HashMap<&'a str, At<'a>>;

/// Validates the volumes; returns the valid ones.
pub(super) fn validate<'a>(volumes: At<'a>, out: &mut Vec<Cause>) -> Known<'a> {
    let mut good = Known::new();
    for volume in volumes.items() {
        if rules::full(out) {
            return good;
        }
        let before = out.len();
        source(volume, out);
        let name = volume.get("name");
        if name.is_empty() {
            out.push(name.required(""));
        } else {
            rules::label_name(name, out);
        }
        if good.contains_key(name.str()) {
            out.push(name.duplicate());
        }
        if out.len() == before {
            good.insert(name.str(), volume);
        }
    }
    good
}

fn source(volume: At<'_>, out: &mut Vec<Cause>) {
    // Upstream validates emptyDir first.
    let order = std::iter::once("emptyDir").chain(VOLUME_SOURCES.iter().copied().filter(|name| *name != "emptyDir"));
    let mut found = false;
    for name in order {
        let source = volume.get(name);
        if !source.is_set() {
            continue;
        }
        if found {
            out.push(source.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        one_source(volume, name, source, out);
    }
    if !found {
        out.push(volume.required("must specify a volume type"));
    }
}

/// The source of a volume by its name.
pub(crate) fn one_source(volume: At<'_>, name: &str, source: At<'_>, out: &mut Vec<Cause>) {
    let require = |fields: &[&'static str], out: &mut Vec<Cause>| {
        out.extend(fields.iter().map(|f| source.get(f)).filter(|at| at.is_empty()).map(|at| at.required("")));
    };
    match name {
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if quantities::parse(limit.value()).is_some_and(|q| q.signum() < 0) {
                out.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => host_path(source, out),
        "secret" => {
            require(&["secretName"], out);
            files(source, out);
        }
        "configMap" => {
            require(&["name"], out);
            files(source, out);
        }
        "downwardAPI" => {
            mode(source.get("defaultMode"), out);
            source.get("items").items().for_each(|item| downward_file(source, item, out));
        }
        "projected" => projected(source, out),
        "persistentVolumeClaim" => require(&["claimName"], out),
        "nfs" => {
            require(&["server", "path"], out);
            let path = source.get("path");
            if !path.str().starts_with('/') {
                out.push(path.or_empty().invalid("must be an absolute path"));
            }
        }
        "gitRepo" => {
            require(&["repository"], out);
            rules::local_descending_path(source.get("directory"), out);
        }
        "image" => {
            require(&["reference"], out);
            let policy = source.get("pullPolicy");
            if policy.is_set() {
                policy.one_of(&["Always", "IfNotPresent", "Never"], out);
            }
        }
        "ephemeral" => match source.get("volumeClaimTemplate") {
            template if template.is_set() => claim_template(template, out),
            template => out.push(template.required("")),
        },
        _ => disks::validate(volume, name, source, out),
    }
}

/// The template of an ephemeral volume's claim: labels, annotations and nothing else of the metadata, and a spec.
fn claim_template(template: At<'_>, out: &mut Vec<Cause>) {
    let metadata = template.get("metadata");
    rules::labels(metadata.get("labels"), out);
    for (name, at) in metadata.entries().filter(|(name, _)| !["labels", "annotations"].contains(name)) {
        if !at.is_empty() && name != "creationTimestamp" {
            out.push(at.forbidden("cannot be set"));
        }
    }
    claims::validate_spec(template.get("spec"), out);
}

fn host_path(source: At<'_>, out: &mut Vec<Cause>) {
    const TYPES: &[&str] =
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let (path, kind) = (source.get("path"), source.get("type"));
    if path.is_empty() {
        out.push(path.required(""));
        return;
    }
    rules::no_backsteps(path, out);
    if kind.is_set() && !TYPES.contains(&kind.str()) {
        out.push(kind.not_supported(TYPES));
    }
}

fn mode(at: At<'_>, out: &mut Vec<Cause>) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        out.push(at.invalid(MODE));
    }
}

fn local_path(at: At<'_>, out: &mut Vec<Cause>) {
    rules::local_descending_path(at, out);
    if at.str().starts_with("..") && !at.str().starts_with("../") && at.str() != ".." {
        out.push(at.invalid("must not start with '..'"));
    }
}

/// `defaultMode` and `items` of a ConfigMap or Secret volume.
fn files(source: At<'_>, out: &mut Vec<Cause>) {
    mode(source.get("defaultMode"), out);
    source.get("items").items().for_each(|item| key_to_path(item, out));
}

fn key_to_path(item: At<'_>, out: &mut Vec<Cause>) {
    for name in ["key", "path"] {
        if item.get(name).is_empty() {
            out.push(item.get(name).required(""));
        }
    }
    local_path(item.get("path"), out);
    mode(item.get("mode"), out);
}

/// A downward API file; upstream's errors name the volume, not the item.
fn downward_file(source: At<'_>, item: At<'_>, out: &mut Vec<Cause>) {
    let at = |name: &'static str| source.get(name).with(item.get(name).value());
    if at("path").is_empty() {
        out.push(at("path").required(""));
    }
    local_path(at("path"), out);
    let (field, resource) = (at("fieldRef"), at("resourceFieldRef"));
    match (field.is_set(), resource.is_set()) {
        (true, both) => {
            env::field_selector(field, env::IN_FILES, out);
            if both {
                let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
                out.push(Cause::invalid(&source.field(), &json!("resource"), text));
            }
        }
        (false, true) => env::resource_selector(resource, true, out),
        (false, false) => out.push(source.required("one of fieldRef and resourceFieldRef is required")),
    }
    mode(at("mode"), out);
}

fn projected(projected: At<'_>, out: &mut Vec<Cause>) {
    mode(projected.get("defaultMode"), out);
    let mut paths = BTreeSet::new();
    for source in projected.get("sources").items() {
        if rules::full(out) {
            return;
        }
        let mut kinds = 0;
        for name in
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"]
        {
            let part = source.get(name);
            if !part.is_set() {
                continue;
            }
            kinds += 1;
            match name {
                "secret" | "configMap" => {
                    if part.get("name").is_empty() {
                        out.push(part.get("name").required(""));
                    }
                    for item in part.get("items").items() {
                        key_to_path(item, out);
                        let path = item.get("path").str();
                        if !path.is_empty() && !paths.insert(path) {
                            out.push(projected.with(part.get("name").value()).invalid("conflicting duplicate paths"));
                        }
                    }
                }
                "downwardAPI" => {
                    for item in part.get("items").items() {
                        downward_file(part, item, out);
                        let path = item.get("path");
                        if !path.is_empty() && !paths.insert(path.str()) {
                            out.push(projected.with(path.value()).invalid("conflicting duplicate paths"));
                        }
                    }
                }
                "serviceAccountToken" => token(projected, part, &mut paths, out),
                _ => {
                    let path = part.get("path");
                    if name == "clusterTrustBundle" && path.is_empty() {
                        out.push(path.required(""));
                    }
                    local_path(path, out);
                }
            }
        }
        if kinds > 1 {
            out.push(source.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}

fn token<'a>(projected: At<'a>, token: At<'a>, paths: &mut BTreeSet<&'a str>, out: &mut Vec<Cause>) {
    let expiry = token.get("expirationSeconds");
    if expiry.int().unwrap_or(0) < 600 {
        out.push(Cause::invalid(
            &expiry.field(),
            &json!(expiry.int().unwrap_or(0)),
            "may not specify a duration less than 10 minutes",
        ));
    }
    if expiry.int().is_some_and(|n| n > 1 << 32) {
        out.push(expiry.invalid("may not specify a duration larger than 2^32 seconds"));
    }
    // Upstream's errors name the volume, not the source.
    let path = projected.get("path").with(token.get("path").value());
    if path.is_empty() {
        out.push(path.required(""));
    } else {
        local_path(path, out);
        if !paths.insert(token.get("path").str()) {
            out.push(projected.with(path.value()).invalid("conflicting duplicate paths"));
        }
    }
}

/// `volumeMounts` and `volumeDevices` of a container.
pub(super) fn mounts(container: At<'_>, known: &Known<'_>, out: &mut Vec<Cause>) {
    let (mounts, devices) = (container.get("volumeMounts"), container.get("volumeDevices"));
    let (mut paths, in_devices) = (HashSet::new(), Names::of(devices, "devicePath"));
    for mount in mounts.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            out.push(name.required(""));
        }
        if !known.contains_key(name.str()) {
            out.push(Cause::not_found(&name.field(), &json!(name.str())));
        }
        if path.is_empty() {
            out.push(path.required(""));
        }
        if !paths.insert(path.str()) {
            out.push(path.invalid("must be unique"));
        }
        if in_devices.names.contains(name.str()) {
            out.push(name.invalid("must not already exist in volumeDevices"));
        }
        if in_devices.paths.contains(path.str()) {
            out.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        how_mounted(container, mounts, mount, out);
    }
    let (mut earlier, in_mounts) = (Names::default(), Names::of(mounts, "mountPath"));
    for device in devices.items() {
        self::device(device, &mut earlier, &in_mounts, known, out);
    }
}

/// Names and paths of mounts or devices.
#[derive(Default)]
struct Names<'a> {
    names: HashSet<&'a str>,
    paths: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    fn of(list: At<'a>, path: &'static str) -> Self {
        let all = |field| list.items().map(|item| item.get(field).str()).collect();
        Self { names: all("name"), paths: all(path) }
    }
}

/// Options of a mount. Upstream's errors name the list, not its element.
fn how_mounted(container: At<'_>, mounts: At<'_>, mount: At<'_>, out: &mut Vec<Cause>) {
    let at = |name: &'static str| mounts.get(name).with(mount.get(name).value());
    let (path, expression) = (at("subPath"), at("subPathExpr"));
    if !path.is_empty() {
        rules::local_descending_path(path, out);
    }
    if !expression.is_empty() {
        if !path.is_empty() {
            out.push(mount.get("subPathExpr").invalid("subPathExpr and subPath are mutually exclusive"));
        }
        rules::local_descending_path(expression, out);
    }
    let propagation = at("mountPropagation");
    if propagation.is_set() {
        const MODES: &[&str] = &["Bidirectional", "HostToContainer", "None"];
        if !MODES.contains(&propagation.str()) {
            out.push(propagation.not_supported(MODES));
        }
        if propagation.str() == "Bidirectional" && !container.down(&["securityContext", "privileged"]).bool() {
            out.push(
                propagation.forbidden("Bidirectional mount propagation is available only to privileged containers"),
            );
        }
    }
    let recursive = at("recursiveReadOnly");
    match recursive.str() {
        _ if !recursive.is_set() => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").bool() {
                out.push(recursive.forbidden("may only be specified when readOnly is true"));
            }
            if !matches!(propagation.str(), "" | "None") {
                out.push(recursive.forbidden("may only be specified when mountPropagation is None or not specified"));
            }
        }
        _ => out.push(recursive.not_supported(&["Disabled", "Enabled", "IfPossible"])),
    }
}

fn device<'a>(device: At<'a>, earlier: &mut Names<'a>, mounts: &Names<'_>, known: &Known<'_>, out: &mut Vec<Cause>) {
    let (name, path) = (device.get("name"), device.get("devicePath"));
    let volume = known.get(name.str());
    if name.is_empty() {
        out.push(name.required(""));
    }
    if !earlier.names.insert(name.str()) && !name.is_empty() {
        out.push(name.invalid("must be unique"));
    }
    match volume {
        None => out.push(name.not_found()),
        Some(volume) if !volume.get("persistentVolumeClaim").is_set() && !volume.get("ephemeral").is_set() => {
            out.push(
                name.invalid("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"),
            );
        }
        Some(_) => {}
    }
    if path.is_empty() {
        out.push(path.required(""));
    }
    if !earlier.paths.insert(path.str()) {
        out.push(path.invalid("must be unique"));
    }
    if path.str().split('/').any(|part| part == "..") {
        out.push(path.invalid("can not contain backsteps ('..')"));
    }
    if mounts.names.contains(name.str()) {
        out.push(name.invalid("must not already exist in volumeMounts"));
    }
    if mounts.paths.contains(path.str()) {
        out.push(path.invalid("must not already exist as a path in volumeMounts"));
    }
}
