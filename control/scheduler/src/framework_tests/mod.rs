//! Small plugins, one for each extension point, show what the seam can: how a new plugin looks, and what happens when it fails.

mod failures;
mod preemption;
mod world;

use self::world::{Log, World, node, pod, with};
use crate::{
    Cycle, CycleState, Failure, Filters, Handle, NodeToStatus, Plugin, Snapshot, Status,
    node::NodeInfo,
    plugin::{Permit, PostFilter, PreFilter, PreScore, Task},
    pod::PodInfo,
};
use client::{DeleteOptions, WatchEvent};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};
use tokio::time::Instant;

/// Lets a pod run on the last node by name only, which it looks up once.
struct Last;

struct LastName(String);

impl Plugin for Last {
    fn name(&self) -> &'static str {
        "Last"
    }

    fn pre_filter(&self, state: &mut CycleState, _: &PodInfo, snapshot: &Snapshot) -> PreFilter {
        state.write(LastName(snapshot.iter().map(NodeInfo::name).max().unwrap_or("").to_owned()));
        PreFilter::AllNodes
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        match state.read::<LastName>() {
            Some(LastName(last)) if last == node.name() => Status::Success,
            _ => Status::Unschedulable("node(s) were not the last".into()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_pre_filter_works_out_is_there_in_filter() {
    let world = World::start(&[node("a"), node("c"), node("b")], &[pod("p", "1")], with(vec![Box::new(Last)]));
    world.until("bound", || world.bound("p").is_some()).await;
    assert_eq!(world.bound("p").as_deref(), Some("c"));
    world.stop().await;
}

/// Says the same about every pod.
struct Narrow(PreFilter);

impl Plugin for Narrow {
    fn name(&self) -> &'static str {
        "Narrow"
    }

    fn pre_filter(&self, _: &mut CycleState, _: &PodInfo, _: &Snapshot) -> PreFilter {
        self.0.clone()
    }

    fn filter(&self, _: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        if node.name() == "b" {
            return Status::Success;
        }
        Status::Unschedulable("node(s) were not b".into())
    }
}

#[tokio::test(start_paused = true)]
async fn pre_filter_refuses_narrows_and_skips() {
    let names = |names: &[&str]| PreFilter::Nodes(names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>());
    let helpless = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    for (says, pods, expected) in [
        (PreFilter::AllNodes, "1", "b".to_owned()),
        (names(&["b", "gone"]), "1", "b".to_owned()),
        (
            names(&["a"]),
            "1",
            "0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [Narrow], 1 node(s) were not b. preemption: 0/2 nodes \
             are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
                .to_owned(),
        ),
        (names(&[]), "1", format!("0/2 nodes are available: node(s) didn't satisfy plugin Narrow. {helpless}")),
        (
            PreFilter::UnschedulableAndUnresolvable("it is Monday".into()),
            "1",
            format!("0/2 nodes are available: it is Monday. {helpless}"),
        ),
        (
            PreFilter::Unschedulable("it is full".into()),
            "1",
            "0/2 nodes are available: it is full. preemption: 0/2 nodes are available: 2 No preemption victims found for \
             incoming pod."
                .to_owned(),
        ),
        // filter is not asked, so a too large pod hears of its size only
        (PreFilter::Skip, "2", format!("0/2 nodes are available: 2 Insufficient cpu. {helpless}")),
    ] {
        let world = World::start(&[node("a"), node("b")], &[pod("p", pods)], with(vec![Box::new(Narrow(says))]));
        let end = || world.bound("p").or_else(|| world.why("p").map(|(_, message)| message));
        world.until("decided", || end().is_some()).await;
        assert_eq!(end().expect("an end"), expected);
        world.stop().await;
    }
}

/// Prefers the node that is as far from the best as there are nodes that do not fit.
struct Spread;

struct Refused(usize);

impl Plugin for Spread {
    fn name(&self) -> &'static str {
        "Spread"
    }

    fn weight(&self) -> i64 {
        100
    }

    fn filter(&self, _: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        if node.name() < "c" { Status::UnschedulableAndUnresolvable("early".into()) } else { Status::Success }
    }

    fn pre_score(&self, state: &mut CycleState, _: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> PreScore {
        state.write(Refused(snapshot.count() - nodes.len()));
        PreScore::Score
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let refused = state.read::<Refused>().map_or(0, |r| r.0);
        i64::from(node.name().as_bytes()[0] == b'c' + u8::try_from(refused).expect("few"))
    }

    fn normalize_score(&self, _: &CycleState, _: &PodInfo, nodes: &[&NodeInfo], scores: &mut [i64]) {
        assert_eq!(nodes.len(), scores.len());
        crate::plugin::scale(scores, false);
    }
}

#[tokio::test(start_paused = true)]
async fn pre_score_sees_all_nodes_and_those_that_fit() {
    let nodes = ["a", "b", "c", "d", "e", "f"].map(node);
    let world = World::start(&nodes, &[pod("p", "1")], with(vec![Box::new(Spread)]));
    world.until("bound", || world.bound("p").is_some()).await;
    assert_eq!(world.bound("p").as_deref(), Some("e"), "two of the six do not fit");
    world.stop().await;
}

/// Waits ten seconds for a word, which comes after three.
struct Gang {
    log: Log,
    word: Word,
}

#[derive(Clone, Copy)]
enum Word {
    Allow,
    Reject,
    Nothing,
    /// It is not even let wait.
    Never,
}

impl Plugin for Gang {
    fn name(&self) -> &'static str {
        "Gang"
    }

    fn reserve(&self, _: &mut CycleState, pod: &PodInfo, node: &str) -> Result<(), Failure> {
        self.log.note(format!("reserve {} on {node}", pod.uid()));
        Ok(())
    }

    fn unreserve(&self, _: &Handle, cycle: &Cycle) {
        self.log.note(format!("unreserve {} on {}", cycle.pod.uid(), cycle.node));
    }

    fn permit(&self, handle: &Handle, cycle: &Cycle) -> Permit {
        let (uid, word, waiting) = (cycle.pod.uid().to_owned(), self.word, handle.waiting_pods.clone());
        if uid != "gang" {
            return Permit::Allow;
        }
        if matches!(word, Word::Never) {
            return Permit::Reject("not today".into());
        }
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            match word {
                Word::Allow => waiting.allow(&uid, "Gang"),
                Word::Reject => waiting.reject(&uid, "Gang", "the others do not fit"),
                Word::Nothing | Word::Never => {}
            }
        });
        Permit::Wait(Duration::from_secs(10))
    }

    fn post_bind(&self, _: &Handle, cycle: &Cycle) {
        self.log.note(format!("postBind {} on {}", cycle.pod.uid(), cycle.node));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_in_permit_until_it_is_allowed_refused_or_timed_out() {
    let refused = |why: &str| Some(("Unschedulable".to_owned(), format!("0/1 nodes are available: 1 {why}.")));
    for (word, seconds, end, why) in [
        (Word::Allow, 3, "postBind gang on n", None),
        (Word::Reject, 3, "unreserve gang on n", refused("the others do not fit")),
        (Word::Nothing, 10, "unreserve gang on n", refused("rejected due to timeout after waiting 10s at plugin Gang")),
    ] {
        let log = Log::default();
        let toy = Gang { log: log.clone(), word };
        let (begin, pods) = (Instant::now(), [pod("gang", "600m"), pod("small", "100m"), pod("large", "600m")]);
        let world = World::start(&[node("n")], &pods, with(vec![Box::new(toy)]));
        world
            .until("the others to be decided", || world.bound("small").is_some() && world.why("large").is_some())
            .await;
        assert!(begin.elapsed() < Duration::from_secs(1), "no other pod waits for it");
        let large = world.why("large").expect("refused").1;
        assert!(large.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "its room is taken: {large}");
        assert!(world.bound("gang").is_none() && !log.has(end));
        world.until(end, || log.has(end)).await;
        let took = begin.elapsed().as_secs_f64();
        assert!((took - f64::from(seconds)).abs() < 0.5, "{end} after {took} s");
        world.until("told", || world.why("gang") == why).await;
        assert_eq!(world.bound("gang").is_some(), why.is_none());
        assert_eq!(log.has("unreserve gang on n"), why.is_some());
        if why.is_some() {
            world.until("its room to be given to the other", || world.bound("large").is_some()).await;
        }
        world.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_permit_refuses_gives_its_room_back_at_once() {
    let log = Log::default();
    let toy = Gang { log: log.clone(), word: Word::Never };
    let world = World::start(&[node("n")], &[pod("gang", "1"), pod("next", "1")], with(vec![Box::new(toy)]));
    world.until("the next to be bound", || world.bound("next").is_some()).await;
    let why = "0/1 nodes are available: 1 not today.".to_owned();
    world.until("told", || world.why("gang") == Some(("Unschedulable".to_owned(), why.clone()))).await;
    assert_eq!(log.all()[..2], ["reserve gang on n", "unreserve gang on n"]);
    assert_eq!(world.pending().unschedulable, 1);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_or_a_scheduler_that_stops_waits_no_longer() {
    for deleted in [true, false] {
        let log = Log::default();
        let toy = Gang { log: log.clone(), word: Word::Nothing };
        let world = World::start(&[node("n")], &[pod("gang", "1")], with(vec![Box::new(toy)]));
        world.until("reserved", || log.has("reserve gang on n")).await;
        if deleted {
            world.tell(WatchEvent::Deleted, pod("gang", "1"));
            world.until("unreserved", || log.has("unreserve gang on n")).await;
            world.tell(WatchEvent::Added, pod("next", "1"));
            world.until("its room to be free", || world.bound("next").is_some()).await;
            assert_eq!(world.why("gang"), None, "nobody is told");
        }
        world.stop().await;
        assert!(log.has("unreserve gang on n"));
    }
}

/// Fails at one extension point, once.
struct Volumes {
    log: Log,
    at: &'static str,
}

impl Volumes {
    fn step(&self, point: &'static str) -> Result<(), Failure> {
        let first = !self.log.has(&format!("{point} failed"));
        self.log.note(if first && point == self.at { format!("{point} failed") } else { point.to_owned() });
        if first && point == self.at { Err(Failure::Error("no disk".to_owned())) } else { Ok(()) }
    }
}

impl Plugin for Volumes {
    fn name(&self) -> &'static str {
        "Volumes"
    }

    fn reserve(&self, _: &mut CycleState, _: &PodInfo, _: &str) -> Result<(), Failure> {
        self.step("reserve")
    }

    fn unreserve(&self, _: &Handle, _: &Cycle) {
        self.log.note("unreserve");
    }

    fn pre_bind<'a>(&'a self, _: &'a Handle, _: &'a Cycle) -> Option<Task<'a>> {
        Some(Box::pin(async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.step("preBind")
        }))
    }

    fn bind<'a>(&'a self, _: &'a Handle, _: &'a Cycle) -> Option<Task<'a>> {
        (self.at == "bind").then(|| -> Task<'a> { Box::pin(async { self.step("bind") }) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_binding_cycle_fails_is_unreserved_and_tried_again_after_its_back_off() {
    for (at, point, steps) in [
        ("reserve", "Reserve", &["reserve failed", "unreserve", "reserve", "preBind"][..]),
        ("preBind", "PreBind", &["reserve", "preBind failed", "unreserve", "reserve", "preBind"]),
        ("bind", "Bind", &["reserve", "preBind", "bind failed", "unreserve", "reserve", "preBind", "bind"]),
    ] {
        let (log, begin) = (Log::default(), Instant::now());
        let toy = Volumes { log: log.clone(), at };
        let world = World::start(&[node("n")], &[pod("p", "1")], with(vec![Box::new(toy)]));
        world.until("told", || world.why("p").is_some()).await;
        let why = format!("running {point} plugin \"Volumes\": no disk");
        assert_eq!(world.why("p"), Some(("SchedulerError".to_owned(), why)));
        assert_eq!(world.pending().backoff, 1);
        world.until("tried again", || log.all().len() >= steps.len()).await;
        assert!(begin.elapsed() >= Duration::from_secs(1), "not at once");
        assert_eq!(log.all(), steps);
        world.until("done", || at == "bind" || world.bound("p").is_some()).await;
        world.stop().await;
    }
}

