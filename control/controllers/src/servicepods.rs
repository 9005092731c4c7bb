//! The pods of a Service, their ports and their state, for `endpointslice` and `endpoints`. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/service/> and the section on terminating endpoints of
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>.

use crate::{
    labels::{self, Selects},
    meta, pods,
};
use client::{Delta, Informer, Key};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The time of the change that an object reports, for metrics of programming latency.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Marks the endpoints of Services without an address of their own.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Whether the endpoints of `service` are managed here: it has a selector and is not of type ExternalName.
pub(crate) fn is_selecting(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.selector.is_some() && s.type_.as_deref() != Some("ExternalName"))
}

/// Whether the Service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or("");
    ip.is_empty() || ip == "None"
}

/// Whether pods count before they are ready.
pub(crate) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// The ports of a Service.
pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default()
}

/// Adds the indexes that [`selected`] and [`enqueue_services`] use.
pub(crate) fn index(services: &Informer<Service>, pods: &Informer<Pod>) {
    labels::index_selectors(services);
    labels::index(pods);
}

/// The pods in the namespace that the Service selects.
pub(crate) fn selected(service: &Service, pods: &Informer<Pod>) -> Vec<Arc<Pod>> {
    let Some(wanted) = service.wanted() else { return Vec::new() };
    let all = labels::selected(pods, meta::namespace(&service.metadata), wanted);
    all.into_iter().filter(|p| selects(service, p.metadata.labels.as_ref())).collect()
}

/// Whether the Service selects these labels.
pub(crate) fn selects(service: &Service, labels: Option<&BTreeMap<String, String>>) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    let has = |(k, v): (&String, &String)| labels.and_then(|l| l.get(k)) == Some(v);
    selector.is_some_and(|s| s.iter().all(has))
}

/// The container port that a Service's port targets in `pod`; `None` for a name that no container port has.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".to_owned());
    let mut all = client::pod::lasting_containers(pod).flat_map(|c| c.ports.iter().flatten());
    let matching = all.find(|p| p.name.as_ref() == Some(name) && protocol(&p.protocol) == protocol(&port.protocol));
    matching.map(|p| p.container_port)
}

/// Whether `pod` has an address and has not ended.
pub(crate) fn is_endpoint(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty()
}

/// All addresses of a pod.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed: Vec<&str> =
        status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty()).collect();
    if listed.is_empty() { status.pod_ip.as_deref().filter(|ip| !ip.is_empty()).into_iter().collect() } else { listed }
}

/// The host name of the pod within the domain of the Service, if its `subdomain` is the Service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain.as_deref() == service.metadata.name.as_deref()
        && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname.clone().filter(|h| ours && !h.is_empty())
}

/// The times of the changes that have been seen, by Service: what is written is the time of the first change since then.
#[derive(Debug, Default)]
pub(crate) struct TriggerTimes(Mutex<HashMap<Key, Seen>>);

#[derive(Clone, Debug, Default)]
struct Seen {
    service: Option<Timestamp>,
    /// By the name of the pod: when it became ready or unready.
    pods: HashMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The time of the earliest change that was not seen before; of a Service that is new here, its creation. `None`: nothing has changed.
    pub(crate) fn next(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Option<String> {
        let changed = |pod: &Arc<Pod>| {
            let time = pods::condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
            Some((meta::name(&pod.metadata).to_owned(), time))
        };
        let created = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let now = Seen { service: created, pods: pods.iter().filter_map(changed).collect() };
        let before = self.0.lock().insert(key.clone(), now.clone());
        let first = match before {
            None => created,
            Some(before) => {
                let newer =
                    now.pods.iter().filter(|(name, time)| before.pods.get(*name).is_none_or(|seen| *time > seen));
                newer.map(|(_, time)| *time).chain(created.filter(|_| created > before.service)).min()
            }
        };
        first.map(|time| time.to_string())
    }

    /// Forgets a Service that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

/// The keys of the Services that a change of a pod concerns; none when nothing changed that endpoints show.
pub(crate) fn enqueue_services(delta: &Delta<Pod>, services: &Informer<Service>) -> Vec<Key> {
    let pod = delta.object();
    let old = delta.old();
    if old.is_some_and(|old| endpoint_facts(old) == endpoint_facts(pod)) {
        return Vec::new();
    }
    let concerns = |s: &Arc<Service>| {
        selects(s, pod.metadata.labels.as_ref()) || old.is_some_and(|o| selects(s, o.metadata.labels.as_ref()))
    };
    let sets = [pod.metadata.labels.as_ref(), old.and_then(|old| old.metadata.labels.as_ref())];
    let all = labels::selecting(services, meta::namespace(&pod.metadata), &sets);
    all.iter().filter(|s| is_selecting(s) && concerns(s)).map(|s| Key::of(&**s)).collect()
}

/// The facts of a pod that endpoints show; `None` before it has an address.
fn endpoint_facts(pod: &Pod) -> Option<impl PartialEq> {
    let spec = pod.spec.as_ref();
    if addresses(pod).is_empty() {
        return None;
    }
    Some((
        addresses(pod).into_iter().map(str::to_owned).collect::<Vec<_>>(),
        pods::is_ready(pod),
        pods::is_finished(pod),
        pod.metadata.deletion_timestamp.is_some(),
        pod.metadata.labels.clone(),
        spec.map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone())),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_time_that_is_written_is_that_of_the_first_change_since_the_last_look() {
        let (times, key) = (TriggerTimes::default(), Key::new("ns", "web"));
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
        let service = |second: u32| -> Service {
            serde_json::from_value(
                json!({"metadata": {"name": "web", "namespace": "ns", "creationTimestamp": at(second)}}),
            )
            .expect("a Service")
        };
        let pod = |name: &str, second: u32| -> Arc<Pod> {
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": at(second)});
            let value = json!({"metadata": {"name": name, "namespace": "ns"}, "status": {"conditions": [ready]}});
            Arc::new(serde_json::from_value(value).expect("a pod"))
        };
        for (look, created, pods, wanted) in [
            ("of a new Service: its creation", 10, vec![pod("a", 5)], Some(10)),
            ("nothing is new", 10, vec![pod("a", 5)], None),
            ("the earlier of two", 10, vec![pod("a", 30), pod("b", 20)], Some(20)),
            ("one that was seen before does not count", 10, vec![pod("a", 30), pod("b", 40)], Some(40)),
            ("a pod that went is no change of readiness", 10, vec![pod("b", 40)], None),
            ("a Service that was made anew", 50, vec![pod("b", 40)], Some(50)),
        ] {
            assert_eq!(times.next(&key, &service(created), &pods), wanted.map(at), "{look}");
        }
        times.forget(&key);
        assert_eq!(times.next(&key, &service(50), &[]), Some(at(50)), "forgotten");
    }
}
