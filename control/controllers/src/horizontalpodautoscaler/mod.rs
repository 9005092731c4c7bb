//! HorizontalPodAutoscalers: as many replicas as metrics ask for.
//!
//! Follows <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>: every 15 seconds it reads the metrics of the pods of
//! a scale target, takes the highest of what they ask for, holds it within windows, rates and limits, and writes it to the target's scale.
//! With `minReplicas: 0` and an Object or External metric a target goes down to nothing and comes back. A Deployment is then marked as idle, so
//! that a request wakes it (`scaletozero`); where that controller is switched off it is not, and comes back by its metric alone, as upstream.

mod behavior;
mod kinds;
mod metrics;
mod plan;
mod proposal;
mod replicas;
#[cfg(test)]
mod tests;

use self::{
    behavior::History,
    kinds::{Kinds, Scale},
    metrics::Reader,
    plan::{First, Measured, Report, first, measure, plan},
    replicas::Scaled,
};
use crate::{
    Context,
    labels::{self, Labels},
    meta, scaletozero, status,
};
use api::selector::Selector;
use client::{Client, Controller, Informer, Key, Next, Recorder, Wakeups, reference};
use jiff::Timestamp;
use k8s_openapi::api::{
    autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec},
    core::v1::Pod,
};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// How often an autoscaler is looked at. Upstream's default.
const PERIOD: Duration = Duration::from_secs(15);

/// What is remembered of an autoscaler.
struct Memory {
    /// When it was looked at.
    seen: Timestamp,
    history: Option<History>,
    /// The selector of its pods.
    selector: Option<Selector>,
}

/// Runs HorizontalPodAutoscalers. Upstream's `horizontal-pod-autoscaler-controller`.
pub(crate) struct HorizontalPodAutoscalerController {
    /// Somebody wakes what is put to zero.
    wakes: bool,
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    kinds: Kinds,
    memory: Mutex<HashMap<Key, Memory>>,
}

