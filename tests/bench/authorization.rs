//! How long a decision of the authorizer takes with ten thousand bindings, and how long the first one after a binding was written. Nothing asserts
//! on the figures.
//!
//! `cargo bench -p tests --bench authorization`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints"
)]

use serde_json::{Value, json};
use server::{Objects, Server, User, authz::Attributes};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use store::Expect;
use tokio_util::sync::CancellationToken;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bindings of each kind.
const BINDINGS: usize = 5_000;
const ROUNDS: u32 = 20_000;
const GROUP: &str = "rbac.authorization.k8s.io";

fn binding(kind: &str, name: &str, role: (&str, &str), user: &str) -> Value {
    json!({"kind": kind, "apiVersion": format!("{GROUP}/v1"), "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": role.0, "name": role.1},
        "subjects": [{"kind": "User", "apiGroup": GROUP, "name": user}]})
}

#[tokio::main]
async fn main() {
    let options = store::Options::new(store::Clock::new(|| SystemTime::UNIX_EPOCH));
    let store = store::Store::open(store::Memory::default(), options).await.unwrap();
    let settings = harness::settings("bench");
    let clock = api::Clock::new(jiff::Timestamp::now);
    let options = harness::options(&settings, store.clone(), clock, 1, CancellationToken::new());
    let parts = settings.parts();
    let authorizer = parts.authorizer.clone();
    let server = Server::new(options, parts);
    let objects: Arc<dyn Objects> = server.objects();
    let put = async |resource: &str, path: &str, object: Value| {
        let object = api::Object::from_value(object).unwrap();
        let bytes = server::payload::stored_form(&object);
        store.put(&format!("/{GROUP}/{resource}/{path}"), Expect::Absent, bytes, None).await.unwrap();
    };
    let rules = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    for number in 0..BINDINGS {
        let (name, user, namespace) = (format!("b{number}"), format!("u{number}"), format!("n{}", number % 500));
        let role = json!({"kind": "Role", "metadata": {"name": name, "namespace": namespace}, "rules": rules});
        put("roles", &format!("{namespace}/{name}"), role).await;
        let object = binding("RoleBinding", &name, ("Role", &name), &user);
        put("rolebindings", &format!("{namespace}/{name}"), object).await;
        let object = binding("ClusterRoleBinding", &name, ("ClusterRole", "system:discovery"), &user);
        put("clusterrolebindings", &name, object).await;
    }
    let user = User::new("u77", &["system:serviceaccounts", "system:authenticated", "a", "b"]);
    let wanted = |verb| Attributes { verb, resource: "pods", namespace: "n77", ..Attributes::default() };
    let begin = Instant::now();
    authorizer.authorize(&*objects, &user, &wanted("get")).await;
    println!("the first decision, with {} bindings to read: {:?}", 2 * BINDINGS, begin.elapsed());
    for (what, verb) in [("allowed", "get"), ("refused", "delete")] {
        let begin = Instant::now();
        let mut allowed = 0;
        for _ in 0..ROUNDS {
            let decision = authorizer.authorize(&*objects, &user, &wanted(verb)).await;
            allowed += u32::from(decision == server::authz::Decision::Allow);
        }
        println!("a decision ({what}, {allowed} of {ROUNDS}): {:?}", begin.elapsed() / ROUNDS);
    }
    let (mut after, rounds) = (Duration::ZERO, 100);
    for number in 0..rounds {
        let name = format!("new{number}");
        let object = binding("ClusterRoleBinding", &name, ("ClusterRole", "view"), "u77");
        put("clusterrolebindings", &name, object).await;
        let begin = Instant::now();
        authorizer.authorize(&*objects, &user, &wanted("delete")).await;
        after += begin.elapsed();
    }
    println!("the first decision after a binding was written: {:?}", after / rounds);
}
