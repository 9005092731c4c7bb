//! What the API answers when it does not do what was asked.

use super::{world::failure, *};
use client::WatchEvent;
use serde_json::json;

const BINDING: &str = "POST /api/v1/namespaces/d/pods/p/binding";
const STATUS: &str = "PATCH /api/v1/namespaces/d/pods/p/status";
const READ: &str = "GET /api/v1/namespaces/d/pods/p";

/// Reads another object before the pod is bound, such as its volume.
struct Reads;

impl Plugin for Reads {
    fn name(&self) -> &'static str {
        "Reads"
    }

    fn pre_bind<'a>(&'a self, handle: &'a Handle, _: &'a Cycle) -> Option<Task<'a>> {
        Some(Box::pin(async move { Ok(handle.client.get::<Pod>("d", "other").await.map(drop)?) }))
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_plugin_does_not_find_or_is_in_conflict_with_is_not_the_pod() {
    for (code, reason) in [(404, "NotFound"), (409, "Conflict")] {
        let world = World::start(&[node("a")], &[pod("p", "1")], with(vec![Box::new(Reads)]));
        world.answer("GET /api/v1/namespaces/d/pods/other", code, failure(code, reason));
        world.until("bound", || world.bound("p").is_some()).await;
        assert_eq!(
            world.why("p").map(|why| why.0),
            Some("SchedulerError".to_owned()),
            "{reason}: told and tried again"
        );
        world.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_when_it_is_bound_is_forgotten_and_nobody_is_told() {
    let world = World::start(&[node("a")], &[pod("p", "1")], with(Vec::new()));
    world.answer(BINDING, 404, failure(404, "NotFound"));
    world.until("asked", || world.called(BINDING)).await;
    world.until("forgotten", || world.pending() == crate::queue::Pending::default()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((world.sent(BINDING).len(), world.sent(STATUS).len()), (1, 0));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_bound_by_another_is_tried_again_and_nobody_is_told() {
    let world = World::start(&[node("a")], &[pod("p", "1")], with(Vec::new()));
    world.answer(BINDING, 409, failure(409, "Conflict"));
    world.until("again", || world.sent(BINDING).len() == 2).await;
    assert_eq!(world.sent(STATUS), Vec::<serde_json::Value>::new());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_is_written_over_what_it_is_about_and_over_nothing_newer() {
    let changed = |version: &str, node: Option<&str>| {
        let mut pod = pod("p", "2");
        pod["metadata"]["resourceVersion"] = json!(version);
        pod["spec"]["nodeName"] = json!(node);
        pod
    };
    for (what, found, written) in [
        ("labelled meanwhile", Some(changed("5", None)), &["1", "5"][..]),
        ("bound meanwhile", Some(changed("5", Some("b"))), &["1"]),
        ("gone meanwhile", None, &["1"]),
    ] {
        let world = World::start(&[node("a")], &[pod("p", "2")], with(Vec::new()));
        world.answer(STATUS, 409, failure(409, "Conflict"));
        match found {
            Some(pod) => world.answer(READ, 200, pod),
            None => world.answer(READ, 404, failure(404, "NotFound")),
        }
        world.until("read", || world.called(READ)).await;
        world.until("written", || world.sent(STATUS).len() >= written.len()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let over: Vec<_> = world.sent(STATUS).iter().map(|sent| sent["metadata"]["resourceVersion"].clone()).collect();
        assert_eq!(over, written, "{what}");
        world.tell(WatchEvent::Deleted, pod("p", "2"));
        world.stop().await;
    }
}
