use super::{
    behavior::{History, Range},
    metrics::Reading,
    plan::{First, Measured, Plan, Report, first, measure, plan, tolerances},
    proposal::propose,
    replicas::{PodMetric, PodMetrics, Scaled, Target, Tolerances, of_pods, of_share, of_whole, requests},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    autoscaling::v2::{
        HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricSpec,
    },
    core::v1::Pod,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

fn now() -> Timestamp {
    at(3600)
}

const TENTH: Tolerances = Tolerances { down: 0.1, up: 0.1 };

/// A pod that has run for an hour and requests a core.
fn pod(name: &str, more: Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "ns", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"phase": "Running", "startTime": at(0).to_string(),
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(5).to_string()}]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        value.as_object().into_iter().flatten().for_each(|(k, v)| pod[key][k] = v.clone());
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn plain(count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|i| pod(&format!("p{i}"), json!({}))).collect()
}

/// Metrics of the first pods; a negative one is missing.
fn used(values: &[i64]) -> PodMetrics {
    let window = SignedDuration::from_secs(15);
    let known = values.iter().enumerate().filter(|(_, value)| **value >= 0);
    known.map(|(i, value)| (format!("p{i}"), PodMetric { at: now(), window, value: *value })).collect()
}

fn scaled(pods: &[Arc<Pod>], wanted: i32) -> Scaled<'_> {
    Scaled { pods, wanted, observed: wanted, tolerances: TENTH, now: now() }
}

fn share(pods: &[Arc<Pod>], wanted: i32, values: &[i64], target: i32) -> Result<(i32, Option<i32>, i64), String> {
    let requests = || requests(pods, "", "cpu");
    let proposal = of_pods(&scaled(pods, wanted), used(values), true, Target::Utilization(target), requests)?;
    Ok((proposal.replicas, proposal.utilization, proposal.mean))
}

#[test]
fn the_share_of_what_is_requested_decides() {
    for (what, wanted, values, target, expected) in [
        ("half as much again", 3, vec![300, 500, 700], 30, (5, 50, 500)),
        ("less", 3, vec![100, 100, 100], 50, (1, 10, 100)),
        ("within the tolerance", 3, vec![540, 540, 540], 50, (3, 54, 540)),
        ("just outside of it", 3, vec![560, 560, 560], 50, (4, 56, 560)),
        ("rounded up", 4, vec![510, 510, 510, 510], 45, (5, 51, 510)),
        ("nothing", 2, vec![0, 0], 50, (0, 0, 0)),
        // of an increase a missing pod uses nothing, of a decrease what is wanted of it (all of its request at least)
        ("missing, an increase", 4, vec![300, 500, 700, -1], 30, (5, 50, 500)),
        ("missing, no longer an increase", 3, vec![400, 400, -1], 30, (3, 40, 400)),
        ("missing, a decrease", 4, vec![100, 100, 100, -1], 50, (3, 10, 100)),
        ("missing, no longer a decrease", 4, vec![200, 200, -1, -1], 50, (4, 20, 200)),
        ("missing, as it should be", 3, vec![500, 500, -1], 50, (3, 50, 500)),
    ] {
        let pods = plain(values.len());
        let (replicas, utilization, mean) = expected;
        assert_eq!(share(&pods, wanted, &values, target), Ok((replicas, Some(utilization), mean)), "{what}");
    }
}

