//! The objects that must exist: four namespaces, the system PriorityClasses, a RuntimeClass for each runtime, the StorageClass of volumes on
//! the nodes, Service `default/kubernetes` with its endpoints, Service `kube-system/kube-dns` at the address of the DNS server, the day since which the use of tokens of Secrets is noted, and the Lease of this
//! server. They are created concurrently at start, so that they share group commits, and reconciled while the server runs. The roles and bindings
//! that every cluster has are written after the start, which they do not hold up: until then they count as if they were there ([`crate::Rbac`]).
//! So are the FlowSchemas and PriorityLevelConfigurations of every cluster, and the ServiceCIDR `kubernetes`, which says from where Services
//! have their addresses.

use crate::{
    Settings,
    apiregistration::{
        builtin::{self, COLLECTION},
        registered,
    },
    flowcontrol::{self, standard},
    networking::servicecidr::{DEFAULT, GROUP, RESOURCE},
    rbac::{
        policy,
        reconcile::{self, Change},
    },
    scheduling::priorityclass::SYSTEM,
};
use anyhow::{Context as _, bail};
use api::{
    Object,
    legacytoken::{LAST_USED, TRACKING, day, parse_day},
};
use axum::body::Body;
use futures::{FutureExt, StreamExt, TryStreamExt, future::try_join_all, stream};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use server::{Objects, Server, Service, User};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The namespaces that always exist.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// How often the objects are reconciled and the Lease is renewed.
const PERIOD: Duration = Duration::from_secs(10);
/// Duration of the Lease, seconds.
const LEASE: i64 = 3600;
/// The StorageClass of volumes on the nodes, and the default.
const LOCAL_CLASS: &str = "local";
/// How many roles and bindings are written at the same time.
const ROLE_WRITES: usize = 16;
/// The check of readiness that fails when the roles cannot be written, by upstream's name.
const ROLES_CHECK: &str = "poststarthook/rbac/bootstrap-roles";
/// The field manager, as upstream's.
const MANAGER: &str = "fieldManager=kube-apiserver";
/// Those of FlowSchemas and PriorityLevelConfigurations, and of their statuses.
const FAIRNESS_MANAGER: &str = "fieldManager=api-priority-and-fairness-config-producer-v1";
const FAIRNESS_STATUS_MANAGER: &str = "fieldManager=api-priority-and-fairness-config-consumer-v1&force=true";
/// The least time between two rounds over them.
const FAIRNESS_PAUSE: Duration = Duration::from_secs(1);
/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";
/// The field manager of the status of the ServiceCIDR of the settings' range.
const RANGE_MANAGER: &str = "fieldManager=kubernetes-service-cidr-controller&force=true";
/// How often what seldom changes is looked at.
const SLOW_PERIOD: Duration = Duration::from_secs(60);

/// Writes the objects that must exist, as any client would.
pub struct Bootstrap {
    service: Service,
    objects: Arc<dyn Objects>,
    /// Why the roles could not be written.
    roles_failure: Arc<Mutex<Option<String>>>,
    /// Whether it was said that Service `kube-system/kube-dns` cannot be written.
    dns_failed: AtomicBool,
    settings: Settings,
    /// The group versions that are built in.
    built_in: Vec<(String, String)>,
    /// Wall-clock time.
    clock: api::Clock,
}

impl Bootstrap {
    /// For a server.
    pub fn new(server: &Server, settings: Settings, clock: api::Clock) -> Self {
        let user = User::new("system:apiserver", &["system:masters", "system:authenticated"]);
        let roles_failure = Arc::new(Mutex::new(None));
        let failure = roles_failure.clone();
        server.checks().register(ROLES_CHECK, true, move || failure.lock().clone().map_or(Ok(()), Err));
        Self {
            service: server.service_for(user),
            objects: server.objects(),
            roles_failure,
            dns_failed: AtomicBool::new(false),
            settings,
            built_in: server.built_in(),
            clock,
        }
    }

