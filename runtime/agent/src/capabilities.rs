//! The optional pod fields that this node supports. The API server warns users of other fields.

/// Fields with the names of `kubectl explain`. A new volume plugin, probe or hook adds its field here, which removes the warning.
pub const HONOURED: &[&str] = &[
    "persistentvolume.spec.csi",
    "persistentvolume.spec.hostPath",
    "persistentvolume.spec.local",
    "pod.spec.containers.lifecycle.postStart.exec",
    "pod.spec.containers.lifecycle.postStart.httpGet.scheme",
    "pod.spec.containers.lifecycle.preStop.exec",
    "pod.spec.containers.lifecycle.preStop.httpGet.scheme",
    "pod.spec.containers.livenessProbe.exec",
    "pod.spec.containers.livenessProbe.grpc",
    "pod.spec.containers.livenessProbe.httpGet.scheme",
    "pod.spec.containers.ports.hostPort",
    "pod.spec.containers.readinessProbe.exec",
    "pod.spec.containers.readinessProbe.grpc",
    "pod.spec.containers.readinessProbe.httpGet.scheme",
    "pod.spec.containers.startupProbe.exec",
    "pod.spec.containers.startupProbe.grpc",
    "pod.spec.containers.startupProbe.httpGet.scheme",
    "pod.spec.containers.stdin",
    "pod.spec.containers.tty",
    "pod.spec.hostNetwork",
    "pod.spec.volumes.configMap",
    "pod.spec.volumes.downwardAPI",
    "pod.spec.volumes.emptyDir",
    "pod.spec.volumes.ephemeral",
    "pod.spec.volumes.hostPath",
    "pod.spec.volumes.image",
    "pod.spec.volumes.persistentVolumeClaim",
    "pod.spec.volumes.projected",
    "pod.spec.volumes.secret",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes;
    use k8s_openapi::api::core::v1::Volume;
    use serde_json::json;

    /// Exactly those sources of volumes are honoured that a plugin handles.
    #[test]
    fn volume_sources_are_those_of_the_plugins() {
        let plugins = volumes::plugins();
        let every = [
            "awsElasticBlockStore",
            "azureDisk",
            "azureFile",
            "cephfs",
            "cinder",
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "fc",
            "flexVolume",
            "flocker",
            "gcePersistentDisk",
            "gitRepo",
            "glusterfs",
            "hostPath",
            "image",
            "iscsi",
            "nfs",
            "persistentVolumeClaim",
            "photonPersistentDisk",
            "portworxVolume",
            "projected",
            "quobyte",
            "rbd",
            "scaleIO",
            "secret",
            "storageos",
            "vsphereVolume",
        ];
        for source in every {
            let volume: Volume = serde_json::from_value(json!({"name": "v", source: {}})).unwrap();
            assert_eq!(serde_json::to_value(&volume).unwrap().as_object().unwrap().len(), 2, "{source} is a source");
            let handled = plugins.iter().any(|plugin| plugin.handles(&volume));
            let honoured = HONOURED.contains(&format!("pod.spec.volumes.{source}").as_str());
            assert_eq!(handled, honoured, "{source}");
        }
    }
}