#[test]
fn pods_that_say_nothing_yet_do_not_count() {
    let with = |more: Value| {
        let mut pods = plain(2);
        pods.push(pod("p2", more));
        pods
    };
    let ready = |status: &str, since: i64| json!([{"type": "Ready", "status": status, "lastTransitionTime": at(since).to_string()}]);
    for (what, more, values, expected) in [
        ("deleted", json!({"metadata": {"deletionTimestamp": at(3600).to_string()}}), [600, 600, 9000], (4, 60, 600)),
        ("failed", json!({"status": {"phase": "Failed"}}), [600, 600, 9000], (4, 60, 600)),
        ("pending, an increase", json!({"status": {"phase": "Pending"}}), [600, 600, -1], (4, 60, 600)),
        ("pending, a decrease", json!({"status": {"phase": "Pending"}}), [100, 100, -1], (1, 10, 100)),
        (
            "unready since its start",
            json!({"status": {"conditions": ready("False", 20)}}),
            [600, 600, 9000],
            (4, 60, 600),
        ),
        (
            "unready since long after",
            json!({"status": {"conditions": ready("False", 200)}}),
            [600, 600, 600],
            (6, 60, 600),
        ),
        ("without a condition", json!({"status": {"conditions": []}}), [600, 600, 9000], (4, 60, 600)),
        (
            "just started and not ready",
            json!({"status": {"startTime": at(3400).to_string(), "conditions": ready("False", 3500)}}),
            [600, 600, 9000],
            (4, 60, 600),
        ),
        (
            "just started and ready, measured before",
            json!({"status": {"startTime": at(3400).to_string(), "conditions": ready("True", 3590)}}),
            [600, 600, 9000],
            (4, 60, 600),
        ),
        (
            "just started and ready, measured since",
            json!({"status": {"startTime": at(3400).to_string(), "conditions": ready("True", 3580)}}),
            [600, 600, 600],
            (6, 60, 600),
        ),
    ] {
        let (replicas, utilization, mean) = expected;
        assert_eq!(share(&with(more), 3, &values, 30), Ok((replicas, Some(utilization), mean)), "{what}");
    }
}

#[test]
fn what_cannot_be_computed_says_why() {
    let failed = |pods: &[Arc<Pod>], values: &[i64]| share(pods, 3, values, 30).expect_err("an error");
    assert_eq!(failed(&[], &[1]), "no pods returned by selector while calculating replica count");
    let text = "did not receive metrics for targeted pods (pods might be unready)";
    assert_eq!(failed(&plain(1), &[-1]), text);
    assert_eq!(failed(&[pod("p0", json!({"status": {"phase": "Pending"}}))], &[1]), text);
    let lacking = pod("p0", json!({"spec": {"containers": [{"name": "c"}]}}));
    assert_eq!(failed(&[lacking], &[1]), "missing request for cpu in container c of Pod p0");
    let zero = pod("p0", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "0"}}}]}}));
    assert_eq!(failed(&[zero], &[1]), "no metrics returned matched known pods");
}

#[test]
fn requests_are_those_of_lasting_containers_of_one_of_them_or_of_the_pod() {
    let containers = json!([{"name": "a", "resources": {"requests": {"cpu": "100m"}}}, {"name": "b", "resources": {"requests": {"cpu": "200m"}}}]);
    let init = json!([{"name": "i", "resources": {"requests": {"cpu": "5"}}},
        {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "10m"}}}]);
    let of = |container: &str, resources: Value| {
        let pod =
            pod("p0", json!({"spec": {"containers": containers, "initContainers": init, "resources": resources}}));
        requests(&[pod], container, "cpu").map(|all| all["p0"])
    };
    assert_eq!(of("", Value::Null), Ok(310));
    assert_eq!((of("b", Value::Null), of("s", Value::Null)), (Ok(200), Ok(10)));
    assert_eq!(of("x", Value::Null), Err("container x not found in Pod p0".into()));
    let whole = json!({"requests": {"cpu": "1"}});
    assert_eq!((of("", whole.clone()), of("a", whole)), (Ok(1000), Ok(100)));
    let other = json!({"requests": {"memory": "1Mi"}});
    assert_eq!(of("", other), Err("missing pod-level request for cpu in Pod p0".into()));
}

