//! Defaults of a pod spec, in a Pod or a template (`core/v1` defaulting).

use crate::{
    claims,
    edit::{Fields, drop_zero, fill, fill_int, fill_str, object, object_if, objects},
    quantities,
};
use serde_json::{Value, json};

/// Kinds of containers in a pod spec.
pub(crate) const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of `spec.template` of a workload.
pub(crate) fn template(owner: &mut Fields) {
    let template = object(owner, "template");
    object(template, "metadata");
    drop_zero(object(template, "metadata"), &["annotations", "name", "namespace", "creationTimestamp"]);
    pod_spec(object(template, "spec"));
}

/// Defaults that every pod spec gets.
pub(crate) fn pod_spec(spec: &mut Fields) {
    drop_zero(spec, OMITTED_WHEN_ZERO);
    fill_str(spec, "dnsPolicy", "ClusterFirst");
    fill_str(spec, "restartPolicy", "Always");
    fill_str(spec, "schedulerName", "default-scheduler");
    fill(spec, "securityContext", json!({}));
    fill(spec, "terminationGracePeriodSeconds", 30);
    service_account(spec);
    for volume in objects(spec, "volumes") {
        volume_source(volume);
    }
    for kind in CONTAINERS {
        for item in objects(spec, kind) {
            container(item);
        }
    }
    if let Some(overhead) = spec.get_mut("overhead") {
        quantities::canonicalize(overhead);
    }
    resources(spec, false);
}

const OMITTED_WHEN_ZERO: &[&str] = &[
    "volumes",
    "initContainers",
    "ephemeralContainers",
    "nodeSelector",
    "serviceAccountName",
    "serviceAccount",
    "nodeName",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "imagePullSecrets",
    "hostname",
    "subdomain",
    "tolerations",
    "hostAliases",
    "priorityClassName",
    "readinessGates",
    "overhead",
    "topologySpreadConstraints",
    "schedulingGates",
    "resourceClaims",
];

/// Defaults of a Pod that a template does not get.
pub(crate) fn pod(spec: &mut Fields) {
    for kind in ["containers", "initContainers"] {
        for container in objects(spec, kind) {
            requests_from_limits(container);
        }
    }
    fill(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        for kind in ["containers", "initContainers"] {
            for port in objects(spec, kind).flat_map(|container| objects(container, "ports")) {
                if let Some(number) = port.get("containerPort").cloned()
                    && number.as_i64() != Some(0)
                {
                    fill_int(port, "hostPort", number.as_i64().unwrap_or_default());
                }
            }
        }
    }
}

/// The deprecated `serviceAccount` mirrors `serviceAccountName`.
pub(crate) fn service_account(spec: &mut Fields) {
    let name = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|key| spec.get(*key).and_then(Value::as_str).filter(|name| !name.is_empty()))
        .map(str::to_owned);
    if let Some(name) = name {
        spec.insert("serviceAccountName".into(), name.clone().into());
        spec.insert("serviceAccount".into(), name.into());
    }
}

fn requests_from_limits(container: &mut Fields) {
    let Some(resources) = object_if(container, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).filter(|l| !l.is_empty()).cloned() else {
        return;
    };
    let requests = object(resources, "requests");
    for (name, value) in limits {
        requests.entry(name).or_insert(value);
    }
}

/// Whether the default pull policy of an image is Always: its tag is `latest`, or it has neither tag nor digest. For an invalid reference it is
/// not.
pub(crate) fn is_latest(image: &str) -> bool {
    match super::image::parse(image) {
        Some((Some(tag), _)) => tag == "latest",
        Some((None, digest)) => digest.is_none(),
        None => false,
    }
}

