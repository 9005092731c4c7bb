//! What a user does with each controller, up to a state that lasts. Whoever plays one sees to it that nothing else than the controllers
//! decides how it ends.

mod others;

use crate::world::{DEPLOYMENTS, PODS, World, complete, condition, deployment};
use container::fake::Script;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::time::Duration;

/// A scenario: how many nodes it begins with, and what happens.
pub struct Scenario {
    pub nodes: usize,
    pub play: for<'a> fn(&'a mut World) -> BoxFuture<'a, ()>,
}

/// How a container ends, by its name.
pub fn script(name: &str) -> Script {
    match name {
        "good" => Script::Exit(Duration::from_secs(2), 0),
        "slow" => Script::Exit(Duration::from_secs(150), 0),
        "bad" => Script::Exit(Duration::from_secs(1), 1),
        "fatal" => Script::Exit(Duration::from_secs(1), 42),
        _ => Script::Run,
    }
}

const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const DAEMONS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const CRONS: &str = "/apis/batch/v1/namespaces/default/cronjobs";

/// A spec with parts of another.
fn with(mut object: Value, spec: Value) -> Value {
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

/// A pod template of one container.
fn template(app: &str, container: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": container, "image": "i:1"}]}})
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn replicas(number: i64) -> Value {
    json!({"spec": {"replicas": number}})
}

/// Whether all counts of a status are the replicas of the spec.
fn counted(world: &World, (group, resource, name): (&str, &str, &str), fields: &[&str]) -> bool {
    let Some(object) = world.find(group, resource, name) else { return false };
    let wanted = object["spec"]["replicas"].as_i64().unwrap();
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
        && fields.iter().all(|field| object["status"][field].as_i64().unwrap_or(0) == wanted)
        && i64::try_from(world.all("", "pods").len()).unwrap() == wanted
}

fn finished(world: &World, job: &str, kind: &str) -> bool {
    world.find("batch", "jobs", job).is_some_and(|job| condition(&job, kind) == "True")
}

async fn patch(world: &World, url: &str, body: Value) {
    world.call("PATCH", url, body).await;
}

/// A Deployment: rollout, another template, back to the first, and more replicas.
const DEPLOYMENT: Scenario = Scenario { nodes: 2, play: |w| Box::pin(deployment_rolls_out_and_back(w)) };

async fn deployment_rolls_out_and_back(world: &mut World) {
    let url = format!("{DEPLOYMENTS}/web");
    let rolled = |w: &World, image: &str| {
        complete(w, "web")
            && w.all("", "pods").iter().all(|pod| pod["spec"]["containers"][0]["image"] == image)
            && w.all("", "pods").len() == complete_size(w)
    };
    world.call("POST", DEPLOYMENTS, deployment("web", 3, "i:1")).await;
    world.until("the first rollout", |w| rolled(w, "i:1")).await;
    for image in ["i:2", "i:1"] {
        let template = deployment("web", 3, image)["spec"]["template"].take();
        patch(world, &url, json!({"spec": {"template": template}})).await;
        world.until("another rollout", |w| rolled(w, image)).await;
    }
    patch(world, &url, replicas(5)).await;
    world.until("more replicas", |w| rolled(w, "i:1")).await;
}

fn complete_size(world: &World) -> usize {
    world.find("apps", "deployments", "web").unwrap()["spec"]["replicas"].as_u64().unwrap() as usize
}

/// A Deployment that recreates.
const RECREATE: Scenario = Scenario { nodes: 1, play: |w| Box::pin(deployment_recreates(w)) };

async fn deployment_recreates(world: &mut World) {
    let made = with(deployment("web", 2, "i:1"), json!({"strategy": {"type": "Recreate"}}));
    world.call("POST", DEPLOYMENTS, made).await;
    world.until("the first rollout", |w| complete(w, "web")).await;
    patch(world, &format!("{DEPLOYMENTS}/web"), image("i:2")).await;
    let renewed = |w: &World| w.pods().iter().all(|pod| pod["spec"]["containers"][0]["image"] == "i:2");
    world.until("another rollout", |w| complete(w, "web") && renewed(w) && w.all("", "pods").len() == 2).await;
}

/// A ReplicaSet and a ReplicationController: up, down, up again.
const REPLICAS: Scenario = Scenario { nodes: 2, play: |w| Box::pin(replicas_go_up_and_down(w)) };

async fn replicas_go_up_and_down(world: &mut World) {
    for (group, resource, root, selector) in [
        ("apps", "replicasets", "/apis/apps/v1", json!({"matchLabels": {"app": "r"}})),
        ("", "replicationcontrollers", "/api/v1", json!({"app": "r"})),
    ] {
        let url = format!("{root}/namespaces/default/{resource}");
        let set = json!({"metadata": {"name": "r"}, "spec": {"replicas": 3, "selector": selector, "template": template("r", "c")}});
        world.call("POST", &url, set).await;
        let url = format!("{url}/r");
        let whole = |w: &World| counted(w, (group, resource, "r"), &["replicas", "readyReplicas", "availableReplicas"]);
        world.until("three", whole).await;
        for number in [1, 4] {
            patch(world, &url, replicas(number)).await;
            world.until("others", whole).await;
        }
        if resource == "replicasets" {
            world.call("DELETE", &url, json!({"propagationPolicy": "Background"})).await;
            world.until("all to go", |w| w.all("", "pods").is_empty()).await;
        }
    }
}

/// A StatefulSet with claims, in order: rollout, update, fewer, more.
const STATEFULSET: Scenario = Scenario { nodes: 1, play: |w| Box::pin(statefulset(w, "OrderedReady")) };

/// The same at once.
const PARALLEL: Scenario = Scenario { nodes: 1, play: |w| Box::pin(statefulset(w, "Parallel")) };

async fn statefulset(world: &mut World, order: &str) {
    let url = format!("{SETS}/db");
    let mut template = template("db", "c");
    template["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let claim = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db", "podManagementPolicy": order,
        "selector": {"matchLabels": {"app": "db"}}, "template": template, "volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"}}});
    let whole = |w: &World| {
        let set = w.find("apps", "statefulsets", "db").unwrap();
        counted(w, ("apps", "statefulsets", "db"), &["replicas", "readyReplicas", "updatedReplicas"])
            && set["status"]["currentRevision"] == set["status"]["updateRevision"]
    };
    world.call("POST", SETS, set).await;
    world.until("the first rollout", whole).await;
    patch(world, &url, image("i:2")).await;
    world.until("the update", whole).await;
    patch(world, &url, replicas(1)).await;
    world.until("the second claim to go", |w| whole(w) && w.all("", "persistentvolumeclaims").len() == 1).await;
    patch(world, &url, replicas(3)).await;
    world.until("more", whole).await;
}