    /// Creates missing objects.
    ///
    /// # Errors
    /// An object cannot be written.
    pub async fn ensure(&self) -> anyhow::Result<()> {
        // Namespaces first: admission refuses objects in namespaces that do not exist.
        let namespaces = NAMESPACES.iter().map(|name| {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.reconcile("/api/v1/namespaces".to_owned(), object, false)
        });
        let classes = SYSTEM.iter().map(|(name, value, description)| {
            let object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority"});
            self.reconcile("/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(), object, false)
        });
        let runtimes = self.settings.runtimes.iter().map(|name| {
            let object = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": name});
            self.reconcile("/apis/node.k8s.io/v1/runtimeclasses".to_owned(), object, false)
        });
        let storage = self.settings.local_volumes.iter().map(|provisioner| {
            let default = json!({"storageclass.kubernetes.io/is-default-class": "true"});
            let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
                "metadata": {"name": LOCAL_CLASS, "annotations": default}, "provisioner": provisioner,
                "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
            self.reconcile("/apis/storage.k8s.io/v1/storageclasses".to_owned(), object, false)
        });
        let all = (try_join_all(namespaces), try_join_all(classes), try_join_all(runtimes), try_join_all(storage));
        futures::future::try_join4(all.0, all.1, all.2, all.3).await?;
        let mut own = own(&self.settings, &api::time::rfc3339_micro(self.clock.now()));
        own.push(registered::authentication(&self.settings));
        let own = own.into_iter().map(|(collection, object)| self.reconcile(collection, object, true));
        // before anybody is served, so that no Service of a user gets its address
        futures::future::try_join3(try_join_all(own), Box::pin(self.track()), self.ensure_dns().map(Ok)).await?;
        Ok(())
    }

    /// Creates Service `kube-system/kube-dns`; one that is there stays as it is. The cluster works without it: its address may be that of another
    /// Service since an older version.
    async fn ensure_dns(&self) {
        let Some(address) = self.settings.dns else { return };
        let written = self.reconcile("/api/v1/namespaces/kube-system/services".to_owned(), dns(address), false).await;
        let failed = written.is_err();
        if let (Err(error), false) = (written, self.dns_failed.swap(failed, Ordering::Relaxed)) {
            tracing::warn!("there is no Service kube-system/kube-dns: {error:#}");
        }
    }

    /// Says since which day the use of tokens is noted, unless that was said.
    async fn track(&self) -> anyhow::Result<()> {
        let collection = "/api/v1/namespaces/kube-system/configmaps";
        let (code, answer) = self.call(Method::GET, &format!("{collection}/{TRACKING}"), "", Vec::new()).await?;
        let map: Value = if code.is_success() { serde_json::from_str(&answer)? } else { Value::Null };
        if map["data"]["since"].as_str().and_then(parse_day).is_some() {
            return Ok(());
        }
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING, "namespace": "kube-system"},
            "data": {"since": day(self.clock.now()).to_string()}});
        self.reconcile(collection.to_owned(), object, true).await
    }

    /// Reconciles until `shutdown`. The roles and bindings that every cluster has are written once `started` is over, so that they take no time
    /// from a start.
    pub async fn run(&self, started: impl Future<Output = ()>, shutdown: &CancellationToken) {
        let roles = async {
            while !self.keep_roles().await {
                tokio::time::sleep(PERIOD).await;
            }
        };
        let range = async {
            loop {
                if let Err(error) = self.reconcile_range().await {
                    tracing::warn!("cannot write the range of Services' addresses: {error:#}");
                }
                tokio::time::sleep(PERIOD).await;
            }
        };
        let registrations = async {
            while let Err(error) = self.register().await {
                tracing::warn!("cannot register what is served: {error:#}");
                tokio::time::sleep(PERIOD).await;
            }
        };
        let after = async {
            started.await;
            tokio::join!(roles, range, registrations, self.keep_fairness())
        };
        tokio::join!(shutdown.run_until_cancelled(after), self.keep(shutdown));
    }

    /// Keeps the FlowSchemas and PriorityLevelConfigurations that every cluster has, and what FlowSchemas say of their levels: after each change of
    /// either, and every now and then.
    async fn keep_fairness(&self) {
        let changes = [standard::SCHEMAS, standard::LEVELS].map(|one| self.objects.changes(flowcontrol::GROUP, one));
        loop {
            let [schemas, levels] = &changes;
            let (seen_schemas, seen_levels) = (schemas.last(), levels.last());
            if let Err(error) = self.reconcile_fairness().await {
                tracing::warn!("cannot write flow schemas and priority levels: {error:#}");
            }
            tokio::select! {
                () = tokio::time::sleep(SLOW_PERIOD) => {}
                // Not more often, whoever changes them.
                () = async { tokio::select! { () = schemas.after(seen_schemas) => {}, () = levels.after(seen_levels) => {} } } => {
                    tokio::time::sleep(FAIRNESS_PAUSE).await;
                }
            }
        }
    }

    /// Writes what is missing or wrong in FlowSchemas and PriorityLevelConfigurations.
    async fn reconcile_fairness(&self) -> anyhow::Result<()> {
        let json = "application/json";
        let writes = standard::plan(self.objects.as_ref()).into_iter().map(|write| match write {
            standard::Write::Create(path, object) => (Method::POST, path, json, object.to_string()),
            standard::Write::Update(path, object) => (Method::PUT, path, json, object.to_string()),
            standard::Write::Delete(path) => (Method::DELETE, path, "", String::new()),
        });
        self.write_all(writes.collect(), FAIRNESS_MANAGER).await?;
        let statuses = standard::statuses(self.objects.as_ref(), &api::time::rfc3339(self.clock.now()));
        let statuses = statuses.into_iter().map(|(path, object)| (Method::PATCH, path, APPLY, object.to_string()));
        self.write_all(statuses.collect(), FAIRNESS_STATUS_MANAGER).await
    }

    /// Makes these requests, several at the same time: method, path, media type and body.
    async fn write_all(&self, requests: Vec<Call>, manager: &'static str) -> anyhow::Result<()> {
        let calls: Vec<_> = requests.into_iter().map(|request| self.write(request, manager)).collect();
        stream::iter(calls).buffer_unordered(ROLE_WRITES).try_collect::<()>().await
    }

    /// It is no error that somebody else was faster.
    async fn write(&self, (method, path, media, body): Call, manager: &'static str) -> anyhow::Result<()> {
        let (code, answer) = self.call(method, &format!("{path}?{manager}"), media, body.into_bytes()).await?;
        let elsewhere = matches!(code, StatusCode::CONFLICT | StatusCode::NOT_FOUND);
        if code.is_success() || elsewhere { Ok(()) } else { bail!("cannot write {path}: {answer}") }
    }

    /// Writes the APIServices of what is built in, once.
    ///
    /// # Errors
    /// One cannot be written.
    pub async fn register(&self) -> anyhow::Result<()> {
        let json = "application/json";
        let writes = builtin::plan(self.objects.as_ref(), &self.built_in).into_iter().map(|write| match write {
            builtin::Write::Create(object) => (Method::POST, COLLECTION.to_owned(), json, object.to_string()),
            builtin::Write::Update(path, object) => (Method::PUT, path, json, object.to_string()),
            builtin::Write::Delete(path, uid) => {
                (Method::DELETE, path, json, json!({"preconditions": {"uid": uid}}).to_string())
            }
        });
        self.write_all(writes.collect(), MANAGER).await
    }

    /// Writes the ServiceCIDR of the settings' range, and that it is ready. One with another range is left alone.
    async fn reconcile_range(&self) -> anyhow::Result<()> {
        let collection = format!("/apis/{GROUP}/v1/{RESOURCE}");
        let head = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ServiceCIDR", "metadata": {"name": DEFAULT}});
        let range = json!([self.settings.service_cidr.trunc().to_string()]);
        if !self.objects.exists(GROUP, RESOURCE, "", DEFAULT) {
            let mut object = head.clone();
            object["spec"] = json!({"cidrs": range});
            self.reconcile(collection.clone(), object, false).await?;
        }
        let Some(stored) = self.objects.get(GROUP, RESOURCE, "", DEFAULT) else { return Ok(()) };
        let said = stored
            .list_at(&["status", "conditions"])
            .iter()
            .any(|one| one["type"] == "Ready" && one["status"] != "Unknown");
        if said || stored.is_deleting() || stored.at(&["spec", "cidrs"]) != Some(&range) {
            return Ok(());
        }
        let ready = json!({"type": "Ready", "status": "True", "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": api::time::rfc3339(self.clock.now())});
        let mut status = head;
        status["status"] = json!({"conditions": [ready]});
        let path = format!("{collection}/{DEFAULT}/status");
        self.write_all(vec![(Method::PATCH, path, APPLY, status.to_string())], RANGE_MANAGER).await
    }

    /// Keeps the objects of the server.
    async fn keep(&self, shutdown: &CancellationToken) {
        let mut period = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = period.tick() => {}
            }
            if let Err(error) = self.ensure().await {
                tracing::warn!("cannot keep the server's own objects: {error:#}");
            }
            self.label_used().await;
        }
    }

    /// Writes the roles and bindings that every cluster has. Whether that is done.
    async fn keep_roles(&self) -> bool {
        let failure = self.reconcile_roles().await.err().map(|error| format!("{error:#}"));
        if let Some(error) = &failure {
            tracing::warn!("cannot write the roles that every cluster has: {error}");
        }
        let done = failure.is_none();
        *self.roles_failure.lock() = failure;
        done
    }

    /// Creates the roles and bindings that every cluster has, and completes those that lack something.
    async fn reconcile_roles(&self) -> anyhow::Result<()> {
        let mut writes = Vec::new();
        for entry in policy::roles() {
            let resource = if entry.namespace.is_empty() { "clusterroles" } else { "roles" };
            writes.extend(self.role_write(resource, entry.namespace, &entry.name, entry.object(), reconcile::role));
        }
        for entry in policy::bindings() {
            let resource = if entry.namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
            writes.extend(self.role_write(resource, entry.namespace, &entry.name, entry.object(), reconcile::binding));
        }
        let writes = writes.into_iter().map(|(path, change)| self.write_role(path, change));
        stream::iter(writes).buffer_unordered(ROLE_WRITES).try_collect::<()>().await?;
        self.settings.rbac.reconciled();
        Ok(())
    }

    /// What is to be written so that the object is as wanted, and where its collection is.
    fn role_write(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        wanted: Value,
        judge: fn(&Object, &Value) -> Change,
    ) -> Option<(String, RoleWrite)> {
        let place = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
        let collection = format!("/apis/rbac.authorization.k8s.io/v1/{place}{resource}");
        let stored = self.objects.get("rbac.authorization.k8s.io", resource, namespace, name);
        let write = match stored.map(|stored| judge(&stored, &wanted)) {
            Some(Change::Nothing) => return None,
            None => RoleWrite::Create(wanted),
            Some(Change::Update(new)) => RoleWrite::Update(new.into_value()),
            Some(Change::Recreate) => RoleWrite::Recreate(wanted),
        };
        Some((collection, write))
    }

    async fn write_role(&self, collection: String, write: RoleWrite) -> anyhow::Result<()> {
        let (RoleWrite::Create(object) | RoleWrite::Update(object) | RoleWrite::Recreate(object)) = &write;
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        let body = object.to_string().into_bytes();
        if matches!(write, RoleWrite::Recreate(_)) {
            let (code, answer) = self.call(Method::DELETE, &path, "", Vec::new()).await?;
            if !code.is_success() && code != StatusCode::NOT_FOUND {
                bail!("cannot delete {path}: {answer}");
            }
        }
        let (method, place) = match write {
            RoleWrite::Update(_) => (Method::PUT, &path),
            _ => (Method::POST, &collection),
        };
        let (code, answer) = self.call(method, &format!("{place}?{MANAGER}"), "application/json", body).await?;
        if code.is_success() { Ok(()) } else { bail!("cannot write {path}: {answer}") }
    }

    /// Notes in the Secrets of tokens that were used on which day that was.
    async fn label_used(&self) {
        for ((namespace, name), day) in self.settings.tokens.take_used() {
            let body = json!({"metadata": {"labels": {LAST_USED: day}}}).to_string().into_bytes();
            let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}?{MANAGER}");
            match self.call(Method::PATCH, &path, "application/merge-patch+json", body).await {
                Ok((code, _)) if code.is_success() || code == StatusCode::NOT_FOUND => {}
                Ok((_, answer)) => tracing::warn!("cannot label the Secret {namespace}/{name}: {answer}"),
                Err(error) => tracing::warn!("cannot label the Secret {namespace}/{name}: {error:#}"),
            }
        }
    }

    /// Creates the object; if it exists and `keep` is set, sets the wanted fields again.
    async fn reconcile(&self, collection: String, object: Value, keep: bool) -> anyhow::Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{collection}/{name}");
        let there = self.call(Method::GET, &path, "", Vec::new()).await?.0.is_success();
        if there && !keep {
            return Ok(());
        }
        let body = object.to_string().into_bytes();
        if !there {
            let (code, answer) =
                self.call(Method::POST, &format!("{collection}?{MANAGER}"), "application/json", body.clone()).await?;
            match code {
                StatusCode::CREATED => return Ok(()),
                StatusCode::CONFLICT if keep => {}
                StatusCode::CONFLICT => return Ok(()),
                _ => bail!("cannot create {path}: {answer}"),
            }
        }
        let patch = "application/merge-patch+json";
        let (code, answer) = self.call(Method::PATCH, &format!("{path}?{MANAGER}"), patch, body).await?;
        if code.is_success() { Ok(()) } else { bail!("cannot keep {path}: {answer}") }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(StatusCode, String)> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().with_context(|| format!("the path {path:?}"))?;
        if !media.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, media.parse()?);
        }
        // Boxed: as one type with what it is part of it is too deep for the compiler.
        let response = self.service.handle(request).boxed().await;
        let code = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8_lossy(&answer).into_owned()))
    }
}

