//! What an autoscaler does with its target, and what it says of it. Pure.

use super::{
    behavior::{History, Range},
    proposal::{Failure, Proposed},
    replicas::Tolerances,
};
use api::quantity::Quantity;
use client::EventType;
use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::{
        HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
        HorizontalPodAutoscalerStatus, MetricStatus,
    },
    apimachinery::pkg::{api::resource::Quantity as Amount, apis::meta::v1::Time},
};

/// By how much a ratio may differ from one where an autoscaler says nothing. Upstream's default.
const TOLERANCE: f64 = 0.1;

/// An event about the autoscaler.
pub(super) type Event = (EventType, String, String);

/// What an autoscaler says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Its status.
    pub status: HorizontalPodAutoscalerStatus,
    /// Its events.
    pub events: Vec<Event>,
}

impl Report {
    /// As it stands in the object.
    pub(super) fn of(hpa: &HorizontalPodAutoscaler) -> Self {
        Self { status: hpa.status.clone().unwrap_or_default(), events: Vec::new() }
    }

    /// Sets a condition; its time changes only with its status.
    pub(super) fn condition(&mut self, kind: &str, status: bool, reason: &str, message: &str, now: Timestamp) {
        let status = if status { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let at = conditions.iter().position(|c| c.type_ == kind).unwrap_or_else(|| {
            conditions.push(HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() });
            conditions.len() - 1
        });
        let condition = &mut conditions[at];
        if condition.status != status {
            condition.last_transition_time = Some(Time(now));
        }
        condition.status = status.to_owned();
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.to_owned());
    }

    fn is(&self, kind: &str) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
    }

    fn has(&self, kind: &str) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.type_ == kind)
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, reason: &str, message: impl Into<String>) {
        self.events.push((EventType::Warning, reason.to_owned(), message.into()));
    }

    /// The scale of the target cannot be read.
    pub(super) fn no_scale(&mut self, error: &str, now: Timestamp) {
        self.warn("FailedGetScale", error);
        let message = format!("the HPA controller was unable to get the target's current scale: {error}");
        self.condition("AbleToScale", false, "FailedGetScale", &message, now);
    }

    fn numbers(&mut self, current: i32, desired: i32, metrics: Option<Vec<MetricStatus>>) {
        self.status.current_replicas = crate::meta::counted(current);
        self.status.desired_replicas = desired;
        self.status.current_metrics = metrics;
        self.status.observed_generation = None;
    }
}

/// What counts as no change.
pub(super) fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let Amount(text) = rules?.tolerance.as_ref()?;
        Some(Quantity::parse(text).ok()?.scaled_value(-9) as f64 / 1e9)
    };
    let behavior = spec.behavior.as_ref();
    Tolerances {
        down: of(behavior.and_then(|b| b.scale_down.as_ref())).unwrap_or(TOLERANCE),
        up: of(behavior.and_then(|b| b.scale_up.as_ref())).unwrap_or(TOLERANCE),
    }
}

/// What the number of replicas alone decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Nobody scales what somebody else scaled to zero.
    Disabled,
    /// Outside of the limits of the autoscaler.
    To(i32, &'static str),
    /// The metrics decide.
    Metrics,
}

/// Decides without metrics, where that can be.
pub(super) fn first(spec: &HorizontalPodAutoscalerSpec, report: &Report, current: i32) -> First {
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let wakes = spec.metrics.iter().flatten().any(|m| matches!(m.type_.as_str(), "Object" | "External"));
    match current {
        // what the autoscaler itself put to zero wakes by its metrics, or because the minimum was raised
        0 if report.is("ScaledToZero") && (least != 0 || wakes) => First::Metrics,
        0 => First::Disabled,
        n if n > most => First::To(most, "Current number of replicas above Spec.MaxReplicas"),
        n if n < least => First::To(least, "Current number of replicas below Spec.MinReplicas"),
        _ => First::Metrics,
    }
}

/// What the metrics say together.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// The replicas and the metric that asks for most; `None` if none can be acted on.
    pub replicas: Option<(i32, String)>,
    /// The status of each metric.
    pub statuses: Vec<MetricStatus>,
    /// Why metrics are invalid.
    pub error: Option<String>,
}

/// Takes the highest of the proposals. If some are missing, nothing is decreased.
pub(super) fn measure(
    report: &mut Report,
    proposals: Vec<Result<Proposed, Failure>>,
    wanted: i32,
    now: Timestamp,
) -> Measured {
    let mut measured = Measured::default();
    let (all, mut invalid, mut first) = (proposals.len(), 0, None);
    let (mut replicas, mut metric) = (0, String::new());
    for proposal in proposals {
        match proposal {
            Ok(proposed) => {
                if replicas == 0 || proposed.replicas > replicas {
                    (replicas, metric) = (proposed.replicas, proposed.metric);
                }
                measured.statuses.push(proposed.status);
            }
            Err(failure) => {
                report.warn(failure.reason, failure.text.clone());
                measured.statuses.push(MetricStatus::default());
                invalid += 1;
                first = first.or(Some(failure));
            }
        }
    }
    let error = |f: &Failure| format!("invalid metrics ({invalid} invalid out of {all}), first error is: {}", f.error);
    measured.error = first.as_ref().map(error);
    match first {
        Some(failure) if invalid >= all || replicas < wanted => {
            let message = format!("the HPA was unable to compute the replica count: {}", failure.text);
            report.condition("ScalingActive", false, failure.reason, &message, now);
        }
        _ => {
            let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
            report.condition("ScalingActive", true, "ValidMetricFound", &message, now);
            measured.replicas = Some((replicas, metric));
        }
    }
    measured
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is said if nothing is to be scaled.
    pub report: Report,
    /// The replicas to give the target, and why.
    pub rescale: Option<(i32, String)>,
    current: i32,
    statuses: Option<Vec<MetricStatus>>,
}

