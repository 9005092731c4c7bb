//! The whole, over a store of its own: on a paused clock, with requests that wait, end, go away and see the configuration change.

use super::*;
use crate::{authz::tests::NoObjects, request::Query};
use http::Uri;
use std::sync::atomic::AtomicU32;

/// A level `l` of 600 seats less what `exempt` and `catch-all` have, which is nothing.
fn configuration(response: Response) -> Configuration {
    let level = |name: &str, shares, response| PriorityLevel {
        name: name.into(),
        uid: format!("uid-of-{name}"),
        shares,
        lendable: 0,
        borrowing: Some(0),
        response,
    };
    let schema = |name: &str, level: &str, precedence, subject| FlowSchema {
        name: name.into(),
        uid: format!("uid-of-schema-{name}"),
        level: level.into(),
        precedence,
        distinguisher: Some(Distinguisher::User),
        rules: vec![Rule {
            subjects: vec![Subject::Group(subject)],
            documents: vec![DocumentRule { verbs: vec!["*".into()], paths: vec!["*".into()] }],
            ..Rule::default()
        }],
    };
    Configuration {
        schemas: vec![
            schema("catch-all", "catch-all", 10_000, "nobody".into()),
            schema("s", "l", 500, "dev".into()),
            schema("later", "exempt", 501, "dev".into()),
            schema("exempt", "exempt", 1, "system:masters".into()),
            schema("dangling", "gone", 2, "dev".into()),
        ],
        levels: vec![
            level("l", 1, response),
            level("exempt", 0, Response::Exempt),
            level("catch-all", 0, Response::Reject),
        ],
    }
}

fn queue() -> Response {
    // 600 seats, and one queue for all.
    Response::Queue(Queuing::new(1, 1, 2).expect("can be dealt"))
}

/// As configured by a function: nothing is stored.
fn fairness(read: fn(Stored<'_>, Stored<'_>) -> Configuration) -> Fairness {
    let source = Source { group: "g", schemas: "s", levels: "l", read };
    Fairness::new(Some(source), FlowMetrics::default())
}

fn flow(fairness: &Fairness, user: &User) -> Flow {
    let uri: Uri = "/version".parse().expect("a target");
    let info = RequestInfo::of(&http::Method::GET, &uri, &Query::of(&uri));
    fairness.classify(&NoObjects, user, &info).expect("a flow")
}

fn developer(name: &str) -> User {
    User::new(name, &["dev"])
}

/// The four metrics of a schema, and what was refused for this reason.
fn counts(fairness: &Fairness, flow: &Flow, reason: &'static str) -> (u64, i64, i64, u64) {
    let counts = &flow.schema.counts;
    let (priority_level, flow_schema) = (flow.schema.level.name.clone(), flow.schema.configured.name.clone());
    let labels = crate::metrics::RefusalLabels { priority_level, flow_schema, reason };
    let refused = fairness.metrics.refused.get_or_create(&labels).get();
    (counts.dispatched.get(), counts.executing.get(), counts.waiting.get(), refused)
}

#[tokio::test]
async fn the_schema_with_the_lowest_precedence_counts_and_its_uids_are_told() {
    let fairness = fairness(|_, _| configuration(queue()));
    for (user, schema, level) in [
        (developer("jane"), "s", "l"),
        (User::new("root", &["dev", "system:masters"]), "exempt", "exempt"),
        (User::new("stranger", &[]), "catch-all", "catch-all"),
    ] {
        let mut headers = HeaderMap::new();
        flow(&fairness, &user).put_headers(&mut headers);
        assert_eq!(headers["X-Kubernetes-PF-FlowSchema-UID"], format!("uid-of-schema-{schema}"), "{}", user.name);
        assert_eq!(headers["X-Kubernetes-PF-PriorityLevel-UID"], format!("uid-of-{level}"), "{}", user.name);
    }
    let none = Fairness::new(None, FlowMetrics::default());
    assert!(none.classify(&NoObjects, &developer("jane"), &RequestInfo::default()).is_none());
}

