use super::*;
use client::{Key, WatchEvent};
use tokio_util::task::TaskTracker;

fn kind(name: &str) -> Resource {
    Resource {
        group: "g".into(),
        version: "v1".into(),
        others: Vec::new(),
        resource: name.into(),
        kind: name.into(),
        namespaced: true,
        verbs: ["delete", "list", "watch"].map(str::to_owned).into(),
    }
}

fn object(name: &str) -> PartialObjectMetadata {
    PartialObjectMetadata {
        namespace: "n".into(),
        name: name.into(),
        uid: name.into(),
        resource_version: "7".into(),
        ..PartialObjectMetadata::default()
    }
}

/// A collector whose API never answers.
fn collector() -> GarbageCollector {
    let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| {
        std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
    });
    let client = Client::new(kube::Client::new(nobody, "default"));
    let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
    let informers = Informers::new(client.clone(), token, tasks.clone());
    let clock = api::Clock::new(|| jiff::Timestamp::UNIX_EPOCH);
    let accounts = Arc::new(move |_: &str| client.clone());
    GarbageCollector::new(&Context::new(accounts, informers, crate::Options::new(clock, String::new()), tasks))
}

#[tokio::test(start_paused = true)]
async fn kinds_come_and_go_with_discovery() {
    let (collector, mut monitors) = (collector(), Monitors::new());
    collector.follow(&mut monitors, vec![kind("a"), kind("b"), kind("events")]);
    let names = |monitors: &Monitors| {
        let mut names: Vec<String> = monitors.keys().map(|resource| resource.resource.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&monitors), ["a", "b"], "events are not collected");
    let informer = |monitors: &Monitors, name: &str| monitors[&Arc::new(kind(name))].clone();
    for name in ["a", "b"] {
        informer(&monitors, name).apply(WatchEvent::Added(object(name)));
    }
    let known = |name: &str| collector.shared.graph.lock().get(name).cloned();
    let node = known("a").expect("it is in the graph");
    let cached = informer(&monitors, "a").find(&Key::new("n", "a")).expect("and in the cache");
    assert!(Arc::ptr_eq(&node.meta, &cached), "once in memory");

    let late = informer(&monitors, "a");
    collector.follow(&mut monitors, vec![kind("b")]);
    assert_eq!(names(&monitors), ["b"]);
    assert!(known("a").is_none() && known("b").is_some());
    late.apply(WatchEvent::Added(object("too-late")));
    assert!(known("too-late").is_none());

    collector.follow(&mut monitors, vec![kind("a"), kind("b")]);
    informer(&monitors, "b").apply(WatchEvent::Deleted(object("b")));
    informer(&monitors, "a").apply(WatchEvent::Added(object("again")));
    assert!(known("b").is_none() && known("again").is_some());
}

#[test]
fn kinds_of_a_server_that_does_not_answer_stay() {
    let of = |group: &str, name: &str| Resource { group: group.to_owned(), ..kind(name) };
    let followed: Vec<Arc<Resource>> =
        [of("g", "gone"), of("g", "here"), of("down", "kept")].into_iter().map(Arc::new).collect();
    let found = |stale: &[&str]| Discovered {
        resources: vec![of("g", "here")],
        stale: stale.iter().map(|version| (*version).to_owned()).collect(),
        ..Discovered::default()
    };
    assert_eq!(with_stale(found(&[]), followed.iter()), [of("g", "here")]);
    assert_eq!(with_stale(found(&["down/v1"]), followed.iter()), [of("g", "here"), of("down", "kept")]);
    assert_eq!(with_stale(found(&["down/v2"]), followed.iter()), [of("g", "here")]);
}