/// Deletes the pods of the first node that could be made free; the first time it may fail.
struct Evict {
    log: Log,
    fails: bool,
}

struct Victims(Vec<(String, String)>);

impl Plugin for Evict {
    fn name(&self) -> &'static str {
        "Evict"
    }

    fn post_filter(
        &self,
        state: &mut CycleState,
        _: &PodInfo,
        statuses: &NodeToStatus<'_>,
        _: &Filters<'_>,
    ) -> PostFilter {
        let Some(node) = statuses.resolvable().first().copied() else { return PostFilter::Skip };
        let key = |pod: &PodInfo| {
            let meta = &pod.pod.metadata;
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        state.write(Victims(node.pods.values().map(|pod| key(pod)).collect()));
        PostFilter::Nominated(node.name().to_owned())
    }

    fn preempt<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        Some(Box::pin(async move {
            self.log.note(format!("preempt {}", cycle.node));
            if self.fails && self.log.all().len() == 1 {
                return Err(Failure::Error("no way".to_owned()));
            }
            for (namespace, name) in cycle.state.read::<Victims>().map(|v| v.0.as_slice()).unwrap_or_default() {
                handle.client.delete::<Pod>(namespace, name, &DeleteOptions::default()).await?;
            }
            Ok(())
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn post_filter_nominates_a_node_and_pods_are_deleted_there() {
    for fails in [false, true] {
        let (log, begin) = (Log::default(), Instant::now());
        let mut victim = pod("victim", "1");
        victim["spec"]["nodeName"] = "n".into();
        let toy = Evict { log: log.clone(), fails };
        let world = World::start(&[node("n")], &[victim.clone(), pod("p", "1")], with(vec![Box::new(toy)]));
        world.until("the deletion", || world.called("DELETE /api/v1/namespaces/d/pods/victim")).await;
        assert_eq!(log.all().len(), if fails { 2 } else { 1 });
        assert_eq!(begin.elapsed() >= Duration::from_secs(1), fails, "what failed is tried again, not at once");
        let status = world.status("p").expect("a status");
        assert_eq!(status["nominatedNodeName"], "n");
        assert_eq!(status["conditions"][0]["message"], "0/1 nodes are available: 1 Insufficient cpu.");
        assert_eq!((world.pending().unschedulable, world.bound("p")), (1, None), "it waits for the room");
        world.tell(WatchEvent::Deleted, victim);
        world.until("bound", || world.bound("p").is_some()).await;
        world.stop().await;
    }
}

/// Decides when it is told to.
struct Slow {
    began: Mutex<Sender<String>>,
    go_on: Mutex<Receiver<()>>,
}

impl Plugin for Slow {
    fn name(&self) -> &'static str {
        "Slow"
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFilter {
        self.began.lock().send(pod.uid().to_owned()).expect("the test listens");
        self.go_on.lock().recv_timeout(LONG).expect("the test goes on");
        PreFilter::AllNodes
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informers_go_on_while_a_decision_takes_long() {
    let ((began, begins), (go, go_on)) = (channel(), channel());
    let slow = Slow { began: Mutex::new(began), go_on: Mutex::new(go_on) };
    let world = World::start(&[node("n")], &[pod("p", "100m")], with(vec![Box::new(slow)]));
    let (begins, pods) = tokio::task::spawn_blocking(move || {
        assert_eq!(begins.recv_timeout(LONG).as_deref(), Ok("p"));
        begins
    })
    .await
    .map(|begins| (begins, world.informers.of::<Pod>()))
    .expect("the decision began");
    // the handler runs in this call: it returns although the decision goes on
    let (told, tells) = channel();
    std::thread::spawn(move || {
        let later = serde_json::from_value(pod("later", "100m")).expect("a pod");
        pods.apply(WatchEvent::Added(later));
        told.send(pods.len()).expect("the test listens");
    });
    let known = tokio::task::spawn_blocking(move || tells.recv_timeout(LONG)).await.expect("no panic");
    assert_eq!(known, Ok(2), "the handler waits for the decision");
    assert!(world.bound("p").is_none(), "the decision goes on");
    assert_eq!(world.scheduler.pending().active, 1, "nor does who asks wait for it");
    go.send(()).expect("the plugin listens");
    go.send(()).expect("the plugin listens");
    world.until("both to be bound", || world.bound("p").is_some() && world.bound("later").is_some()).await;
    assert_eq!(begins.try_recv().as_deref(), Ok("later"));
    world.stop().await;
}