#[tokio::test(start_paused = true)]
async fn without_a_seat_a_request_waits_and_is_refused_when_the_queue_is_full_or_the_time_is_up() {
    let fairness = fairness(|_, _| configuration(queue()));
    let jane = flow(&fairness, &developer("jane"));
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(jane.enter(10, false).await.expect("a seat"));
    }
    assert_eq!(counts(&fairness, &jane, "queue-full"), (60, 60, 0, 0));
    let (mut first, mut second) = (Box::pin(jane.enter(1, false)), Box::pin(jane.enter(1, false)));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
    let refused = jane.enter(1, false).await.map(drop).expect_err("the queue is full");
    assert_eq!((refused.code, refused.message.as_str()), (429, "Too many requests, please try again later."));
    assert_eq!(refused.details.map(|details| details.retry_after_seconds), Some(1));
    assert_eq!(counts(&fairness, &jane, "queue-full"), (60, 60, 2, 1));
    // Masters do not care, and one of this process waits in the full queue.
    let root = flow(&fairness, &User::new("root", &["system:masters"]));
    assert!(futures::poll!(Box::pin(root.enter(10, false))).is_ready());
    let mut patient = Box::pin(jane.enter(1, true));
    assert!(futures::poll!(&mut patient).is_pending());
    held.pop();
    assert!(first.await.is_ok() && second.await.is_ok() && patient.await.is_ok());
    held.push(jane.enter(10, false).await.expect("what has ended gives its seats back"));
    let begun = Instant::now();
    let refused = jane.enter(1, false).await.map(drop).expect_err("nothing ends");
    assert_eq!((refused.code, begun.elapsed()), (429, PATIENCE));
    assert_eq!(counts(&fairness, &jane, "time-out"), (64, 60, 0, 1));
    drop(held);
    assert_eq!(counts(&fairness, &jane, "time-out"), (64, 0, 0, 1));
    assert_eq!(jane.schema.level.count().0, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_frees_its_place_and_a_seat_that_comes_too_late_goes_on() {
    let fairness = fairness(|_, _| configuration(queue()));
    let jane = flow(&fairness, &developer("jane"));
    let all = jane.enter(600, false).await.expect("all seats");
    let mut gone = Box::pin(jane.enter(600, false));
    let mut last = Box::pin(jane.enter(600, false));
    assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut last).is_pending());
    assert!(jane.enter(1, false).await.is_err(), "the queue is full");
    drop(gone);
    assert_eq!(counts(&fairness, &jane, "time-out"), (1, 1, 1, 1));
    let mut next = Box::pin(jane.enter(600, false));
    assert!(futures::poll!(&mut next).is_pending(), "its place is free");
    // `last` has the seats now, and is dropped before it knows.
    drop(all);
    drop(last);
    let seat = next.await.expect("the seats of who has gone");
    assert_eq!(counts(&fairness, &jane, "time-out"), (3, 1, 0, 2));
    drop(seat);
    assert_eq!(jane.schema.level.count().0, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_level_that_rejects_lets_nobody_wait() {
    let fairness = fairness(|_, _| configuration(Response::Reject));
    let jane = flow(&fairness, &developer("jane"));
    let seat = jane.enter(600, false).await.expect("all seats");
    let begun = Instant::now();
    assert!(jane.enter(1, false).await.is_err());
    assert_eq!((begun.elapsed(), counts(&fairness, &jane, "concurrency-limit").3), (Duration::ZERO, 1));
    drop(seat);
    assert!(jane.enter(1, false).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn many_of_one_do_not_hold_up_a_few_of_another() {
    let fairness =
        Arc::new(fairness(|_, _| configuration(Response::Queue(Queuing::new(64, 6, 1000).expect("can be dealt")))));
    let ended = Arc::new(AtomicU32::new(0));
    let ask = |user: &'static str| {
        let (fairness, ended) = (fairness.clone(), ended.clone());
        tokio::spawn(async move {
            let seat = flow(&fairness, &developer(user)).enter(60, false).await.expect("a place");
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(seat);
            ended.fetch_add(1, Ordering::SeqCst)
        })
    };
    let many: Vec<_> = (0..1000).map(|_| ask("noisy")).collect();
    tokio::task::yield_now().await;
    let few: Vec<_> = (0..10).map(|_| ask("quiet")).collect();
    for one in few {
        let place = one.await.expect("no panic");
        assert!(place < 100, "{place}");
    }
    for one in many {
        one.await.expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn the_configuration_changes_while_requests_wait() {
    static STEP: AtomicU32 = AtomicU32::new(0);
    let fairness = fairness(|_, _| match STEP.load(Ordering::SeqCst) {
        0 => configuration(queue()),
        1 => configuration(Response::Reject),
        _ => {
            let mut less = configuration(queue());
            less.levels.retain(|level| level.name != "l");
            less
        }
    });
    // A change of the objects is seen by the revisions.
    let change = |step| {
        STEP.store(step, Ordering::SeqCst);
        fairness.table.store(fairness.table.load_full().map(|table| {
            let Table { schemas, levels, .. } = &*table;
            Arc::new(Table { seen: [u64::MAX; 2], schemas: schemas.clone(), levels: levels.clone() })
        }));
    };
    let jane = flow(&fairness, &developer("jane"));
    let all = jane.enter(600, false).await.expect("all seats");
    let mut waiting = Box::pin(jane.enter(1, false));
    assert!(futures::poll!(&mut waiting).is_pending());
    change(1);
    let again = flow(&fairness, &developer("jane"));
    assert!(Arc::ptr_eq(&again.schema.level, &jane.schema.level), "the level keeps its requests");
    assert!(again.enter(1, false).await.is_err(), "nobody else waits");
    assert!(futures::poll!(&mut waiting).is_pending(), "who waits waits on");
    change(2);
    let elsewhere = flow(&fairness, &developer("jane"));
    assert_eq!(elsewhere.schema.level.name, "exempt", "the next schema that matches");
    drop(all);
    let seat = waiting.await.expect("a level that is gone serves what it has");
    drop(seat);
    assert_eq!(jane.schema.level.count().0, (0, 0));
    let listed = |flow_schema: &str| {
        let labels = crate::metrics::FlowLabels { priority_level: "l".into(), flow_schema: flow_schema.into() };
        fairness.metrics.dispatched.get(&labels).is_some()
    };
    assert!(!listed("s"), "no metrics of what is gone");
}

#[tokio::test(start_paused = true)]
async fn after_ten_seconds_a_busy_level_has_seats_of_an_idle_one() {
    let fairness = fairness(|_, _| {
        let mut two = configuration(queue());
        two.levels[0].borrowing = None;
        two.levels.push(PriorityLevel { name: "idle".into(), lendable: 90, ..two.levels[0].clone() });
        two
    });
    let jane = flow(&fairness, &developer("jane"));
    // Nobody has asked for anything: 300 of 600 and the 270 that the other lends are shared by their least seats.
    let mut held = Vec::new();
    while let std::task::Poll::Ready(seat) = futures::poll!(Box::pin(jane.enter(1, false))) {
        held.push(seat.expect("a seat, or a place"));
    }
    assert_eq!(held.len(), 545);
    let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(jane.enter(1, true))).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    flow(&fairness, &developer("john"));
    for one in &mut waiting {
        if let std::task::Poll::Ready(seat) = futures::poll!(one) {
            held.push(seat.expect("a seat"));
        }
    }
    assert_eq!(held.len(), 570, "all that may be lent");
}

/// `cargo test --release -p server --lib fairness::tests::the_cost -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn the_cost_of_a_request_without_contention() {
    let fairness = fairness(|_, _| {
        let mut many = configuration(Response::Queue(Queuing::new(128, 6, 50).expect("can be dealt")));
        // As many schemas as every cluster has before one matches.
        for at in 0..11 {
            let other = Rule { subjects: vec![Subject::Group(format!("group-{at}"))], ..Rule::default() };
            many.schemas.push(FlowSchema {
                precedence: 400,
                rules: vec![other],
                level: "l".into(),
                ..FlowSchema::default()
            });
        }
        many
    });
    let (jane, uri) = (developer("jane"), "/version".parse::<Uri>().expect("a target"));
    let info = RequestInfo::of(&http::Method::GET, &uri, &Query::of(&uri));
    const ROUNDS: u32 = 1_000_000;
    for _ in 0..2 {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            let flow = fairness.classify(&NoObjects, &jane, &info).expect("a flow");
            drop(flow.enter(1, false).await.expect("a seat"));
        }
        println!("{:?} for each request", begun.elapsed() / ROUNDS);
    }
}
