//! HorizontalPodAutoscalers: replicas by the use of CPU, through the API's metrics and scales. A container here always uses half a core.

use crate::world::{DEPLOYMENTS, World, deployment};
use serde_json::{Value, json};

const V2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const OF_PODS: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods";
const OF_SERVICES: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/services";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";

fn cpu(percent: i32) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}])
}

fn autoscaler(name: &str, spec: Value) -> Value {
    let mut made = json!({"metadata": {"name": name}, "spec": {"maxReplicas": 3, "metrics": cpu(60),
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    made["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    made
}

/// A Deployment whose pods request half a core, and so use all that they request.
async fn web(world: &World, replicas: i64) {
    let mut web = deployment("web", replicas, "i:1");
    web["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "500m"}});
    world.call("POST", DEPLOYMENTS, web).await;
}

fn replicas(world: &World) -> i64 {
    world.find("apps", "deployments", "web").unwrap()["spec"]["replicas"].as_i64().unwrap()
}

fn condition(world: &World, name: &str, kind: &str) -> (String, String, String) {
    let hpa = world.find("autoscaling", "horizontalpodautoscalers", name).unwrap();
    let found = hpa["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind).cloned();
    let text = |field: &str| found.as_ref().and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[tokio::test(start_paused = true)]
async fn replicas_follow_the_use_of_cpu_up_and_down() {
    let world = World::start().await;
    web(&world, 1).await;
    world.call("POST", V2, autoscaler("web", json!({}))).await;
    world.until("two replicas", |w| replicas(w) == 2).await;
    world.until("three replicas", |w| replicas(w) == 3).await;
    world.until("the limit to be said", |w| condition(w, "web", "ScalingLimited").0 == "True").await;
    let (_, reason, message) = condition(&world, "web", "ScalingLimited");
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
    );
    world.pass(60).await;
    assert_eq!(replicas(&world), 3);
    let hpa = world.call("GET", &format!("{V2}/web"), Value::Null).await;
    assert_eq!((&hpa["status"]["currentReplicas"], &hpa["status"]["desiredReplicas"]), (&json!(3), &json!(3)));
    let current = json!({"averageUtilization": 100, "averageValue": "500m"});
    assert_eq!(hpa["status"]["currentMetrics"][0]["resource"]["current"], current);
    let reason = "cpu resource utilization (percentage of request) above target";
    let said = format!("\"web\" \"SuccessfulRescale\" \"New size: 2; reason: {reason}\"");
    assert!(world.events().contains(&said), "{:#?}", world.events());

    world.call("PATCH", &format!("{V2}/web"), json!({"spec": {"metrics": cpu(300)}})).await;
    let begin = world.elapsed();
    world.until("a decrease to be held back", |w| condition(w, "web", "AbleToScale").1 == "ScaleDownStabilized").await;
    world.until("one replica", |w| replicas(w) == 1).await;
    let took = (world.elapsed() - begin).as_secs();
    assert!((240..330).contains(&took), "after the highest recommendation of five minutes: {took}");
    world.call("DELETE", &format!("{V2}/web"), Value::Null).await;
    world.call("PATCH", &format!("{DEPLOYMENTS}/web"), json!({"spec": {"replicas": 2}})).await;
    world.pass(120).await;
    assert_eq!(replicas(&world), 2, "nobody scales any more");
}

#[tokio::test(start_paused = true)]
async fn a_policy_limits_each_step() {
    let world = World::start().await;
    web(&world, 1).await;
    let rules = json!({"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]});
    let spec = json!({"minReplicas": 2, "maxReplicas": 4, "metrics": cpu(10), "behavior": {"scaleUp": rules}});
    world.call("POST", V2, autoscaler("web", spec)).await;
    world.until("the minimum", |w| replicas(w) == 2).await;
    world.until("three replicas", |w| replicas(w) == 3).await;
    let third = world.elapsed();
    world.until("a step to be held back", |w| condition(w, "web", "ScalingLimited").1 == "ScaleUpLimit").await;
    world.until("four replicas", |w| replicas(w) == 4).await;
    let took = (world.elapsed() - third).as_secs();
    assert!((55..80).contains(&took), "a pod a minute: {took}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_measured_or_scaled_is_said() {
    let world = World::start().await;
    web(&world, 1).await;
    let target = |version: &str, kind: &str, name: &str| json!({"scaleTargetRef": {"apiVersion": version, "kind": kind, "name": name}});
    let rate = json!([{"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]);
    let outside =
        json!([{"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "1"}}}]);
    let scale = "the HPA controller was unable to get the target's current scale: ";
    let count = "the HPA was unable to compute the replica count: ";
    for (name, spec, kind, reason, message) in [
        (
            "absent",
            target("apps/v1", "Deployment", "none"),
            "AbleToScale",
            "FailedGetScale",
            format!("{scale}deployments.apps \"none\" not found"),
        ),
        (
            "odd",
            target("example.com/v1", "Odd", "o"),
            "AbleToScale",
            "FailedGetScale",
            format!("{scale}no matches for kind \"Odd\" in group \"example.com\""),
        ),
        (
            "rate",
            json!({ "metrics": rate }),
            "ScalingActive",
            "FailedGetPodsMetric",
            format!(
                "{count}unable to get metric rps: unable to fetch metrics from custom metrics API: the server could not find the requested resource"
            ),
        ),
    ] {
        world.call("POST", V2, autoscaler(name, spec)).await;
        world.until(name, |w| condition(w, name, kind).0 == "False").await;
        assert_eq!(condition(&world, name, kind), ("False".into(), reason.into(), message), "{name}");
        world.call("DELETE", &format!("{V2}/{name}"), Value::Null).await;
    }
    world.call("POST", V2, autoscaler("outside", json!({ "metrics": outside }))).await;
    world.until("the failure", |w| condition(w, "outside", "ScalingActive").1 == "FailedGetExternalMetric").await;
    let (_, _, message) = condition(&world, "outside", "ScalingActive");
    let why = "the server could not find the requested resource (get q.external.metrics.k8s.io)";
    assert!(message.ends_with(why), "{message}");
    assert!(
        world.events().iter().any(|event| event.contains("\"FailedComputeMetricsReplicas\"")),
        "{:#?}",
        world.events()
    );

    world.call("POST", V2, autoscaler("other", json!({}))).await;
    world
        .until("the second to see the first", |w| condition(w, "other", "ScalingActive").1 == "AmbiguousSelector")
        .await;
    let (_, _, message) = condition(&world, "other", "ScalingActive");
    assert_eq!(
        message,
        "pods by selector app=web are controlled by multiple HPAs: [{other default} {outside default}]"
    );
    assert_eq!(replicas(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn both_versions_are_one_object() {
    let world = World::start().await;
    web(&world, 2).await;
    let spec = json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 200,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}});
    world.call("POST", V1, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let new = world.call("GET", &format!("{V2}/web"), Value::Null).await;
    assert_eq!((&new["apiVersion"], &new["spec"]["metrics"]), (&json!("autoscaling/v2"), &cpu(200)));
    world.until("the metrics", |w| condition(w, "web", "ScalingActive").0 == "True").await;
    let old = world.call("GET", &format!("{V1}/web"), Value::Null).await;
    assert_eq!(old["status"]["currentCPUUtilizationPercentage"], 100);
    let conditions = old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/conditions"].as_str().unwrap();
    assert!(conditions.contains("ValidMetricFound"), "{conditions}");
    // an update in v1 loses nothing that only v2 knows
    let behavior = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 30}]}});
    world.call("PATCH", &format!("{V2}/web"), json!({"spec": {"behavior": behavior}})).await;
    let mut old = world.call("GET", &format!("{V1}/web"), Value::Null).await;
    old["spec"]["maxReplicas"] = 5.into();
    world.call("PUT", &format!("{V1}/web"), old).await;
    let new = world.call("GET", &format!("{V2}/web"), Value::Null).await;
    assert_eq!((&new["spec"]["maxReplicas"], &new["spec"]["metrics"]), (&json!(5), &cpu(200)));
    assert_eq!(new["spec"]["behavior"]["scaleUp"]["policies"][0]["value"], 2);
    assert!(new["status"]["conditions"].as_array().is_some_and(|all| !all.is_empty()), "{new}");
    assert!(new["metadata"]["annotations"].is_null(), "{new}");
}

/// A Deployment behind a Service. A container with a port serves ten requests a second.
async fn behind_a_service(world: &World, replicas: i64, ports: Value) {
    let mut web = deployment("web", replicas, "i:1");
    web["spec"]["template"]["spec"]["containers"][0]["ports"] = ports;
    world.call("POST", DEPLOYMENTS, web).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world.call("POST", SERVICES, service).await;
    world.until("the pods to run", |w| w.in_phase("Running") as i64 == replicas).await;
    world.pass(40).await;
}

/// The names of what the values of a list are of. Each is about ten a second for each of so many pods.
fn about_ten_of(list: &Value, pods: f64) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut names = Vec::new();
    for item in list["items"].as_array().unwrap() {
        let value: api::quantity::Quantity = text(&item["value"]).parse().unwrap();
        let each = value.milli_value() as f64 / 1000.0 / pods;
        assert!((9.0..11.5).contains(&each), "{item}");
        names.push(text(&item["describedObject"]["name"]));
    }
    names.sort();
    names
}

fn of_the_service(target: Value) -> Value {
    let about = json!({"apiVersion": "v1", "kind": "Service", "name": "web"});
    json!([{"type": "Object", "object": {"metric": {"name": "http_requests_per_second"}, "describedObject": about, "target": target}}])
}

#[tokio::test(start_paused = true)]
async fn requests_a_second_are_a_metric_of_pods_and_of_their_service() {
    let world = World::start().await;
    behind_a_service(&world, 2, json!([{"containerPort": 80}])).await;
    let get = async |url: String| world.call("GET", &url, Value::Null).await;
    let list = get(format!("{OF_PODS}/*/http_requests_per_second?labelSelector=app%3Dweb")).await;
    assert_eq!(list["kind"], "MetricValueList");
    let mut names: Vec<String> =
        world.pods().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(about_ten_of(&list, 1.0), names);
    let window = list["items"][0]["windowSeconds"].as_i64().unwrap();
    assert!((10..=30).contains(&window), "{list}");
    let one = get(format!("{OF_PODS}/{}/http_requests_per_second", names[0])).await;
    assert_eq!(about_ten_of(&one, 1.0), names[..1]);
    let service = get(format!("{OF_SERVICES}/web/http_requests_per_second")).await;
    assert_eq!(about_ten_of(&service, 2.0), ["web"]);
    assert_eq!(service["items"][0]["describedObject"]["kind"], "Service");
    for none in ["?labelSelector=app%3Dother", "?metricLabelSelector=a%3Db"] {
        let list = get(format!("{OF_PODS}/*/http_requests_per_second{none}")).await;
        assert_eq!(list["items"], json!([]), "{none}");
    }
    for (url, text) in [
        (format!("{OF_PODS}/x/http_requests_per_second"), "pods \"x\" not found"),
        (format!("{OF_SERVICES}/x/http_requests_per_second"), "services \"x\" not found"),
        (
            format!("{OF_SERVICES}/kubernetes/http_requests_per_second"),
            "could not find the metric http_requests_per_second for services kubernetes",
        ),
        (format!("{OF_PODS}/*/other"), "could not find the requested resource"),
    ] {
        let said = world.try_call("GET", &url, Value::Null).await.unwrap_err().to_string();
        assert!(said.contains(text), "{url}: {said}");
    }

    let rate = json!([{"type": "Pods", "pods": {"metric": {"name": "http_requests_per_second"}, "target": {"type": "AverageValue", "averageValue": "8"}}}]);
    world.call("POST", V2, autoscaler("web", json!({ "metrics": rate }))).await;
    world.until("three replicas", |w| replicas(w) == 3).await;
    world.call("DELETE", &format!("{V2}/web"), Value::Null).await;
    let shared = of_the_service(json!({"type": "AverageValue", "averageValue": "7"}));
    world.call("POST", V2, autoscaler("shared", json!({ "maxReplicas": 5, "metrics": shared }))).await;
    world.until("a replica for each seven", |w| replicas(w) == 5).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_nobody_asks_goes_down_to_no_pods() {
    let world = World::start().await;
    behind_a_service(&world, 2, json!([])).await;
    let spec = json!({"minReplicas": 0, "metrics": of_the_service(json!({"type": "Value", "value": "10"}))});
    world.call("POST", V2, autoscaler("web", spec)).await;
    world.until("no replicas", |w| replicas(w) == 0).await;
    assert_eq!(condition(&world, "web", "ScaledToZero").0, "True");
    world.pass(120).await;
    let (status, reason, _) = condition(&world, "web", "ScalingActive");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ValidMetricFound"), "it is still looked at");
    world.call("PATCH", &format!("{V2}/web"), json!({"spec": {"minReplicas": 1}})).await;
    world.until("the minimum", |w| replicas(w) == 1).await;
    assert_eq!(condition(&world, "web", "ScaledToZero").1, "NotScaledToZero");
}
