//! What a pod costs: time until its container runs, beside the OCI runtime alone, and the memory of its shim.

use super::support::{Node, can_run, oci_runtime};
use container::Runtime;
use std::{fs, process::Command, time::Duration};
use tokio::time::Instant;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap()
}

/// The same files for the runtime alone, with its own default configuration.
fn bundle(node: &Node) -> tempfile::TempDir {
    let bundle = tempfile::tempdir().unwrap();
    let root = bundle.path().join("rootfs");
    assert!(Command::new("cp").arg("-a").arg(&node.layer).arg(root).status().unwrap().success());
    let runc = oci_runtime("runc").unwrap();
    assert!(Command::new(&runc).args(["spec", "--bundle"]).arg(bundle.path()).status().unwrap().success());
    let config = bundle.path().join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["true"]);
    fs::write(&config, spec.to_string()).unwrap();
    bundle
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures of this machine"]
async fn figures() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    let (bundle, runc) = (bundle(&node), oci_runtime("runc").unwrap());
    let (mut times, mut alone) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let pod = format!("pod-{number}");
        let spec = node.sh("sleep 1000");
        let before = Instant::now();
        node.pod(&pod).await;
        let sandbox = before.elapsed();
        let id = spec.id.clone();
        node.runtime.create(&pod.as_str().into(), spec).await.unwrap();
        let created = before.elapsed();
        node.runtime.start(&id).await.unwrap();
        times.push((sandbox, created, before.elapsed()));
        // in turn, since the machine has other work
        let before = Instant::now();
        let id = format!("figure-{}-{number}", std::process::id());
        assert!(Command::new(&runc).args(["run", "--bundle"]).arg(bundle.path()).arg(id).status().unwrap().success());
        alone.push(before.elapsed());
    }
    let column = |of: fn(&(Duration, Duration, Duration)) -> Duration| median(times.iter().map(of).collect());
    println!("sandbox {:?}, created {:?}, running {:?} (p50)", column(|it| it.0), column(|it| it.1), column(|it| it.2));
    println!("runc run true {:?} (p50)", median(alone));
    let shims: Vec<u64> = (0..20).map(|number| pss(node.shim(&format!("pod-{number}")))).collect();
    println!("PSS of 20 shims {} KiB", shims.iter().sum::<u64>());
    let before = Instant::now();
    node.runtime.remove_sandbox(&"pod-0".into()).await.unwrap();
    println!("removed {:?}", before.elapsed());
    let before = Instant::now();
    let many = (0..100).map(|number| {
        let node = &node;
        async move {
            let pod = format!("many-{number}");
            node.pod(&pod).await;
            node.start(&pod, node.sh("sleep 1000")).await;
        }
    });
    futures::future::join_all(many).await;
    println!("100 pods run after {:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures of this machine"]
async fn one_pod() {
    let node = Node::new().await;
    node.pod("one").await;
    println!("PSS of the only shim {} KiB", pss(node.shim("one")));
    let (mut creates, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        let spec = node.sh("sleep 1000");
        let id = spec.id.clone();
        let before = Instant::now();
        node.runtime.create(&"one".into(), spec).await.unwrap();
        creates.push(before.elapsed());
        let before = Instant::now();
        node.runtime.start(&id).await.unwrap();
        starts.push(before.elapsed());
        node.runtime.remove(&id).await.unwrap();
    }
    println!("create {:?}, start {:?} (p50), PSS {} KiB", median(creates), median(starts), pss(node.shim("one")));
}
