//! Finds the pods of a running cluster that use an image. `image rm` asks, like `docker rmi`.

use image::{Listed, Reference};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::collections::BTreeSet;

/// An image to be removed.
pub(crate) struct Removed {
    /// Its full name. `None` if it is identified by its digest.
    pub(crate) name: Option<String>,
    /// Its digest, if this is its last name, so that its content is removed too.
    pub(crate) digest: Option<String>,
}

/// `namespace/name` of the pods that use it, including terminated ones, as docker counts stopped containers.
pub(crate) fn users(pods: &[Pod], removed: &Removed) -> Vec<String> {
    let using = pods.iter().filter(|pod| images(pod).iter().any(|image| is_it(image, removed)));
    let label = |pod: &Pod| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
    };
    using.map(label).collect()
}

/// Like [`users`], for an image under any of its names.
pub(crate) fn users_of(pods: &[Pod], image: &Listed) -> BTreeSet<String> {
    let digest = Some(image.digest.to_string());
    let by_content = users(pods, &Removed { name: None, digest });
    let by_name = image.names.iter().flat_map(|name| users(pods, &Removed { name: Some(name.clone()), digest: None }));
    by_content.into_iter().chain(by_name).collect()
}

/// All image references of a pod: those of its spec and of its status.
fn images(pod: &Pod) -> Vec<String> {
    let asked = pod.spec.iter().flat_map(|spec: &PodSpec| {
        let init = spec.init_containers.iter().flatten();
        spec.containers.iter().chain(init).filter_map(|container| container.image.clone())
    });
    let got = pod.status.iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        status.container_statuses.iter().flatten().chain(init).map(|container| container.image_id.clone())
    });
    asked.chain(got).filter(|image| !image.is_empty()).collect()
}

fn is_it(image: &str, removed: &Removed) -> bool {
    let same_content = removed.digest.as_deref().is_some_and(|digest| image.ends_with(digest));
    let full = || Reference::parse(image).map(|reference| reference.to_string()).ok();
    same_content || removed.name.is_some() && full() == removed.name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, image: &str, id: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"containers": [{"name": "c", "image": image}]},
            "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": image, "imageID": id, "ready": true, "restartCount": 0}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn pods_use_an_image_by_its_name_or_by_its_content() {
        let pods = [
            pod("by-name", "hello:1", "", "Pending"),
            pod("by-content", "other:1", "docker.io/library/other@sha256:abc", "Running"),
            pod("over", "hello:1", "docker.io/library/hello@sha256:abc", "Succeeded"),
            pod("neither", "third:1", "", "Running"),
        ];
        let removed = |name: Option<&str>, digest: Option<&str>| Removed {
            name: name.map(str::to_owned),
            digest: digest.map(str::to_owned),
        };
        let name = Some("docker.io/library/hello:1");
        assert_eq!(users(&pods, &removed(name, None)), ["n/by-name", "n/over"], "another name of the content is left");
        assert_eq!(users(&pods, &removed(name, Some("sha256:abc"))), ["n/by-name", "n/by-content", "n/over"]);
        assert_eq!(users(&pods, &removed(None, Some("sha256:abc"))), ["n/by-content", "n/over"]);
        assert!(users(&pods, &removed(Some("docker.io/library/free:1"), Some("sha256:def"))).is_empty());
    }
}