/// A DaemonSet: rollout, update with a surge, and a node that comes.
const DAEMONSET: Scenario = Scenario { nodes: 2, play: |w| Box::pin(daemonset(w)) };

async fn daemonset(world: &mut World) {
    let set = json!({"metadata": {"name": "log"}, "spec": {"selector": {"matchLabels": {"app": "log"}}, "template": template("log", "c")}});
    let whole = |w: &World, wanted: usize| {
        let set = w.find("apps", "daemonsets", "log").unwrap();
        let fields = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ];
        set["status"]["observedGeneration"] == set["metadata"]["generation"]
            && fields.iter().all(|field| set["status"][field] == wanted)
            && w.all("", "pods").len() == wanted
    };
    world.call("POST", DAEMONS, set).await;
    world.until("the first rollout", |w| whole(w, 2)).await;
    patch(world, &format!("{DAEMONS}/log"), image("i:2")).await;
    world.until("the update", |w| whole(w, 2)).await;
    world.node("n3", 4, |name, _| script(name)).await;
    world.until("the third", |w| whole(w, 3)).await;
    let surge = json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    patch(world, &format!("{DAEMONS}/log"), surge).await;
    patch(world, &format!("{DAEMONS}/log"), image("i:3")).await;
    world.until("the update with a surge", |w| whole(w, 3)).await;
}

fn job(name: &str, container: &str, spec: Value) -> Value {
    let mut template = template(name, container);
    template["spec"]["restartPolicy"] = "Never".into();
    with(json!({"metadata": {"name": name}, "spec": {"template": template}}), spec)
}

/// Jobs that complete: several at a time, indexed, and suspended in between.
const JOBS_COMPLETE: Scenario = Scenario { nodes: 1, play: |w| Box::pin(jobs_complete(w)) };

async fn jobs_complete(world: &mut World) {
    world.call("POST", JOBS, job("plain", "good", json!({"completions": 4, "parallelism": 2}))).await;
    world.until("completion", |w| finished(w, "plain", "Complete")).await;
    let indexed = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2});
    world.call("POST", JOBS, job("indexed", "good", indexed)).await;
    world.until("completion", |w| finished(w, "indexed", "Complete")).await;
    world.call("POST", JOBS, job("paused", "good", json!({"completions": 2, "suspend": true}))).await;
    world.until("a suspension", |w| finished(w, "paused", "Suspended")).await;
    patch(world, &format!("{JOBS}/paused"), json!({"spec": {"suspend": false}})).await;
    world.until("completion", |w| finished(w, "paused", "Complete")).await;
    world.until("no pod to be held", released).await;
}

/// Whether no pod is held for the count of its Job.
fn released(world: &World) -> bool {
    world.all("", "pods").iter().all(|pod| pod["metadata"]["finalizers"].is_null())
}

/// Jobs that fail: by their limit, by index, by policy, and by their deadline.
const JOBS_FAIL: Scenario = Scenario { nodes: 1, play: |w| Box::pin(jobs_fail(w)) };