/// Decides. `measured` is there where [`first`] left it to the metrics.
pub(super) fn plan(
    spec: &HorizontalPodAutoscalerSpec,
    mut report: Report,
    (first, current): (First, i32),
    measured: Option<Measured>,
    history: &mut History,
    now: Timestamp,
) -> Plan {
    let statuses = measured.as_ref().map(|m| m.statuses.clone()).filter(|all| !all.is_empty());
    let rescale = match (first, measured) {
        (First::To(replicas, reason), _) => Some((replicas, reason.to_owned())),
        (First::Metrics, Some(measured)) => match measured.replicas {
            Some(asked) => by_metrics(spec, &mut report, current, asked, history, now),
            None => {
                report.warn("FailedComputeMetricsReplicas", measured.error.unwrap_or_default());
                let desired = report.status.desired_replicas;
                report.numbers(current, desired, statuses.clone());
                return Plan { report, rescale: None, current, statuses };
            }
        },
        (First::Disabled | First::Metrics, _) => {
            let message = "scaling is disabled since the replica count of the target is zero";
            report.condition("ScalingActive", false, "ScalingDisabled", message, now);
            None
        }
    };
    if rescale.is_none() {
        report.numbers(current, current, statuses.clone());
    }
    Plan { report, rescale, current, statuses }
}

fn by_metrics(
    spec: &HorizontalPodAutoscalerSpec,
    report: &mut Report,
    current: i32,
    (asked, metric): (i32, String),
    history: &mut History,
    now: Timestamp,
) -> Option<(i32, String)> {
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let asked = asked.max(0);
    let mut reason = match asked {
        n if n > current => format!("{metric} above target"),
        n if n < current => "All metrics below target".to_owned(),
        _ => String::new(),
    };
    let behavior = spec.behavior.as_ref();
    if current > 0 && report.is("ScaledToZero") {
        // a request has woken the target: somebody recommended what there is now
        history.recommend(current, now);
        let message = "the workload was scaled up by a request";
        report.condition("ScaledToZero", false, "NotScaledToZero", message, now);
    }
    let stable = history.stabilize(behavior, asked, current, now);
    report.condition("AbleToScale", true, stable.reason, stable.message, now);
    let told = history.within(behavior, stable.replicas, Range { least, most, current }, now);
    report.condition("ScalingLimited", told.replicas != stable.replicas, told.reason, told.message, now);
    let mut desired = told.replicas;
    if current == 0 && least != 0 && desired < least {
        desired = least;
        if reason.is_empty() {
            reason = "Current number of replicas below Spec.MinReplicas".to_owned();
        }
    }
    (desired != current).then_some((desired, reason))
}

impl Plan {
    /// What is said once the target has its replicas.
    pub(super) fn done(
        self,
        spec: &HorizontalPodAutoscalerSpec,
        replicas: i32,
        reason: &str,
        history: &mut History,
        now: Timestamp,
    ) -> Report {
        let Self { mut report, current, statuses, .. } = self;
        let message = format!("the HPA controller was able to update the target scale to {replicas}");
        report.condition("AbleToScale", true, "SucceededRescale", &message, now);
        let text = format!("New size: {replicas}; reason: {reason}");
        report.events.push((EventType::Normal, "SuccessfulRescale".to_owned(), text));
        history.note_change(spec.behavior.as_ref(), current, replicas, now);
        if replicas == 0 {
            let message = "the HPA controller scaled the workload to zero";
            report.condition("ScaledToZero", true, "ScaledToZero", message, now);
        } else if report.has("ScaledToZero") || spec.min_replicas == Some(0) {
            let message = "the HPA controller did not scale the workload to zero";
            report.condition("ScaledToZero", false, "NotScaledToZero", message, now);
        }
        report.numbers(current, replicas, statuses);
        report.status.last_scale_time = Some(Time(now));
        report
    }

    /// What is said when the target did not take its replicas.
    pub(super) fn refused(self, replicas: i32, reason: &str, error: &str, now: Timestamp) -> Report {
        let Self { mut report, current, statuses, .. } = self;
        report.warn("FailedRescale", format!("New size: {replicas}; reason: {reason}; error: {error}"));
        let message = format!("the HPA controller was unable to update the target scale: {error}");
        report.condition("AbleToScale", false, "FailedUpdateScale", &message, now);
        let desired = report.status.desired_replicas;
        report.numbers(current, desired, statuses);
        report
    }
}
