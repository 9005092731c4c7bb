//! What containers use: `/stats/summary` (JSON) and `/metrics/resource` (Prometheus text), the two that metrics-server, `kubectl top`
//! and dashboards read.

use crate::{pod, shared::Shared};
use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use container::Stats;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Write, sync::Arc};

/// One reading of a running container.
struct Sample {
    pod: Arc<Pod>,
    container: String,
    started: Timestamp,
    stats: Stats,
    /// CPU nanoseconds per second since the reading before.
    rate: Option<u64>,
}

/// Reads statistics and remembers the last reading, for rates.
#[derive(Clone)]
pub(super) struct Sampler {
    shared: Arc<Shared>,
    before: Arc<Mutex<HashMap<String, (Timestamp, u64)>>>,
}

impl Sampler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, before: Arc::default() }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn read(&self) -> Vec<Sample> {
        let now = self.shared.now();
        let pods = self.shared.cluster.pods.list();
        let mut samples = Vec::new();
        let mut seen = HashMap::new();
        for pod in pods {
            let Some(handle) = self.shared.pods.lock().get(pod::uid(&pod)).cloned() else { continue };
            for (name, record) in &handle.state().containers {
                let Some(attempt) = record.current.as_ref() else { continue };
                let crate::state::AttemptState::Running { started_at } = attempt.state else { continue };
                let Some(runtime) = self.shared.runtimes.get(&attempt.runtime) else { continue };
                let Ok(stats) = runtime.stats(&attempt.id.as_str().into()).await else { continue };
                let before = self.before.lock().get(&attempt.id).copied();
                let rate = before.and_then(|(at, cpu)| {
                    let nanos = u64::try_from(now.duration_since(at).as_nanos()).ok().filter(|n| *n > 0)?;
                    let used = u128::from(stats.cpu_nanos.saturating_sub(cpu)) * 1_000_000_000;
                    u64::try_from(used / u128::from(nanos)).ok()
                });
                seen.insert(attempt.id.clone(), (now, stats.cpu_nanos));
                let (pod, container) = (pod.clone(), name.clone());
                samples.push(Sample { pod, container, started: started_at, stats, rate });
            }
        }
        *self.before.lock() = seen;
        samples
    }
}

fn usage(now: &str, cpu: u64, rate: Option<u64>, memory: u64) -> (Value, Value) {
    let mut cpu = json!({"time": now, "usageCoreNanoSeconds": cpu});
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = rate.into();
    }
    (cpu, json!({"time": now, "workingSetBytes": memory, "usageBytes": memory}))
}

/// `rate` of the sum: known when it is known of all.
fn total<'a>(samples: impl Iterator<Item = &'a Sample>) -> (u64, Option<u64>, u64) {
    samples.fold((0, Some(0), 0), |(cpu, rate, memory), sample| {
        let rate = rate.and_then(|rate: u64| Some(rate + sample.rate?));
        (cpu + sample.stats.cpu_nanos, rate, memory + sample.stats.memory_bytes)
    })
}

pub(super) async fn summary(State(sampler): State<Sampler>) -> Response {
    let samples = sampler.read().await;
    let now = api::time::rfc3339(sampler.shared.now());
    let mut pods: Vec<Value> = Vec::new();
    for of_pod in samples.chunk_by(|a, b| Arc::ptr_eq(&a.pod, &b.pod)) {
        let containers: Vec<_> = of_pod
            .iter()
            .map(|s| {
                let (cpu, memory) = usage(&now, s.stats.cpu_nanos, s.rate, s.stats.memory_bytes);
                json!({"name": s.container, "startTime": api::time::rfc3339(s.started), "cpu": cpu, "memory": memory})
            })
            .collect();
        let (cpu, rate, memory) = total(of_pod.iter());
        let (cpu, memory) = usage(&now, cpu, rate, memory);
        let pod = &of_pod[0].pod;
        pods.push(json!({
            "podRef": {"name": pod::name(pod), "namespace": pod::namespace(pod), "uid": pod::uid(pod)},
            "startTime": pod.status.as_ref().and_then(|s| s.start_time.clone()),
            "containers": containers, "cpu": cpu, "memory": memory,
        }));
    }
    let (cpu, rate, memory) = total(samples.iter());
    let (cpu, memory) = usage(&now, cpu, rate, memory);
    let node = json!({"nodeName": sampler.shared.options.node, "cpu": cpu, "memory": memory});
    Json(json!({"node": node, "pods": pods})).into_response()
}

pub(super) async fn resource(State(sampler): State<Sampler>) -> Response {
    let samples = sampler.read().await;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Sample) -> String, node: Option<String>| {
        let mut put = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("a String takes everything");
        put(format_args!("# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n"));
        if let Some(node) = node {
            put(format_args!("{name} {node}\n"));
            return;
        }
        for sample in &samples {
            let (container, pod) = (&sample.container, &sample.pod);
            let (namespace, pod) = (pod::namespace(pod), pod::name(pod));
            put(format_args!(
                "{name}{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}} {}\n",
                value(sample)
            ));
        }
    };
    let seconds = |nanos: u64| format!("{:.9}", nanos as f64 / 1e9);
    let (cpu, _, memory) = total(samples.iter());
    let none = |_: &Sample| String::new();
    let cpu_help = "Cumulative cpu time consumed by the container in core-seconds";
    let memory_help = "Current working set of the container in bytes";
    family("container_cpu_usage_seconds_total", "counter", cpu_help, &|s| seconds(s.stats.cpu_nanos), None);
    family("container_memory_working_set_bytes", "gauge", memory_help, &|s| s.stats.memory_bytes.to_string(), None);
    let start = |s: &Sample| format!("{:.3}", s.started.as_millisecond() as f64 / 1e3);
    let start_help = "Start time of the container since unix epoch in seconds";
    family("container_start_time_seconds", "gauge", start_help, &start, None);
    let node_cpu = "Cumulative cpu time consumed by the node in core-seconds";
    family("node_cpu_usage_seconds_total", "counter", node_cpu, &none, Some(seconds(cpu)));
    let node_memory = "Current working set of the node in bytes";
    family("node_memory_working_set_bytes", "gauge", node_memory, &none, Some(memory.to_string()));
    let errors = "1 if there was an error while getting container metrics, 0 otherwise";
    family("resource_scrape_error", "gauge", errors, &none, Some("0".into()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
