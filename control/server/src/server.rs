//! The server as a value: its parts, and the look-up of stored objects.

use crate::{
    Context, Delta, Ids, Names, Objects, Resource, User, Warnings,
    admission::Admission,
    aggregation::{Aggregation, remotes::Remotes},
    audit::Audit,
    authn::Authenticator,
    authz::Authorizer,
    call::Call,
    context::Operation,
    definitions::{Definitions, Served},
    dialer::Dialer,
    fairness::{self, Fairness},
    health::Checks,
    limits::Limits,
    metrics::Metrics,
    nodes::Nodes,
    parsed::Parsed,
    payload::Item,
    registry::Registry,
    webhook::{Home, Webhooks},
};
use api::{Clock, Object};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
};
use store::{Changes, Event, Revision, Store};
use tokio_util::sync::CancellationToken;

/// What the process provides to a server.
pub struct Options {
    /// The store.
    pub store: Store<Item>,
    /// Wall-clock time.
    pub clock: Clock,
    /// Uids and generated names.
    pub ids: Arc<Ids>,
    /// The connection to the kubelets.
    pub nodes: Arc<dyn Nodes>,
    /// The way to pods and Services.
    pub dialer: Arc<dyn Dialer>,
    /// The advertised address of the API, in discovery documents.
    pub advertise: SocketAddr,
    /// Ends watches and other long-running responses; cancel it with (or before) the token of [`Server::serve`], which waits for requests.
    pub shutdown: CancellationToken,
    /// Receives audit events.
    pub audit: Option<Arc<dyn Audit>>,
    /// The metrics of the process, served at `/metrics`.
    pub metrics: Arc<Mutex<prometheus_client::registry::Registry>>,
}

/// The parts of a server: what it serves, and to whom.
pub struct Parts {
    /// The resources, in the order of discovery.
    pub resources: Vec<Resource>,
    /// What calls webhooks for the parts.
    pub webhooks: Option<Webhooks>,
    /// What makes further resources of stored objects.
    pub definitions: Option<Arc<dyn Definitions>>,
    /// Group versions that other servers serve.
    pub aggregation: Option<Aggregation>,
    /// The admission plugins, in their order.
    pub admission: Vec<Arc<dyn Admission>>,
    /// The authenticators, in their order.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// The authorizer.
    pub authorizer: Arc<dyn Authorizer>,
    /// Whether a user is trusted with memory and connections: no limit of `limits` holds. It says nothing of priority and fairness.
    pub trusted: fn(&User) -> bool,
    /// What configures priority and fairness; `None`: no request waits for another.
    pub fairness: Option<fairness::Source>,
    /// Further documents.
    pub documents: Vec<Document>,
}

/// A constant document.
pub struct Document {
    /// `/openid/v1/jwks`.
    pub path: &'static str,
    /// Its Content-Type.
    pub media_type: &'static str,
    /// Its content.
    pub value: Value,
}

/// The API server. A clone is the same server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    options: Options,
    served: Served,
    remotes: Option<Remotes>,
    parts: Parts,
    limits: Limits,
    fairness: Fairness,
    checks: Checks,
    metrics: Metrics,
    parsed: Parsed,
}

impl Server {
    /// Builds the server, and loads the allocators from the stored objects.
    pub fn new(options: Options, mut parts: Parts) -> Self {
        let mut served = Served::new(std::mem::take(&mut parts.resources));
        if let Some(definitions) = parts.definitions.clone() {
            let (group, resource) = definitions.source();
            if let Some(source) = served.builtin().iter().find(|r| r.gvr.group == group && r.gvr.resource == resource) {
                let changes = options.store.changes(&source.prefix());
                served.defined_by(definitions, changes, options.shutdown.clone());
            }
        }
        let dialer = options.dialer.clone();
        let remotes = parts.aggregation.take().map(|aggregation| Remotes::new(aggregation, dialer));
        let metrics = Metrics::new(options.metrics.clone());
        let server = Self(Arc::new(Inner {
            served,
            remotes,
            limits: Limits::new(parts.trusted),
            fairness: Fairness::new(parts.fairness, metrics.flows.clone()),
            checks: Checks::default(),
            metrics,
            parsed: Parsed::default(),
            options,
            parts,
        }));
        if let Some(webhooks) = &server.0.parts.webhooks {
            webhooks.attach(Box::new(Late(Arc::downgrade(&server.0))));
        }
        let store = server.store().clone();
        // Not for liveness: the store recovers by itself if that is possible, and a restart cannot do more.
        server.checks().register("store", true, move || match store.failure() {
            Some(failure) => Err(format!("not every write can be stored: {failure}")),
            None => Ok(()),
        });
        server.load_allocators();
        server
    }

    fn load_allocators(&self) {
        let snapshot = self.store().snapshot(None).expect("the newest state is always there");
        for resource in self.0.served.builtin() {
            let Some(allocator) = &resource.allocator else { continue };
            for entry in snapshot.range(&resource.prefix(), None) {
                allocator.load(&entry.payload.stored().object());
            }
        }
    }

    /// The group versions that are built in, in the order of discovery.
    pub fn built_in(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        for resource in self.0.served.builtin() {
            let one = (resource.gvr.group.clone(), resource.gvr.version.clone());
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }

    /// Readiness and liveness checks; other components register theirs here.
    pub fn checks(&self) -> &Checks {
        &self.0.checks
    }

    /// The stored objects in their stored version, read without HTTP: for components with the rights of the server (token verification).
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(self.clone())
    }
}

