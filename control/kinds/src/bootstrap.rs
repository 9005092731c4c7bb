//! The objects that must exist: four namespaces, Service `default/kubernetes` with its endpoints, and this server's Lease. Made side by
//! side at start, so that they share group commits, and kept right while the server runs.

use crate::{
    Context, Server, User, Verb,
    kinds::SYSTEM_PRIORITY_CLASSES,
    verbs::{Change, Uid, Write, create_object, update_object},
};
use api::{Object, Reason, Status};
use serde_json::{Value, json};
use std::{net::IpAddr, sync::Arc, time::Duration};

/// The namespaces that always exist.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// How often everything is looked at again, and the Lease renewed.
const PERIOD: Duration = Duration::from_secs(10);
/// How long the Lease is good for, seconds.
const LEASE: i64 = 3600;
/// The manager of what is written here, as upstream's.
const MANAGER: &str = "kube-apiserver";

/// Makes what is missing.
pub(crate) async fn ensure(server: &Server) -> anyhow::Result<()> {
    // Namespaces first: admission refuses objects in namespaces that do not exist.
    let namespaces = NAMESPACES.iter().map(|name| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        reconcile(server, "", "namespaces", object, false)
    });
    let classes = SYSTEM_PRIORITY_CLASSES.iter().map(|(name, value, description)| {
        let object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority"});
        reconcile(server, "scheduling.k8s.io", "priorityclasses", object, false)
    });
    futures::future::try_join(futures::future::try_join_all(namespaces), futures::future::try_join_all(classes))
        .await?;
    owned(server).await?;
    Ok(())
}

/// Keeps it so until shutdown.
pub(crate) async fn run(server: &Server) {
    let mut period = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = server.0.shutdown.cancelled() => return,
            _ = period.tick() => {}
        }
        if let Err(error) = ensure(server).await {
            tracing::warn!(%error, "cannot keep the server's own objects");
        }
    }
}

/// The service, its endpoints and the lease.
async fn owned(server: &Server) -> Result<(), Status> {
    let inner = &server.0;
    let (resources, registry) = (resources(server), inner.registry.load_full());
    let work = resources.into_iter().filter_map(|(group, plural, object, keep)| {
        registry.find(group, plural)?;
        Some(reconcile(server, group, plural, object, keep))
    });
    futures::future::try_join_all(work).await.map(drop)
}

/// The first address of the Service range: that of Service `kubernetes`.
pub fn first_service_address(cidr: &ipnet::IpNet) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(a) => IpAddr::from(std::net::Ipv4Addr::from(u32::from(a).wrapping_add(1))),
        IpAddr::V6(a) => IpAddr::from(std::net::Ipv6Addr::from(u128::from(a).wrapping_add(1))),
    }
}

fn resources(server: &Server) -> Vec<(&'static str, &'static str, Value, bool)> {
    let inner = &server.0;
    let cluster_ip = first_service_address(&inner.settings.service_cidr).to_string();
    let (ip, port) = (inner.advertise.ip().to_string(), inner.advertise.port());
    let family = if inner.advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let named = |labels: Value| json!({"name": "kubernetes", "namespace": "default", "labels": labels});
    let now = api::time::rfc3339_micro(inner.clock.now());
    vec![
        (
            "",
            "services",
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": named(json!({"component": "apiserver", "provider": "kubernetes"})),
                "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "sessionAffinity": "None",
                    "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]}}),
            true,
        ),
        (
            "",
            "endpoints",
            json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": named(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
                "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]}),
            true,
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": named(json!({"kubernetes.io/service-name": "kubernetes"})), "addressType": family,
                "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
            true,
        ),
        (
            "coordination.k8s.io",
            "leases",
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": format!("apiserver-{}", inner.identity), "namespace": "kube-system",
                    "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": inner.identity}},
                "spec": {"holderIdentity": inner.identity, "leaseDurationSeconds": LEASE, "renewTime": now}}),
            true,
        ),
    ]
}

/// Creates the object; if it is there and `keep`, sets the wanted fields again.
async fn reconcile(server: &Server, group: &str, plural: &str, wanted: Value, keep: bool) -> Result<(), Status> {
    let registry = server.0.registry.load_full();
    let Some(resource) = registry.find(group, plural).cloned() else { return Ok(()) };
    let object = Object::from_value(wanted).expect("made as an object");
    let cx = Context {
        user: Arc::new(User::new("system:apiserver", &["system:masters", "system:authenticated"])),
        now: server.0.clock.now(),
        verb: Verb::Create,
        resource: resource.clone(),
        subresource: String::new(),
        namespace: object.namespace().to_owned(),
        name: object.name().to_owned(),
        dry_run: false,
        objects: server.objects(),
        ids: server.0.ids.clone(),
    };
    let mut write = Write::with(server, cx, MANAGER);
    if server.0.store.get(&resource.key(object.namespace(), object.name())).is_none() {
        match create_object(&mut write, object.clone(), false).await {
            Ok(_) => return Ok(()),
            Err(status) if status.reason == Reason::AlreadyExists => {}
            Err(status) => return Err(status),
        }
    }
    if !keep {
        return Ok(());
    }
    write.cx.verb = Verb::Update;
    let change = |old: &Object, _: &mut Vec<String>| {
        let patched = api::patch::merge(&old.clone().into_value(), &object.clone().into_value());
        let mut object = Object::from_value(patched).expect("an object merged with an object is one");
        resource.strategy.default(&mut object);
        Ok(Change { object, owned: false, pinned: false, uid: Uid::Expected })
    };
    update_object(&mut write, change).await.map(drop)
}
