//! Ten thousand watches as HTTP/2 streams on a hundred connections.

use crate::{
    figures::{PACE, Table, at, millis},
    load::{Client, spread},
    server::{Server, own_cpu},
};
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
    let (alone, alone_cpu) = rate(&server, &client, "a").await;
    let memory = server.memory();
    let seen = Rc::<Seen>::default();
    watch(&client, &seen, |n| format!("/api/v1/namespaces/n{}/configmaps?watch=true", n % NAMESPACES)).await;
    let memory = (server.memory() - memory) * 1024.0 / WATCHES as f64;
    let (watched, watched_cpu) = rate(&server, &client, "b").await;
    let figure = "10,000 watches, an event concerns ten: creates, share of their rate without";
    let share = watched / alone * 100.0;
    let told = format!("{share:.0} % ({watched:.0} of {alone:.0} /s), {memory:.1} KiB each");
    table.row(figure, "≥ 67 %", told);
    let figure = "CPU of a create without and with them: server, and client beside it";
    let [alone, watched] = [alone_cpu, watched_cpu].map(|[server, client]| format!("{server:.0} + {client:.0} µs"));
    table.row(figure, "", format!("{alone}, {watched}"));
    paced(&client, &seen, 10, 100).await;
    let mut times = seen.after.take();
    times.sort();
    let figure = "10,000 watches: create → watch event, 25 events/s";
    table.row(
        figure,
        "p99 < 50 ms + 2 F",
        format!("p50 {}, p99 {}", millis(at(&times, 0.5)), millis(at(&times, 0.99))),
    );
    server.stop();
}

async fn all_each(table: &mut Table, folder: &Path) {
    const EVENTS: usize = 20;
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let seen = Rc::<Seen>::default();
    watch(&client, &seen, |_| "/api/v1/configmaps?watch=true".into()).await;
    let before = server.cpu();
    let wall = paced(&client, &seen, WATCHES, EVENTS).await;
    let cpu = (server.cpu() - before).as_secs_f64() * 1e6 / (WATCHES * EVENTS) as f64;
    let mut times = seen.after.take();
    times.sort();
    let each = millis(wall / EVENTS as u32);
    let told = format!("{cpu:.1} µs, {each} per event, p99 of a watch {}", millis(at(&times, 0.99)));
    table.row("one event to 10,000 watches: CPU of a delivery", "≤ 5 µs", told);
    server.stop();
}

/// Creates per second, spread over the namespaces, and the µs of CPU that each costs the server and the client.
async fn rate(server: &Server, client: &Client, prefix: &'static str) -> (f64, [f64; 2]) {
    let before = [server.cpu(), own_cpu()];
    let (wall, _) = spread(client, 32, CREATES, move |mut connection, number| async move {
        let path = format!("/api/v1/namespaces/n{}/configmaps", number % NAMESPACES);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{prefix}{number}")},
            "data": {"v": "x".repeat(1024)}});
        connection.post(&path, &body).await;
        connection
    })
    .await;
    let after = [server.cpu(), own_cpu()];
    let each = [0, 1].map(|i| (after[i] - before[i]).as_secs_f64() * 1e6 / CREATES as f64);
    (CREATES as f64 / wall.as_secs_f64(), each)
}

/// Opens the watches, each at the present; answers when all are open.
async fn watch(client: &Client, seen: &Rc<Seen>, path: impl Fn(usize) -> String) {
    let list = client.connect().await.get("/api/v1/configmaps?limit=1").await;
    let list: serde_json::Value = serde_json::from_slice(&list).expect("JSON");
    let now = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    for connection in 0..CONNECTIONS {
        let mut multiplexed = client.multiplexed().await;
        for stream in 0..WATCHES / CONNECTIONS {
            let path = path(stream * CONNECTIONS + connection);
            multiplexed.open(&format!("{path}&resourceVersion={now}")).await;
        }
        let seen = seen.clone();
        tokio::task::spawn_local(multiplexed.run(move |event| seen.note(event)));
    }
}

impl Seen {
    /// Of the events of others (the creates whose rate is measured) nothing is read: that would be the client's time.
    fn note(&self, event: &[u8]) {
        let sent = self.sent.borrow();
        if sent.is_empty() {
            return;
        }
        let now = Instant::now();
        let text = str::from_utf8(event).expect("JSON");
        let number = text.split("\"name\":\"w").nth(1).and_then(|rest| rest.split('"').next()?.parse::<usize>().ok());
        if let Some(sent) = number.and_then(|number| sent.get(number)) {
            self.after.borrow_mut().push(now - *sent);
        }
    }
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
