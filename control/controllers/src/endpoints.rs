//! Endpoints, the predecessor of EndpointSlices, which some clients still read.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/service/#endpoints>.

use crate::{
    Context, meta, pods,
    servicepods::{self, HEADLESS, TRIGGER_TIME, TriggerTimes},
};
use client::{Client, Controller, DeleteOptions, Delta, EventType, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses in one object.
const MAX_ADDRESSES: usize = 1000;

/// Keeps Endpoints. Upstream's `endpoints-controller`.
pub(crate) struct EndpointsController {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    triggers: TriggerTimes,
    /// Services that were deleted: their Endpoints go too, whoever wrote them.
    deleted: Arc<Mutex<HashSet<Key>>>,
}

impl EndpointsController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (services, pods) = (cx.informers.of(), cx.informers.of());
        servicepods::index(&services, &pods);
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("endpoint-controller"),
            services,
            pods,
            endpoints: cx.informers.of(),
            triggers: TriggerTimes::default(),
            deleted: Arc::default(),
        }
    }

    async fn write(&self, wanted: &Endpoints) -> Result<(), client::Error> {
        let new = wanted.metadata.resource_version.is_none();
        let result = if new { self.client.create(wanted).await } else { self.client.update(wanted).await };
        let Err(error) = result else { return Ok(()) };
        if error.is_namespace_terminating() {
            return Ok(());
        }
        if !error.is_conflict() {
            let key = Key::of(wanted);
            let (reason, message) = if new {
                ("FailedToCreateEndpoint", format!("Failed to create endpoint for service {key}: {error}"))
            } else {
                ("FailedToUpdateEndpoint", format!("Failed to update endpoint {key}: {error}"))
            };
            self.recorder.event(&reference(wanted), EventType::Warning, reason, message);
        }
        Err(error)
    }
}

#[async_trait::async_trait]
impl Controller for EndpointsController {
    const NAME: &'static str = "endpoints-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        let deleted = self.deleted.clone();
        wakeups.on(&self.services, move |delta| {
            let key = Key::of(&**delta.object());
            if matches!(delta, Delta::Deleted(_)) {
                deleted.lock().insert(key.clone());
            }
            vec![key]
        });
        wakeups.on_self(&self.endpoints);
        let services = self.services.clone();
        wakeups.on(&self.pods, move |delta| servicepods::enqueue_services(delta, &services));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let current = self.endpoints.find(key);
        let Some(service) = self.services.find(key) else {
            self.triggers.forget(key);
            // an object of this name that never had a Service may be somebody's lock
            let ours = |e: &Arc<Endpoints>| {
                let manager = e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY));
                manager.is_some_and(|m| m == CONTROLLER) || self.deleted.lock().contains(key)
            };
            if let Some(old) = current.filter(ours) {
                let options = DeleteOptions::uid(meta::uid(&old.metadata));
                self.client.delete::<Endpoints>(&key.namespace, &key.name, &options).await?;
            }
            self.deleted.lock().remove(key);
            return Ok(Next::Done);
        };
        self.deleted.lock().remove(key);
        if !servicepods::is_selecting(&service) {
            return Ok(Next::Done);
        }
        let pods = servicepods::selected(&service, &self.pods);
        let trigger = self.triggers.next(key, &service, &pods);
        if let Some(wanted) = plan(&service, &pods, current.as_deref(), trigger) {
            self.write(&wanted).await?;
        }
        Ok(Next::Done)
    }
}

/// The Endpoints that the Service should have; `None` when it has them.
pub(crate) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
    trigger: Option<String>,
) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if servicepods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let old = |key: &str| current.and_then(|c| meta::annotation(&c.metadata, key));
    let same = current.is_some_and(|c| {
        c.subsets.clone().unwrap_or_default() == subsets
            && c.metadata.labels.as_ref() == Some(&labels)
            && old(OVER_CAPACITY).is_some() == truncated
    });
    if same {
        return None;
    }
    let metadata = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    };
    let mut wanted = current.cloned().unwrap_or(Endpoints { metadata, subsets: None });
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    annotations.remove(TRIGGER_TIME);
    annotations.extend(trigger.map(|time| (TRIGGER_TIME.to_owned(), time)));
    wanted.metadata.labels = Some(labels);
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    Some(wanted)
}

