//! Gives back the spare room of decoded objects that a cache keeps.
//!
//! serde gives a list room for four elements at its first one, and pods have many lists of one large element: decoded as they are, they take
//! three times the memory.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Volume};
use std::any::Any;

/// Shrinks the lists of an object of a kind that a cluster has many of.
pub(crate) fn shrink<K: Any>(object: &mut K) {
    if let Some(pod) = (object as &mut dyn Any).downcast_mut::<Pod>() {
        fit(&mut pod.metadata.owner_references);
        fit(&mut pod.metadata.finalizers);
        pod.spec.iter_mut().for_each(spec);
        pod.status.iter_mut().for_each(status);
    }
}

fn fit<T>(list: &mut Option<Vec<T>>) {
    if let Some(list) = list {
        list.shrink_to_fit();
    }
}

fn spec(spec: &mut PodSpec) {
    spec.containers.shrink_to_fit();
    fit(&mut spec.init_containers);
    fit(&mut spec.ephemeral_containers);
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(container);
    fit(&mut spec.volumes);
    spec.volumes.iter_mut().flatten().for_each(volume);
    fit(&mut spec.tolerations);
    fit(&mut spec.image_pull_secrets);
    fit(&mut spec.topology_spread_constraints);
}

fn container(container: &mut Container) {
    fit(&mut container.args);
    fit(&mut container.command);
    fit(&mut container.env);
    fit(&mut container.env_from);
    fit(&mut container.ports);
    fit(&mut container.volume_mounts);
}

fn volume(volume: &mut Volume) {
    let Some(projected) = &mut volume.projected else { return };
    fit(&mut projected.sources);
    for source in projected.sources.iter_mut().flatten() {
        source.config_map.iter_mut().for_each(|source| fit(&mut source.items));
        source.secret.iter_mut().for_each(|source| fit(&mut source.items));
        source.downward_api.iter_mut().for_each(|source| fit(&mut source.items));
    }
}

fn status(status: &mut PodStatus) {
    fit(&mut status.conditions);
    fit(&mut status.host_ips);
    fit(&mut status.pod_ips);
    for list in
        [&mut status.container_statuses, &mut status.init_container_statuses, &mut status.ephemeral_container_statuses]
    {
        fit(list);
        list.iter_mut().flatten().for_each(container_status);
    }
}

fn container_status(status: &mut ContainerStatus) {
    fit(&mut status.volume_mounts);
    fit(&mut status.allocated_resources_status);
}

#[cfg(test)]
mod tests {
    use crate::{Cached, Kind};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn a_cached_pod_has_no_spare_room() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "env": [{"name": "A"}], "ports": [{"containerPort": 80}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}]}}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let plain = Pod::from_json(&pod.to_string()).unwrap();
        let kept = Pod::read(&pod.to_string()).unwrap();
        assert_eq!(plain, kept);
        let (spec, status) = (kept.spec.unwrap(), kept.status.unwrap());
        let [container] = &spec.containers[..] else { panic!("one container") };
        assert_eq!(spec.containers.capacity(), 1);
        assert_eq!(container.env.as_ref().unwrap().capacity(), 1);
        assert_eq!(container.ports.as_ref().unwrap().capacity(), 1);
        assert_eq!(container.volume_mounts.as_ref().unwrap().capacity(), 1);
        assert_eq!(status.conditions.unwrap().capacity(), 1);
        let sources = spec.volumes.unwrap()[0].projected.clone().unwrap().sources.unwrap();
        assert_eq!(sources[0].config_map.as_ref().unwrap().items.as_ref().unwrap().capacity(), 1);
    }
}
