//! Tokens of Secrets: filled, valid while Secret and account are there, gone with the account.

use crate::{selection, world::World};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::SignedDuration;
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

fn secret(name: &str, annotations: Value) -> Value {
    json!({"metadata": {"name": name, "annotations": annotations}, "type": "kubernetes.io/service-account-token"})
}

fn data(world: &World, name: &str, key: &str) -> Option<String> {
    let secret = world.find("", "secrets", name)?;
    let bytes = BASE64_STANDARD.decode(secret["data"][key].as_str()?).unwrap();
    Some(String::from_utf8(bytes).unwrap())
}

/// Who a token is at the server.
fn who(world: &World, token: &str) -> Option<String> {
    let user = world.keys.tokens.user(token, world.clock.now(), &*world.server.objects());
    user.map(|user| user.name)
}

#[tokio::test(start_paused = true)]
async fn a_secret_gets_a_token_that_is_valid_until_secret_or_account_are_gone() {
    let world = World::empty(1).await;
    let account = world.call("POST", ACCOUNTS, json!({"metadata": {"name": "robot"}})).await;
    for name in ["a", "b"] {
        world.call("POST", SECRETS, secret(name, json!({NAME: "robot"}))).await;
        world.until("the token", |w| data(w, name, "token").is_some()).await;
        assert_eq!(data(&world, name, "ca.crt").as_deref(), Some("certificate"));
        assert_eq!(data(&world, name, "namespace").as_deref(), Some("default"));
        let stored = world.find("", "secrets", name).unwrap();
        assert_eq!(stored["metadata"]["annotations"][UID], account["metadata"]["uid"]);
    }
    let (a, b) = (data(&world, "a", "token").unwrap(), data(&world, "b", "token").unwrap());
    let robot = Some("system:serviceaccount:default:robot".to_owned());
    assert_eq!((who(&world, &a), who(&world, &b)), (robot.clone(), robot.clone()));
    // The day is noted, once.
    world.pass(30).await;
    let label = "kubernetes.io/legacy-token-last-used";
    assert_eq!(world.find("", "secrets", "a").unwrap()["metadata"]["labels"][label], "2026-01-01");
    let noted = world.find("", "secrets", "a");
    assert_eq!(who(&world, &a), robot);
    world.pass(30).await;
    assert_eq!(world.find("", "secrets", "a"), noted);
    // What somebody removes comes back, and a new token replaces the old one, which is not valid any more.
    world.call("PATCH", &format!("{SECRETS}/a"), json!({"data": {"token": null, "ca.crt": null}})).await;
    world.until("another token", |w| data(w, "a", "token").is_some_and(|token| token != a)).await;
    assert_eq!(data(&world, "a", "ca.crt").as_deref(), Some("certificate"));
    assert_eq!(who(&world, &a), None);
    // There is no end.
    let later = world.clock.now() + SignedDuration::from_hours(20 * 365 * 24);
    assert!(world.keys.tokens.user(&b, later, &*world.server.objects()).is_some());
    // An account forgets a Secret that is gone, and only that.
    let listed = json!({"secrets": [{"name": "a"}, {"name": "b"}, {"name": "other"}]});
    world.call("PATCH", &format!("{ACCOUNTS}/robot"), listed).await;
    world.call("DELETE", &format!("{SECRETS}/b"), Value::Null).await;
    assert_eq!(who(&world, &b), None);
    let left = json!([{"name": "a"}, {"name": "other"}]);
    world.until("the account's list", |w| w.find("", "serviceaccounts", "robot").unwrap()["secrets"] == left).await;
    let a = data(&world, "a", "token").unwrap();
    assert_eq!(who(&world, &a), robot);
    world.call("DELETE", &format!("{ACCOUNTS}/robot"), Value::Null).await;
    assert_eq!(who(&world, &a), None, "before the Secret is gone");
    world.until("the Secret to go", |w| w.find("", "secrets", "a").is_none()).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_no_account_or_of_an_earlier_one_is_deleted() {
    let world = World::empty(1).await;
    world.call("POST", ACCOUNTS, json!({"metadata": {"name": "robot"}})).await;
    world.call("POST", SECRETS, secret("nobody", json!({NAME: "nobody"}))).await;
    world.call("POST", SECRETS, secret("earlier", json!({NAME: "robot", UID: "other"}))).await;
    let plain = json!({"metadata": {"name": "plain", "annotations": {NAME: "nobody"}}});
    world.call("POST", SECRETS, plain).await;
    world.until("both to go", |w| ["nobody", "earlier"].iter().all(|n| w.find("", "secrets", n).is_none())).await;
    world.pass(60).await;
    assert!(world.find("", "secrets", "plain").is_some(), "of another type");
    let unnamed = world.try_call("POST", SECRETS, secret("unnamed", json!({}))).await.unwrap_err().to_string();
    assert!(unnamed.contains("metadata.annotations[kubernetes.io/service-account.name]: Required value"), "{unnamed}");
    // While the controllers were away, the account went.
    world.call("POST", SECRETS, secret("late", json!({NAME: "robot"}))).await;
    world.until("its token", |w| data(w, "late", "token").is_some()).await;
    world.switch.cut();
    world.call("DELETE", &format!("{ACCOUNTS}/robot"), Value::Null).await;
    world.pass(60).await;
    world.switch.mend();
    world.until("it to go", |w| w.find("", "secrets", "late").is_none()).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_generated_token_that_nobody_uses_becomes_invalid_and_is_deleted() {
    let world = World::empty(1).await;
    let account = json!({"metadata": {"name": "robot"}, "secrets": [{"name": "old"}, {"name": "mounted"}]});
    world.call("POST", ACCOUNTS, account).await;
    for name in ["old", "mounted", "manual"] {
        world.call("POST", SECRETS, secret(name, json!({NAME: "robot"}))).await;
        world.until("the token", |w| data(w, name, "token").is_some()).await;
    }
    let volumes = json!([{"name": "v", "secret": {"secretName": "mounted"}}]);
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}], "volumes": volumes}});
    world.call("POST", "/api/v1/namespaces/default/pods", pod).await;
    let tracking = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    assert_eq!(world.call("GET", tracking, Value::Null).await["data"]["since"], "2026-01-01");
    // what is no day is written anew, and what is gone comes back
    world.call("PATCH", tracking, json!({"data": {"since": "long ago"}})).await;
    world.pass(30).await;
    assert_eq!(world.call("GET", tracking, Value::Null).await["data"]["since"], "2026-01-01");
    world.call("DELETE", tracking, Value::Null).await;
    world.pass(30).await;
    assert_eq!(world.call("GET", tracking, Value::Null).await["data"]["since"], "2026-01-01");
    let old = data(&world, "old", "token").unwrap();
    assert!(who(&world, &old).is_some());
    world.pass(30).await;
    let label = |w: &World, name: &str| {
        w.find("", "secrets", name)
            .map(|secret| secret["metadata"]["labels"]["kubernetes.io/legacy-token-invalid-since"].clone())
    };
    // the others of the world see no year go by
    world.switch.cut();
    for (days, expected) in [
        (365, Some(Value::Null)), // the first day counts as a whole only from its end on
        (366, Some(json!("2027-01-02"))),
        (700, Some(json!("2027-01-02"))),
        (800, None),
    ] {
        let clock = world.clock.clone();
        let later = api::Clock::new(move || clock.now() + SignedDuration::from_hours(days * 24));
        let (token, tasks) = selection::start_at(&world, "legacy-serviceaccount-token-cleaner-controller", later);
        world.pass(60).await;
        token.cancel();
        tasks.wait().await;
        assert_eq!(label(&world, "old"), expected, "after {days} days");
        for other in ["mounted", "manual"] {
            assert_eq!(label(&world, other), Some(Value::Null), "{other} after {days} days");
        }
        assert_eq!(who(&world, &old).is_some(), days < 366, "after {days} days");
    }
}
