//! Volume sources outside of the node: disks and shares of clouds and storage systems. They are validated, but never mounted.

use crate::{at::At, rules};
use api::{Cause, FieldPath, names};
use serde_json::json;

const NUMBER: &str = "must be between 0 and 255, inclusive";
const PARTITION: &str = "must be between 1 and 255, inclusive";

/// Validates the source of a volume by its name; other sources are validated elsewhere.
pub(super) fn validate(volume: At<'_>, name: &str, source: At<'_>, out: &mut Vec<Cause>) {
    let require = |fields: &[&'static str], out: &mut Vec<Cause>| {
        out.extend(fields.iter().map(|f| source.get(f)).filter(|at| at.is_empty()).map(|at| at.required("")));
    };
    match name {
        "awsElasticBlockStore" => {
            require(&["volumeID"], out);
            between(source.get("partition"), PARTITION, out);
        }
        "azureDisk" => {
            require(&["diskName", "diskURI"], out);
            azure_disk(source, out);
        }
        "azureFile" => require(&["secretName", "shareName"], out),
        "cephfs" => require(&["monitors"], out),
        "cinder" => {
            require(&["volumeID"], out);
            named(source.get("secretRef"), out);
        }
        "csi" => csi(source, out),
        "fc" => fibre_channel(source, out),
        "flexVolume" => {
            require(&["driver"], out);
            source.get("options").entries().for_each(|(key, _)| flex_option(source, key, out));
        }
        "flocker" => flocker(source, out),
        "gcePersistentDisk" => gce(volume, source, out),
        "glusterfs" => require(&["endpoints", "path"], out),
        "iscsi" => {
            require(&["targetPortal"], out);
            iscsi(volume, source, out);
        }
        "photonPersistentDisk" => require(&["pdID"], out),
        "portworxVolume" => require(&["volumeID"], out),
        "quobyte" => quobyte(source, out),
        "rbd" => require(&["monitors", "image"], out),
        "scaleIO" => require(&["gateway", "system", "volumeName"], out),
        "storageos" => storage_os(source, out),
        "vsphereVolume" => require(&["volumePath"], out),
        _ => {}
    }
}

fn between(at: At<'_>, text: &str, out: &mut Vec<Cause>) {
    if at.int().is_some_and(|n| !(0..=255).contains(&n)) {
        out.push(at.invalid(text));
    }
}

/// A reference to a secret must have a name.
fn named(reference: At<'_>, out: &mut Vec<Cause>) {
    if reference.is_set() && reference.get("name").is_empty() {
        out.push(reference.get("name").required(""));
    }
}

fn azure_disk(source: At<'_>, out: &mut Vec<Cause>) {
    let (mode, kind, place) = (source.get("cachingMode"), source.get("kind"), source.get("diskURI").or_empty());
    for (at, supported) in [(mode, ["None", "ReadOnly", "ReadWrite"]), (kind, ["Dedicated", "Managed", "Shared"])] {
        if at.is_set() && !supported.contains(&at.str()) {
            out.push(at.not_supported(&supported));
        }
    }
    let (start, form) = match kind.str() {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if kind.is_set() && !place.str().starts_with(start) {
        out.push(place.not_supported(&[form]));
    }
}

/// The name of a CSI driver.
pub(crate) fn csi_driver(driver: At<'_>, out: &mut Vec<Cause>) {
    if driver.is_empty() {
        out.push(driver.required(""));
        return;
    }
    if driver.str().len() > 63 {
        out.push(Cause::too_long(&driver.field(), 63));
    }
    driver.invalid_all(names::dns1123_subdomain(&driver.str().to_lowercase()), out);
}

fn csi(source: At<'_>, out: &mut Vec<Cause>) {
    csi_driver(source.get("driver"), out);
    let secret = source.get("nodePublishSecretRef");
    named(secret, out);
    let name = secret.get("name");
    if !name.is_empty() {
        // Upstream's errors name the field `name` of the source.
        source.get("name").with(name.value()).invalid_all(names::dns1123_subdomain(name.str()), out);
    }
}

fn fibre_channel(source: At<'_>, out: &mut Vec<Cause>) {
    let (targets, ids, lun) = (source.get("targetWWNs"), source.get("wwids"), source.get("lun"));
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => out.push(targets.required("must specify either targetWWNs or wwids, but not both")),
        (false, false) => out.push(targets.invalid("targetWWNs and wwids can not be specified simultaneously")),
        _ => {}
    }
    if !targets.is_empty() {
        if !lun.is_set() {
            out.push(lun.required("lun is required if targetWWNs is specified"));
        }
        between(lun, NUMBER, out);
    }
}