/// The ports of an address, in a comparable form.
type Ports = Vec<(String, i32, String, Option<String>)>;
/// Addresses by IP and pod uid, with whether they are ready.
type Addresses = BTreeMap<(String, String), (EndpointAddress, bool)>;

/// Addresses with the same ports form a subset.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<Ports, Addresses> = BTreeMap::new();
    let publish = servicepods::publishes_unready(service);
    let v6 = service.spec.as_ref().and_then(|s| s.ip_families.as_ref()?.first()).is_some_and(|f| f == "IPv6");
    for pod in pods.iter().filter(|p| servicepods::is_endpoint(p)) {
        // unlike EndpointSlices, Endpoints have no terminating state
        if pod.metadata.deletion_timestamp.is_some() && !publish {
            continue;
        }
        let Some(ip) = servicepods::addresses(pod).into_iter().find(|a| a.contains(':') == v6) else { continue };
        let ports: Ports = servicepods::ports(service)
            .iter()
            .filter_map(|p| {
                let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let number = servicepods::find_port(pod, p)?;
                Some((p.name.clone().unwrap_or_default(), number, protocol, p.app_protocol.clone()))
            })
            .collect();
        if ports.is_empty() && !(servicepods::ports(service).is_empty() && servicepods::is_headless(service)) {
            continue;
        }
        let key = (ip.to_owned(), meta::uid(&pod.metadata).to_owned());
        let ready = publish || pods::is_ready(pod);
        groups.entry(ports).or_default().insert(key, (address(service, pod, ip), ready));
    }
    groups.into_iter().map(|(ports, addresses)| subset(ports, addresses)).collect()
}

fn subset(mut ports: Ports, addresses: Addresses) -> EndpointSubset {
    ports.sort();
    let (ready, unready): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(_, ready)| *ready);
    let list = |v: Vec<(EndpointAddress, bool)>| {
        (!v.is_empty()).then(|| v.into_iter().map(|(address, _)| address).collect::<Vec<_>>())
    };
    let port = |(name, port, protocol, app_protocol): (String, i32, String, Option<String>)| EndpointPort {
        name: (!name.is_empty()).then_some(name),
        port,
        protocol: Some(protocol),
        app_protocol,
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(unready),
        ports: (!ports.is_empty()).then(|| ports.into_iter().map(port).collect()),
    }
}

