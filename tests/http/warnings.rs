//! What a write is warned of: annotations of ours that nobody reads as they are, and images that the node cannot run.

use super::{Answer, Cluster, DEPLOYMENTS, PODS, deployment, pod};
use kinds::{ImageAdvice, ImageFacts, Settings};
use serde_json::{Value, json};
use std::sync::Arc;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

/// The texts of the `Warning` headers of a write that was accepted.
#[track_caller]
fn warned(answer: &Answer) -> Vec<String> {
    assert!((200..300).contains(&answer.code), "{} {}", answer.code, answer.text());
    let text = |value: &http::HeaderValue| value.to_str().unwrap().replace("\\\"", "\"");
    let plain = |text: String| text.strip_prefix("299 - \"").unwrap().strip_suffix('"').unwrap().to_owned();
    answer.headers.get_all("warning").iter().map(text).map(plain).collect()
}

fn annotated(kind: &str, name: &str, annotations: &Value) -> Value {
    let spec = json!({"containers": [{"name": "c", "image": "i:1"}], "restartPolicy": "Never"});
    match kind {
        "Pod" => json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec}),
        "PodTemplate" => {
            json!({"metadata": {"name": name}, "template": {"metadata": {"annotations": annotations}, "spec": spec}})
        }
        "Job" => {
            json!({"metadata": {"name": name}, "spec": {"template": {"metadata": {"annotations": annotations}, "spec": spec}}})
        }
        _ => {
            let mut made = deployment(name, 1);
            made["kind"] = kind.into();
            made["spec"]["template"]["metadata"]["annotations"] = annotations.clone();
            made
        }
    }
}

#[tokio::test]
async fn wrong_annotations_are_warned_of_and_never_refused() {
    let cluster = Cluster::new().await;
    pod(&cluster, "seed").await;
    let wrong = json!({
        "sampan.dev/instance": "reuse", "c.sampan.dev/request-timeout": "30", "other.sampan.dev/coredump": "true",
        "example.com/instances": "x",
    });
    let right =
        json!({"sampan.dev/instances": "reuse", "c.sampan.dev/min-instances": "1", "example.com/instances": "x"});
    for (kind, path, field) in [
        ("Pod", PODS, "metadata"),
        ("PodTemplate", "/api/v1/namespaces/default/podtemplates", "template.metadata"),
        ("Deployment", DEPLOYMENTS, "spec.template.metadata"),
        ("ReplicaSet", "/apis/apps/v1/namespaces/default/replicasets", "spec.template.metadata"),
        ("Job", JOBS, "spec.template.metadata"),
    ] {
        let expected = [
            format!(
                "{field}.annotations[c.sampan.dev/request-timeout]: invalid value \"30\": must be a time above 0, such as 500ms, 90s, 2m or 1h30m"
            ),
            format!("{field}.annotations[other.sampan.dev/coredump]: the pod has no container \"other\""),
            format!("{field}.annotations[sampan.dev/instance]: unknown annotation; did you mean sampan.dev/instances?"),
        ];
        assert_eq!(warned(&cluster.post(path, annotated(kind, "wrong", &wrong)).await), expected, "{kind}");
        assert_eq!(warned(&cluster.post(path, annotated(kind, "right", &right)).await), [""; 0], "{kind}");
    }
}

