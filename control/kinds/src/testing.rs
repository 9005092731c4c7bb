//! Helpers for the tests of kinds: objects from YAML, a context, and results as text.

use crate::{Capabilities, Rbac, Settings, core::serviceaccount::tokens};
use api::{GroupVersionKind, Object, invalid};
use jiff::Timestamp;
use serde_json::Value;
use server::{
    Changes, Context, FrontProxy, Ids, Objects, Operation, Resource, Strategy, TableConvertor, User, dialer::NoDialer,
    pki::Pair, strategy::Plain, webhook::Webhooks,
};
use std::sync::Arc;

/// A store that holds these objects, by group, resource, namespace and name.
#[derive(Default)]
pub(crate) struct Stored(pub(crate) Vec<(String, String, Arc<Object>)>);

impl Stored {
    pub(crate) fn with(mut self, group: &str, resource: &str, text: &str) -> Self {
        self.0.push((group.to_owned(), resource.to_owned(), Arc::new(parse(text))));
        self
    }
}

impl Objects for Stored {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.list(group, resource, namespace).into_iter().find(|o| o.name() == name)
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let wanted = |(g, r, o): &&(String, String, Arc<Object>)| {
            g == group && r == resource && (namespace.is_empty() || o.namespace() == namespace)
        };
        self.0.iter().filter(wanted).map(|(_, _, o)| o.clone()).collect()
    }

    fn changes(&self, _: &str, _: &str) -> Changes {
        Changes::default()
    }
}

pub(crate) fn settings() -> Settings {
    let tokens = tokens::Tokens::new(&tokens::tests::key(), "https://kubernetes.default.svc").expect("tokens");
    Settings {
        service_cidr: "10.96.0.0/16".parse().expect("a network"),
        node_ports: 30000..=32767,
        tokens,
        advertise: "10.32.0.1:6443".parse().expect("an address"),
        identity: "test".to_owned(),
        image_advice: None,
        runtimes: Vec::new(),
        local_volumes: None,
        dns: None,
        capabilities: Capabilities::default(),
        rbac: Rbac::default(),
        front_proxy: FrontProxy::new("front proxy", Pair { certificate: String::new(), key: String::new() }),
        client_authority: "clients".to_owned(),
        webhooks: webhooks(),
    }
}

/// Webhooks without a network.
pub(crate) fn webhooks() -> Webhooks {
    crate::webhooks_by(Arc::new(NoDialer))
}

/// A minute into 2026.
pub(crate) fn now() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().expect("a time")
}

pub(crate) fn context() -> Context {
    context_for(Resource::new("", "v1", "tests", "Test", Plain), Stored::default())
}

pub(crate) fn context_for(resource: Resource, stored: Stored) -> Context {
    Context {
        user: Arc::new(User::new("tester", &["system:masters"])),
        now: now(),
        operation: Operation::Create,
        resource: resource.names,
        subresource: String::new(),
        namespace: "default".to_owned(),
        name: String::new(),
        dry_run: false,
        objects: Arc::new(stored),
        ids: Arc::new(Ids::new(fastrand::Rng::with_seed(7))),
        warnings: server::Warnings::default(),
        notes: Arc::default(),
        deadline: server::Deadline::default(),
    }
}

pub(crate) fn parse(text: &str) -> Object {
    let value: Value = serde_yaml::from_str(text).expect("YAML");
    Object::from_value(value).expect("an object")
}

pub(crate) fn yaml(object: &Object) -> String {
    api::yaml::to_string(&object.clone().into_value())
}

/// Defaulted and prepared as on create.
pub(crate) fn created(strategy: &dyn Strategy, text: &str) -> Object {
    let mut object = parse(text);
    strategy.default(&mut object);
    let once = object.clone();
    strategy.default(&mut object);
    assert_eq!(object, once, "defaulting is idempotent");
    strategy.prepare_create(&context(), &mut object);
    object
}

/// The violations of a new object, a line each.
pub(crate) fn errors(strategy: &dyn Strategy, text: &str) -> String {
    let object = created(strategy, text);
    lines(&strategy.validate(&context(), &object))
}

/// The violations of a change, a line each.
pub(crate) fn update_errors(strategy: &dyn Strategy, new: &Object, old: &Object) -> String {
    lines(&strategy.validate_update(&context(), new, old))
}

fn lines(causes: &[api::Cause]) -> String {
    causes.iter().map(|cause| format!("{cause}\n")).collect()
}

/// `Err` with the message of the Status when an object is invalid.
pub(crate) fn valid(strategy: &dyn Strategy, object: &Object) -> Result<(), String> {
    let causes = strategy.validate(&context(), object);
    let kind = GroupVersionKind::new("", "v1", "Service");
    if causes.is_empty() { Ok(()) } else { Err(invalid(&kind, object.name(), &causes).message) }
}

/// A table row, its cells joined by ` | `.
pub(crate) fn row(kind: &dyn TableConvertor, text: &str) -> String {
    let cells = kind.row(&parse(text), now());
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(text).collect::<Vec<_>>().join(" | ")
}

/// Every built-in resource.
pub(crate) fn resources() -> Vec<Resource> {
    settings().parts().resources
}
