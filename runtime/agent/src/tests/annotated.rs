//! Annotations of a pod about its HTTP handlers.

use super::world::{World, path, waiting};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn an_annotation_that_means_nothing_is_told_until_it_is_mended() {
    let world = World::new().await;
    let annotate = |value: &str| {
        world.api.edit(&path("web"), |pod| pod["metadata"]["annotations"] = json!({"sampan.dev/instances": value}));
    };
    let text = "annotation sampan.dev/instances: invalid value \"often\": must be per-request or reuse";
    world.api.put(
        &path("web"),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "default", "uid": "uid-web", "generation": 1,
                "annotations": {"sampan.dev/instances": "often"}
            },
            "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "hello:1"}]},
            "status": {"phase": "Pending", "qosClass": "BestEffort"}
        }),
    );
    let status = world.until("web", |s| waiting(s) == "CreateContainerConfigError").await;
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["message"], text);
    assert!(world.api.events().iter().any(|e| *e == format!("Failed: Error: {text}")));
    annotate("reuse");
    world.phase("web", "Running").await;
}
