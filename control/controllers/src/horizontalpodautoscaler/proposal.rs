//! What each metric of an autoscaler proposes, with upstream's names, statuses and texts. Pure.

use super::{
    metrics::Reading,
    replicas::{self, Proposal, Scaled, Target},
};
use api::quantity::{Format, Quantity};
use k8s_openapi::{
    api::autoscaling::v2::{
        ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricIdentifier, MetricSpec,
        MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
        PodsMetricStatus, ResourceMetricStatus,
    },
    apimachinery::pkg::{api::resource::Quantity as Amount, apis::meta::v1::LabelSelector},
};

/// A valid proposal.
#[derive(Debug)]
pub(super) struct Proposed {
    pub replicas: i32,
    /// The metric, as events name it.
    pub metric: String,
    pub status: MetricStatus,
}

/// Why a metric proposes nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The reason of the event and of the condition.
    pub reason: &'static str,
    /// What they say.
    pub text: String,
    /// What the failure of the whole says.
    pub error: String,
}

type Outcome = Result<Proposed, Failure>;

/// What a metric proposes. `namespace` is that of the autoscaler.
pub(super) fn propose(
    spec: &MetricSpec,
    reading: Result<Reading, String>,
    scaled: &Scaled<'_>,
    namespace: &str,
) -> Outcome {
    match (spec.type_.as_str(), &spec.object, &spec.pods, &spec.resource, &spec.container_resource, &spec.external) {
        ("Object", Some(source), ..) => object(source, reading, scaled, namespace),
        ("Pods", _, Some(source), ..) => pods(source, reading, scaled),
        ("Resource", _, _, Some(source), ..) => {
            let of = Resource { name: &source.name, container: "", target: &source.target };
            let current = of.propose(reading, scaled).map_err(|text| Failure {
                error: format!("failed to get {} resource metric value: {text}", source.name),
                reason: "FailedGetResourceMetric",
                text,
            });
            current.map(|(replicas, metric, current)| {
                let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
                Proposed { replicas, metric, status: MetricStatus { resource, ..of_type(spec) } }
            })
        }
        ("ContainerResource", _, _, _, Some(source), _) => {
            let of = Resource { name: &source.name, container: &source.container, target: &source.target };
            let current = of.propose(reading, scaled).map_err(|text| Failure {
                error: format!("failed to get {} container metric value: {text}", source.container),
                reason: "FailedGetContainerResourceMetric",
                text,
            });
            current.map(|(replicas, metric, current)| {
                let (name, container) = (source.name.clone(), source.container.clone());
                let status = ContainerResourceMetricStatus { name, container, current };
                let status = MetricStatus { container_resource: Some(status), ..of_type(spec) };
                Proposed { replicas, metric, status }
            })
        }
        ("External", .., Some(source)) => external(source, reading, scaled, namespace),
        (kind, ..) => {
            let text = format!("unknown metric source type {kind:?}");
            Err(Failure { reason: "InvalidMetricSourceType", error: text.clone(), text })
        }
    }
}

fn of_type(spec: &MetricSpec) -> MetricStatus {
    MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() }
}

fn milli(amount: &Amount) -> i64 {
    Quantity::parse(&amount.0).map_or(0, |quantity| quantity.milli_value())
}

fn amount(milli: i64) -> Amount {
    Amount(Quantity::from_milli(milli, Format::DecimalSi).to_string())
}

/// A selector as Go prints it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},"));
    let labels: String = labels.collect();
    let one = |r: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement| {
        let values = r.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", r.key, r.operator)
    };
    let expressions: String = selector.match_expressions.iter().flatten().map(one).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// A share of the requests, or an amount, of a resource.
struct Resource<'a> {
    name: &'a str,
    /// Of all containers, if empty.
    container: &'a str,
    target: &'a MetricTarget,
}

impl Resource<'_> {
    fn propose(
        &self,
        reading: Result<Reading, String>,
        scaled: &Scaled<'_>,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let name = self.name;
        let (target, what) = match (&self.target.average_value, self.target.average_utilization) {
            (Some(mean), _) => (Target::Mean(milli(mean)), "usage"),
            (None, Some(percent)) => (Target::Utilization(percent), "utilization"),
            (None, None) => return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned()),
        };
        let failed = |text: String| format!("failed to get {name} {what}: {text}");
        let metrics = match reading {
            Ok(Reading::Pods(metrics)) => metrics,
            Ok(_) => return Err(failed("the metric is of no pods".to_owned())),
            Err(text) => return Err(failed(format!("unable to get metrics for resource {name}: {text}"))),
        };
        let requests = || replicas::requests(scaled.pods, self.container, name);
        let Proposal { replicas, utilization, mean } =
            replicas::of_pods(scaled, metrics, name == "cpu", target, requests).map_err(failed)?;
        let metric = match (what, self.container) {
            ("usage", _) => format!("{name} resource"),
            (_, "") => format!("{name} resource utilization (percentage of request)"),
            _ => format!("{name} container resource utilization (percentage of request)"),
        };
        let format = if name == "memory" { Format::BinarySi } else { Format::DecimalSi };
        let mean = Amount(Quantity::from_milli(mean, format).to_string());
        let current = MetricValueStatus { average_utilization: utilization, average_value: Some(mean), value: None };
        Ok((replicas, metric, current))
    }
}

