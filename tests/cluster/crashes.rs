//! Controllers and scheduler end between any two of their writes, or do not hear of one, and everything comes to the same in the end.

use crate::{
    endstate::{EndState, difference, end_state},
    process::Fault,
    scenarios::{self, Scenario, script},
    world::World,
};
use std::{io::Write, time::Duration};

const SEED: u64 = 1;

/// Plays a scenario with a fault. Returns what it comes to, and the writes on the way.
async fn play(scenario: &Scenario, fault: Option<(usize, Fault)>) -> (EndState, Vec<String>) {
    let mut world = World::apart(SEED).await;
    for number in 1..=scenario.nodes {
        world.node(&format!("n{number}"), 4, |name, _| script(name)).await;
    }
    world.process().count(fault);
    (scenario.play)(&mut world).await;
    // What stays as it is for a while is the end.
    let mut last = EndState::new();
    loop {
        world.pass(15).await;
        let state = end_state(&world);
        if state == last {
            return (state, world.process().writes());
        }
        assert!(world.elapsed() < Duration::from_secs(7200), "no end: {:#?}", difference(&last, &state));
        last = state;
    }
}

/// Compares the end of a disturbed run with that of the undisturbed one.
async fn survives(
    name: &str,
    scenario: &Scenario,
    expected: &EndState,
    writes: &[String],
    cut: (usize, Fault),
) -> bool {
    let (at, fault) = cut;
    let what = format!("{name}: {fault:?} at write {at} of {}, {}", writes.len(), writes[at - 1]);
    println!("{what}");
    let (found, _) = play(scenario, Some(cut)).await;
    let difference = difference(expected, &found);
    if !difference.is_empty() {
        let _ = writeln!(std::io::stderr(), "{what}: {difference:#?}");
    }
    difference.is_empty()
}

/// The faults of a run with so many writes: every one of each write, or some.
fn cuts(writes: usize, some: Option<usize>) -> Vec<(usize, Fault)> {
    let faults = [Fault::End, Fault::AnswerLost, Fault::Lost];
    match some {
        None => (1..=writes).flat_map(|at| faults.map(|fault| (at, fault))).collect(),
        Some(number) => {
            (0..number).map(|one| (1 + (2 * one + 1) * writes / (2 * number + 1), faults[(writes + one) % 3])).collect()
        }
    }
}

async fn all_survive(name: &str, some: Option<usize>) {
    let (_, scenario) = scenarios::ALL.iter().find(|(known, _)| *known == name).unwrap();
    let (expected, writes) = play(scenario, None).await;
    let mut failed = Vec::new();
    for cut in cuts(writes.len(), some) {
        if !survives(name, scenario, &expected, &writes, cut).await {
            failed.push(cut);
        }
    }
    assert!(failed.is_empty(), "{name}: another end than that of the undisturbed run: {failed:?}");
}

async fn some(name: &str) {
    all_survive(name, Some(2)).await;
}

/// All cuts of all scenarios, or of those whose names begin with `SAMPAN_CRASH_SCENARIO`; a share of them with `SAMPAN_CRASH_CUTS`.
#[tokio::test(start_paused = true)]
#[ignore = "takes hours"]
async fn every_controller_survives_an_end_at_any_write() {
    let wanted = std::env::var("SAMPAN_CRASH_SCENARIO").unwrap_or_default();
    let share = std::env::var("SAMPAN_CRASH_CUTS").ok().and_then(|text| text.parse().ok());
    for (name, _) in scenarios::ALL.iter().filter(|(name, _)| name.starts_with(&wanted)) {
        let _ = writeln!(std::io::stderr(), "crashes: {name}");
        all_survive(name, share).await;
    }
}

/// A test of each scenario with a few of the cuts: the others are those of the test above.
macro_rules! some_cuts {
    ($(async fn $test:ident() { $name:literal })*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $test() {
            some($name).await;
        })*

        #[test]
        fn each_scenario_has_its_test() {
            let all: Vec<&str> = scenarios::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$($name),*]);
        }
    };
}

some_cuts! {
    async fn a_rollout_survives() { "deployment" }
    async fn a_deployment_that_recreates_survives() { "recreate" }
    async fn replica_sets_and_replication_controllers_survive() { "replicas" }
    async fn a_stateful_set_with_claims_survives() { "statefulset" }
    async fn a_parallel_stateful_set_survives() { "parallel" }
    async fn a_daemon_set_survives() { "daemonset" }
    async fn jobs_that_complete_survive() { "jobs complete" }
    async fn jobs_that_fail_survive() { "jobs fail" }
    async fn jobs_that_go_survive() { "jobs go" }
    async fn cron_jobs_survive() { "cronjob" }
    async fn an_autoscaler_survives() { "autoscaler" }
    async fn a_disruption_budget_survives() { "budget" }
    async fn a_quota_survives() { "quota" }
    async fn the_end_of_a_namespace_survives() { "namespace" }
    async fn the_garbage_collector_survives() { "owners" }
    async fn volumes_and_their_claims_survive() { "volumes" }
    async fn endpoints_of_services_survive() { "service" }
    async fn the_life_of_a_node_survives() { "node" }
    async fn the_scheduler_survives() { "scheduler" }
}