/// Options of drivers must not use key prefixes of Kubernetes.
fn flex_option(source: At<'_>, key: &str, out: &mut Vec<Cause>) {
    let namespace = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
    if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
        let field = source.get("options").field().key(key);
        out.push(Cause::invalid(&field, &json!(key), "kubernetes.io and k8s.io namespaces are reserved"));
    }
}

fn flocker(source: At<'_>, out: &mut Vec<Cause>) {
    let (name, uuid) = (source.get("datasetName"), source.get("datasetUUID"));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => out.push(source.required("one of datasetName and datasetUUID is required")),
        (false, false) => {
            let text = "datasetName and datasetUUID can not be specified simultaneously";
            out.push(Cause::invalid(&source.field(), &json!("resource"), text));
        }
        _ => {}
    }
    if name.str().contains('/') {
        out.push(name.invalid("must not contain '/'"));
    }
}

/// Upstream's errors name this source differently.
fn gce(volume: At<'_>, source: At<'_>, out: &mut Vec<Cause>) {
    let place = volume.field().child("persistentDisk");
    let at = |name: &str| -> FieldPath { place.child(name) };
    if source.get("pdName").is_empty() {
        out.push(Cause::required(&at("pdName"), ""));
    }
    let partition = source.get("partition");
    if partition.int().is_some_and(|n| !(0..=255).contains(&n)) {
        out.push(Cause::invalid(&at("partition"), partition.value(), PARTITION));
    }
}

fn iscsi(volume: At<'_>, source: At<'_>, out: &mut Vec<Cause>) {
    let (iqn, initiator) = (source.get("iqn"), source.get("initiatorName"));
    // Upstream's errors name the field like this.
    let initiator_field = source.get("initiatorname").with(initiator.value());
    if iqn.is_empty() {
        out.push(iqn.required(""));
    } else if let Some(problem) = iscsi_name(iqn.str()) {
        out.push(iqn.invalid(problem));
    }
    between(source.get("lun"), NUMBER, out);
    let authenticates = source.get("chapAuthDiscovery").bool() || source.get("chapAuthSession").bool();
    if authenticates && !source.get("secretRef").is_set() {
        out.push(source.get("secretRef").required(""));
    }
    if !initiator.is_set() {
        return;
    }
    if let Some(problem) = iscsi_name(initiator.str()) {
        out.push(initiator_field.invalid(problem));
    }
    let name = volume.get("name");
    if name.str().len() + 1 + source.get("targetPortal").str().len() > 64 {
        out.push(name.or_empty().invalid(
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.",
        ));
    }
}

/// What is wrong with the name of a target or initiator.
fn iscsi_name(name: &str) -> Option<&'static str> {
    let numbered = |digits: usize| {
        // The scheme is followed by any one character, then the digits.
        let rest: Vec<char> = name.chars().skip(4).collect();
        rest.len() == digits && rest.iter().all(char::is_ascii_alphanumeric)
    };
    let good = match name.get(..3) {
        Some("iqn") => name.match_indices("iqn.").any(|(at, start)| qualified_iscsi_name(&name[at + start.len()..])),
        Some("eui") => numbered(16),
        Some("naa") => numbered(32),
        _ => return Some("must be valid format starting with iqn, eui, or naa"),
    };
    (!good).then_some("must be valid format")
}

/// `2001-04.com.example:name`.
fn qualified_iscsi_name(text: &str) -> bool {
    let Some((authority, rest)) = text.split_once(':') else { return false };
    let (bytes, date) = (authority.as_bytes(), b"dddd-dd.");
    bytes.len() > date.len()
        && bytes.iter().zip(date).all(|(byte, form)| if *form == b'd' { byte.is_ascii_digit() } else { byte == form })
        && bytes[date.len()..].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !rest.is_empty()
        && !rest.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\r', '\u{c}'])
}

fn quobyte(source: At<'_>, out: &mut Vec<Cause>) {
    const HOSTS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, tenant, volume) = (source.get("registry"), source.get("tenant"), source.get("volume"));
    if registry.is_empty() {
        out.push(registry.required(HOSTS));
    } else if tenant.str().len() >= 65 {
        out.push(tenant.required("must be a UUID and may not exceed a length of 64 characters"));
    } else {
        let bad = registry.str().split(',').filter(|pair| !host_and_port(pair));
        out.extend(bad.map(|_| registry.invalid(HOSTS)));
    }
    if volume.is_empty() {
        out.push(volume.required(""));
    }
}

