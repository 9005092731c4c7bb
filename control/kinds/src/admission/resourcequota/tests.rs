//! Tables of the plugin: what is charged, what is refused, and that the count is never too low.

use super::*;
use crate::testing::{Stored, context_for, parse};
use jiff::SignedDuration;
use parking_lot::RwLock;
use serde_json::json;
use server::{Changes, Names, Objects};

/// A store that tests write.
#[derive(Default)]
struct Written(RwLock<Stored>);

impl Objects for Written {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.read().get(group, resource, namespace, name)
    }
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        self.0.read().list(group, resource, namespace)
    }
    fn changes(&self, _: &str, _: &str) -> Changes {
        Changes::default()
    }
}

impl Written {
    fn put(&self, resource: &str, object: &Object) {
        self.0.write().0.push((String::new(), resource.to_owned(), Arc::new(object.clone())));
    }
}

/// The plugin over a store.
struct World {
    plugin: ResourceQuota,
    store: Arc<Written>,
    millis: i64,
}

impl World {
    fn new(quotas: &[&str]) -> Self {
        let store = Arc::new(Written::default());
        for (at, spec) in quotas.iter().enumerate() {
            let meta = format!("{{name: q{at}, namespace: ns, uid: q{at}}}");
            store.put("resourcequotas", &parse(&format!("{{metadata: {meta}, spec: {spec}}}")));
        }
        Self { plugin: ResourceQuota::default(), store, millis: 0 }
    }

    fn attributes(&self, resource: &str, old: Option<&Object>) -> Attributes {
        let mut context =
            context_for(server::Resource::new("", "v1", "tests", "Test", server::strategy::Plain), Stored::default());
        context.resource = Arc::new(Names::new("", "v1", resource, "Kind"));
        context.objects = self.store.clone();
        context.now += SignedDuration::from_millis(self.millis);
        context.operation = if old.is_some() { Operation::Update } else { Operation::Create };
        Attributes::new(context, old.map(|old| Arc::new(old.clone())))
    }

    async fn reserve(&self, resource: &str, object: &Object) -> Result<Reservation, String> {
        let attributes = self.attributes(resource, None);
        assert!(self.plugin.handles(&attributes));
        self.plugin.reserve(&attributes, object).await.map_err(|status| status.message)
    }
}

fn pod(name: &str, cpu: &str) -> Object {
    let meta = format!("{{name: {name}, namespace: ns, uid: {name}}}");
    let resources = if cpu.is_empty() { "{}".to_owned() } else { format!("{{requests: {{cpu: {cpu}}}}}") };
    parse(&format!("{{metadata: {meta}, spec: {{containers: [{{name: c, resources: {resources}}}]}}}}"))
}

#[tokio::test]
async fn a_quota_has_room_until_it_is_full() {
    let world = World::new(&["{hard: {pods: 3, requests.cpu: 1}}", "{hard: {count/pods: 5}}"]);
    let first = world.reserve("pods", &pod("a", "500m")).await.expect("room");
    let second = world.reserve("pods", &pod("b", "300m")).await.expect("room");
    let full = world.reserve("pods", &pod("c", "250m")).await.map(drop);
    let text = "kinds \"c\" is forbidden: exceeded quota: q0, requested: requests.cpu=250m, used: requests.cpu=800m, limited: requests.cpu=1";
    assert_eq!(full, Err(text.replace("kinds", "pods")));
    // What is not stored is given back.
    drop(second);
    world.reserve("pods", &pod("c", "500m")).await.expect("room again").commit();
    assert!(world.reserve("pods", &pod("d", "1m")).await.is_err());
    first.commit();
    let bare = world.reserve("pods", &pod("e", "")).await.map(drop);
    assert_eq!(bare, Err("pods \"e\" is forbidden: failed quota: q0: must specify requests.cpu for: c".to_owned()));
}

#[tokio::test]
async fn a_resize_is_charged_what_it_asks_for_more() {
    let world = World::new(&["{hard: {requests.cpu: 1}}"]);
    let old = pod("a", "400m");
    world.store.put("pods", &old);
    for (cpu, expected) in [
        (
            "1001m",
            "pods \"a\" is forbidden: exceeded quota: q0, requested: requests.cpu=601m, used: requests.cpu=400m, limited: requests.cpu=1",
        ),
        ("1", ""),
        ("100m", ""),
    ] {
        let mut attributes = world.attributes("pods", Some(&old));
        attributes.context.subresource = "status".to_owned();
        assert!(!world.plugin.handles(&attributes));
        attributes.context.subresource = "resize".to_owned();
        assert!(world.plugin.handles(&attributes));
        let told = world.plugin.reserve(&attributes, &pod("a", cpu)).await.map(drop);
        assert_eq!(told.map_err(|status| status.message).err().unwrap_or_default(), expected, "{cpu}");
    }
}

