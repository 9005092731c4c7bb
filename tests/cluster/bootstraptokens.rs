//! Bootstrap tokens: they sign what new nodes are to trust, and end in time, where somebody asks for their controllers.

use crate::{selection::start, world::World};
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const MAPS: &str = "/api/v1/namespaces/kube-public/configmaps";

fn token(id: &str, expiration: &str) -> Value {
    let mut data = json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"});
    if !expiration.is_empty() {
        data["expiration"] = expiration.into();
    }
    let name = format!("bootstrap-token-{id}");
    json!({"metadata": {"name": name}, "type": "bootstrap.kubernetes.io/token", "stringData": data})
}

fn signed(world: &World) -> Vec<String> {
    let maps = world.all_in("kube-public", "", "configmaps");
    let map = maps.iter().find(|map| map["metadata"]["name"] == "cluster-info").unwrap();
    let keys = map["data"].as_object().unwrap().keys();
    keys.filter_map(|key| key.strip_prefix("jws-kubeconfig-")).map(str::to_owned).collect()
}

fn tokens(world: &World) -> usize {
    let secrets = world.all_in("kube-system", "", "secrets");
    secrets.iter().filter(|one| one["type"] == "bootstrap.kubernetes.io/token").count()
}

#[tokio::test(start_paused = true)]
async fn tokens_sign_while_they_live_and_nobody_minds_them_unless_asked() {
    let world = World::empty(1).await;
    world.call("POST", MAPS, json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "k"}})).await;
    world.call("POST", SECRETS, token("aaaaaa", "2025-12-31T00:00:00Z")).await;
    world.call("POST", SECRETS, token("bbbbbb", "2026-01-01T00:20:00Z")).await;
    world.call("POST", SECRETS, token("cccccc", "")).await;
    world.call("POST", SECRETS, token("dddddd", "2026-01-01T00:40:00Z")).await;
    world.pass(600).await;
    assert_eq!((tokens(&world), signed(&world).len()), (4, 0), "both are off by default");
    let (token, tasks) = start(&world, "*,bootstrapsigner");
    world.until("signatures", |w| signed(w) == ["bbbbbb", "cccccc", "dddddd"]).await;
    world.pass(600).await;
    assert_eq!((tokens(&world), signed(&world)), (4, vec!["cccccc".to_owned(), "dddddd".to_owned()]));
    token.cancel();
    tasks.wait().await;
    let (token, tasks) = start(&world, "token-cleaner-controller");
    world.until("two tokens", |w| tokens(w) == 2).await;
    world.pass(600).await;
    assert_eq!(tokens(&world), 2, "the third has ten minutes yet");
    world.pass(601).await;
    assert_eq!(tokens(&world), 1);
    token.cancel();
    tasks.wait().await;
    world.end().await;
}
