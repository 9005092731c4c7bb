//! Events that explain problems which no status shows, such as a failing probe or a missing volume.

use super::state::Problem;
use client::{Client, ListOptions};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use std::{collections::HashMap, collections::HashSet, time::Duration};
use tokio::time::Instant;

/// How often the events of a namespace are listed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The warning events of the namespaces with awaited objects.
pub(super) struct Warnings {
    since: Timestamp,
    /// The events of a namespace, and when they were listed.
    seen: HashMap<String, (Instant, Vec<Event>)>,
}

impl Warnings {
    /// Older events are ignored. Events have whole seconds.
    pub(super) fn since(time: Timestamp) -> Self {
        Self { since: time - SignedDuration::from_secs(1), seen: HashMap::new() }
    }

    /// The newest warning about one of these objects.
    pub(super) async fn newest(
        &mut self,
        client: &Client,
        namespace: &str,
        uids: &HashSet<String>,
        now: Instant,
    ) -> Option<Problem> {
        if self.seen.get(namespace).is_none_or(|(asked, _)| now - *asked >= POLL_INTERVAL) {
            let options = ListOptions { fields: "type=Warning".into(), ..ListOptions::default() };
            // A failed list is ignored, because the objects are read independently.
            let events = client.list::<Event>(namespace, &options).await.map(|list| list.items).unwrap_or_default();
            self.seen.insert(namespace.to_owned(), (now, events));
        }
        newest(&self.seen.get(namespace)?.1, uids, self.since)
    }
}

fn newest(events: &[Event], uids: &HashSet<String>, since: Timestamp) -> Option<Problem> {
    let about = |event: &&Event| event.involved_object.uid.as_ref().is_some_and(|uid| uids.contains(uid));
    let timed = events.iter().filter(about).filter_map(|event| Some((time(event)?, event)));
    let (_, event) = timed.filter(|(time, _)| *time >= since).max_by_key(|(time, _)| *time)?;
    let object = &event.involved_object;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Some(Problem {
        object: format!("{}/{}", text(&object.kind).to_lowercase(), text(&object.name)),
        reason: text(&event.reason),
        message: text(&event.message).trim().lines().next().unwrap_or_default().to_owned(),
        lasting: false,
        old: false,
        output: None,
    })
}

/// When it happened last.
fn time(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let plain = event.last_timestamp.as_ref().map(|time| time.0);
    series.max(plain).or(event.event_time.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(uid: &str, reason: &str, time: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e", "namespace": "n"}, "type": "Warning", "reason": reason,
            "message": "Readiness probe failed: refused\nmore", "lastTimestamp": time,
            "involvedObject": {"kind": "Pod", "name": "p", "uid": uid}}))
        .expect("an event")
    }

    #[test]
    fn the_newest_warning_of_what_is_waited_for_is_told_and_none_of_before() {
        let events = [
            event("u", "FailedMount", "2026-01-01T00:00:05Z"),
            event("u", "Unhealthy", "2026-01-01T00:00:09Z"),
            event("other", "BackOff", "2026-01-01T00:00:10Z"),
        ];
        let told = |uids: &[&str], since: &str| {
            let uids = uids.iter().map(|uid| (*uid).to_owned()).collect();
            newest(&events, &uids, since.parse().expect("a time"))
                .map(|problem| format!("{}: {}", problem.object, problem.words()))
        };
        let want = Some("pod/p: Unhealthy: Readiness probe failed: refused".to_owned());
        assert_eq!(told(&["u"], "2026-01-01T00:00:00Z"), want);
        assert_eq!(told(&["u"], "2026-01-01T00:00:09Z"), want);
        assert_eq!(told(&["u"], "2026-01-01T00:00:10Z"), None);
        assert_eq!(told(&["absent"], "2026-01-01T00:00:00Z"), None);
    }
}