async fn jobs_fail(world: &mut World) {
    world.call("POST", JOBS, job("limited", "bad", json!({"backoffLimit": 1}))).await;
    let by_index = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1});
    world.call("POST", JOBS, job("by-index", "bad", by_index)).await;
    let rule = json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}});
    let policy = json!({"parallelism": 1, "completions": 3, "podFailurePolicy": {"rules": [rule]}});
    world.call("POST", JOBS, job("policy", "fatal", policy)).await;
    world.call("POST", JOBS, job("late", "c", json!({"activeDeadlineSeconds": 30}))).await;
    for name in ["limited", "by-index", "policy", "late"] {
        world.until("a failure", |w| finished(w, name, "Failed")).await;
    }
    world.until("no pod to be held", released).await;
}

/// A finished Job that goes when its time is up, and one of a success policy.
const JOBS_GO: Scenario = Scenario { nodes: 1, play: |w| Box::pin(jobs_go(w)) };

async fn jobs_go(world: &mut World) {
    world.call("POST", JOBS, job("short", "good", json!({"ttlSecondsAfterFinished": 20, "completions": 2}))).await;
    let first = json!({"rules": [{"succeededIndexes": "0"}]});
    let early = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 1, "successPolicy": first});
    world.call("POST", JOBS, job("early", "good", early)).await;
    world.until("success", |w| finished(w, "early", "Complete")).await;
    world.until("the end", |w| w.find("batch", "jobs", "short").is_none() && w.all("", "pods").len() == 1).await;
}

/// A CronJob for some minutes, and one that waits for the Job before.
const CRONJOB: Scenario = Scenario { nodes: 1, play: |w| Box::pin(cronjobs(w)) };

async fn cronjobs(world: &mut World) {
    for (name, container, policy) in [("tick", "good", "Allow"), ("wait", "slow", "Forbid")] {
        let cron = json!({"metadata": {"name": name}, "spec": {"schedule": "* * * * *", "concurrencyPolicy": policy,
            "successfulJobsHistoryLimit": 2, "jobTemplate": {"spec": job(name, container, json!({}))["spec"]}}});
        world.call("POST", CRONS, cron).await;
    }
    // Between two minutes, when nothing happens for a while.
    let rest = 60 - world.elapsed().as_secs() % 60;
    world.pass(rest + 5 * 60 + 10).await;
    for name in ["tick", "wait"] {
        patch(world, &format!("{CRONS}/{name}"), json!({"spec": {"suspend": true}})).await;
    }
    let done = |w: &World| {
        let crons = w.all("batch", "cronjobs");
        crons.iter().all(|cron| cron["status"]["active"].as_array().is_none_or(Vec::is_empty))
    };
    world.until("the last Job", done).await;
}

/// A HorizontalPodAutoscaler that makes two of one.
const AUTOSCALER: Scenario = Scenario { nodes: 1, play: |w| Box::pin(autoscaler(w)) };

async fn autoscaler(world: &mut World) {
    let mut web = deployment("web", 1, "i:1");
    web["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "500m"}});
    world.call("POST", DEPLOYMENTS, web).await;
    let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}]);
    let made = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 3, "metrics": cpu,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    world.call("POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", made).await;
    let told = |w: &World| {
        let hpa = w.find("autoscaling", "horizontalpodautoscalers", "web").unwrap();
        hpa["status"]["currentReplicas"] == 3 && condition(&hpa, "ScalingLimited") == "True"
    };
    world.until("three replicas", |w| complete(w, "web") && complete_size(w) == 3 && told(w)).await;
    world.pass(60).await;
}

/// A PodDisruptionBudget, and an eviction that it allows.
const BUDGET: Scenario = Scenario { nodes: 1, play: |w| Box::pin(budget(w)) };

async fn budget(world: &mut World) {
    world.call("POST", DEPLOYMENTS, deployment("web", 3, "i:1")).await;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let url = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    world.call("POST", url, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let allowed = |w: &World| {
        let status = &w.find("policy", "poddisruptionbudgets", "web").unwrap()["status"];
        status["disruptionsAllowed"] == 1 && status["currentHealthy"] == 3 && status["disruptedPods"].is_null()
    };
    world.until("a disruption to be allowed", |w| complete(w, "web") && allowed(w)).await;
    let pod = world.pods()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}});
    world.call("POST", &format!("{PODS}/{pod}/eviction"), eviction).await;
    world.until("the pod to go", |w| w.find("", "pods", &pod).is_none()).await;
    world.until("another", |w| complete(w, "web") && allowed(w)).await;
}

/// All scenarios, with their names.
pub const ALL: &[(&str, Scenario)] = &[
    ("deployment", DEPLOYMENT),
    ("recreate", RECREATE),
    ("replicas", REPLICAS),
    ("statefulset", STATEFULSET),
    ("parallel", PARALLEL),
    ("daemonset", DAEMONSET),
    ("jobs complete", JOBS_COMPLETE),
    ("jobs fail", JOBS_FAIL),
    ("jobs go", JOBS_GO),
    ("cronjob", CRONJOB),
    ("autoscaler", AUTOSCALER),
    ("budget", BUDGET),
    ("quota", others::QUOTA),
    ("namespace", others::NAMESPACE),
    ("owners", others::OWNERS),
    ("volumes", others::VOLUMES),
    ("service", others::SERVICE),
    ("node", others::NODE),
    ("scheduler", others::SCHEDULER),
];