/// Go's `net.SplitHostPort`.
fn host_and_port(pair: &str) -> bool {
    let Some((host, port)) = pair.rsplit_once(':') else { return false };
    let host = match host.strip_prefix('[') {
        Some(inner) => match inner.strip_suffix(']') {
            Some(inner) => inner,
            None => return false,
        },
        None if host.contains(':') => return false,
        None => host,
    };
    !host.contains(['[', ']']) && !port.contains(['[', ']'])
}

fn storage_os(source: At<'_>, out: &mut Vec<Cause>) {
    let (name, namespace) = (source.get("volumeName"), source.get("volumeNamespace"));
    if name.is_empty() {
        out.push(name.required(""));
    } else {
        rules::label_name(name, out);
    }
    if !namespace.is_empty() {
        rules::label_name(namespace, out);
    }
    named(source.get("secretRef"), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn problems(name: &str, source: Value) -> Vec<String> {
        let volume = json!({"name": "v", name: source});
        let mut out = Vec::new();
        let at = At::root(&volume);
        validate(at, name, at.get(name), &mut out);
        out.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn disks_of_azure_say_where_they_are_by_their_kind() {
        assert_eq!(
            problems("azureDisk", json!({"diskName": "d", "diskURI": "x", "kind": "Managed", "cachingMode": "Some"})),
            [
                "azureDisk.cachingMode: Unsupported value: \"Some\": supported values: \"None\", \"ReadOnly\", \"ReadWrite\"",
                "azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
            ]
        );
        assert!(problems("azureDisk", json!({"diskName": "d", "diskURI": "https://x", "kind": "Shared"})).is_empty());
        assert!(problems("azureDisk", json!({"diskName": "d", "diskURI": "x"})).is_empty());
    }

    #[test]
    fn names_of_iscsi_targets_have_one_of_three_forms() {
        let good =
            ["iqn.2001-04.com.example:storage.k:1", "eui.02004567A425678D", "naa.52004567BA64678D52004567BA64678D"];
        for name in good {
            assert_eq!(iscsi_name(name), None, "{name}");
        }
        for name in ["iqn.2001-04.com.example", "iqn.01-04.com:x", "eui.0200", "iqn.2001-04.com:a b"] {
            assert_eq!(iscsi_name(name), Some("must be valid format"), "{name}");
        }
        assert_eq!(
            problems(
                "iscsi",
                json!({"targetPortal": "t", "iqn": "é", "lun": 256, "chapAuthSession": true, "initiatorName": "x"})
            ),
            [
                "iscsi.iqn: Invalid value: \"é\": must be valid format starting with iqn, eui, or naa",
                "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "iscsi.secretRef: Required value",
                "iscsi.initiatorname: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
            ]
        );
    }

    #[test]
    fn other_sources_have_what_they_need() {
        assert_eq!(
            problems("flocker", json!({})),
            ["flocker: Required value: one of datasetName and datasetUUID is required"]
        );
        assert_eq!(
            problems("flocker", json!({"datasetName": "a/b", "datasetUUID": "u"})),
            [
                "flocker: Invalid value: \"resource\": datasetName and datasetUUID can not be specified simultaneously",
                "flocker.datasetName: Invalid value: \"a/b\": must not contain '/'",
            ]
        );
        assert_eq!(
            problems("quobyte", json!({"registry": "a:1,[::1]:2,c", "volume": "v"})),
            [
                "quobyte.registry: Invalid value: \"a:1,[::1]:2,c\": must be a host:port pair or multiple pairs separated by commas"
            ]
        );
        assert_eq!(
            problems("flexVolume", json!({"driver": "d", "options": {"x.k8s.io/a": "b"}})),
            [
                "flexVolume.options[x.k8s.io/a]: Invalid value: \"x.k8s.io/a\": kubernetes.io and k8s.io namespaces are reserved"
            ]
        );
        assert_eq!(
            problems("gcePersistentDisk", json!({"pdName": "p", "partition": -1})),
            ["persistentDisk.partition: Invalid value: -1: must be between 1 and 255, inclusive"]
        );
        assert_eq!(
            problems("fc", json!({"targetWWNs": ["a"]})),
            ["fc.lun: Required value: lun is required if targetWWNs is specified"]
        );
    }
}
