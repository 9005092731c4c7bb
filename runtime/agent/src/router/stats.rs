//! CPU and memory usage of the node and its containers: `/stats/summary` (JSON), `/metrics/resource` and `/metrics/cadvisor` (Prometheus
//! text), with the kubelet's names. Metrics that this node does not measure are omitted.

use crate::{
    pod,
    readings::Rate,
    shared::Shared,
    usage::{self, NodeSample, Sample},
};
use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::{
    fmt::{Arguments, Display, Write},
    sync::Arc,
};

/// CPU and memory of the summary. The window of the rate is an extension for metrics.k8s.io.
fn figures(now: &str, cpu_nanos: Option<u64>, rate: Option<Rate>, memory: Option<u64>) -> Map<String, Value> {
    let mut figures = Map::new();
    if let Some(cpu_nanos) = cpu_nanos {
        let mut cpu = json!({"time": now, "usageCoreNanoSeconds": cpu_nanos});
        if let Some(rate) = rate {
            cpu["usageNanoCores"] = rate.nano_cores.into();
            cpu["windowNanoSeconds"] = u64::try_from(rate.window.as_nanos()).unwrap_or_default().into();
        }
        figures.insert("cpu".into(), cpu);
    }
    if let Some(memory) = memory {
        figures.insert("memory".into(), json!({"time": now, "workingSetBytes": memory, "usageBytes": memory}));
    }
    figures
}

/// What is served, an extension for custom.metrics.k8s.io.
fn http(now: &str, sample: &Sample) -> Value {
    let mut http = json!({"time": now, "requests": sample.stats.requests});
    if let Some((rate, milli)) = sample.rate.zip(sample.request_rate) {
        http["milliRequestsPerSecond"] = milli.into();
        http["windowNanoSeconds"] = u64::try_from(rate.window.as_nanos()).unwrap_or_default().into();
    }
    http
}

/// The sum of a pod's containers. There is a rate if all containers have one; its window is the shortest of theirs.
fn of_pod(now: &str, samples: &[Sample]) -> Map<String, Value> {
    let rates: Option<Vec<Rate>> = samples.iter().map(|sample| sample.rate).collect();
    let rate = rates.and_then(|rates| {
        let window = rates.iter().map(|rate| rate.window).min()?;
        Some(Rate { nano_cores: rates.iter().map(|rate| rate.nano_cores).sum(), window })
    });
    let sum = |of: fn(&Sample) -> u64| Some(samples.iter().map(of).sum());
    figures(now, sum(|s| s.stats.cpu_nanos), rate, sum(|s| s.stats.memory_bytes))
}

pub(super) async fn summary(State(shared): State<Arc<Shared>>) -> Response {
    let samples = usage::samples(&shared).await;
    let now = api::time::rfc3339(shared.now());
    let mut pods = Vec::new();
    for of_one in samples.chunk_by(|a, b| Arc::ptr_eq(&a.pod, &b.pod)) {
        let container = |sample: &Sample| {
            let mut value = json!({"name": sample.container, "startTime": api::time::rfc3339(sample.started)});
            let (cpu, memory) = (sample.stats.cpu_nanos, sample.stats.memory_bytes);
            extend(&mut value, figures(&now, Some(cpu), sample.rate, Some(memory)));
            if sample.stats.serves_http {
                value["http"] = http(&now, sample);
            }
            value
        };
        let pod = &of_one[0].pod;
        let mut value = json!({
            "podRef": {"name": pod::name(pod), "namespace": pod::namespace(pod), "uid": pod::uid(pod)},
            "startTime": pod.status.as_ref().and_then(|s| s.start_time.clone()),
            "containers": of_one.iter().map(container).collect::<Vec<_>>(),
        });
        extend(&mut value, of_pod(&now, of_one));
        pods.push(value);
    }
    let NodeSample { usage, rate } = usage::node_sample(&shared);
    let mut node = json!({"nodeName": shared.options.node});
    extend(&mut node, figures(&now, usage.cpu_nanos, rate, usage.memory_bytes));
    Json(json!({"node": node, "pods": pods})).into_response()
}

fn extend(value: &mut Value, more: Map<String, Value>) {
    if let Value::Object(fields) = value {
        fields.extend(more);
    }
}

/// Metrics in the text format of Prometheus.
#[derive(Default)]
struct Text(String);

impl Text {
    fn put(&mut self, line: Arguments<'_>) {
        self.0.write_fmt(line).expect("a String takes everything");
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Writes a sample. `at` is its time.
    fn line(&mut self, name: &str, labels: impl Display, value: impl Display, at: Option<Timestamp>) {
        self.put(format_args!("{name}{labels} {value}"));
        if let Some(at) = at {
            self.put(format_args!(" {}", at.as_millisecond()));
        }
        self.put(format_args!("\n"));
    }

    fn response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], self.0).into_response()
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn started(sample: &Sample) -> f64 {
    sample.started.as_millisecond() as f64 / 1e3
}

