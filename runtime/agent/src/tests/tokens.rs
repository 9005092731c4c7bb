//! Tokens of pods over a restart of the agent.

use super::world::{World, condition};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn most_tokens_in_volumes_are_not_requested_again_by_an_agent_that_starts() {
    let mut world = World::new().await;
    let names: Vec<_> = (0..120).map(|number| format!("p{number:03}")).collect();
    let token = json!({"serviceAccountToken": {"path": "token", "audience": "jwt", "expirationSeconds": 7200}});
    for name in &names {
        let container = json!({"name": "c", "image": "hello:1", "volumeMounts": [{"name": "t", "mountPath": "/t"}]});
        let volumes = json!([{"name": "t", "projected": {"sources": [token]}}]);
        world.pod(name, json!({"containers": [container], "volumes": volumes}));
    }
    for name in &names {
        world.until(name, |s| condition(s, "Ready").0 == "True").await;
    }
    assert_eq!(world.api.tokens(), 120);
    let read = |world: &World, name: &str| {
        std::fs::read_to_string(world.dir.path().join(format!("volumes/uid-{name}/t/token"))).expect("a token")
    };
    let before: Vec<String> = names.iter().map(|name| read(&world, name)).collect();
    world.stop().await;
    world.start().await;
    for name in &names {
        world.until(name, |s| condition(s, "Ready").0 == "True" && world.runtime.running().len() == 120).await;
    }
    // Those that were started before the first answer came asked too.
    let asked = world.api.tokens() - 120;
    assert!((1..=90).contains(&asked), "{asked}");
    let kept = names.iter().zip(&before).filter(|(name, token)| read(&world, name) == **token).count();
    assert_eq!(kept as u32, 120 - asked);
}
