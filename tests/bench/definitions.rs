//! What definitions cost: two thousand of them, a write of a custom resource, a rule in CEL; and a write of a Deployment with strict validation and
//! by server-side apply. Nothing asserts on the figures.
//!
//! `cargo bench -p tests --bench definitions`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints"
)]

use axum::body::Body;
use cel::{Activation, Budget, Env, Schema, Value as Cel};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use server::{Server, Service, User};
use std::{
    hint::black_box,
    time::{Duration, Instant, SystemTime},
};
use store::Expect;
use tokio_util::sync::CancellationToken;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const DEFINITIONS: usize = 2_000;
const GROUP: &str = "apiextensions.k8s.io";
const ROUNDS: u32 = 2_000;

/// A definition that is in force, of the size of an operator's: 60 fields with descriptions, in two levels.
fn definition(number: usize) -> Value {
    let text = "What this field is for, in a sentence of the length that people write into their types.";
    let leaf = json!({"type": "string", "maxLength": 63, "description": text});
    let level: Map<String, Value> = (0..60).map(|n| (format!("field{n}"), leaf.clone())).collect();
    let rules = json!([{"rule": "self.field1 != self.field2"}, {"rule": "self.field3.startsWith('a') || self.field4 == oldSelf.field4"}]);
    let spec = json!({"type": "object", "properties": level, "x-kubernetes-validations": rules});
    let names = json!({"plural": format!("things{number}"), "singular": format!("thing{number}"), "kind": format!("Thing{number}"),
        "listKind": format!("Thing{number}List")});
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things{number}.g{}.example.com", number % 100), "uid": number.to_string(), "generation": 1},
        "spec": {"group": format!("g{}.example.com", number % 100), "scope": "Namespaced", "names": names, "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "properties": level}}}}}]},
        "status": {"acceptedNames": names, "storedVersions": ["v1"], "conditions": [{"type": "Established", "status": "True"}]}})
}

/// Resident memory, bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

async fn send(service: &Service, method: &str, target: &str, media: &str, body: String) -> (u16, usize) {
    let request =
        Request::builder().method(method).uri(target).header("content-type", media).header("user-agent", "bench/1");
    let answer = service.handle(request.body(Body::from(body)).unwrap()).await;
    let code = answer.status().as_u16();
    (code, answer.into_body().collect().await.unwrap().to_bytes().len())
}

/// The mean time of a request that succeeds.
async fn timed(
    service: &Service,
    rounds: u32,
    request: impl Fn(u32) -> (&'static str, String, &'static str, String),
) -> Duration {
    let begin = Instant::now();
    for round in 0..rounds {
        let (method, target, media, body) = request(round);
        let (code, _) = send(service, method, &target, media, body).await;
        assert!((200..300).contains(&code), "{method} {target}: {code}");
    }
    begin.elapsed() / rounds
}

async fn definitions() {
    let options = store::Options::new(store::Clock::new(|| SystemTime::UNIX_EPOCH));
    let store = store::Store::open(store::Memory::default(), options).await.unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
    let put = async |key: String, object: Value| {
        let object = api::Object::from_value(object).unwrap();
        store.put(&key, Expect::Absent, server::payload::stored_form(&object), None).await.unwrap();
    };
    put("/core/namespaces/default".to_owned(), namespace).await;
    let mut bytes = 0;
    for number in 0..DEFINITIONS {
        let object = definition(number);
        bytes += object.to_string().len();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        put(format!("/{GROUP}/customresourcedefinitions/{name}"), object).await;
    }
    let before = resident();
    let settings = harness::settings("bench");
    let clock = api::Clock::new(jiff::Timestamp::now);
    let begin = Instant::now();
    let options = harness::options(&settings, store.clone(), clock, 1, CancellationToken::new());
    let server = Server::new(options, settings.parts());
    let admin = server.service_for(User::new("admin", &["system:masters", "system:authenticated"]));
    println!("{DEFINITIONS} definitions of {} bytes: a server over them {:?}", bytes / DEFINITIONS, begin.elapsed());
    let get = async |what: &str, target: &str| {
        let begin = Instant::now();
        let (code, length) = send(&admin, "GET", target, "", String::new()).await;
        assert_eq!(code, 200, "{target}");
        println!("{what}: {:?}, {length} bytes", begin.elapsed());
    };
    get("the first request, which makes all resources", "/api/v1/namespaces/default").await;
    println!("resident memory: {} MiB more", (resident() - before) >> 20);
    get("a request after it", "/api/v1/namespaces/default").await;
    get("discovery, the first", "/apis").await;
    get("discovery, again", "/apis").await;
    get("an OpenAPI document of a group, the first", "/openapi/v3/apis/g7.example.com/v1").await;
    let path = "/apis/g7.example.com/v1/namespaces/default/things7";
    get("an empty list of custom resources", path).await;
    let object = |n: u32| {
        let fields: Map<String, Value> =
            (0..50).map(|field| (format!("field{field}"), json!(format!("a{field}")))).collect();
        json!({"apiVersion": "g7.example.com/v1", "kind": "Thing7", "metadata": {"name": format!("o{n}")}, "spec": fields}).to_string()
    };
    let first = timed(&admin, 1, |_| ("POST", path.to_owned(), "application/json", object(0))).await;
    println!("the first custom resource, which compiles schema and rules: {first:?}");
    let each = timed(&admin, ROUNDS, |n| ("POST", path.to_owned(), "application/json", object(n + 1))).await;
    println!("a create of a custom resource with 50 fields and two rules: {each:?}");
    let target = |n: u32| format!("{path}/o{n}?fieldManager=m&force=true");
    let each = timed(&admin, ROUNDS, |n| ("PATCH", target(n + 1), "application/apply-patch+yaml", object(n + 1))).await;
    println!("a server-side apply of it: {each:?}");
    let change = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    let name = "things1.g1.example.com";
    let target = format!("/apis/{GROUP}/v1/customresourcedefinitions/{name}");
    let each = timed(&admin, 20, |n| {
        ("PATCH", target.clone(), "application/merge-patch+json", change.replace('b', &n.to_string()))
    })
    .await;
    println!("a change of one definition: {each:?}");
    get("the first request after it", "/api/v1/namespaces/default").await;
}

