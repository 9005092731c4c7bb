use super::{
    Plan, Step, plan,
    revision::{self, REVISION},
    rolling::{DESIRED_REPLICAS, MAX_REPLICAS},
};
use crate::meta;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};
use std::sync::Arc;

fn merge(to: &mut Value, from: &Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            from.iter().for_each(|(k, v)| merge(to.entry(k.clone()).or_insert(Value::Null), v));
        }
        (to, from) => *to = from.clone(),
    }
}

fn deployment(more: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"replicas": 10, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}},
    });
    merge(&mut value, &more);
    serde_json::from_value(value).expect("a Deployment")
}

/// A ReplicaSet of `d` for `image`: (size, pods, available).
fn set(d: &Deployment, image: &str, number: i64, size: i32, pods: i32, available: i32) -> Arc<ReplicaSet> {
    let mut d = d.clone();
    d.spec.as_mut().expect("a spec").template.spec.as_mut().expect("a spec").containers[0].image = Some(image.into());
    let mut rs = revision::new_set(&d);
    revision::annotate(&d, &mut rs, number, false);
    let spec = rs.spec.as_mut().expect("a spec");
    spec.replicas = Some(size);
    rs.metadata.uid = Some(format!("rs-{image}"));
    rs.metadata.creation_timestamp =
        serde_json::from_value(json!(format!("2026-01-01T00:{number:02}:00Z"))).expect("a time");
    rs.metadata.generation = Some(1);
    rs.status =
        serde_json::from_value(json!({"replicas": pods, "readyReplicas": available, "availableReplicas": available,
        "terminatingReplicas": 0, "observedGeneration": 1}))
        .expect("a status");
    Arc::new(rs)
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}

fn run(d: &Deployment, sets: &[Arc<ReplicaSet>]) -> Plan {
    plan(d, sets, |_| false, now())
}

/// The steps in short: `+image:size`, `image:from>to`, `image:` for annotations only, `-image`.
fn steps(p: &Plan) -> String {
    let image = |rs: &ReplicaSet| {
        rs.spec
            .as_ref()
            .and_then(|s| s.template.as_ref()?.spec.as_ref()?.containers[0].image.clone())
            .unwrap_or_default()
    };
    let one = |s: &Step| match s {
        Step::Create(rs) => format!("+{}:{}", image(rs), rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)),
        Step::Update { rs, scaled: Some((from, to)) } => format!("{}:{from}>{to}", image(rs)),
        Step::Update { rs, scaled: None } => format!("{}:", image(rs)),
        Step::Delete(rs) => format!("-{}", image(rs)),
    };
    p.steps.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn condition(p: &Plan, type_: &str) -> String {
    let status = p.write.as_ref().unwrap_or(&p.seen).status.clone().unwrap_or_default();
    let c = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == type_);
    c.map(|c| format!("{} {}: {}", c.status, c.reason.unwrap_or_default(), c.message.unwrap_or_default()))
        .unwrap_or_default()
}

#[test]
fn a_rollout_moves_pods_within_surge_and_unavailability() {
    let d = deployment(json!({}));
    // (what, old (size, available), new (size, available), steps)
    type Case = (&'static str, Option<(i32, i32)>, Option<(i32, i32)>, &'static str);
    let cases: [Case; 9] = [
        ("first", None, None, "+new:10"),
        ("a new template", Some((10, 10)), None, "+new:3 old:10>8"),
        ("surge is used up, old ones go", Some((10, 10)), Some((3, 0)), "old:10>8"),
        ("new ones are awaited", Some((8, 8)), Some((5, 0)), ""),
        ("room for more new ones", Some((8, 8)), Some((3, 3)), "new:3>5"),
        ("new ones are ready", Some((8, 8)), Some((5, 5)), "old:8>3"),
        ("unhealthy old ones go first", Some((10, 6)), Some((3, 3)), "old:10>5"),
        ("the last old ones", Some((3, 3)), Some((10, 8)), "old:3>0"),
        ("done", Some((0, 0)), Some((10, 10)), ""),
    ];
    for (what, old, new, expected) in cases {
        let mut sets = Vec::new();
        sets.extend(old.map(|(size, available)| set(&d, "old", 1, size, size, available)));
        sets.extend(new.map(|(size, available)| set(&d, "new", 2, size, size, available)));
        assert_eq!(steps(&run(&d, &sets)), expected, "{what}");
    }
}