fn container(container: &mut Fields) {
    let latest = is_latest(container.get("image").and_then(Value::as_str).unwrap_or_default());
    drop_zero(
        container,
        &[
            "image",
            "command",
            "args",
            "workingDir",
            "ports",
            "envFrom",
            "env",
            "volumeMounts",
            "volumeDevices",
            "stdin",
            "stdinOnce",
            "tty",
            "resizePolicy",
        ],
    );
    fill_str(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    fill_str(container, "terminationMessagePath", "/dev/termination-log");
    fill_str(container, "terminationMessagePolicy", "File");
    for port in objects(container, "ports") {
        drop_zero(port, &["name", "hostPort", "hostIP"]);
        fill_str(port, "protocol", "TCP");
    }
    for env in objects(container, "env") {
        drop_zero(env, &["value"]);
        if let Some(source) = object_if(env, "valueFrom") {
            selectors(source);
        }
    }
    for mount in objects(container, "volumeMounts") {
        drop_zero(mount, &["readOnly", "subPath", "subPathExpr"]);
    }
    resources(container, true);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object_if(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = object_if(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = object_if(lifecycle, hook).and_then(|hook| object_if(hook, "httpGet")) {
                http_get(get);
            }
        }
    }
}

/// Makes quantities canonical; `always` writes the empty `resources: {}` that containers have.
fn resources(owner: &mut Fields, always: bool) {
    if !always && !owner.contains_key("resources") {
        return;
    }
    let resources = object(owner, "resources");
    for list in ["limits", "requests"] {
        if let Some(value) = resources.get_mut(list) {
            quantities::canonicalize(value);
        }
    }
    drop_zero(resources, &["limits", "requests", "claims"]);
}

fn probe(probe: &mut Fields) {
    drop_zero(probe, &["initialDelaySeconds"]);
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        fill_int(probe, name, value);
    }
    if let Some(get) = object_if(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = object_if(probe, "grpc") {
        fill(grpc, "service", "");
    }
}

fn http_get(get: &mut Fields) {
    drop_zero(get, &["host", "httpHeaders"]);
    fill_str(get, "path", "/");
    fill_str(get, "scheme", "HTTP");
}

/// `fieldRef` and `resourceFieldRef` of an environment variable or a downward API file.
fn selectors(source: &mut Fields) {
    if let Some(field) = object_if(source, "fieldRef") {
        fill_str(field, "apiVersion", "v1");
    }
    if let Some(resource) = object_if(source, "resourceFieldRef") {
        drop_zero(resource, &["containerName"]);
        let divisor = resource.entry("divisor").or_insert(Value::Null);
        match divisor {
            Value::Null => *divisor = "0".into(),
            Value::String(s) if s.is_empty() => *divisor = "0".into(),
            other => quantities::canonicalize_one(other),
        }
    }
}

/// Names of the volume sources, to check whether a volume has one.
pub(crate) const VOLUME_SOURCES: [&str; 31] = [
    "hostPath",
    "emptyDir",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "persistentVolumeClaim",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "azureFile",
    "configMap",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "projected",
    "portworxVolume",
    "scaleIO",
    "storageos",
    "csi",
    "ephemeral",
    "image",
    "podCertificate",
];

const MODE: i64 = 0o644;

fn volume_source(volume: &mut Fields) {
    if !VOLUME_SOURCES.iter().any(|source| volume.get(*source).is_some_and(|v| !v.is_null())) {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object_if(volume, source) {
            fill(source, "defaultMode", MODE);
        }
    }
    if let Some(host) = object_if(volume, "hostPath") {
        fill(host, "type", "");
    }
    if let Some(empty) = object_if(volume, "emptyDir") {
        drop_zero(empty, &["medium"]);
        if let Some(limit) = empty.get_mut("sizeLimit") {
            quantities::canonicalize_one(limit);
        }
    }
    if let Some(image) = object_if(volume, "image") {
        let latest = is_latest(image.get("reference").and_then(Value::as_str).unwrap_or_default());
        fill_str(image, "pullPolicy", if latest { "Always" } else { "IfNotPresent" });
    }
    disk(volume);
    if let Some(claim) = object_if(volume, "ephemeral").and_then(|e| object_if(e, "volumeClaimTemplate")) {
        claims::default_spec(object(claim, "spec"));
    }
    if let Some(downward) = object_if(volume, "downwardAPI") {
        objects(downward, "items").for_each(selectors);
    }
    if let Some(projected) = object_if(volume, "projected") {
        for source in objects(projected, "sources") {
            if let Some(downward) = object_if(source, "downwardAPI") {
                objects(downward, "items").for_each(selectors);
            }
            if let Some(token) = object_if(source, "serviceAccountToken") {
                drop_zero(token, &["audience"]);
                fill(token, "expirationSeconds", 3600);
            }
        }
    }
}

/// The source of a volume outside of the node, in a pod or a PersistentVolume.
pub(crate) fn disk(volume: &mut Fields) {
    if let Some(iscsi) = object_if(volume, "iscsi") {
        fill_str(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = object_if(volume, "rbd") {
        for (name, value) in [("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")] {
            fill_str(rbd, name, value);
        }
    }
    if let Some(disk) = object_if(volume, "azureDisk") {
        for (name, value) in [("cachingMode", "ReadWrite"), ("fsType", "ext4"), ("kind", "Shared")] {
            fill_str(disk, name, value);
        }
        fill(disk, "readOnly", false);
    }
    if let Some(scale) = object_if(volume, "scaleIO") {
        fill_str(scale, "storageMode", "ThinProvisioned");
        fill_str(scale, "fsType", "xfs");
    }
}

#[cfg(test)]
#[path = "defaults_tests.rs"]
mod tests;
