//! Thousands of hostile guests at once, and what good guests, timers and the API notice of them.

use crate::{
    figures::{Table, at, load_image, millis, until_answered},
    guests::serve_with,
    hostile_guests::{self, Kind, TIMER, end, kinds},
    load::{Client, Connection, spread},
    server::{ADDRESS, Server},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// How long each of the states is observed, in seconds.
const WINDOW: u64 = 20;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(5);

/// The port of the good guest.
const PORT: u16 = 31_100;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// What others notice, sorted.
#[derive(Default)]
struct Seen {
    guest: Vec<Duration>,
    read: Vec<Duration>,
    write: Vec<Duration>,
    timer: Vec<Duration>,
    /// Answers of the good guest that were not its own.
    wrong: usize,
}

/// Asks the good guest until the window ends. A connection that breaks is a wrong answer.
async fn ask(window: Duration) -> (Vec<Duration>, usize) {
    let (begin, mut times, mut wrong) = (Instant::now(), Vec::new(), 0);
    while begin.elapsed() < window {
        let Ok(stream) = TcpStream::connect((ADDRESS, PORT)).await else {
            wrong += 1;
            continue;
        };
        stream.set_nodelay(true).expect("set");
        let Ok((mut sender, task)) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await else {
            wrong += 1;
            continue;
        };
        tokio::task::spawn_local(task);
        while begin.elapsed() < window {
            let start = Instant::now();
            let request = Request::get("/").header(header::HOST, "good").body(Empty::new()).expect("a request");
            let answer = async {
                sender.ready().await.ok()?;
                let response = sender.send_request(request).await.ok()?;
                let is_ok = response.status().is_success();
                let body = response.into_body().collect().await.ok()?.to_bytes();
                Some(is_ok && body.starts_with(b"Hello from good-"))
            };
            match answer.await {
                Some(true) => times.push(start.elapsed()),
                Some(false) => wrong += 1,
                None => {
                    wrong += 1;
                    break;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    (times, wrong)
}

/// Reads a small object, or writes a new one, until the window ends.
async fn call(mut connection: Connection, window: Duration, writes: Option<&'static str>) -> Vec<Duration> {
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < window {
        let start = Instant::now();
        match writes {
            None => drop(connection.get("/api/v1/namespaces/default").await),
            Some(name) => {
                let body = json!({"metadata": {"name": format!("{name}-{}", times.len())}, "data": {"a": "b"}});
                connection.post("/api/v1/namespaces/default/configmaps", &body).await;
            }
        }
        times.push(start.elapsed());
        tokio::time::sleep(if writes.is_some() { 4 * PAUSE } else { PAUSE }).await;
    }
    times
}

async fn observe(client: &Client, name: &'static str, window: Duration) -> Seen {
    let (reads, writes) = (client.connect().await, client.connect().await);
    let guest = tokio::task::spawn_local(ask(window));
    let read = tokio::task::spawn_local(call(reads, window, None));
    let write = tokio::task::spawn_local(call(writes, window, Some(name)));
    let (guest, wrong) = guest.await.expect("no panic");
    let (read, write) = (read.await.expect("no panic"), write.await.expect("no panic"));
    // only whole lines of this window
    let log = format!("{PODS}/timer/log?sinceSeconds={}", window.as_secs() - 1);
    let log = client.connect().await.get(&log).await;
    let timer =
        String::from_utf8_lossy(&log).lines().filter_map(|line| line.parse().ok()).map(Duration::from_micros).collect();
    let mut seen = Seen { guest, read, write, timer, wrong };
    for times in [&mut seen.guest, &mut seen.read, &mut seen.write, &mut seen.timer] {
        times.sort();
        assert!(!times.is_empty(), "nothing was measured");
    }
    seen
}

async fn items(connection: &mut Connection, query: &str) -> Vec<Value> {
    let list: Value = serde_json::from_slice(&connection.get(&format!("{PODS}{query}")).await).expect("JSON");
    list["items"].as_array().cloned().expect("a list")
}

/// Creates the hostile pods and waits until those that run do so.
async fn attack(client: &Client, connection: &mut Connection, kinds: &[Kind], pods: usize) -> usize {
    let wanted: Vec<Value> = kinds.iter().flat_map(|kind| (0..kind.of(pods)).map(|number| kind.pod(number))).collect();
    let count = wanted.len();
    spread(client, 8, count, move |mut connection, number| {
        let pod = wanted[number].clone();
        async move {
            connection.post(PODS, &pod).await;
            connection
        }
    })
    .await;
    let begin = Instant::now();
    loop {
        let all = items(connection, "?labelSelector=hostile%3Dtrue").await;
        let begun = all.iter().filter(|pod| end(pod).is_some()).count();
        if begun == count {
            return count;
        }
        if begin.elapsed() > Duration::from_secs(180) {
            eprintln!("only {begun} of {count} hostile pods have begun after three minutes");
            return count;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How many pods of each kind are as they should be.
async fn ends(connection: &mut Connection, kinds: &[Kind]) -> String {
    let (mut right, mut all, mut others) = (0, 0, Vec::new());
    for kind in kinds {
        let pods = items(connection, &format!("?labelSelector=app%3D{}", kind.name)).await;
        let so = pods.iter().filter(|pod| kind.is_right(pod)).count();
        all += pods.len();
        right += so;
        if so < pods.len() {
            let other = pods.iter().find(|pod| !kind.is_right(pod)).map(end);
            others.push(format!("{} of {} {}: {other:?}", pods.len() - so, pods.len(), kind.name));
        }
    }
    let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    format!("{right} of {all}{others}")
}

/// Thousands of hostile pods of all kinds at once.
pub async fn hostile(table: &mut Table, folder: &Path, samples: &Path, pods: usize) {
    load_image(folder, &samples.join("hello/hello.wasm"), "hello:1");
    let only = std::env::var("SAMPAN_BENCH_HOSTILE").ok();
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    let pods = number("SAMPAN_BENCH_PODS").map_or(pods, |pods| pods as usize);
    let window = Duration::from_secs(number("SAMPAN_BENCH_SECONDS").unwrap_or(WINDOW));
    let wanted = |kind: &Kind| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == kind.name));
    let kinds: Vec<Kind> = kinds().into_iter().filter(wanted).collect();
    let load = |name: &str, text: &str| {
        let file = folder.with_extension(format!("{name}.wat"));
        std::fs::write(&file, text).expect("written");
        load_image(folder, &file, &format!("{name}:1"));
    };
    load("timer", TIMER);
    for kind in &kinds {
        load(kind.name, &kind.text);
    }
    // somewhat overcommitted: the pods request a thousandth of a core each
    let server = Server::start(folder, &["--cpu", "4"]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    let requests = json!({"requests": {"cpu": "100m"}});
    serve_with(&mut connection, "good", "hello:1", PORT, &json!({}), &requests).await;
    let container = json!({"name": "c", "image": "timer:1", "resources": requests});
    let timer =
        json!({"metadata": {"name": "timer"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
    connection.post(PODS, &timer).await;
    for service in hostile_guests::services() {
        let name = service["metadata"]["name"].as_str().expect("a name");
        connection.apply(&format!("/api/v1/namespaces/default/services/{name}"), &service).await;
    }
    until_answered(PORT);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let quiet = observe(&client, "quiet", window).await;
    let (before, begin) = (server.resources(), Instant::now());
    let count = attack(&client, &mut connection, &kinds, pods).await;
    let begun = begin.elapsed();
    // restarts reach their back-off, volumes are measured
    tokio::time::sleep(Duration::from_secs(15)).await;
    let cpu = server.cpu();
    let loaded = observe(&client, "loaded", window).await;
    let cpu = (server.cpu() - cpu).as_secs_f64() / window.as_secs_f64();
    let during = server.resources();
    let ends = ends(&mut connection, &kinds).await;
    let node: Value = serde_json::from_slice(&connection.get("/api/v1/nodes?limit=1").await).expect("JSON");
    let conditions = node["items"][0]["status"]["conditions"].as_array().cloned().expect("conditions");
    let ready = conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
    let all = format!("{PODS}?labelSelector=hostile%3Dtrue");
    let begin = Instant::now();
    connection.call(Method::DELETE, &all, "application/json", Bytes::new()).await;
    while !items(&mut connection, "?labelSelector=hostile%3Dtrue&limit=1").await.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(300), "hostile pods do not go");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let gone = begin.elapsed();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = observe(&client, "after", window).await;
    let title = |what: &str| format!("{what} beside {count} hostile pods, quiet → loaded (after them)");
    for (what, times) in [
        ("a guest's answer", (|seen| &seen.guest) as fn(&Seen) -> &Vec<Duration>),
        ("a guest's timer of 10 ms, late by", |seen| &seen.timer),
        ("the API's answer", |seen| &seen.read),
        ("the API's durable write", |seen| &seen.write),
    ] {
        let of = |share: f64| {
            let [quiet, loaded, after] = [&quiet, &loaded, &after].map(|seen| at(times(seen), share));
            let ratio = loaded.as_secs_f64() / quiet.min(after).as_secs_f64();
            format!("{} → {} ({}), {ratio:.1} ×", millis(quiet), millis(loaded), millis(after))
        };
        table.row(&title(what), "p99 ≤ 2 × quiet", format!("p50 {}; p99 {}", of(0.5), of(0.99)));
    }
    let wrong = format!("{} of {}", loaded.wrong, loaded.guest.len() + loaded.wrong);
    table.row("… answers of the good guest that were lost or wrong", "none", wrong);
    table.row("… pods that ended as upstream's do", "all", ends);
    table.row(
        "… from the first to the last that began; to delete them all",
        "",
        format!("{:.1} s; {:.1} s", begun.as_secs_f64(), gone.as_secs_f64()),
    );
    table.row(
        "… the node: RSS, threads, open files",
        "bounded",
        format!(
            "{before} → {during} (after {}); {cpu:.2} cores; {}",
            server.resources(),
            if ready { "Ready" } else { "not Ready" }
        ),
    );
    server.stop();
}