#[test]
fn a_rollout_ends_whatever_order_pods_become_ready_in() {
    let d = deployment(
        json!({"spec": {"replicas": 7, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}}),
    );
    let (mut old, mut new) = ((7, 7), (0, 0));
    let mut d = d;
    for _ in 0..40 {
        let sets = [set(&d, "old", 1, old.0, old.0, old.1), set(&d, "new", 2, new.0, new.0, new.1)];
        let p = run(&d, &sets);
        for step in &p.steps {
            let Step::Update { rs, scaled: Some((_, to)) } = step else { continue };
            if rs.metadata.uid.as_deref() == Some("rs-old") { old.0 = *to } else { new.0 = *to }
        }
        old.1 = old.1.min(old.0);
        new.1 = new.0;
        assert!(old.1 + new.1.min(new.0) >= 6, "never more than one missing");
        assert!(old.0 + new.0 <= 7, "never more than asked for");
        if let Some(write) = p.write {
            d = write;
        }
    }
    assert_eq!((old.0, new.0), (0, 7));
}

#[test]
fn the_new_replica_set_is_numbered_and_sized() {
    let status = json!({"replicas": 10, "updatedReplicas": 10, "readyReplicas": 10, "availableReplicas": 10});
    let d = deployment(json!({"status": status}));
    let p = run(&d, &[set(&d, "old", 4, 10, 10, 10)]);
    let Step::Create(rs) = &p.steps[0] else { panic!("no creation") };
    let a = |k: &str| meta::annotation(&rs.metadata, k);
    assert_eq!((a(REVISION), a(DESIRED_REPLICAS), a(MAX_REPLICAS)), (Some("5"), Some("10"), Some("13")));
    let write = p.write.as_ref().expect("a status");
    assert_eq!(meta::annotation(&write.metadata, REVISION), Some("5"));
    let name = meta::name(&rs.metadata);
    assert_eq!(condition(&p, "Progressing"), format!("True NewReplicaSetCreated: Created new replica set {name:?}"));
    assert_eq!(condition(&p, "Available"), "True MinimumReplicasAvailable: Deployment has minimum availability.");
}

