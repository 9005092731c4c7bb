//! The endpoints of the kubelet API for CPU and memory usage.

use super::world::World;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

async fn get(world: &World, path: &str) -> String {
    let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    let answer = world.agent.as_ref().unwrap().router().oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn summary(world: &World) -> Value {
    serde_json::from_str(&get(world, "/stats/summary").await).unwrap()
}

/// A node with a pod of two containers that have just started. Each uses half a core.
async fn world() -> World {
    let world = World::new().await;
    let limited = json!({"name": "a", "image": "i:1", "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}});
    world.pod("p", json!({"containers": [limited, {"name": "b", "image": "i:1"}]}));
    world.phase("p", "Running").await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_told_of_the_last_seconds_and_not_of_a_moment() {
    let world = world().await;
    let told = summary(&world).await;
    let pod = &told["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "default", "uid": "uid-p"}));
    let container = &pod["containers"][0];
    assert_eq!((&container["name"], &container["memory"]["workingSetBytes"]), (&json!("a"), &json!(1 << 20)));
    assert!(container["cpu"]["usageNanoCores"].is_null(), "{container}");
    assert!(pod["cpu"]["usageNanoCores"].is_null() && pod["cpu"]["usageCoreNanoSeconds"].is_number(), "{pod}");
    assert!(container["http"].is_null(), "it serves nothing: {container}");
    for wait in [11, 30, 300] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let told = summary(&world).await;
        for (cpu, cores) in [
            (&told["pods"][0]["containers"][1]["cpu"], 0.5),
            (&told["pods"][0]["cpu"], 1.0),
            (&told["node"]["cpu"], 0.25),
        ] {
            let window = cpu["windowNanoSeconds"].as_f64().unwrap() / 1e9;
            assert!((10.0..=30.0).contains(&window), "after {wait} s: {cpu}");
            let used = cpu["usageNanoCores"].as_f64().unwrap() / 1e9;
            assert!((used - cores).abs() < 0.01, "after {wait} s: {cpu}");
        }
        assert_eq!(told["node"]["memory"]["workingSetBytes"], 64 << 20);
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_are_named_as_the_kubelet_names_them() {
    let world = world().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let text = get(&world, "/metrics/resource").await;
    let line = |text: &str, start: &str| {
        let found = text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("{start} in {text}"))[start.len()..].trim().to_owned()
    };
    let of = "container=\"a\",namespace=\"default\",pod=\"p\"";
    let [value, at] = &line(&text, &format!("container_memory_working_set_bytes{{{of}}}"))
        .split(' ')
        .map(|field| field.parse::<u64>().unwrap())
        .collect::<Vec<_>>()[..]
    else {
        panic!("{text}")
    };
    assert_eq!(*value, 1 << 20);
    assert!(*at > 1_767_225_600_000, "the time of the reading in milliseconds: {at}");
    for start in [
        format!("container_cpu_usage_seconds_total{{{of}}}"),
        format!("container_start_time_seconds{{{of}}}"),
        "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"p\"}".into(),
        "pod_memory_working_set_bytes{namespace=\"default\",pod=\"p\"} 2097152".into(),
        "node_cpu_usage_seconds_total".into(),
        "node_memory_working_set_bytes 67108864".into(),
        "resource_scrape_error 0".into(),
    ] {
        line(&text, &start);
    }
    let text = get(&world, "/metrics/cadvisor").await;
    let id = world.runtime.specs().into_iter().find(|spec| spec.name == "a").unwrap().id;
    let of = format!("image=\"i:1\",name=\"{id}\",namespace=\"default\",pod=\"p\"");
    for start in [
        format!("container_cpu_usage_seconds_total{{container=\"a\",cpu=\"total\",{of}}}"),
        format!("container_memory_working_set_bytes{{container=\"a\",{of}}} 1048576"),
        format!("container_cpu_cfs_throttled_periods_total{{container=\"a\",{of}}} 0"),
        format!("container_spec_memory_limit_bytes{{container=\"a\",{of}}} 67108864"),
    ] {
        line(&text, &start);
    }
    assert!(!text.contains("container_spec_memory_limit_bytes{container=\"b\""), "there is none: {text}");
}
