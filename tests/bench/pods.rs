//! Figures of pods: from a manifest to Ready, memory of idle ones, and compilation.

use crate::{
    figures::{Table, answer, at, load_image, millis, until_answered},
    guests::serve,
    load::{Client, Connection},
    server::Server,
};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The node port of what is woken.
const PORT: u16 = 31_500;

async fn read(connection: &mut Connection, path: &str) -> Value {
    serde_json::from_slice(&connection.get(path).await).expect("JSON")
}

/// Waits until a value of an object is so.
async fn until(connection: &mut Connection, path: &str, what: &str, is: impl Fn(&Value) -> bool) {
    let begin = Instant::now();
    while !is(&read(connection, path).await) {
        assert!(begin.elapsed() < Duration::from_secs(300), "{path}: never {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// From the creation of pods whose image is compiled to their readiness; what idle ones hold, and give back.
pub async fn pods(table: &mut Table, folder: &Path, samples: &Path, replicas: u64) {
    load_image(folder, &samples.join("hello/hello.wasm"), "hello:1");
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "hello:1", "ports": [{"containerPort": 8080}]}]});
    let mut times = Vec::new();
    for number in 0..41 {
        let name = format!("p{number}");
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        let begin = Instant::now();
        connection.post("/api/v1/namespaces/default/pods", &pod).await;
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let is_ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        until(&mut connection, &path, "Ready", is_ready).await;
        // the first one compiles
        if number > 0 {
            times.push(begin.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    times.sort();
    let text = format!("p50 {}, p99 {}", millis(at(&times, 0.5)), millis(at(&times, 0.99)));
    table.row("a pod's creation → Ready (compiled; asked every ms)", "p50 ≤ 3 F + 3 ms", text);
    let before = server.memory();
    let labels = json!({"app": "many"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}});
    let (begin, cpu) = (Instant::now(), server.cpu());
    let path = "/apis/apps/v1/namespaces/default/deployments/many";
    connection.apply(path, &deployment).await;
    until(&mut connection, path, "ready", |deployment| deployment["status"]["readyReplicas"] == replicas).await;
    let (wall, cpu) = (begin.elapsed(), (server.cpu() - cpu).as_secs_f64());
    let each = cpu / replicas as f64 * 1e3;
    table.row(
        &format!("{replicas} pods of one image → Ready"),
        "1,000 < 2 s",
        format!("{} ({each:.1} ms CPU each)", millis(wall)),
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (held, cpu) = (server.memory(), server.cpu());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let idle = (server.cpu() - cpu).as_secs_f64() / 20.0 * 100.0;
    let kib = (held - before) * 1024.0 / replicas as f64;
    let text = format!("{held:.0} MiB, {kib:.1} KiB a pod, {idle:.2} % CPU");
    table.row(
        &format!("RSS of the whole cluster with {replicas} Ready idle pods"),
        "10,000 < 300 MiB, < 2 % CPU",
        text,
    );
    connection.call(Method::DELETE, path, "application/json", Bytes::new()).await;
    let path = "/api/v1/namespaces/default/pods?labelSelector=app%3Dmany&limit=1";
    until(&mut connection, path, "gone", |list| list["items"].as_array().is_some_and(Vec::is_empty)).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    table.row("… after their deletion", "", format!("{:.0} MiB ({before:.0} before them)", server.memory()));
    server.stop();
}

/// From a request to a Deployment at zero replicas to its answer: it is held, the Deployment is scaled up, its pod starts and answers. The
/// Deployment is put to zero with the mark that its controller writes, so that no time is spent on waiting for idleness.
pub async fn wake(table: &mut Table, folder: &Path, samples: &Path) {
    load_image(folder, &samples.join("hello/hello.wasm"), "hello:1");
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    serve(&mut connection, "hello", "hello:1", PORT, &json!({})).await;
    let answered = || tokio::task::spawn_blocking(|| until_answered(PORT));
    answered().await.expect("answered");
    let path = "/apis/apps/v1/namespaces/default/deployments/hello";
    let sleep = json!({"metadata": {"annotations": {"sampan.dev/scaled-to-zero": "1", "sampan.dev/scale-to-zero-after": "1h"}}, "spec": {"replicas": 0}});
    let mut times = Vec::new();
    for _ in 0..21 {
        let body = Bytes::from(sleep.to_string());
        connection.call(Method::PATCH, path, "application/merge-patch+json", body).await;
        let pods = "/api/v1/namespaces/default/pods?labelSelector=app%3Dhello&limit=1";
        until(&mut connection, pods, "gone", |list| list["items"].as_array().is_some_and(Vec::is_empty)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let time = tokio::task::spawn_blocking(|| answer(PORT)).await.expect("no panic");
        times.push(time.expect("held and answered"));
        let awake = |deployment: &Value| deployment["metadata"]["annotations"]["sampan.dev/scaled-to-zero"].is_null();
        until(&mut connection, path, "awake", awake).await;
    }
    times.sort();
    let text = format!("p50 {}, p99 {}", millis(at(&times, 0.5)), millis(at(&times, 0.99)));
    table.row("a request to a Deployment at zero replicas → its answer (compiled)", "", text);
    server.stop();
}

/// A component with other bytes that does the same: one more custom section.
fn another(component: &[u8], number: u8) -> Vec<u8> {
    // id 0, size 3, a name of one byte, content
    [component, &[0, 3, 1, b'n', number]].concat()
}

/// From a component that the node never saw to its first answer.
pub async fn compile(table: &mut Table, folder: &Path, samples: &Path) {
    let component = fs::read(samples.join("hello/hello.wasm")).expect("the sample");
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    let mut times = Vec::new();
    for number in 0..6u8 {
        let file = folder.join(format!("bench{number}.wasm"));
        fs::write(&file, another(&component, number)).expect("written");
        let (name, image, port) = (format!("c{number}"), format!("compile:{number}"), 31_200 + u16::from(number));
        load_image(folder, &file, &image);
        let begin = Instant::now();
        serve(&mut connection, &name, &image, port, &json!({})).await;
        until_answered(port);
        if number > 0 {
            times.push(begin.elapsed());
        }
    }
    times.sort();
    let size = component.len() / 1000;
    table.row(
        &format!("apply → 200 of a component of {size} kB, with compilation"),
        "70 kB < 60 ms",
        millis(at(&times, 0.5)),
    );
    server.stop();
}

/// From a new version of a component to its first pod: `SAMPAN_BENCH_VERSIONS` names files of versions, separated by commas.
pub async fn edit(table: &mut Table, folder: &Path) {
    let Some(files) = std::env::var_os("SAMPAN_BENCH_VERSIONS") else {
        return eprintln!("edit: name files of two versions by SAMPAN_BENCH_VERSIONS");
    };
    let files: Vec<PathBuf> = files.to_string_lossy().split(',').map(PathBuf::from).collect();
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    for (number, file) in files.iter().enumerate() {
        let image = format!("edited:{number}");
        let (begin, cpu) = (Instant::now(), server.all_cpu());
        load_image(folder, file, &image);
        serve(&mut connection, "edited", &image, 31_300, &json!({})).await;
        let is_live = |deployment: &Value| {
            let status = &deployment["status"];
            deployment["metadata"]["generation"] == status["observedGeneration"]
                && ["updatedReplicas", "readyReplicas", "replicas"].iter().all(|count| status[count] == 1)
        };
        until(&mut connection, "/apis/apps/v1/namespaces/default/deployments/edited", "live", is_live).await;
        let size = fs::metadata(file).expect("the file").len() as f64 / 1e6;
        let text = format!("{} ({:.1} s CPU)", millis(begin.elapsed()), (server.all_cpu() - cpu).as_secs_f64());
        let what = if number == 0 { "first version" } else { "edited version" };
        let goal = if number == 0 { "" } else { "13 MB of JavaScript < 2 s" };
        table.row(&format!("{what} of a component of {size:.1} MB: load and apply → live"), goal, text);
    }
    server.stop();
}