#[test]
fn means_and_amounts_decide_likewise() {
    let mean = |wanted: i32, values: &[i64], target: i64| {
        let pods = plain(values.len());
        let none = || Ok(Default::default());
        of_pods(&scaled(&pods, wanted), used(values), false, Target::Mean(target), none).map(|p| (p.replicas, p.mean))
    };
    assert_eq!(mean(3, &[20_000, 20_000, 20_000], 15_000), Ok((4, 20_000)));
    assert_eq!(mean(4, &[5_000, 5_000, 5_000, -1], 15_000), Ok((2, 5_000)), "missing: what is wanted");
    assert_eq!(mean(2, &[i64::MAX, i64::MAX], 1), Ok((i32::MAX, i64::MAX)));
    let pods = plain(3);
    let whole = |wanted: i32, used: i64| of_whole(&scaled(&pods, wanted), used, 10_000);
    for (wanted, used, expected) in
        [(3, 20_000, 6), (3, 10_900, 3), (3, 4_000, 2), (3, 0, 0), (0, 0, 0), (0, 1, 1), (0, 25_000, 3)]
    {
        assert_eq!(whole(wanted, used), Ok((expected, used)), "{wanted} {used}");
    }
    let nobody = of_whole(&scaled(&[], 3), 90_000, 10_000).expect_err("no pods");
    assert!(nobody.ends_with("no pods returned by selector while calculating replica count"), "{nobody}");
    for (observed, used, expected) in
        [(3, 60_000, (6, 20_000)), (3, 31_000, (3, 10_334)), (3, 0, (0, 0)), (0, 25_000, (3, 25_000)), (0, 0, (0, 0))]
    {
        assert_eq!(of_share(&scaled(&pods, observed), used, 10_000), expected, "{observed} {used}");
    }
}

fn behavior(value: Value) -> HorizontalPodAutoscalerBehavior {
    serde_json::from_value(value).expect("a behavior")
}

#[test]
fn a_decrease_waits_for_the_highest_recommendation_of_five_minutes() {
    let mut history = History::new(5, at(0));
    let mut step = |wanted, second| {
        let told = history.stabilize(None, wanted, 5, at(second));
        (told.replicas, told.reason)
    };
    assert_eq!(step(2, 15), (5, "ScaleDownStabilized"));
    assert_eq!(step(8, 30), (8, "ReadyForNewScale"), "an increase does not wait");
    assert_eq!(step(3, 300), (8, "ScaleDownStabilized"));
    assert_eq!(step(3, 331), (3, "ReadyForNewScale"));
    assert_eq!(step(9, 400).0, 9);
    assert_eq!(step(2, 300), (3, "ScaleDownStabilized"), "the clock was set back: what comes later does not count");
}

#[test]
fn windows_hold_back_in_both_directions() {
    let rules = json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 30}});
    let rules = behavior(rules);
    let mut history = History::new(5, at(0));
    let mut step = |wanted, current, second| {
        let told = history.stabilize(Some(&rules), wanted, current, at(second));
        (told.replicas, told.reason)
    };
    assert_eq!(step(9, 5, 15), (5, "ScaleUpStabilized"));
    assert_eq!(step(7, 5, 61), (7, "ReadyForNewScale"), "the lowest of the last minute");
    assert_eq!(step(2, 7, 70), (7, "ScaleDownStabilized"));
    assert_eq!(step(2, 7, 92), (2, "ReadyForNewScale"));
}

#[test]
fn a_step_without_a_behavior_at_most_doubles() {
    let history = History::new(1, at(0));
    let within = |current, wanted| {
        let told = history.within(None, wanted, Range { least: 2, most: 30, current }, at(0));
        (told.replicas, told.reason)
    };
    assert_eq!(within(3, 5), (5, "DesiredWithinRange"));
    assert_eq!(within(1, 9), (4, "ScaleUpLimit"));
    assert_eq!(within(10, 90), (20, "ScaleUpLimit"));
    assert_eq!(within(20, 90), (30, "TooManyReplicas"));
    assert_eq!(within(20, 1), (2, "TooFewReplicas"));
}

