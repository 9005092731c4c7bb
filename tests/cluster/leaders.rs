//! Two candidates and one Lease.

use crate::world::World;
use client::{Elector, ElectorOptions};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

type Terms = Arc<Mutex<Vec<(&'static str, Instant, Option<Instant>)>>>;

/// A candidate that leads until it may not; notes its terms.
fn candidate(world: &World, name: &'static str, client: client::Client, terms: &Terms) -> CancellationToken {
    let (token, terms) = (CancellationToken::new(), terms.clone());
    let (clock, child) = (world.clock.clone(), token.clone());
    tokio::spawn(async move {
        loop {
            let options = ElectorOptions::new("kube-system", "lead", name);
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

#[tokio::test(start_paused = true)]
async fn one_leads_at_a_time_and_the_other_takes_over() {
    let world = World::empty(1).await;
    let terms: Terms = Arc::default();
    let unsteady = |name: &str| {
        let user = server::User::new(name, &["system:masters"]);
        let switch = crate::unsteady::Switch::default();
        (client::Client::new(kube::Client::new(switch.over(world.server.service_for(user)), "default")), switch)
    };
    let (first, first_way) = unsteady("first");
    let (second, _) = unsteady("second");
    let _first = candidate(&world, "first", first, &terms);
    world.until("a leader", |_| leader(&terms) == Some("first")).await;
    let second = candidate(&world, "second", second, &terms);
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
    let lease = world.store.get("/coordination.k8s.io/leases/kube-system/lead").unwrap();
    let lease: serde_json::Value = serde_json::from_slice(&lease.stored).unwrap();
    assert_eq!((&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]), (&"first".into(), &2.into()));
}
