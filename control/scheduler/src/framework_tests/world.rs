//! A scheduler with plugins of a test, over an API that only answers: what it is asked is noted.

use crate::{
    Options, Plugin, Plugins, Scheduler,
    plugins::{DefaultBinder, DefaultPreemption, NodeResourcesFit, Strategy},
    queue::Pending,
};
use client::{Client, Informers, WatchEvent};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::pending,
    sync::Arc,
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What plugins did, in order.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(super) fn note(&self, what: impl Into<String>) {
        self.0.lock().push(what.into());
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(super) fn has(&self, what: &str) -> bool {
        self.0.lock().iter().any(|w| w == what)
    }
}

/// NodeResourcesFit, what `toys` are, and the last two of upstream.
pub(super) fn with(toys: Vec<Box<dyn Plugin>>) -> Plugins {
    let mut all: Vec<Box<dyn Plugin>> = vec![Box::new(NodeResourcesFit::new(Strategy::default()))];
    all.extend(toys);
    all.extend([Box::new(DefaultPreemption::default()) as Box<dyn Plugin>, Box::new(DefaultBinder)]);
    all.into()
}

pub(super) fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}})
}

pub(super) fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1"}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

/// A call and what it sends, each of those that were made.
type Calls = Arc<Mutex<Vec<(String, Value)>>>;
/// What the next calls of a kind are answered with: code and body.
type Answers = Arc<Mutex<HashMap<String, VecDeque<(u16, Value)>>>>;

pub(super) struct World {
    calls: Calls,
    answers: Answers,
    pub(super) informers: Informers,
    pub(super) scheduler: Scheduler,
    token: CancellationToken,
    tasks: TaskTracker,
}

impl World {
    /// One call at a time, so that a pod that waits without giving up its slot stops all.
    pub(super) fn start(nodes: &[Value], pods: &[Value], plugins: Plugins) -> Self {
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (calls, answers) = (Calls::default(), Answers::default());
        let client =
            client(&calls, &answers, json!({"/api/v1/nodes": nodes, "/api/v1/pods": pods, "/api/v1/namespaces": []}));
        let informers = Informers::new(client.clone(), token.clone(), tasks.clone());
        let clock = api::Clock::new(|| "2026-01-01T00:00:00Z".parse().expect("a time"));
        let options = Options { in_flight: 1, ..Options::new(clock, 1) };
        let scheduler = Scheduler::with_plugins(client, informers.clone(), options, plugins);
        tasks.spawn({
            let (scheduler, token) = (scheduler.clone(), token.clone());
            async move { scheduler.run(token).await }
        });
        Self { calls, answers, informers, scheduler, token, tasks }
    }

    /// The next call of this kind is answered so, after those that were given before; all others with an empty object.
    pub(super) fn answer(&self, call: &str, code: u16, body: Value) {
        self.answers.lock().entry(call.to_owned()).or_default().push_back((code, body));
    }

    /// The bodies of all calls of this kind.
    pub(super) fn sent(&self, call: &str) -> Vec<Value> {
        self.calls.lock().iter().filter(|(c, _)| c == call).map(|(_, body)| body.clone()).collect()
    }

    /// Waits for it, at most for a minute of this clock.
    pub(super) async fn until(&self, what: &str, done: impl Fn() -> bool) {
        for _ in 0..6000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; calls: {:#?}", self.calls.lock());
    }

    /// The node that the pod was bound to.
    pub(super) fn bound(&self, pod: &str) -> Option<String> {
        let calls = self.calls.lock();
        let call = calls.iter().find(|(call, _)| *call == format!("POST /api/v1/namespaces/d/pods/{pod}/binding"))?;
        call.1["target"]["name"].as_str().map(str::to_owned)
    }

    /// The last status that was written.
    pub(super) fn status(&self, pod: &str) -> Option<Value> {
        let calls = self.calls.lock();
        let call = format!("PATCH /api/v1/namespaces/d/pods/{pod}/status");
        calls.iter().rev().find(|(c, _)| *c == call).map(|(_, body)| body["status"].clone())
    }

    /// The condition PodScheduled: its reason and message.
    pub(super) fn why(&self, pod: &str) -> Option<(String, String)> {
        let status = self.status(pod)?;
        let text = |key: &str| status["conditions"][0][key].as_str().map(str::to_owned);
        Some((text("reason")?, text("message")?))
    }

    pub(super) fn called(&self, call: &str) -> bool {
        self.calls.lock().iter().any(|(c, _)| c == call)
    }

    pub(super) fn pending(&self) -> Pending {
        self.scheduler.pending()
    }

    /// The informer of pods is told.
    pub(super) fn tell(&self, event: fn(Pod) -> WatchEvent<Pod>, pod: Value) {
        self.informers.of::<Pod>().apply(event(serde_json::from_value(pod).expect("a pod")));
    }

    pub(super) async fn stop(self) {
        self.token.cancel();
        self.tasks.close();
        let stopped = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await;
        stopped.expect("stops although pods wait");
    }
}

/// A failure as the API tells it.
pub(super) fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": code})
}

/// Kinds that this server does not have.
const NOT_SERVED: [&str; 5] = [
    "/api/v1/services",
    "/api/v1/replicationcontrollers",
    "/apis/apps/v1/replicasets",
    "/apis/apps/v1/statefulsets",
    "/apis/policy/v1/poddisruptionbudgets",
];

fn client(calls: &Calls, answers: &Answers, lists: Value) -> Client {
    let (calls, answers) = (calls.clone(), answers.clone());
    let answer = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (calls, answers, lists) = (calls.clone(), answers.clone(), lists.clone());
        async move {
            let (parts, body) = request.into_parts();
            if parts.uri.query().is_some_and(|q| q.contains("watch=")) {
                return pending().await;
            }
            let path = parts.uri.path();
            let (code, answer) = match lists.get(path) {
                Some(items) => (200, json!({"metadata": {"resourceVersion": "1"}, "items": items})),
                None if NOT_SERVED.contains(&path) => (404, failure(404, "NotFound")),
                None => {
                    let body = body.collect_bytes().await.expect("a body");
                    let call = format!("{} {path}", parts.method);
                    let answer = answers.lock().get_mut(&call).and_then(VecDeque::pop_front);
                    calls.lock().push((call, serde_json::from_slice(&body).unwrap_or_default()));
                    answer.unwrap_or_else(|| (200, json!({"metadata": {}})))
                }
            };
            let body = kube::client::Body::from(answer.to_string().into_bytes());
            Ok::<_, Infallible>(http::Response::builder().status(code).body(body).expect("a response"))
        }
    });
    Client::new(kube::Client::new(answer, "default"))
}