#[test]
fn policies_limit_a_step_in_their_period() {
    let pods = |value: i32| json!({"type": "Pods", "value": value, "periodSeconds": 60});
    let percent = |value: i32| json!({"type": "Percent", "value": value, "periodSeconds": 60});
    let up =
        |select: &str, policies: Value| behavior(json!({"scaleUp": {"selectPolicy": select, "policies": policies}}));
    let down =
        |select: &str, policies: Value| behavior(json!({"scaleDown": {"selectPolicy": select, "policies": policies}}));
    for (what, rules, current, wanted, expected) in [
        ("pods", up("Max", json!([pods(4)])), 10, 50, (14, "ScaleUpLimit")),
        ("percent", up("Max", json!([percent(15)])), 10, 50, (12, "ScaleUpLimit")),
        ("the larger", up("Max", json!([pods(4), percent(100)])), 10, 50, (20, "ScaleUpLimit")),
        ("the smaller", up("Min", json!([pods(4), percent(100)])), 10, 50, (14, "ScaleUpLimit")),
        ("nothing", up("Disabled", json!([pods(4)])), 10, 50, (10, "ScaleUpLimit")),
        ("the maximum", up("Max", json!([percent(900)])), 50, 400, (100, "TooManyReplicas")),
        ("less than the limit", up("Max", json!([pods(4)])), 10, 12, (12, "DesiredWithinRange")),
        ("pods, down", down("Max", json!([pods(4)])), 10, 1, (6, "ScaleDownLimit")),
        ("percent, down", down("Max", json!([percent(15)])), 10, 1, (8, "ScaleDownLimit")),
        ("the larger, down", down("Max", json!([pods(4), percent(50)])), 10, 1, (5, "ScaleDownLimit")),
        ("the smaller, down", down("Min", json!([pods(4), percent(50)])), 10, 1, (6, "ScaleDownLimit")),
        ("nothing, down", down("Disabled", json!([pods(4)])), 10, 1, (10, "ScaleDownLimit")),
        ("the minimum", down("Max", json!([percent(100)])), 10, 1, (2, "TooFewReplicas")),
    ] {
        let history = History::new(current, at(0));
        let told = history.within(Some(&rules), wanted, Range { least: 2, most: 100, current }, at(0));
        assert_eq!((told.replicas, told.reason), expected, "{what}");
    }
    // what was done within the period counts
    let rules = up("Max", json!([pods(4)]));
    let mut history = History::new(10, at(0));
    history.note_change(Some(&rules), 10, 13, at(0));
    let within =
        |current, second| history.within(Some(&rules), 50, Range { least: 2, most: 100, current }, at(second)).replicas;
    assert_eq!((within(13, 30), within(14, 59), within(13, 60)), (14, 15, 17));
}

fn autoscaler(spec: Value, status: Value) -> HorizontalPodAutoscaler {
    let mut whole = json!({"metadata": {"name": "h", "namespace": "ns"}, "status": status, "spec": {"maxReplicas": 10, "minReplicas": 1,
        "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}}});
    spec.as_object().into_iter().flatten().for_each(|(k, v)| whole["spec"][k] = v.clone());
    serde_json::from_value(whole).expect("an autoscaler")
}

fn cpu() -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}})
}

fn outside() -> Value {
    json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "10"}}})
}

/// A round over a target with pods that use this much; the metrics are read so.
fn round(
    hpa: &HorizontalPodAutoscaler,
    current: i32,
    readings: Vec<Result<Reading, String>>,
    history: &mut History,
) -> (Plan, HorizontalPodAutoscalerSpec) {
    let (spec, mut report) = (hpa.spec.clone(), Report::of(hpa));
    let decided = first(&spec, &report, current);
    let pods = plain(usize::try_from(current).expect("a count"));
    let scaled = Scaled { tolerances: tolerances(&spec), ..scaled(&pods, current) };
    let specs: Vec<MetricSpec> = spec.metrics.clone().unwrap_or_default();
    let measured = (decided == First::Metrics).then(|| {
        let proposals =
            specs.iter().zip(readings).map(|(spec, reading)| propose(spec, reading, &scaled, "ns")).collect();
        measure(&mut report, proposals, current, now())
    });
    (plan(&spec, report, (decided, current), measured, history, now()), spec)
}

