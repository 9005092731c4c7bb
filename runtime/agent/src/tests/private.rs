//! Images on the node that require credentials.

use super::world::{World, failure, waiting};
use crate::images::Keyring;
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn an_image_that_is_here_for_others_must_be_pulled() {
    let world = World::new().await;
    let spec = |policy: &str, secret: bool| -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "hello:1", "imagePullPolicy": policy}]});
        if secret {
            spec["imagePullSecrets"] = json!([{"name": "pull"}]);
        }
        spec
    };
    world.api.put(
        "/api/v1/namespaces/default/secrets/pull",
        json!({"metadata": {"name": "pull", "namespace": "default"}, "data": {
            ".dockerconfigjson": "eyJhdXRocyI6eyJyIjp7InVzZXJuYW1lIjoidSIsInBhc3N3b3JkIjoicCJ9fX0="}}),
    );
    world.pod("first", spec("IfNotPresent", true));
    world.phase("first", "Running").await;
    let mut keyring = Keyring::new();
    keyring.add_dockercfg(br#"{"r": {"username": "u", "password": "p"}}"#).unwrap();
    world.images.private.lock().insert("hello:1".into(), keyring);
    world.images.broken.lock().insert("hello:1".into(), failure("hello:1"));
    let pulls = || world.images.pulls.lock().len();
    assert_eq!(pulls(), 1);
    for (name, policy) in [("same", "IfNotPresent"), ("never", "Never")] {
        world.pod(name, spec(policy, true));
        world.phase(name, "Running").await;
    }
    assert_eq!(pulls(), 1, "who has the credentials asks nobody");
    world.pod("other", spec("IfNotPresent", false));
    world.until("other", |s| waiting(s) == "ErrImagePull").await;
    assert!(pulls() > 1);
    world.pod("other-never", spec("Never", false));
    world.until("other-never", |s| waiting(s) == "ErrImageNeverPull").await;
}