fn pods(source: &PodsMetricSource, reading: Result<Reading, String>, scaled: &Scaled<'_>) -> Outcome {
    let name = &source.metric.name;
    let wanted = source.target.average_value.as_ref().map_or(0, milli);
    let metrics = match reading {
        Ok(Reading::Pods(metrics)) => Ok(metrics),
        Ok(_) => Err("the metric is of no pods".to_owned()),
        Err(text) => Err(format!("unable to get metric {name}: {text}")),
    };
    let none = || Ok(Default::default());
    let proposal = metrics.and_then(|metrics| replicas::of_pods(scaled, metrics, false, Target::Mean(wanted), none));
    let proposal = proposal.map_err(|text| Failure {
        reason: "FailedGetPodsMetric",
        error: format!("failed to get pods metric value: {text}"),
        text,
    })?;
    let current = MetricValueStatus { average_value: Some(amount(proposal.mean)), ..MetricValueStatus::default() };
    let status = PodsMetricStatus { metric: source.metric.clone(), current };
    Ok(Proposed {
        replicas: proposal.replicas,
        metric: format!("pods metric {name}"),
        status: MetricStatus { type_: "Pods".to_owned(), pods: Some(status), ..MetricStatus::default() },
    })
}

fn object(
    source: &ObjectMetricSource,
    reading: Result<Reading, String>,
    scaled: &Scaled<'_>,
    namespace: &str,
) -> Outcome {
    const REASON: &str = "FailedGetObjectMetric";
    let (name, about) = (&source.metric.name, &source.described_object);
    let read = match reading {
        Ok(Reading::Amount(used)) => Ok(used),
        Ok(_) => Err("the metric is of no object".to_owned()),
        Err(text) => Err(format!("unable to get metric {name}: {text} on {} {namespace}/{}", about.kind, about.name)),
    };
    let target = &source.target;
    let (replicas, metric, current) = match (target.type_.as_str(), &target.value, &target.average_value) {
        ("Value", Some(value), _) => {
            let found = read.and_then(|used| replicas::of_whole(scaled, used, milli(value)));
            let (replicas, used) = found.map_err(|text| Failure {
                reason: REASON,
                error: format!("failed to get object metric value: {text}"),
                text,
            })?;
            let current = MetricValueStatus { value: Some(amount(used)), ..MetricValueStatus::default() };
            (replicas, format!("{} metric {name}", about.kind), current)
        }
        ("AverageValue", _, Some(mean)) => {
            let used = read.map_err(|text| Failure {
                reason: REASON,
                error: format!("failed to get object metric value: failed to get {name} object metric: {text}"),
                text,
            })?;
            let (replicas, share) = replicas::of_share(scaled, used, milli(mean));
            let current = MetricValueStatus { average_value: Some(amount(share)), ..MetricValueStatus::default() };
            (replicas, external_name(&source.metric), current)
        }
        _ => {
            let text = "invalid object metric source: neither a value target nor an average value target was set";
            let error = format!("failed to get object metric value: {text}");
            return Err(Failure { reason: REASON, text: text.to_owned(), error });
        }
    };
    let status = ObjectMetricStatus { described_object: about.clone(), metric: source.metric.clone(), current };
    let status = MetricStatus { type_: "Object".to_owned(), object: Some(status), ..MetricStatus::default() };
    Ok(Proposed { replicas, metric, status })
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, shown(metric.selector.as_ref()))
}

fn external(
    source: &ExternalMetricSource,
    reading: Result<Reading, String>,
    scaled: &Scaled<'_>,
    namespace: &str,
) -> Outcome {
    const REASON: &str = "FailedGetExternalMetric";
    let name = &source.metric.name;
    let read = match reading {
        Ok(Reading::Amounts(used)) => Ok(used.into_iter().fold(0, i64::saturating_add)),
        Ok(_) => Err("the metric is not external".to_owned()),
        Err(text) => {
            let selector = shown(source.metric.selector.as_ref());
            Err(format!("unable to get external metric {namespace}/{name}/{selector}: {text}"))
        }
    };
    let failed = |which: String| {
        move |text: String| Failure {
            reason: REASON,
            error: format!("failed to get {name} external metric value: {which}: {text}"),
            text,
        }
    };
    let (replicas, current) = match (&source.target.average_value, &source.target.value) {
        (Some(mean), _) => {
            let used = read.map_err(failed(format!("failed to get {name} external metric")))?;
            let (replicas, share) = replicas::of_share(scaled, used, milli(mean));
            (replicas, MetricValueStatus { average_value: Some(amount(share)), ..MetricValueStatus::default() })
        }
        (None, Some(value)) => {
            let found = read.and_then(|used| replicas::of_whole(scaled, used, milli(value)));
            let (replicas, used) = found.map_err(failed(format!("failed to get external metric {name}")))?;
            (replicas, MetricValueStatus { value: Some(amount(used)), ..MetricValueStatus::default() })
        }
        (None, None) => {
            let text = "invalid external metric source: neither a value target nor an average value target was set";
            let error = format!("failed to get {name} external metric value: {text}");
            return Err(Failure { reason: REASON, text: text.to_owned(), error });
        }
    };
    let status = ExternalMetricStatus { metric: source.metric.clone(), current };
    let status = MetricStatus { type_: "External".to_owned(), external: Some(status), ..MetricStatus::default() };
    Ok(Proposed { replicas, metric: external_name(&source.metric), status })
}
