//! Two candidates and one Lease; and one candidate whose store is its own.

use crate::{
    unsteady::Switch,
    world::{DEPLOYMENTS, World, deployment},
};
use client::{Client, Elector, ElectorOptions, Informers};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

type Terms = Arc<Mutex<Vec<(&'static str, Instant, Option<Instant>)>>>;

/// A candidate that leads until it may not; notes its terms.
fn candidate(world: &World, name: &'static str, client: Client, terms: &Terms, alone: bool) -> CancellationToken {
    let (token, terms) = (CancellationToken::new(), terms.clone());
    let (clock, child) = (world.clock.clone(), token.clone());
    tokio::spawn(async move {
        loop {
            let options = ElectorOptions { alone, ..ElectorOptions::new("kube-system", "lead", name) };
            let elector = Elector::new(client.clone(), clock.clone(), options);
            let terms = terms.clone();
            let lost = elector.run(child.clone(), |leading| async move {
                let number = {
                    let mut terms = terms.lock();
                    terms.push((name, Instant::now(), None));
                    terms.len() - 1
                };
                leading.cancelled().await;
                terms.lock()[number].2 = Some(Instant::now());
            });
            if !lost.await {
                return;
            }
        }
    });
    token
}

fn leader(terms: &Terms) -> Option<&'static str> {
    terms.lock().iter().find(|term| term.2.is_none()).map(|term| term.0)
}

/// A client with a way of its own.
fn unsteady(world: &World, user: &str, groups: &[&str]) -> (Client, Switch) {
    let switch = Switch::default();
    let service = switch.over(world.server.service_for(server::User::new(user, groups)));
    (Client::new(kube::Client::new(service, "default")), switch)
}

/// What the Lease of that name says.
fn lease(world: &World, name: &str) -> Value {
    let Some(lease) = world.store.get(&format!("/coordination.k8s.io/leases/kube-system/{name}")) else {
        return Value::Null;
    };
    serde_json::from_slice::<Value>(&lease.stored).unwrap()["spec"].take()
}

#[tokio::test(start_paused = true)]
async fn one_leads_at_a_time_and_the_other_takes_over() {
    let world = World::empty(1).await;
    let terms: Terms = Arc::default();
    let (first, first_way) = unsteady(&world, "first", &["system:masters"]);
    let (second, _) = unsteady(&world, "second", &["system:masters"]);
    let _first = candidate(&world, "first", first, &terms, false);
    world.until("a leader", |_| leader(&terms) == Some("first")).await;
    let second = candidate(&world, "second", second, &terms, false);
    world.pass(300).await;
    assert_eq!(terms.lock().len(), 1, "the leader renews, the other waits");
    // the leader is cut off: it steps down before the other may take over
    first_way.cut();
    world.until("the second to lead", |_| leader(&terms) == Some("second")).await;
    first_way.mend();
    world.pass(60).await;
    assert_eq!(leader(&terms), Some("second"), "who comes back waits");
    // the leader goes in order: the Lease is free at once
    let left = Instant::now();
    second.cancel();
    world.until("the first to lead again", |_| leader(&terms) == Some("first")).await;
    assert!(left.elapsed() < Duration::from_secs(5), "no need to wait for the Lease to end");
    let terms = terms.lock();
    for pair in terms.windows(2) {
        assert!(pair[0].2.is_some_and(|end| end <= pair[1].1), "two led at a time: {terms:?}");
    }
    let lease = lease(&world, "lead");
    assert_eq!((&lease["holderIdentity"], &lease["leaseTransitions"]), (&"first".into(), &2.into()));
}