#[test]
fn a_rollback_reuses_the_old_replica_set_under_a_new_number() {
    let d = deployment(json!({}));
    let sets = [set(&d, "new", 1, 0, 0, 0), set(&d, "old", 2, 10, 10, 10)];
    let p = run(&d, &sets);
    assert_eq!(steps(&p), "new:0>3 old:10>8".replace(" old:10>8", ""), "one step at a time");
    let Step::Update { rs, .. } = &p.steps[0] else { panic!("no update") };
    assert_eq!(meta::annotation(&rs.metadata, REVISION), Some("3"));
    assert_eq!(meta::annotation(&rs.metadata, revision::HISTORY), Some("1"));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_proportions() {
    // 10 replicas at 8 old + 5 new, scaled to 15 (surge 3): 18 pods, 5 more, in proportion 8:5
    let before = deployment(json!({}));
    let sets = [set(&before, "old", 1, 8, 8, 8), set(&before, "new", 2, 5, 5, 5)];
    let d = deployment(json!({"spec": {"replicas": 15}}));
    assert_eq!(steps(&run(&d, &sets)), "old:8>11 new:5>7");
    let d = deployment(json!({"spec": {"replicas": 5}}));
    assert_eq!(steps(&run(&d, &sets)), "old:8>5 new:5>3");
    let d = deployment(json!({"spec": {"replicas": 0}}));
    assert_eq!(steps(&run(&d, &sets)), "old:8>0 new:5>0");
}

#[test]
fn scaling_without_a_rollout_scales_the_one_replica_set() {
    let before = deployment(json!({}));
    let d = deployment(json!({"spec": {"replicas": 12}}));
    let p = run(&d, &[set(&before, "old", 1, 0, 0, 0), set(&before, "new", 2, 10, 10, 10)]);
    assert_eq!(steps(&p), "new:10>12");
    let Step::Update { rs, .. } = &p.steps[0] else { panic!("no update") };
    assert_eq!(meta::annotation(&rs.metadata, MAX_REPLICAS), Some("15"));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll_out() {
    let before = deployment(json!({}));
    let d = deployment(json!({"spec": {"paused": true, "replicas": 12}}));
    let p = run(&d, &[set(&before, "old", 1, 10, 10, 10)]);
    assert_eq!(steps(&p), "old:10>12");
    assert_eq!(condition(&p, "Progressing"), "Unknown DeploymentPaused: Deployment is paused");
    let mut resumed = p.write.expect("a status");
    resumed.spec.as_mut().expect("a spec").paused = Some(false);
    let p = run(&resumed, &[set(&d, "old", 1, 12, 12, 12)]);
    assert!(steps(&p).starts_with("+new:3"));
}

#[test]
fn recreate_waits_until_every_old_pod_is_gone() {
    let d = deployment(json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    let old = |size, pods| set(&d, "old", 1, size, pods, pods);
    assert_eq!(steps(&run(&d, &[old(10, 10)])), "old:10>0");
    assert_eq!(steps(&run(&d, &[old(0, 3)])), "");
    assert_eq!(steps(&plan(&d, &[old(0, 0)], |_| true, now())), "");
    assert_eq!(steps(&run(&d, &[old(0, 0)])), "+new:10");
}

#[test]
fn old_revisions_beyond_the_limit_are_dropped_oldest_first() {
    let mut d = deployment(json!({"spec": {"revisionHistoryLimit": 1}}));
    let mut sets: Vec<_> = (1..4).map(|n| set(&d, &format!("old{n}"), n, 0, 0, 0)).collect();
    sets.push(set(&d, "new", 4, 10, 10, 10));
    let first = run(&d, &sets);
    assert_eq!(steps(&first), "", "not before the rollout is known to be complete");
    d = first.write.expect("a status");
    assert_eq!(steps(&run(&d, &sets)), "-old1 -old2");
}

#[test]
fn progress_is_told_and_its_lack_too() {
    let d = deployment(json!({}));
    let start = run(&d, &[set(&d, "new", 1, 10, 0, 0)]);
    assert!(condition(&start, "Progressing").starts_with("True FoundNewReplicaSet"));
    let d = start.write.clone().expect("a status");
    let some = run(&d, &[set(&d, "new", 1, 10, 5, 5)]);
    let name = meta::name(&set(&d, "new", 1, 1, 1, 1).metadata).to_owned();
    assert_eq!(condition(&some, "Progressing"), format!("True ReplicaSetUpdated: ReplicaSet {name:?} is progressing."));
    assert_eq!(
        condition(&some, "Available"),
        "False MinimumReplicasUnavailable: Deployment does not have minimum availability."
    );
    assert_eq!(some.after.map(|d| d.as_secs()), Some(601));
    let d = some.write.clone().expect("a status");
    let late = "2026-01-01T01:10:01Z".parse().expect("a time");
    let stuck = plan(&d, &[set(&d, "new", 1, 10, 5, 5)], |_| false, late);
    assert_eq!(
        condition(&stuck, "Progressing"),
        format!("False ProgressDeadlineExceeded: ReplicaSet {name:?} has timed out progressing.")
    );
    let done = run(&d, &[set(&d, "new", 1, 10, 10, 10)]);
    assert_eq!(
        condition(&done, "Progressing"),
        format!("True NewReplicaSetAvailable: ReplicaSet {name:?} has successfully progressed.")
    );
    let d = done.write.clone().expect("a status");
    assert!(run(&d, &[set(&d, "new", 1, 10, 10, 10)]).write.is_none(), "nothing more to say");
}

#[test]
fn a_failure_of_a_replica_set_shows_on_the_deployment() {
    let d = deployment(json!({}));
    let mut rs = (*set(&d, "new", 1, 10, 0, 0)).clone();
    rs.status.as_mut().expect("a status").conditions = serde_json::from_value(
        json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]),
    )
    .expect("conditions");
    assert_eq!(condition(&run(&d, &[Arc::new(rs)]), "ReplicaFailure"), "True FailedCreate: quota");
}

#[test]
fn a_deployment_that_is_deleted_only_reports() {
    let d = deployment(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert_eq!(steps(&run(&d, &[set(&d, "old", 1, 10, 10, 10)])), "");
}