impl HorizontalPodAutoscalerController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let pods = cx.informers.of::<Pod>();
        labels::index(&pods);
        Self {
            wakes: scaletozero::wakes(cx),
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("horizontal-pod-autoscaler"),
            autoscalers: cx.informers.of(),
            pods,
            kinds: Kinds::new(cx.client.clone(), cx.options.clock.clone()),
            memory: Mutex::default(),
        }
    }

    /// How long it is until the autoscaler may be looked at again; notes that it is looked at.
    fn wait(&self, key: &Key) -> Option<Duration> {
        let now = self.clock.now();
        let mut memory = self.memory.lock();
        if let Some(known) = memory.get_mut(key) {
            // after a clock that was set back it is looked at at once
            let passed = Duration::try_from(now.duration_since(known.seen)).unwrap_or(PERIOD);
            let left = PERIOD.saturating_sub(passed);
            if !left.is_zero() {
                return Some(left);
            }
            known.seen = now;
        } else {
            memory.insert(key.clone(), Memory { seen: now, history: None, selector: None });
        }
        None
    }

    /// What was recommended and done before; of a new one the present number.
    fn history(&self, key: &Key, current: i32, now: Timestamp) -> History {
        let known = self.memory.lock().get(key).and_then(|memory| memory.history.clone());
        known.unwrap_or_else(|| History::new(current, now))
    }

    fn remember(&self, key: &Key, history: History) {
        if let Some(memory) = self.memory.lock().get_mut(key) {
            memory.history = Some(history);
        }
    }

    /// The pods that the target selects.
    ///
    /// # Errors
    /// There is no selector, it cannot be read, or another autoscaler has the same pods; it is told of in the report.
    fn selected(
        &self,
        key: &Key,
        selector: &str,
        report: &mut Report,
        now: Timestamp,
    ) -> Result<Vec<Arc<Pod>>, String> {
        let mut refuse = |event: &str, reason: &str, text: &str, message: &str| {
            report.warn(event, text);
            report.condition("ScalingActive", false, reason, message, now);
            text.to_owned()
        };
        if selector.is_empty() {
            let (text, message) = ("selector is required", "the HPA target's scale is missing a selector");
            return Err(refuse("SelectorRequired", "InvalidSelector", text, message));
        }
        let parsed = Selector::parse(selector).map_err(|error| {
            let text = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            refuse("InvalidSelector", "InvalidSelector", &text, &text)
        })?;
        let pods = self.select(&key.namespace, &parsed);
        let others = self.others(key, parsed, &pods);
        if others.len() > 1 {
            let others = others.join(" ");
            let text = format!("pods by selector {selector} are controlled by multiple HPAs: [{others}]");
            return Err(refuse("AmbiguousSelector", "AmbiguousSelector", &text, &text));
        }
        Ok(pods)
    }

    fn select(&self, namespace: &str, selector: &Selector) -> Vec<Arc<Pod>> {
        let exact = |key: &String| Some((key.clone(), selector.exact(key)?.to_owned()));
        let wanted: Labels = selector.requirements().iter().filter_map(|r| exact(&r.key)).collect();
        let candidates = labels::selected(&self.pods, namespace, &wanted);
        candidates.into_iter().filter(|p| meta::matches(selector, p.metadata.labels.as_ref())).collect()
    }

    /// The autoscalers of these pods, as Go prints them; remembers the selector of this one.
    fn others(&self, key: &Key, selector: Selector, pods: &[Arc<Pod>]) -> Vec<String> {
        let mut memory = self.memory.lock();
        if let Some(known) = memory.get_mut(key) {
            known.selector = Some(selector);
        }
        let selects = |memory: &Memory| {
            let selector = memory.selector.as_ref();
            selector.is_some_and(|s| pods.iter().any(|p| meta::matches(s, p.metadata.labels.as_ref())))
        };
        let of = memory.iter().filter(|(other, memory)| other.namespace == key.namespace && selects(memory));
        let mut names: Vec<String> = of.map(|(other, _)| format!("{{{} {}}}", other.name, other.namespace)).collect();
        names.sort();
        names
    }

    /// Reads the metrics and what they ask for.
    async fn measure(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        report: &mut Report,
    ) -> Measured {
        let now = self.clock.now();
        let pods = match self.selected(key, &scale.selector, report, now) {
            Ok(pods) => pods,
            Err(error) => return Measured { error: Some(error), ..Measured::default() },
        };
        let reader =
            Reader { client: &self.client, kinds: &self.kinds, namespace: &key.namespace, selector: &scale.selector };
        let (wanted, observed, tolerances) = (scale.wanted, scale.observed, plan::tolerances(spec));
        let mut proposals = Vec::new();
        for metric in spec.metrics.iter().flatten() {
            let reading = reader.read(metric).await;
            let scaled = Scaled { pods: &pods, wanted, observed, tolerances, now: self.clock.now() };
            proposals.push(proposal::propose(metric, reading, &scaled, &key.namespace));
        }
        measure(report, proposals, wanted, now)
    }

    /// Writes the replicas of the target.
    async fn write(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        scale: Scale,
        replicas: i32,
    ) -> Result<(), client::Error> {
        let target = &spec.scale_target_ref;
        let is_deployment = target.kind == "Deployment" && target.api_version.as_deref() == Some("apps/v1");
        if replicas == 0 && is_deployment && self.wakes {
            return self.kinds.put_to_sleep(&key.namespace, &target.name).await;
        }
        self.kinds.rescale(scale, replicas).await
    }

    /// Looks at the autoscaler and does what is to be done.
    async fn scale(&self, key: &Key, hpa: &HorizontalPodAutoscaler) -> Report {
        let (spec, mut report) = (&hpa.spec, Report::of(hpa));
        let target = &spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or_default();
        if version.matches('/').count() > 1 {
            report.no_scale(&format!("unexpected GroupVersion string: {version}"), self.clock.now());
            return report;
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let scale = match self.kinds.scale(group, &target.kind, &key.namespace, &target.name).await {
            Ok(scale) => scale,
            Err(error) => {
                report.no_scale(&error, self.clock.now());
                return report;
            }
        };
        let now = self.clock.now();
        let message = "the HPA controller was able to get the target's current scale";
        report.condition("AbleToScale", true, "SucceededGetScale", message, now);
        let mut history = self.history(key, scale.wanted, now);
        let first = first(spec, &report, scale.wanted);
        let measured = match first {
            First::Metrics => Some(self.measure(key, spec, &scale, &mut report).await),
            _ => None,
        };
        let now = self.clock.now();
        let plan = plan(spec, report, (first, scale.wanted), measured, &mut history, now);
        let report = match plan.rescale.clone() {
            None => plan.report,
            Some((replicas, reason)) => match self.write(key, spec, scale, replicas).await {
                Ok(()) => plan.done(spec, replicas, &reason, &mut history, now),
                Err(error) => plan.refused(replicas, &reason, &error.to_string(), now),
            },
        };
        self.remember(key, history);
        report
    }
}

#[async_trait::async_trait]
impl Controller for HorizontalPodAutoscalerController {
    const NAME: &'static str = "horizontal-pod-autoscaler-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.autoscalers);
        wakeups.reads(&self.pods);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(hpa) = self.autoscalers.find(key) else {
            self.memory.lock().remove(key);
            return Ok(Next::Done);
        };
        if let Some(left) = self.wait(key) {
            return Ok(Next::After(left));
        }
        let report = self.scale(key, &hpa).await;
        let owner = reference(&*hpa);
        for (kind, reason, message) in report.events {
            self.recorder.event(&owner, kind, &reason, message);
        }
        if status::differs(hpa.status.as_ref(), &report.status) {
            status::write(&self.client, &HorizontalPodAutoscaler { status: Some(report.status), ..(*hpa).clone() })
                .await?;
        }
        Ok(Next::After(PERIOD))
    }
}