#[tokio::test]
async fn annotations_are_looked_at_when_they_change_by_put_patch_or_apply() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    let (path, target) = (format!("{PODS}/p"), format!("{DEPLOYMENTS}/d"));
    let annotate = |value: &str| json!({"metadata": {"annotations": {"sampan.dev/access-log": value}}});
    let wrong = ["metadata.annotations[sampan.dev/access-log]: invalid value \"on\": must be true or false"];
    assert_eq!(warned(&cluster.patch(&path, "merge-patch+json", annotate("on")).await), wrong);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(warned(&cluster.patch(&path, "merge-patch+json", label).await), [""; 0], "they are as they were");
    let mut whole = cluster.get(&path).await.ok();
    whole["metadata"]["annotations"]["sampan.dev/coredumps"] = "true".into();
    let unknown = "metadata.annotations[sampan.dev/coredumps]: unknown annotation; did you mean sampan.dev/coredump?";
    assert_eq!(warned(&cluster.put(&path, whole).await), [wrong[0], unknown]);
    assert_eq!(warned(&cluster.patch(&path, "merge-patch+json", annotate("true")).await), [unknown]);

    let apply = |annotations: Value| {
        let mut object = annotated("Deployment", "d", &annotations);
        object["apiVersion"] = "apps/v1".into();
        object["kind"] = "Deployment".into();
        object
    };
    let target = format!("{target}?fieldManager=m");
    let made = cluster.patch(&target, "apply-patch+yaml", apply(json!({"sampan.dev/min-instances": "2"}))).await;
    let alone = "spec.template.metadata.annotations[sampan.dev/min-instances]: means nothing without sampan.dev/instances: reuse";
    assert_eq!(warned(&made), [alone]);
    let both = json!({"sampan.dev/min-instances": "2", "sampan.dev/instances": "reuse"});
    assert_eq!(warned(&cluster.patch(&target, "apply-patch+yaml", apply(both)).await), [""; 0]);
    // Beside the template they have no effect.
    let beside = [
        "metadata.annotations[sampan.dev/access-log]: has no effect here: what pods read is in spec.template.metadata.annotations",
    ];
    assert_eq!(warned(&cluster.patch(&target, "merge-patch+json", annotate("true")).await), beside);
    let scale = json!({"spec": {"replicas": 2}});
    assert_eq!(warned(&cluster.patch(&target, "merge-patch+json", scale).await), [""; 0]);
}

#[tokio::test]
async fn an_annotation_that_does_not_open_a_service_is_warned_of() {
    let cluster = Cluster::new().await;
    let service = |value: &str| {
        json!({"metadata": {"name": format!("s-{value}"), "annotations": {"sampan.dev/cross-site-requests": value}},
            "spec": {"ports": [{"port": 80}]}})
    };
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(warned(&cluster.post(services, service("allow")).await), [""; 0]);
    let wrong = ["metadata.annotations[sampan.dev/cross-site-requests]: invalid value \"true\": must be allow"];
    assert_eq!(warned(&cluster.post(services, service("true")).await), wrong);
}

/// Knows one image, and never answers about another.
struct Advice;

#[async_trait::async_trait]
impl ImageAdvice for Advice {
    async fn about(&self, image: &str) -> ImageFacts {
        let problem = match image {
            "stuck:1" => std::future::pending().await,
            "nn:1" => Some("\"nn:1\", as this node has it, cannot run: it imports wasi:nn/graph@0.2.0".into()),
            _ => None,
        };
        ImageFacts { is_wasm: true, problem }
    }
}

#[tokio::test]
async fn an_image_that_no_node_can_run_is_warned_of_and_nobody_waits_long_for_advice() {
    let settings = Settings { image_advice: Some(Arc::new(Advice)), ..harness::settings("test") };
    let cluster = Cluster::with(|_, parts| parts.admission = settings.parts().admission).await;
    pod(&cluster, "seed").await;
    let mut object = deployment("d", 1);
    let path = format!("{DEPLOYMENTS}/d");
    let image =
        |name: &str| json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": name}]);
    object["spec"]["template"]["spec"]["containers"][0]["image"] = "nn:1".into();
    let told = "spec.template.spec.containers[0].image: \"nn:1\", as this node has it, cannot run: it imports wasi:nn/graph@0.2.0";
    assert_eq!(warned(&cluster.post(DEPLOYMENTS, object).await), [told]);
    assert_eq!(warned(&cluster.patch(&path, "merge-patch+json", json!({"spec": {"replicas": 3}})).await), [""; 0]);
    assert_eq!(warned(&cluster.patch(&path, "json-patch+json", image("fine:1")).await), [""; 0]);
    assert_eq!(warned(&cluster.patch(&path, "json-patch+json", image("nn:1")).await), [told], "a new image again");
    assert_eq!(warned(&cluster.patch(&path, "json-patch+json", image("stuck:1")).await), [""; 0]);
    let stored = cluster.get(&path).await.ok();
    assert_eq!(stored["spec"]["template"]["spec"]["containers"][0]["image"], "stuck:1");
}