/// A Deployment of about fifty fields.
fn deployment(name: &str) -> Value {
    let env: Vec<Value> = (0..8).map(|n| json!({"name": format!("E{n}"), "value": format!("v{n}")})).collect();
    let probe =
        json!({"httpGet": {"path": "/", "port": 80}, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 4});
    let container = json!({"name": "c", "image": "i:1", "env": env, "ports": [{"containerPort": 80, "name": "http"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}, "livenessProbe": probe, "readinessProbe": probe,
        "volumeMounts": [{"name": "v", "mountPath": "/v"}], "securityContext": {"runAsNonRoot": true}});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name, "tier": "web"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 5}}}})
}

async fn deployments() {
    let made = harness::Harness::with(1_767_323_045, std::sync::Arc::new(server::nodes::NoNodes), |_, _| {}).await;
    let admin = made.server.service_for(User::new("admin", &["system:masters", "system:authenticated"]));
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = |n: u32| deployment(&format!("d{n}")).to_string();
    let strict = format!("{path}?fieldValidation=Strict");
    timed(&admin, 50, |n| ("POST", strict.clone(), "application/json", body(n + 1_000_000))).await;
    let each = timed(&admin, ROUNDS, |n| ("POST", strict.clone(), "application/json", body(n))).await;
    println!("a create of a Deployment with strict validation and managedFields: {each:?}");
    let target = |n: u32| format!("{path}/d{n}?fieldManager=m&force=true");
    let each = timed(&admin, ROUNDS, |n| ("PATCH", target(n), "application/apply-patch+yaml", body(n))).await;
    println!("a server-side apply of it: {each:?}");
}

fn rule() {
    let schema =
        Schema::new(&json!({"type": "object", "properties": {"min": {"type": "integer"}, "max": {"type": "integer"},
        "name": {"type": "string"}, "on": {"type": "boolean"}}}));
    let env = Env::kubernetes().with_variable("self", schema.to_type("self").unwrap());
    let text = "self.min >= 0 && self.max <= 100 && self.min <= self.max && self.name.startsWith('a') && (self.on || self.max > 5)";
    let begin = Instant::now();
    for _ in 0..1_000 {
        black_box(env.compile(text).unwrap());
    }
    println!("a rule of ten terms is compiled in {:?}", begin.elapsed() / 1_000);
    let program = env.compile(text).unwrap();
    let object = json!({"min": 1, "max": 50, "name": "abc", "on": false});
    let begin = Instant::now();
    for _ in 0..100_000 {
        let activation = Activation::new().with("self", Cel::typed(&object, &schema).unwrap());
        assert_eq!(program.eval(&activation, &mut Budget::new(1_000_000)).unwrap().as_bool(), Some(true));
    }
    println!("and evaluated in {:?}", begin.elapsed() / 100_000);
}

#[tokio::main]
async fn main() {
    rule();
    deployments().await;
    definitions().await;
}