/// A request: method, path, media type and body.
type Call = (Method, String, &'static str, String);

/// How a role or binding is written.
enum RoleWrite {
    Create(Value),
    Update(Value),
    Recreate(Value),
}

/// The first address of the Service range: that of Service `kubernetes`.
pub fn first_service_address(cidr: &ipnet::IpNet) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(a) => IpAddr::from(Ipv4Addr::from(u32::from(a).wrapping_add(1))),
        IpAddr::V6(a) => IpAddr::from(std::net::Ipv6Addr::from(u128::from(a).wrapping_add(1))),
    }
}

/// The tenth address of the Service range: that of Service `kube-dns`. `None` where the range is of IPv6, or too small.
pub fn dns_address(cidr: &ipnet::IpNet) -> Option<Ipv4Addr> {
    let ipnet::IpNet::V4(cidr) = cidr else { return None };
    let address = Ipv4Addr::from(u32::from(cidr.network()).checked_add(10)?);
    (cidr.contains(&address) && address != cidr.broadcast()).then_some(address)
}

/// Service `kube-dns`, with the labels by which `kubectl cluster-info` finds it. It has no endpoints: each node answers for itself.
fn dns(address: Ipv4Addr) -> Value {
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": 53});
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": address.to_string(),
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]}})
}

/// Collection paths and objects: Service `kubernetes`, its endpoints and the Lease of the server.
fn own(settings: &Settings, now: &str) -> Vec<(String, Value)> {
    let cluster_ip = first_service_address(&settings.service_cidr).to_string();
    let (ip, port) = (settings.advertise.ip().to_string(), settings.advertise.port());
    let family = if settings.advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let named = |labels: Value| json!({"name": "kubernetes", "namespace": "default", "labels": labels});
    vec![
        (
            "/api/v1/namespaces/default/services".to_owned(),
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": named(json!({"component": "apiserver", "provider": "kubernetes"})),
                "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "sessionAffinity": "None",
                    "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]}}),
        ),
        (
            "/api/v1/namespaces/default/endpoints".to_owned(),
            json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": named(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
                "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": named(json!({"kubernetes.io/service-name": "kubernetes"})), "addressType": family,
                "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases".to_owned(),
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": format!("apiserver-{}", settings.identity), "namespace": "kube-system",
                    "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": settings.identity}},
                "spec": {"holderIdentity": settings.identity, "leaseDurationSeconds": LEASE, "renewTime": now}}),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dns_server_has_the_tenth_address() {
        let of = |range: &str| dns_address(&range.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of("10.96.0.0/16").as_deref(), Some("10.96.0.10"));
        assert_eq!(of("10.96.3.7/16").as_deref(), Some("10.96.0.10"), "of the range, however it is written");
        assert_eq!(of("10.96.0.240/28").as_deref(), Some("10.96.0.250"));
        assert_eq!([of("10.96.0.0/29"), of("255.255.255.248/29"), of("fd00::/112")], [const { None }; 3]);
    }
}