fn of_container(sample: &Sample) -> String {
    let (namespace, pod) = (pod::namespace(&sample.pod), pod::name(&sample.pod));
    format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}", sample.container)
}

pub(super) async fn resource(State(shared): State<Arc<Shared>>) -> Response {
    let samples = usage::samples(&shared).await;
    let now = Some(shared.now());
    let mut text = Text::default();
    let name = "container_cpu_usage_seconds_total";
    text.head(name, "counter", "[STABLE] Cumulative cpu time consumed by the container in core-seconds");
    samples.iter().for_each(|s| text.line(name, of_container(s), seconds(s.stats.cpu_nanos), now));
    let name = "container_memory_working_set_bytes";
    text.head(name, "gauge", "[STABLE] Current working set of the container in bytes");
    samples.iter().for_each(|s| text.line(name, of_container(s), s.stats.memory_bytes, now));
    let name = "container_start_time_seconds";
    text.head(name, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    samples.iter().for_each(|s| text.line(name, of_container(s), started(s), None));
    let NodeSample { usage, .. } = usage::node_sample(&shared);
    if let Some(cpu) = usage.cpu_nanos {
        let name = "node_cpu_usage_seconds_total";
        text.head(name, "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
        text.line(name, "", seconds(cpu), now);
    }
    if let Some(memory) = usage.memory_bytes {
        let name = "node_memory_working_set_bytes";
        text.head(name, "gauge", "[STABLE] Current working set of the node in bytes");
        text.line(name, "", memory, now);
    }
    let pods: Vec<_> = samples.chunk_by(|a, b| Arc::ptr_eq(&a.pod, &b.pod)).collect();
    let labels = |pod: &[Sample]| {
        format!("{{namespace=\"{}\",pod=\"{}\"}}", pod::namespace(&pod[0].pod), pod::name(&pod[0].pod))
    };
    let name = "pod_cpu_usage_seconds_total";
    text.head(name, "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
    pods.iter().for_each(|p| text.line(name, labels(p), seconds(p.iter().map(|s| s.stats.cpu_nanos).sum()), now));
    let name = "pod_memory_working_set_bytes";
    text.head(name, "gauge", "[STABLE] Current working set of the pod in bytes");
    pods.iter().for_each(|p| text.line(name, labels(p), p.iter().map(|s| s.stats.memory_bytes).sum::<u64>(), now));
    let name = "resource_scrape_error";
    text.head(name, "gauge", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise");
    text.line(name, "", 0, None);
    text.response()
}

/// The metrics of cAdvisor that dashboards use, as far as this node measures them.
pub(super) async fn cadvisor(State(shared): State<Arc<Shared>>) -> Response {
    let samples = usage::samples(&shared).await;
    let now = Some(shared.now());
    let labels: Vec<_> = samples.iter().map(|s| cadvisor_labels(s, "")).collect();
    let mut text = Text::default();
    let name = "container_cpu_usage_seconds_total";
    text.head(name, "counter", "Cumulative cpu time consumed in seconds.");
    for s in &samples {
        text.line(name, cadvisor_labels(s, ",cpu=\"total\""), seconds(s.stats.cpu_nanos), now);
    }
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Sample) -> Option<String>| {
        text.head(name, kind, help);
        for (sample, labels) in samples.iter().zip(&labels) {
            if let Some(value) = value(sample) {
                text.line(name, labels, value, now);
            }
        }
    };
    let memory = |s: &Sample| Some(s.stats.memory_bytes.to_string());
    family("container_memory_usage_bytes", "gauge", "Current memory usage in bytes.", &memory);
    family("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", &memory);
    let throttled = "Number of throttled period intervals.";
    let limited = |s: &Sample| limits(s).cpu_millis.is_some();
    family("container_cpu_cfs_throttled_periods_total", "counter", throttled, &|s| {
        limited(s).then(|| s.stats.throttled.to_string())
    });
    family("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", &|s| {
        limits(s).memory_bytes.map(|bytes| bytes.to_string())
    });
    family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", &|s| {
        Some(started(s).to_string())
    });
    text.response()
}

fn limits(sample: &Sample) -> container::Limits {
    pod::container(&sample.pod, &sample.container).map_or_else(Default::default, |(c, _)| crate::resources::limits(&c))
}

fn cadvisor_labels(sample: &Sample, more: &str) -> String {
    let Sample { pod, container, id, image, .. } = sample;
    let (namespace, pod) = (pod::namespace(pod), pod::name(pod));
    format!("{{container=\"{container}\"{more},image={image:?},name=\"{id}\",namespace=\"{namespace}\",pod=\"{pod}\"}}")
}