fn address(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_owned(),
        node_name: Some(pods::node_name(pod)).filter(|n| !n.is_empty()).map(str::to_owned),
        hostname: servicepods::hostname(pod, service),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

/// Keeps as many addresses as there is room for, ready ones before others; each subset keeps its share. Returns whether there were too many.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let count = |l: &Option<Vec<EndpointAddress>>| l.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let unready: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + unready <= MAX_ADDRESSES {
        return false;
    }
    let cuts_ready = ready > MAX_ADDRESSES;
    let (room, all) = if cuts_ready { (MAX_ADDRESSES, ready) } else { (MAX_ADDRESSES - ready, unready) };
    let mut left = room;
    for subset in subsets.iter_mut() {
        if cuts_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cuts_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (count(list) * room).div_ceil(all).min(left);
        list.as_mut().into_iter().for_each(|addresses| addresses.truncate(share));
        left -= count(list);
        *list = list.take().filter(|addresses| !addresses.is_empty());
    }
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}))
        .expect("a Service")
    }

    fn pod(i: usize, ready: bool, deleting: bool) -> Arc<Pod> {
        let name = format!("p{i}");
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "deletionTimestamp": deleted},
                "spec": {"nodeName": "n1", "containers": []},
                "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", i / 250, i % 250),
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}),
            )
            .expect("a pod"),
        )
    }

    fn subsets_of(e: &Endpoints) -> Value {
        serde_json::to_value(&e.subsets).expect("JSON")
    }

    #[test]
    fn ready_and_unready_addresses_are_told_apart_and_terminating_ones_left_out() {
        let e = plan(&service(), &[pod(1, true, false), pod(2, false, false), pod(3, true, true)], None, None)
            .expect("a change");
        let address = |i: usize| {
            json!({"ip": format!("10.1.0.{i}"), "nodeName": "n1",
                "targetRef": {"kind": "Pod", "namespace": "ns", "name": format!("p{i}"), "uid": format!("p{i}")}})
        };
        assert_eq!(
            subsets_of(&e),
            json!([{"addresses": [address(1)], "notReadyAddresses": [address(2)], "ports": [{"port": 8080, "protocol": "TCP"}]}])
        );
        assert_eq!(e.metadata.labels.as_ref().expect("labels")[MANAGED_BY], CONTROLLER);
        assert_eq!(
            plan(&service(), &[pod(1, true, false), pod(2, false, false)], Some(&e), None),
            None,
            "nothing to do twice"
        );
    }

    #[test]
    fn too_many_addresses_are_cut_and_the_object_says_so() {
        let pods: Vec<_> = (0..1100).map(|i| pod(i, i >= 200, false)).collect();
        let e = plan(&service(), &pods, None, None).expect("a change");
        let subset = &e.subsets.as_ref().expect("subsets")[0];
        assert_eq!(subset.addresses.as_ref().map(Vec::len), Some(900));
        assert_eq!(subset.not_ready_addresses.as_ref().map(Vec::len), Some(100));
        assert_eq!(meta::annotation(&e.metadata, OVER_CAPACITY), Some("truncated"));
    }

    #[test]
    fn a_service_without_pods_has_no_subsets() {
        let e = plan(&service(), &[], None, None).expect("a change");
        assert_eq!(e.subsets, None);
        assert_eq!(plan(&service(), &[], Some(&e), None), None);
    }

    #[test]
    fn subsets_are_cut_in_proportion_and_ready_addresses_stay_first() {
        let addresses = |n: usize| (n > 0).then(|| vec![EndpointAddress::default(); n]);
        let cut = |sizes: &[(usize, usize)]| {
            let subset = |(ready, unready): &(usize, usize)| EndpointSubset {
                addresses: addresses(*ready),
                not_ready_addresses: addresses(*unready),
                ports: None,
            };
            let mut subsets: Vec<_> = sizes.iter().map(subset).collect();
            let truncated = truncate(&mut subsets);
            let count = |l: &Option<Vec<EndpointAddress>>| l.as_ref().map_or(0, Vec::len);
            let left = subsets.iter().map(|s| (count(&s.addresses), count(&s.not_ready_addresses))).collect::<Vec<_>>();
            (truncated, left)
        };
        assert_eq!(cut(&[(600, 400)]), (false, vec![(600, 400)]));
        assert_eq!(cut(&[(900, 200)]), (true, vec![(900, 100)]));
        assert_eq!(cut(&[(1200, 10)]), (true, vec![(1000, 0)]));
        assert_eq!(cut(&[(400, 0), (800, 5)]), (true, vec![(334, 0), (666, 0)]), "rounded up, the last has less");
        assert_eq!(cut(&[(500, 300), (400, 100)]), (true, vec![(500, 75), (400, 25)]));
    }

    #[test]
    fn what_others_wrote_into_the_annotations_stays_and_an_old_time_goes() {
        let mut current = plan(&service(), &[], None, Some("2026-01-01T00:00:00Z".to_owned())).expect("a change");
        assert_eq!(meta::annotation(&current.metadata, TRIGGER_TIME), Some("2026-01-01T00:00:00Z"));
        current.metadata.annotations.get_or_insert_default().insert("note".to_owned(), "mine".to_owned());
        let next = plan(&service(), &[pod(1, true, false)], Some(&current), None).expect("a change");
        assert_eq!(meta::annotation(&next.metadata, "note"), Some("mine"));
        assert_eq!(meta::annotation(&next.metadata, TRIGGER_TIME), None);
    }
}