#[tokio::test(start_paused = true)]
async fn who_has_the_store_alone_leads_at_once_and_never_steps_down() {
    let world = World::empty(1).await;
    let of_before = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "lead"},
        "spec": {"holderIdentity": "a process that has ended", "leaseDurationSeconds": 15, "leaseTransitions": 4,
            "acquireTime": "2030-01-01T00:00:00.000000Z", "renewTime": "2030-01-01T00:00:00.000000Z"}
    });
    world.call("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", of_before).await;
    let (only, way) = unsteady(&world, "only", &["system:masters"]);
    let terms: Terms = Arc::default();
    let begin = Instant::now();
    let token = candidate(&world, "only", only, &terms, true);
    world.until("it leads", |_| leader(&terms) == Some("only")).await;
    world.until("the Lease to say so", |w| lease(w, "lead")["holderIdentity"] == "only").await;
    assert!(begin.elapsed() < Duration::from_secs(2), "it waits for a holder that is no more: {:?}", begin.elapsed());
    assert_eq!(lease(&world, "lead")["leaseTransitions"], 5);
    // nothing can be written, as on a full disk: nobody else can take the Lease either
    way.cut();
    let before = lease(&world, "lead")["renewTime"].clone();
    world.pass(600).await;
    assert_eq!(lease(&world, "lead")["renewTime"], before);
    way.mend();
    world.until("it renews again", |w| lease(w, "lead")["renewTime"] != before).await;
    // somebody edits the Lease
    let url = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/lead";
    world.call("PATCH", url, json!({"spec": {"holderIdentity": "nobody"}})).await;
    world.until("it takes it back", |w| lease(w, "lead")["holderIdentity"] == "only").await;
    world.call("DELETE", url, Value::Null).await;
    world.until("it makes it anew", |w| lease(w, "lead")["holderIdentity"] == "only").await;
    assert_eq!(terms.lock().len(), 1, "all in one term");
    assert_eq!(leader(&terms), Some("only"));
    token.cancel();
    world.until("the Lease is free", |w| lease(w, "lead")["holderIdentity"] == "").await;
}

/// Controllers that run while they lead, as a process of their own does. The task answers whether they lost their Lease.
fn manager(world: &World, name: &'static str) -> (Switch, JoinHandle<bool>) {
    let (client, switch) = unsteady(world, "system:kube-controller-manager", &["system:authenticated"]);
    let (clock, token) = (world.clock.clone(), CancellationToken::new());
    let (server, way) = (world.server.clone(), switch.clone());
    let accounts: controllers::Accounts = Arc::new(move |account: &str| {
        let service = way.over(server.service_for(crate::process::controller(account)));
        Client::new(kube::Client::new(service, "default"))
    });
    let task = tokio::spawn(async move {
        let options = ElectorOptions::new("kube-system", "kube-controller-manager", name);
        let elector = Elector::new(client.clone(), clock.clone(), options);
        let lost = elector.run(token.clone(), |leading| {
            let (tasks, options) = (TaskTracker::new(), controllers::Options::new(clock, "certificate".into()));
            let informers = Informers::new(client.clone(), leading.clone(), tasks.clone());
            let context = controllers::Context::new(accounts, informers, options, tasks.clone());
            controllers::start(&context, &leading, &tasks);
            tasks.close();
            async move {
                context.ended().await;
                drop(context);
                tasks.wait().await;
            }
        });
        lost.await
    });
    (switch, task)
}

#[tokio::test(start_paused = true)]
async fn controllers_that_lose_their_lease_stop_before_others_begin() {
    let world = World::empty(1).await;
    // its own ones
    world.switch.cut();
    let has_set = |world: &World, name: &str| {
        world.all("apps", "replicasets").iter().filter(|set| set["metadata"]["labels"]["app"] == name).count()
    };
    let holder = |world: &World| lease(world, "kube-controller-manager")["holderIdentity"].clone();
    let (way, first) = manager(&world, "first");
    world.until("the first to lead", |w| holder(w) == "first").await;
    let (_, second) = manager(&world, "second");
    world.call("POST", DEPLOYMENTS, deployment("a", 1, "i:1")).await;
    world.until("a ReplicaSet", |w| has_set(w, "a") == 1).await;

    way.cut();
    world.call("POST", DEPLOYMENTS, deployment("b", 1, "i:1")).await;
    let cut = Instant::now();
    world.until("the first has stopped", |_| first.is_finished()).await;
    assert!(cut.elapsed() < Duration::from_secs(15), "it works on though another may lead");
    assert!(holder(&world) == "first" && has_set(&world, "b") == 0, "nobody else has begun");
    assert!(first.await.unwrap(), "it says that it lost the Lease");
    world.until("the second works", |w| has_set(w, "b") == 1).await;
    assert_eq!(holder(&world), "second");
    way.mend();
    world.call("POST", DEPLOYMENTS, deployment("c", 1, "i:1")).await;
    world.until("the second works on", |w| has_set(w, "c") == 1).await;
    world.pass(30).await;
    assert_eq!((has_set(&world, "c"), holder(&world)), (1, "second".into()));
    assert!(!second.is_finished());
}