fn conditions(report: &Report) -> String {
    let one = |c: &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition| {
        format!("{}={}:{}", c.type_, c.status, c.reason.as_deref().unwrap_or_default())
    };
    report.status.conditions.iter().flatten().map(one).collect::<Vec<_>>().join(" ")
}

fn events(report: &Report) -> Vec<String> {
    report.events.iter().map(|(_, reason, message)| format!("{reason}: {message}")).collect()
}

#[test]
fn more_use_makes_more_replicas() {
    let hpa = autoscaler(json!({"metrics": [cpu()]}), json!({}));
    let mut history = History::new(2, at(3000));
    let (plan, spec) = round(&hpa, 2, vec![Ok(Reading::Pods(used(&[900, 900])))], &mut history);
    let reason = "cpu resource utilization (percentage of request) above target";
    assert_eq!(plan.rescale, Some((4, reason.to_owned())));
    let report = plan.done(&spec, 4, reason, &mut history, now());
    assert_eq!(events(&report), [format!("SuccessfulRescale: New size: 4; reason: {reason}")]);
    assert_eq!(
        conditions(&report),
        "ScalingActive=True:ValidMetricFound AbleToScale=True:SucceededRescale ScalingLimited=False:DesiredWithinRange"
    );
    let status = serde_json::to_value(&report.status).expect("JSON");
    assert_eq!((&status["currentReplicas"], &status["desiredReplicas"]), (&json!(2), &json!(4)));
    assert_eq!(status["lastScaleTime"], now().to_string());
    assert_eq!(
        status["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 90, "averageValue": "900m"}}}])
    );
    let (plan, _) = round(&hpa, 2, vec![Ok(Reading::Pods(used(&[900, 900])))], &mut History::new(2, at(3000)));
    let refused = plan.refused(4, reason, "no", now());
    assert_eq!(events(&refused), [format!("FailedRescale: New size: 4; reason: {reason}; error: no")]);
    assert!(conditions(&refused).contains("AbleToScale=False:FailedUpdateScale"));
    assert_eq!(refused.status.desired_replicas, 0);
}

#[test]
fn limits_apply_before_any_metric() {
    let hpa = autoscaler(json!({"metrics": [cpu()], "minReplicas": 3}), json!({}));
    let of = |current| round(&hpa, current, Vec::new(), &mut History::new(current, at(0))).0.rescale;
    assert_eq!(of(12), Some((10, "Current number of replicas above Spec.MaxReplicas".into())));
    assert_eq!(of(2), Some((3, "Current number of replicas below Spec.MinReplicas".into())));
    let (plan, _) = round(&hpa, 0, Vec::new(), &mut History::new(0, at(0)));
    assert_eq!(
        (plan.rescale.is_none(), conditions(&plan.report)),
        (true, "ScalingActive=False:ScalingDisabled".into())
    );
}

#[test]
fn a_metric_that_is_missing_stops_a_decrease_and_an_increase_only_if_it_is_alone() {
    let hpa = autoscaler(json!({"metrics": [cpu(), outside()]}), json!({"desiredReplicas": 7}));
    let missing = || Err("unable to fetch metrics from external metrics API: no".to_owned());
    let low = || Ok(Reading::Pods(used(&[10, 10])));
    let (plan, _) = round(&hpa, 2, vec![low(), missing()], &mut History::new(2, at(3000)));
    let text = "unable to get external metric ns/q/nil: unable to fetch metrics from external metrics API: no";
    assert_eq!(plan.rescale, None);
    assert_eq!(conditions(&plan.report), "ScalingActive=False:FailedGetExternalMetric");
    assert_eq!(
        events(&plan.report),
        [
            format!("FailedGetExternalMetric: {text}"),
            format!(
                "FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: failed to get q external metric value: failed to get q external metric: {text}"
            ),
        ]
    );
    let status = serde_json::to_value(&plan.report.status).expect("JSON");
    assert_eq!((&status["desiredReplicas"], &status["currentMetrics"][1]), (&json!(7), &json!({"type": ""})));
    let (plan, _) =
        round(&hpa, 2, vec![Ok(Reading::Pods(used(&[900, 900]))), missing()], &mut History::new(2, at(3000)));
    assert_eq!(plan.rescale.map(|(replicas, _)| replicas), Some(4), "an increase goes on");
    assert!(conditions(&plan.report).starts_with("ScalingActive=True:ValidMetricFound"));
}

#[test]
fn the_metric_that_asks_for_most_wins() {
    let hpa = autoscaler(json!({"metrics": [cpu(), outside()]}), json!({}));
    let readings = vec![Ok(Reading::Pods(used(&[600, 600, 600]))), Ok(Reading::Amounts(vec![30_000, 23_000]))];
    let (plan, _) = round(&hpa, 3, readings, &mut History::new(3, at(3000)));
    assert_eq!(plan.rescale, Some((6, "external metric q(nil) above target".into())));
}

#[test]
fn what_was_put_to_zero_wakes_by_an_outside_metric_only() {
    let spec = || json!({"metrics": [outside()], "minReplicas": 0});
    let asleep = || json!({"conditions": [{"type": "ScaledToZero", "status": "True"}]});
    let mut history = History::new(1, at(0));
    history.stabilize(None, 0, 1, at(1));
    let quiet = || vec![Ok(Reading::Amounts(vec![0]))];
    let (plan, spec_of) = round(&autoscaler(spec(), json!({})), 1, quiet(), &mut history);
    assert_eq!(plan.rescale, Some((0, "All metrics below target".into())));
    let report = plan.done(&spec_of, 0, "", &mut history, now());
    assert!(conditions(&report).ends_with("ScaledToZero=True:ScaledToZero"), "{}", conditions(&report));
    let (plan, _) = round(&autoscaler(spec(), asleep()), 0, quiet(), &mut history);
    assert_eq!(plan.rescale, None);
    let loud = || vec![Ok(Reading::Amounts(vec![15_000]))];
    let (plan, spec_of) = round(&autoscaler(spec(), asleep()), 0, loud(), &mut history);
    assert_eq!(plan.rescale, Some((2, "external metric q(nil) above target".into())));
    let report = plan.done(&spec_of, 2, "", &mut history, now());
    assert!(conditions(&report).contains("ScaledToZero=False:NotScaledToZero"), "{}", conditions(&report));
    let (plan, _) = round(&autoscaler(spec(), json!({})), 0, loud(), &mut history);
    assert_eq!(conditions(&plan.report), "ScalingActive=False:ScalingDisabled", "somebody else put it to zero");
    let raised = autoscaler(json!({"metrics": [outside()], "minReplicas": 3}), asleep());
    let (plan, _) = round(&raised, 0, quiet(), &mut History::new(0, at(0)));
    assert_eq!(plan.rescale.map(|(replicas, _)| replicas), Some(3), "the minimum was raised");
}

#[test]
fn an_autoscaler_has_tolerances_of_its_own() {
    let rules = |tolerance: &str| json!({"policies": [{"type": "Pods", "value": 9, "periodSeconds": 15}], "stabilizationWindowSeconds": 0, "tolerance": tolerance});
    let hpa = autoscaler(
        json!({"metrics": [cpu()], "behavior": {"scaleUp": rules("0"), "scaleDown": rules("500m")}}),
        json!({}),
    );
    let of = |value: i64| {
        let readings = vec![Ok(Reading::Pods(used(&[value, value])))];
        round(&hpa, 2, readings, &mut History::new(2, at(0))).0.rescale.map(|(replicas, _)| replicas)
    };
    assert_eq!((of(510), of(260), of(240)), (Some(3), None, Some(1)));
}

#[test]
fn every_kind_of_metric_says_what_it_was() {
    let pods = plain(2);
    let scaled = scaled(&pods, 2);
    let of = |spec: Value, reading: Result<Reading, String>| {
        let spec: MetricSpec = serde_json::from_value(spec).expect("a metric");
        propose(&spec, reading, &scaled, "ns")
    };
    let about = json!({"kind": "Service", "name": "s", "apiVersion": "v1"});
    let metric = json!({"name": "q", "selector": {"matchLabels": {"a": "b"}}});
    let object = |target: Value| json!({"type": "Object", "object": {"metric": metric, "describedObject": about, "target": target}});
    let outside = |target: Value| json!({"type": "External", "external": {"metric": metric, "target": target}});
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Mi"}}});
    let one = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let rate = json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "5"}}});
    let shown = "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}";
    for (spec, reading, replicas, name, current) in [
        (
            object(json!({"type": "Value", "value": "10"})),
            Reading::Amount(20_000),
            4,
            "Service metric q".to_owned(),
            json!({"value": "20"}),
        ),
        (
            object(json!({"type": "AverageValue", "averageValue": "10"})),
            Reading::Amount(15_000),
            2,
            format!("external metric q({shown})"),
            json!({"averageValue": "7500m"}),
        ),
        (
            outside(json!({"type": "Value", "value": "10"})),
            Reading::Amounts(vec![5_000, 25_000]),
            6,
            format!("external metric q({shown})"),
            json!({"value": "30"}),
        ),
        (
            memory,
            Reading::Pods(used(&[2 << 20, 2 << 20].map(|b: i64| b * 1000))),
            4,
            "memory resource".to_owned(),
            json!({"averageValue": "2Mi"}),
        ),
        (
            one.clone(),
            Reading::Pods(used(&[500, 500])),
            2,
            "cpu container resource utilization (percentage of request)".to_owned(),
            json!({"averageUtilization": 50, "averageValue": "500m"}),
        ),
        (
            rate.clone(),
            Reading::Pods(used(&[10_000, 10_500])),
            5,
            "pods metric rps".to_owned(),
            json!({"averageValue": "10250m"}),
        ),
    ] {
        let proposed = of(spec, Ok(reading)).expect("a proposal");
        assert_eq!((proposed.replicas, &proposed.metric), (replicas, &name));
        let status = serde_json::to_value(&proposed.status).expect("JSON");
        let source = status.as_object().expect("an object").iter().find(|(key, _)| *key != "type").expect("a source").1;
        assert_eq!(source["current"], current, "{name}");
    }
    let why = || Err("why".to_owned());
    for (spec, reason, text, error) in [
        (
            cpu(),
            "FailedGetResourceMetric",
            "failed to get cpu utilization: unable to get metrics for resource cpu: why",
            "failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: why",
        ),
        (
            one,
            "FailedGetContainerResourceMetric",
            "failed to get cpu utilization: unable to get metrics for resource cpu: why",
            "failed to get c container metric value: failed to get cpu utilization: unable to get metrics for resource cpu: why",
        ),
        (
            rate,
            "FailedGetPodsMetric",
            "unable to get metric rps: why",
            "failed to get pods metric value: unable to get metric rps: why",
        ),
        (
            object(json!({"type": "Value", "value": "10"})),
            "FailedGetObjectMetric",
            "unable to get metric q: why on Service ns/s",
            "failed to get object metric value: unable to get metric q: why on Service ns/s",
        ),
    ] {
        let failure = of(spec, why()).expect_err("a failure");
        assert_eq!((failure.reason, failure.text.as_str(), failure.error.as_str()), (reason, text, error));
    }
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let mut report = Report::default();
    report.condition("A", true, "R", "m", at(0));
    report.condition("A", true, "S", "n", at(9));
    let all = report.status.conditions.clone().expect("conditions");
    assert_eq!(
        (all.len(), all[0].reason.as_deref(), all[0].last_transition_time.as_ref().map(|t| t.0)),
        (1, Some("S"), Some(at(0)))
    );
    report.condition("A", false, "S", "n", at(9));
    assert_eq!(
        report.status.conditions.expect("conditions")[0].last_transition_time.as_ref().map(|t| t.0),
        Some(at(9))
    );
    let none = Measured::default();
    assert!(none.replicas.is_none() && none.error.is_none());
}
