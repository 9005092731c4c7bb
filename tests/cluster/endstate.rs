//! What a cluster has come to, without what differs between two that came to the same: names by chance, uids, addresses, times, revisions
//! of the store, and where pods are.

use crate::world::World;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// What says nothing about the state: how often something was written, and by whom.
const DROPPED: &[&str] = &[
    "uid",
    "resourceVersion",
    "generation",
    "managedFields",
    "containerID",
    "imageID",
    "nodeName",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "ip",
    "addresses",
    "clusterIP",
    "clusterIPs",
    // An authority of the process.
    "requestheader-client-ca-file",
];

/// How the name of a volume begins that admission gives to each pod.
const TOKENS: &str = "kube-api-access-";

/// Lists whose order says nothing.
const UNORDERED: &[&str] =
    &["conditions", "endpoints", "subsets", "notReadyAddresses", "active", "ownerReferences", "finalizers"];

/// Resources that come and go by themselves.
const RESTLESS: &[&str] = &["/core/events/", "/events.k8s.io/", "/coordination.k8s.io/leases/"];

/// Names and values of all stored objects, sorted.
pub type EndState = Vec<(String, Value)>;

/// What a cluster has come to.
pub fn end_state(world: &World) -> EndState {
    let snapshot = world.store.snapshot(None).unwrap();
    let entries: Vec<(String, Value)> = snapshot
        .range("/", None)
        .filter(|entry| !RESTLESS.iter().any(|prefix| entry.key.starts_with(prefix)))
        .map(|entry| (entry.key.to_string(), serde_json::from_slice(&entry.stored).unwrap()))
        .collect();
    let mut names: Vec<(String, String)> = Vec::new();
    for (_, object) in &entries {
        let meta = &object["metadata"];
        if let (Some(name), Some(prefix)) = (meta["name"].as_str(), meta["generateName"].as_str()) {
            names.push((name.to_owned(), format!("{prefix}*")));
        }
        // Its name is the address that a Service got by chance.
        if let (Some("IPAddress"), Some(name)) = (object["kind"].as_str(), meta["name"].as_str()) {
            names.push((name.to_owned(), "ADDRESS".to_owned()));
        }
    }
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let general = |text: &str| {
        let text = names.iter().fold(text.to_owned(), |text, (name, plain)| text.replace(name, plain));
        without_uuids(&text)
    };
    let mut state: EndState = entries
        .into_iter()
        .map(|(key, mut object)| {
            let generation = object["metadata"]["generation"].clone();
            if !generation.is_null() && object["status"]["observedGeneration"] == generation {
                object["status"]["observedGeneration"] = "current".into();
            }
            if key.starts_with("/core/nodes/") {
                object["status"] = Value::Null;
            }
            plain(&mut object);
            (general(&key), serde_json::from_str(&general(&object.to_string())).unwrap())
        })
        .collect();
    state.sort_by_cached_key(|(key, object)| format!("{key} {object}"));
    state
}

fn plain(value: &mut Value) {
    match value {
        Value::Object(fields) => plain_fields(fields),
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::String(text) if text.starts_with(TOKENS) => *text = TOKENS.to_owned(),
        // As upstream, the message stays while status and reason do: of a rollout whose progress nobody saw it names the ReplicaSet before.
        Value::String(text) if text.ends_with("has successfully progressed.") => *text = "progressed".to_owned(),
        Value::String(text) if text.len() >= 20 && text.parse::<Timestamp>().is_ok() => *text = "TIME".to_owned(),
        _ => {}
    }
}

fn plain_fields(fields: &mut Map<String, Value>) {
    fields.retain(|name, _| !DROPPED.contains(&name.as_str()));
    for (name, value) in fields {
        plain(value);
        if let Value::Array(items) = value
            && UNORDERED.contains(&name.as_str())
        {
            items.sort_by_key(ToString::to_string);
        }
    }
}

/// Replaces each UUID: names of volumes are made of one.
fn without_uuids(text: &str) -> String {
    const LENGTH: usize = 36;
    let is_uuid = |part: &[u8]| {
        part.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        if bytes.get(at..at + LENGTH).is_some_and(is_uuid) {
            out.extend_from_slice(b"UUID");
            at += LENGTH;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

/// What differs between two: objects that only one has, and the fields of those that both have.
pub fn difference(expected: &EndState, found: &EndState) -> Vec<String> {
    let (mut only, mut left) = (Vec::new(), found.clone());
    for one in expected {
        match left.iter().position(|other| other == one) {
            Some(at) => drop(left.remove(at)),
            None => only.push(one),
        }
    }
    let mut all = Vec::new();
    for (key, object) in only {
        match left.iter().position(|(other, _)| other == key) {
            Some(at) => fields(&format!("{key} "), object, &left.remove(at).1, &mut all),
            None => all.push(format!("- {key} {object}")),
        }
    }
    all.extend(left.into_iter().map(|(key, object)| format!("+ {key} {object}")));
    all
}

fn fields(path: &str, expected: &Value, found: &Value, all: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(one), Value::Object(other)) => {
            for name in one.keys().chain(other.keys().filter(|name| !one.contains_key(*name))) {
                fields(&format!("{path}.{name}"), &expected[name], &found[name], all);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (at, (one, other)) in one.iter().zip(other).enumerate() {
                fields(&format!("{path}[{at}]"), one, other, all);
            }
        }
        _ if expected != found => all.push(format!("{path}: {expected} is {found}")),
        _ => {}
    }
}

#[test]
fn only_what_chance_decides_is_left_out() {
    let mut object = serde_json::json!({"metadata": {"uid": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"replicas": 3},
        "status": {"conditions": [{"type": "b"}, {"type": "a"}]}});
    plain(&mut object);
    let expected = serde_json::json!({"metadata": {"creationTimestamp": "TIME"}, "spec": {"replicas": 3},
        "status": {"conditions": [{"type": "a"}, {"type": "b"}]}});
    assert_eq!(object, expected);
    assert_eq!(without_uuids("pvc-01234567-89ab-cdef-0123-456789abcdef/x"), "pvc-UUID/x");
    let state =
        |all: &[(&str, i32)]| all.iter().map(|(key, n)| ((*key).to_owned(), serde_json::json!({"n": n}))).collect();
    let found =
        difference(&state(&[("/a", 1), ("/b", 1), ("/b", 2)]), &state(&[("/a", 1), ("/b", 2), ("/b", 3), ("/c", 1)]));
    assert_eq!(found, ["/b .n: 1 is 3", "+ /c {\"n\":1}"]);
}
