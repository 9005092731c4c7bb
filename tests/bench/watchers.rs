//! Ten thousand watches as HTTP/2 streams on a hundred connections.

use crate::{
    figures::{PACE, Table, at, millis},
    load::{Client, Multiplexed, spread},
    server::Server,
};
use http_body_util::BodyExt;
use serde_json::json;
use std::{
    cell::RefCell,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

const WATCHES: usize = 10_000;
const CONNECTIONS: usize = 100;
const NAMESPACES: usize = 1_000;
/// Creates in a measurement of their rate.
const CREATES: usize = 10_000;

/// When each object was sent, and how long after that each watch had it.
#[derive(Default)]
struct Seen {
    sent: RefCell<Vec<Instant>>,
    after: RefCell<Vec<Duration>>,
}

pub async fn watchers(table: &mut Table, folder: &Path) {
    few_each(table, &folder.join("watchers")).await;
    all_each(table, &folder.join("all")).await;
}

async fn few_each(table: &mut Table, folder: &Path) {
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    spread(&client, 32, NAMESPACES, |mut connection, number| async move {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("n{number}")}});
        connection.post("/api/v1/namespaces", &body).await;
        connection
    })
    .await;
    // The namespaces get their ServiceAccounts and ConfigMaps meanwhile.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let alone = rate(&client, "a").await;
    let memory = server.memory();
    let seen = Rc::<Seen>::default();
    let open = watch(&client, &seen, |n| format!("/api/v1/namespaces/n{}/configmaps?watch=true", n % NAMESPACES)).await;
    let memory = (server.memory() - memory) * 1024.0 / WATCHES as f64;
    let watched = rate(&client, "b").await;
    let figure = "10,000 watches, an event concerns ten: creates, share of their rate without";
    let share = watched / alone * 100.0;
    table.row(figure, "≥ 67 %", format!("{share:.0} % ({watched:.0} of {alone:.0} /s), {memory:.1} KiB each"));
    paced(&client, &seen, 10, 100).await;
    let mut times = seen.after.take();
    times.sort();
    let figure = "10,000 watches: create → watch event, 25 events/s";
    table.row(
        figure,
        "p99 < 50 ms + 2 F",
        format!("p50 {}, p99 {}", millis(at(&times, 0.5)), millis(at(&times, 0.99))),
    );
    drop(open);
    server.stop();
}

async fn all_each(table: &mut Table, folder: &Path) {
    const EVENTS: usize = 20;
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let seen = Rc::<Seen>::default();
    let open = watch(&client, &seen, |_| "/api/v1/configmaps?watch=true".into()).await;
    let before = server.cpu();
    let wall = paced(&client, &seen, WATCHES, EVENTS).await;
    let cpu = (server.cpu() - before).as_secs_f64() * 1e6 / (WATCHES * EVENTS) as f64;
    let mut times = seen.after.take();
    times.sort();
    let each = millis(wall / EVENTS as u32);
    let told = format!("{cpu:.1} µs, {each} per event, p99 of a watch {}", millis(at(&times, 0.99)));
    table.row("one event to 10,000 watches: CPU of a delivery", "≤ 5 µs", told);
    drop(open);
    server.stop();
}

/// Creates per second, spread over the namespaces.
async fn rate(client: &Client, prefix: &'static str) -> f64 {
    let (wall, _) = spread(client, 32, CREATES, move |mut connection, number| async move {
        let path = format!("/api/v1/namespaces/n{}/configmaps", number % NAMESPACES);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{prefix}{number}")},
            "data": {"v": "x".repeat(1024)}});
        connection.post(&path, &body).await;
        connection
    })
    .await;
    CREATES as f64 / wall.as_secs_f64()
}

/// Opens the watches, each at the present; answers when all are open.
async fn watch(client: &Client, seen: &Rc<Seen>, path: impl Fn(usize) -> String) -> Vec<Multiplexed> {
    let list = client.connect().await.get("/api/v1/configmaps?limit=1").await;
    let list: serde_json::Value = serde_json::from_slice(&list).expect("JSON");
    let now = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let mut open = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut multiplexed = client.multiplexed().await;
        for stream in 0..WATCHES / CONNECTIONS {
            let path = path(stream * CONNECTIONS + connection);
            let mut body = multiplexed.open(&format!("{path}&resourceVersion={now}")).await;
            let seen = seen.clone();
            tokio::task::spawn_local(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let now = Instant::now();
                    let Ok(data) = frame.into_data() else { continue };
                    let text = String::from_utf8_lossy(&data);
                    let number =
                        text.split("\"name\":\"w").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
                    if let Some(number) = number.and_then(|n: usize| seen.sent.borrow().get(n).copied()) {
                        seen.after.borrow_mut().push(now - number);
                    }
                }
            });
        }
        open.push(multiplexed);
    }
    open
}

/// Creates objects at a pace and waits until each watch has what concerns it; the time it took beside the pauses.
async fn paced(client: &Client, seen: &Rc<Seen>, watches: usize, events: usize) -> Duration {
    let mut connection = client.connect().await;
    let mut busy = Duration::ZERO;
    for number in 0..events {
        let namespace = if watches == WATCHES { "default".into() } else { format!("n{}", number % NAMESPACES) };
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("w{number}")}, "data": {"v": "x"}});
        let start = Instant::now();
        seen.sent.borrow_mut().push(start);
        connection.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &body).await;
        while seen.after.borrow().len() < (number + 1) * watches {
            assert!(start.elapsed() < Duration::from_secs(30), "{} events came", seen.after.borrow().len());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        busy += start.elapsed();
        tokio::time::sleep(PACE).await;
    }
    busy
}
