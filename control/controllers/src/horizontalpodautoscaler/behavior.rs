//! How fast replicas may change: limits for each period, and windows in which recent recommendations count. Pure.
//!
//! Follows "Configurable scaling behavior" of <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a decrease is held back where nothing else is said. Upstream's default, in seconds.
const DOWN_WINDOW: i32 = 300;
/// By what an increase is limited without a behavior.
const UP_FACTOR: i32 = 2;
const UP_LEAST: i32 = 4;

/// What an autoscaler has recommended and done of late. A controller that has just started knows only the present number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    recommended: Vec<(Timestamp, i32)>,
    up: Vec<(Timestamp, i32)>,
    down: Vec<(Timestamp, i32)>,
}

/// A number of replicas, with the reason and message of the condition that tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub replicas: i32,
    pub reason: &'static str,
    pub message: &'static str,
}

/// The numbers that a decision is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// `minReplicas`.
    pub least: i32,
    /// `maxReplicas`.
    pub most: i32,
    /// The replicas of the target.
    pub current: i32,
}

fn ago(now: Timestamp, seconds: i32) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MIN)
}

fn seconds(rules: Option<&HPAScalingRules>, default: i32) -> i32 {
    rules.and_then(|r| r.stabilization_window_seconds).unwrap_or(default)
}

impl History {
    /// Of an autoscaler that is seen for the first time.
    pub(super) fn new(current: i32, now: Timestamp) -> Self {
        Self { recommended: vec![(now, current)], up: Vec::new(), down: Vec::new() }
    }

    /// Remembers what somebody else recommended.
    pub(super) fn recommend(&mut self, replicas: i32, now: Timestamp) {
        self.recommended.push((now, replicas));
    }

    /// The number after the stabilization windows; remembers the recommendation.
    pub(super) fn stabilize(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        wanted: i32,
        current: i32,
        now: Timestamp,
    ) -> Told {
        let down = ago(now, seconds(behavior.and_then(|b| b.scale_down.as_ref()), DOWN_WINDOW));
        let up = ago(now, seconds(behavior.and_then(|b| b.scale_up.as_ref()), 0));
        // one of the future was made before the clock was set back
        self.recommended.retain(|(at, _)| *at >= down.min(up) && *at <= now);
        let since = |limit: Timestamp| self.recommended.iter().filter(move |(at, _)| *at > limit).map(|(_, n)| *n);
        let highest = since(down).chain([wanted]).max().unwrap_or(wanted);
        let replicas = match behavior {
            // without a behavior an increase is never held back
            None => self.recommended.iter().map(|(_, n)| *n).chain([wanted]).max().unwrap_or(wanted),
            Some(_) => current.max(since(up).chain([wanted]).min().unwrap_or(wanted)).min(highest),
        };
        self.recommended.push((now, wanted));
        let (reason, message) = if replicas == wanted {
            ("ReadyForNewScale", "recommended size matches current size")
        } else if behavior.is_some() && wanted >= current {
            (
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )
        } else {
            (
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )
        };
        Told { replicas, reason, message }
    }

    /// Remembers a change, as long as a policy may ask for it.
    pub(super) fn note_change(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let rules = behavior.scale_up.iter().chain(&behavior.scale_down);
        let longest = rules.flat_map(|r| r.policies.iter().flatten()).map(|p| p.period_seconds).max().unwrap_or(0);
        for events in [&mut self.up, &mut self.down] {
            events.retain(|(at, _)| *at >= ago(now, longest) && *at <= now);
        }
        let events = if to > from { &mut self.up } else { &mut self.down };
        events.push((now, (i64::from(to) - i64::from(from)).abs().try_into().unwrap_or(i32::MAX)));
    }

    /// The replicas that there were a while ago.
    fn before(&self, period: i32, current: i32, now: Timestamp) -> i64 {
        let changes = |events: &[(Timestamp, i32)]| -> i64 {
            events.iter().filter(|(at, _)| *at > ago(now, period)).map(|(_, n)| i64::from(*n)).sum()
        };
        i64::from(current) - changes(&self.up) + changes(&self.down)
    }

    /// The furthest that one step may go.
    fn limit(&self, rules: &HPAScalingRules, current: i32, up: bool, now: Timestamp) -> i32 {
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let reach = |policy: &HPAScalingPolicy| {
            let start = self.before(policy.period_seconds, current, now);
            let value = i64::from(policy.value);
            let reached = match (policy.type_.as_str(), up) {
                ("Pods", true) => start + value,
                ("Pods", false) => start - value,
                // rounded so that a target can always grow
                (_, true) => (start as f64 * (1.0 + value as f64 / 100.0)).ceil() as i64,
                (_, false) => (start as f64 * (1.0 - value as f64 / 100.0)) as i64,
            };
            i32::try_from(reached).unwrap_or(if reached < 0 { i32::MIN } else { i32::MAX })
        };
        let reached = rules.policies.iter().flatten().map(reach);
        // the larger change is the higher number on the way up, and the lower one on the way down
        let limit = if (select == "Min") == up { reached.min() } else { reached.max() };
        limit.unwrap_or(current)
    }

    /// The number within the limits of a step and of the autoscaler.
    pub(super) fn within(
        &self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        wanted: i32,
        range: Range,
        now: Timestamp,
    ) -> Told {
        const FINE: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
        const TOO_FAST: (&str, &str) =
            ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
        const TOO_MANY: (&str, &str) =
            ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
        const TOO_FEW: (&str, &str) =
            ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
        const TOO_SOON: (&str, &str) =
            ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
        let told = |replicas, (reason, message)| Told { replicas, reason, message };
        let Range { least, most, current } = range;
        let capped = |limit: i32| if most > limit { (limit, TOO_FAST) } else { (most, TOO_MANY) };
        let Some(behavior) = behavior else {
            let (highest, why) = capped(current.saturating_mul(UP_FACTOR).max(UP_LEAST));
            return match wanted {
                n if n < least => told(least, TOO_FEW),
                n if n > highest => told(highest, why),
                n => told(n, FINE),
            };
        };
        let none = HPAScalingRules::default();
        if wanted > current {
            let rules = behavior.scale_up.as_ref().unwrap_or(&none);
            let (highest, why) = capped(self.limit(rules, current, true, now).max(current));
            if wanted > highest {
                return told(highest, why);
            }
        } else if wanted < current {
            let rules = behavior.scale_down.as_ref().unwrap_or(&none);
            let limit = self.limit(rules, current, false, now).min(current);
            let (lowest, why) = if least < limit { (limit, TOO_SOON) } else { (least, TOO_FEW) };
            if wanted < lowest {
                return told(lowest, why);
            }
        }
        told(wanted, FINE)
    }
}