/// What the server is made of.
impl Server {
    pub(crate) fn store(&self) -> &Store<Item> {
        &self.0.options.store
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.options.clock
    }

    pub(crate) fn ids(&self) -> &Arc<Ids> {
        &self.0.options.ids
    }

    /// What is served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.0.served.registry(|since| {
            let source = self.0.parts.definitions.as_ref().map(|definitions| definitions.source());
            let (group, resource) = source.unwrap_or_default();
            let source = self.0.served.builtin().iter().find(|r| r.gvr.group == group && r.gvr.resource == resource);
            let prefix = source.map(|source| source.prefix()).unwrap_or_default();
            delta(self.store(), &prefix, since)
        })
    }

    /// The way to other API servers, where they are used.
    pub(crate) fn remotes(&self) -> Option<&Remotes> {
        self.0.remotes.as_ref()
    }

    pub(crate) fn admission(&self) -> &[Arc<dyn Admission>] {
        &self.0.parts.admission
    }

    pub(crate) fn authenticators(&self) -> &[Arc<dyn Authenticator>] {
        &self.0.parts.authenticators
    }

    pub(crate) fn authorizer(&self) -> &dyn Authorizer {
        self.0.parts.authorizer.as_ref()
    }

    pub(crate) fn documents(&self) -> &[Document] {
        &self.0.parts.documents
    }

    pub(crate) fn audit(&self) -> Option<&dyn Audit> {
        self.0.options.audit.as_deref()
    }

    pub(crate) fn nodes(&self) -> &Arc<dyn Nodes> {
        &self.0.options.nodes
    }

    pub(crate) fn dialer(&self) -> &dyn Dialer {
        self.0.options.dialer.as_ref()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn fairness(&self) -> &Fairness {
        &self.0.fairness
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn advertise(&self) -> SocketAddr {
        self.0.options.advertise
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.options.shutdown
    }

    /// The context of a call for strategies and admission.
    pub(crate) fn context(&self, call: &Call, operation: Operation, resource: &Arc<Names>, dry_run: bool) -> Context {
        Context {
            user: call.user.clone(),
            now: self.clock().now(),
            operation,
            resource: resource.clone(),
            subresource: call.info.subresource.clone(),
            namespace: if resource.namespaced { call.info.namespace.clone() } else { String::new() },
            name: call.info.name.clone(),
            dry_run,
            objects: self.objects(),
            ids: self.ids().clone(),
            warnings: Warnings::default(),
            notes: call.notes.clone(),
            deadline: call.deadline.clone(),
        }
    }
}

/// The server, as long as it lives: what it is made of must not keep it.
struct Late(Weak<Inner>);

impl Home for Late {
    fn objects(&self) -> Option<Arc<dyn Objects>> {
        self.0.upgrade().map(|inner| Server(inner).objects())
    }

    fn uid(&self) -> String {
        self.0.upgrade().map(|inner| inner.options.ids.uid()).unwrap_or_default()
    }
}

impl Objects for Server {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let registry = self.registry();
        let resource = registry.find(group, resource).filter(|found| found.is_storage())?;
        let entry = self.store().get(&resource.key(namespace, name))?;
        Some(self.0.parsed.object(&entry))
    }

    fn exists(&self, group: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let registry = self.registry();
        let resource = registry.find(group, resource).filter(|found| found.is_storage());
        resource.is_some_and(|resource| self.store().get(&resource.key(namespace, name)).is_some())
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let registry = self.registry();
        let (Some(resource), Ok(snapshot)) = (registry.find(group, resource), self.store().snapshot(None)) else {
            return Vec::new();
        };
        let mut prefix = resource.prefix();
        if resource.namespaced && !namespace.is_empty() {
            prefix = format!("{prefix}{namespace}/");
        }
        snapshot.range(&prefix, None).map(|e| Arc::new(e.payload.stored().object())).collect()
    }

    fn changes(&self, group: &str, resource: &str) -> Changes {
        let prefix = self.registry().find(group, resource).map(|found| found.prefix());
        prefix.map_or_else(Changes::default, |prefix| self.store().changes(&prefix))
    }

    fn since(&self, group: &str, resource: &str, revision: Option<Revision>) -> Delta {
        match self.registry().find(group, resource) {
            Some(found) => delta(self.store(), &found.prefix(), revision),
            None => Delta { revision: 0, whole: true, changes: Vec::new() },
        }
    }
}

/// What changed under a prefix after a revision.
pub(crate) fn delta(store: &Store<Item>, prefix: &str, since: Option<Revision>) -> Delta {
    let named = |key: &str, object: Option<Arc<Object>>| {
        let path = key.strip_prefix(prefix).unwrap_or_default();
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        (namespace.to_owned(), name.to_owned(), object)
    };
    let object = |item: &Item| Arc::new(item.stored().object());
    if let Some(Ok((revision, events))) = since.map(|since| store.events_since(prefix, since)) {
        let after = |event: &Event<Item>| event.after.as_ref().map(|entry| object(&entry.payload));
        let changes = events.iter().map(|event| named(event.key(), after(event)));
        return Delta { revision, whole: false, changes: changes.collect() };
    }
    let snapshot = store.snapshot(None).expect("the newest state is always there");
    let changes = snapshot.range(prefix, None).map(|entry| named(&entry.key, Some(object(&entry.payload))));
    Delta { revision: snapshot.revision(), whole: true, changes: changes.collect() }
}
