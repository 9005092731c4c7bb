//! ResourceQuotas: nobody exceeds them, and their status says what is used.

use crate::world::{DEPLOYMENTS, World, condition, deployment};
use serde_json::{Value, json};
use tokio::time::Instant;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn quota(name: &str, hard: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}})
}

fn used(world: &World, name: &str) -> Value {
    world.find("", "resourcequotas", name).unwrap()["status"]["used"].clone()
}

async fn create_map(world: &World, name: String) -> Result<(), String> {
    let made = world.try_call("POST", MAPS, json!({"metadata": {"name": name}})).await;
    made.map(drop).map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn many_writers_at_once_never_exceed_a_quota_also_after_a_start() {
    let (log, begin) = (store::Memory::default(), Instant::now());
    let world = World::over(log.clone(), 1, begin).await;
    world.until("the certificate of the API", |w| w.find("", "configmaps", "kube-root-ca.crt").is_some()).await;
    let before = world.all("", "configmaps").len();
    world.call("POST", QUOTAS, quota("maps", &json!({"configmaps": before + 7, "count/configmaps": 1_000}))).await;
    let tries = futures::future::join_all((0..40).map(|n| create_map(&world, format!("m{n}")))).await;
    let refused: Vec<&String> = tries.iter().filter_map(|one| one.as_ref().err()).collect();
    assert_eq!((tries.len() - refused.len(), world.all("", "configmaps").len()), (7, before + 7));
    let full = before + 7;
    for text in refused {
        let expected = format!(
            "exceeded quota: maps, requested: configmaps=1, used: configmaps={full}, limited: configmaps={full}"
        );
        assert!(text.ends_with(&expected) && text.starts_with("configmaps \"m"), "{text}");
    }
    let told = |count: usize| {
        move |w: &World| {
            used(w, "maps") == json!({"configmaps": count.to_string(), "count/configmaps": count.to_string()})
        }
    };
    world.until("the status", told(full)).await;
    // A name that is taken is no use of the quota, and there is room as soon as something is deleted.
    let first = world
        .all("", "configmaps")
        .iter()
        .find_map(|map| map["metadata"]["name"].as_str().filter(|n| n.starts_with('m')).map(str::to_owned))
        .unwrap();
    world.call("DELETE", &format!("{MAPS}/{first}"), Value::Null).await;
    let other = world
        .all("", "configmaps")
        .iter()
        .find_map(|map| map["metadata"]["name"].as_str().filter(|n| n.starts_with('m')).map(str::to_owned))
        .unwrap();
    for _ in 0..3 {
        assert_eq!(create_map(&world, other.clone()).await, Err(format!("configmaps \"{other}\" already exists")));
    }
    let dry = world.try_call("POST", &format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "dry"}})).await;
    assert!(dry.is_ok(), "{dry:?}");
    world.until("the status", told(full - 1)).await;
    create_map(&world, "again".to_owned()).await.unwrap();
    world.until("the status", told(full)).await;
    world.end().await;
    // Who starts counts first.
    let world = World::over(log, 2, begin).await;
    let tries = futures::future::join_all((0..10).map(|n| create_map(&world, format!("late{n}")))).await;
    assert!(tries.iter().all(|one| one.as_ref().is_err_and(|text| text.contains("exceeded quota: maps"))), "{tries:?}");
    world.call("PATCH", &format!("{QUOTAS}/maps"), json!({"spec": {"hard": {"configmaps": full + 2}}})).await;
    let tries = futures::future::join_all((0..10).map(|n| create_map(&world, format!("more{n}")))).await;
    assert_eq!(tries.iter().filter(|one| one.is_ok()).count(), 2, "{tries:?}");
    world.until("the status", told(full + 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_gets_the_pods_that_its_quota_allows() {
    let world = World::start().await;
    let hard = json!({"pods": 3, "requests.cpu": "250m", "count/replicasets.apps": 5});
    world.call("POST", QUOTAS, quota("q", &hard)).await;
    let mut wanted = deployment("d", 5, "i:1");
    wanted["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "50m"}});
    world.call("POST", DEPLOYMENTS, wanted).await;
    let running = |n: usize| move |w: &World| w.in_phase("Running") == n;
    world.until("three pods", running(3)).await;
    let told = |pods: &str, cpu: &str| {
        let expected = json!({"pods": pods, "requests.cpu": cpu, "count/replicasets.apps": "1"});
        move |w: &World| used(w, "q") == expected
    };
    world.until("the status", told("3", "150m")).await;
    world
        .until("the Deployment to say so", |w| {
            let deployment = w.find("apps", "deployments", "d").unwrap();
            let failure =
                deployment["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "ReplicaFailure");
            let text = "exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3";
            failure.is_some_and(|c| c["reason"] == "FailedCreate" && c["message"].as_str().unwrap().ends_with(text))
        })
        .await;
    world.call("PATCH", &format!("{QUOTAS}/q"), json!({"spec": {"hard": {"pods": 10}}})).await;
    world.until("five pods", running(5)).await;
    world.until("the status", told("5", "250m")).await;
    let bare = json!({"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let error = world.try_call("POST", PODS, bare).await.unwrap_err().to_string();
    assert_eq!(error, "pods \"bare\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    world.call("DELETE", &format!("{DEPLOYMENTS}/d"), Value::Null).await;
    let none = json!({"pods": "0", "requests.cpu": "0", "count/replicasets.apps": "0"});
    world.until("nothing to be used", |w| used(w, "q") == none).await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_have_ended_use_no_more_than_their_number() {
    let mut world = World::empty(1).await;
    world.node("n1", 4, |_, _| container::fake::Script::Exit(std::time::Duration::from_secs(1), 0)).await;
    world.call("POST", QUOTAS, quota("q", &json!({"pods": 1, "count/pods": 5}))).await;
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}});
    world.call("POST", PODS, pod("a")).await;
    assert!(world.try_call("POST", PODS, pod("b")).await.is_err());
    world.until("it to end", |w| condition(&w.pods()[0], "Ready") == "False" && w.in_phase("Succeeded") == 1).await;
    world.call("POST", PODS, pod("b")).await;
    world.until("both to be counted", |w| used(w, "q") == json!({"pods": "0", "count/pods": "2"})).await;
    let changed = json!({"status": {"used": {"pods": "7"}}});
    world.call("PATCH", &format!("{QUOTAS}/q/status"), changed).await;
    world.until("what others write to be put right", |w| used(w, "q") == json!({"pods": "0", "count/pods": "2"})).await;
}
