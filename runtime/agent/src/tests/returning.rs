//! Pods that return after a restart of the process.

use super::world::{World, condition, elapsed};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

fn one(image: &str) -> Value {
    json!({"containers": [{"name": "c", "image": image}]})
}

#[tokio::test(start_paused = true)]
async fn the_first_pass_takes_back_what_an_earlier_process_said_of_who_does_not_return() {
    let mut world = World::new().await;
    world.agent.as_ref().unwrap().statuses_synced().await;
    let slow = one("slow:1");
    for (name, spec) in [("a", one("hello:1")), ("b", one("hello:1")), ("p", slow)] {
        world.pod(name, spec);
        world.until(name, |s| condition(s, "Ready").0 == "True").await;
    }
    world.stop().await;
    let before = world.api.statuses().len();
    // It must be pulled again, which takes three seconds.
    world.images.present.lock().remove("slow:1");
    world.start().await;
    let begin = elapsed();
    world.agent.as_ref().unwrap().statuses_synced().await;
    let took = elapsed() - begin;
    assert!((1..=2).contains(&took.as_secs()), "as long as others may return: {took:?}");
    let mut said = world.api.statuses().split_off(before);
    said.sort_by(|(one, _), (other, _)| one.cmp(other));
    let told: Vec<_> = said.iter().map(|(name, s)| (name.as_str(), condition(s, "Ready").0)).collect();
    let expected = [("a", "True"), ("b", "True"), ("p", "False")].map(|(name, ready)| (name, ready.to_owned()));
    assert_eq!(told, expected, "one status of each");
    assert_eq!(condition(&said[2].1, "ContainersReady").0, "False");
    assert!(said[0].1["containerStatuses"][0]["lastState"]["terminated"].is_object(), "it was started again");
}

#[tokio::test(start_paused = true)]
async fn of_many_that_return_all_run_before_the_api_is_told_once_of_each() {
    let mut world = World::new().await;
    let names: Vec<_> = (0..200).map(|number| format!("p{number:03}")).collect();
    names.iter().for_each(|name| world.pod(name, one("hello:1")));
    for name in &names {
        world.until(name, |s| condition(s, "Ready").0 == "True").await;
    }
    world.stop().await;
    let before = world.api.statuses().len();
    world.start().await;
    let agent = world.agent.clone().unwrap();
    agent.pods_return().await;
    assert!(world.runtime.running().len() >= 64, "the start may go on");
    while world.api.statuses().len() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.runtime.running().len(), 200);
    agent.statuses_synced().await;
    let said = world.api.statuses().split_off(before);
    let told: BTreeSet<_> = said.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!((said.len(), told.len()), (200, 200));
    for (name, status) in &said {
        assert_eq!(condition(status, "Ready").0, "True", "{name}");
        assert!(status["containerStatuses"][0]["lastState"]["terminated"].is_object(), "{name} was started again");
    }
}

#[tokio::test(start_paused = true)]
async fn who_returns_does_not_wait_for_images_of_others() {
    let mut world = World::new().await;
    world.pod("fast", one("hello:1"));
    for number in 0..40 {
        world.pod(&format!("slow{number}"), one(&format!("slow:{number}")));
    }
    for name in (0..40).map(|number| format!("slow{number}")).chain(["fast".to_owned()]) {
        world.until(&name, |s| condition(s, "Ready").0 == "True").await;
    }
    world.stop().await;
    world.images.present.lock().retain(|image, _| !image.starts_with("slow"));
    let before = world.api.statuses().len();
    world.start().await;
    let begin = elapsed();
    while !world.api.statuses()[before..].iter().any(|(name, _)| name == "fast") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = elapsed() - begin;
    assert!(took <= Duration::from_secs(2), "a pull takes three seconds: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_for_their_images_do_not_keep_the_others_from_returning() {
    let mut world = World::new().await;
    let names: Vec<_> = (0..200).map(|number| format!("p{number:03}")).collect();
    for name in &names {
        world.pod(name, one(if name == "p199" { "hello:1" } else { "slow:1" }));
    }
    for name in &names {
        world.until(name, |s| condition(s, "Ready").0 == "True").await;
    }
    world.stop().await;
    world.images.present.lock().remove("slow:1");
    world.start().await;
    let begin = elapsed();
    world.until("p199", |s| s["containerStatuses"][0]["restartCount"] == 0 && world.runtime.running().len() == 1).await;
    let took = elapsed() - begin;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    for name in &names {
        world.until(name, |s| condition(s, "Ready").0 == "True").await;
    }
}