#[tokio::test]
async fn what_is_stored_and_what_is_being_written_counts_once() {
    let mut world = World::new(&["{hard: {pods: 3}}"]);
    world.store.put("pods", &pod("old", ""));
    let held = world.reserve("pods", &pod("a", "")).await.expect("the second");
    // It is stored, and the server has not said so yet, when all is counted again.
    world.store.put("pods", &pod("a", ""));
    world.millis = 5_000;
    let last = world.reserve("pods", &pod("b", "")).await.expect("the third");
    assert!(world.reserve("pods", &pod("c", "")).await.is_err());
    held.commit();
    drop(last);
    world.reserve("pods", &pod("c", "")).await.expect("the third").commit();
    assert!(world.reserve("pods", &pod("d", "")).await.is_err());
}

#[tokio::test]
async fn writes_that_began_before_the_quota_was_there_are_counted_soon() {
    for (before, after) in [(49, 50), (499, 500), (1_999, 2_000)] {
        let mut world = World::new(&["{hard: {pods: 2}}"]);
        world.reserve("pods", &pod("a", "")).await.expect("room").commit();
        world.store.put("pods", &pod("a", ""));
        world.millis = before;
        drop(world.reserve("pods", &pod("b", "")).await.expect("room"));
        // Nobody charged it, since the quota was not there yet.
        world.store.put("pods", &pod("early", ""));
        world.millis = after;
        let full = world.reserve("pods", &pod("b", "")).await.map(drop);
        assert!(full.is_err_and(|text| text.contains("used: pods=2")), "after {after} ms");
    }
}

#[tokio::test]
async fn after_a_start_what_is_stored_is_counted() {
    let world = World::new(&["{hard: {configmaps: 2}}"]);
    let map = |name: &str| parse(&format!("{{metadata: {{name: {name}, namespace: ns, uid: {name}}}}}"));
    world.store.put("configmaps", &map("a"));
    let other = parse("{metadata: {name: b, namespace: other, uid: x}}");
    world.store.put("configmaps", &other);
    assert!(world.reserve("configmaps", &other).await.expect("no quota there").is_empty());
    world.reserve("configmaps", &map("b")).await.expect("room").commit();
    let text = "configmaps \"c\" is forbidden: exceeded quota: q0, requested: configmaps=1, used: configmaps=2, limited: configmaps=2";
    assert_eq!(world.reserve("configmaps", &map("c")).await.map(drop), Err(text.to_owned()));
    assert!(world.reserve("secrets", &map("s")).await.expect("not limited").is_empty());
}

#[tokio::test]
async fn an_update_is_charged_what_it_adds() {
    let world = World::new(&["{hard: {services.nodeports: 2, services: 5}}"]);
    let service = |ports: &str, kind: &str| {
        parse(&format!("{{metadata: {{name: s, namespace: ns, uid: s}}, spec: {{type: {kind}, ports: {ports}}}}}"))
    };
    let old = service("[{port: 1}]", "NodePort");
    world.store.put("services", &old);
    let update = async |new: &Object| {
        let attributes = world.attributes("services", Some(&old));
        assert!(world.plugin.handles(&attributes));
        world.plugin.reserve(&attributes, new).await.map(|held| held.is_empty()).map_err(|status| status.message)
    };
    assert_eq!(update(&service("[{port: 1}]", "ClusterIP")).await, Ok(true), "less is no charge");
    assert_eq!(update(&service("[{port: 1}, {port: 2}]", "NodePort")).await, Ok(false));
    let text = "services \"s\" is forbidden: exceeded quota: q0, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2";
    assert_eq!(update(&service("[{port: 1}, {port: 2}, {port: 3}]", "NodePort")).await, Err(text.to_owned()));
    let kept = world.attributes("secrets", Some(&old));
    assert!(!world.plugin.handles(&kept), "an update of what is only counted changes nothing");
}

#[tokio::test]
async fn a_pod_that_comes_under_another_scope_is_charged_there() {
    let world =
        World::new(&["{hard: {pods: 0}, scopes: [Terminating]}", "{hard: {pods: 1}, scopes: [NotTerminating]}"]);
    let old = pod("p", "");
    world.store.put("pods", &old);
    let mut new = old.clone();
    new.set(&["metadata", "labels"], json!({"a": "b"}));
    let attributes = world.attributes("pods", Some(&old));
    assert!(world.plugin.reserve(&attributes, &new).await.expect("no change").is_empty());
    new.set(&["spec", "activeDeadlineSeconds"], 5);
    let error = world.plugin.reserve(&attributes, &new).await.map(drop).expect_err("full");
    assert!(error.message.ends_with("exceeded quota: q0, requested: pods=1, used: pods=0, limited: pods=0"), "{error}");
}
