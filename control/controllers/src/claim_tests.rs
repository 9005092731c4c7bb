use super::*;
use http::{Request, Response};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;
use std::convert::Infallible;

type Answer = fn(&str, &str) -> (u16, Value);

/// An API that answers by method and path; and what it was asked.
fn api(answer: Answer) -> (Client, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = asked.clone();
    let serve = tower::service_fn(move |request: Request<Body>| {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let log = log.clone();
        async move {
            let body = request.into_body().collect_bytes().await.unwrap_or_default();
            let (code, value) = answer(&method, &path);
            log.lock().push(format!("{method} {path} {}", String::from_utf8_lossy(&body)).trim_end().to_owned());
            let mut response = Response::new(Body::from(value.to_string().into_bytes()));
            *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
            Ok::<_, Infallible>(response)
        }
    });
    (Client::new(kube::Client::new(serve, "default")), asked)
}

fn job(uid: &str, deleted: Option<&str>) -> Value {
    json!({"metadata": {"name": "j", "namespace": "n", "uid": uid, "deletionTimestamp": deleted}})
}

fn pod(name: &str, app: &str, owner: Option<&str>) -> Value {
    let owners = owner
        .map(|uid| json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": uid, "controller": true}]));
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": app}, "ownerReferences": owners}})
}

async fn settle(answer: Answer, pods: &[Value]) -> (anyhow::Result<Vec<String>>, Vec<String>) {
    let (client, asked) = api(answer);
    let owner: Job = serde_json::from_value(job("u", None)).expect("a Job");
    let pods = pods.iter().map(|pod| Arc::new(serde_json::from_value::<Pod>(pod.clone()).expect("a pod"))).collect();
    let claims = Claims { client: &client, owner: &owner, finalizer: Some("f") };
    let selector = Selector::parse("app=a").expect("a selector");
    let ours = claims.settle(&selector, pods).await;
    let names = ours.map(|ours| ours.iter().map(|pod| meta::name(&pod.metadata).to_owned()).collect());
    let asked = asked.lock().clone();
    (names, asked)
}

fn gone() -> (u16, Value) {
    (404, json!({"kind": "Status", "reason": "NotFound", "code": 404}))
}

#[tokio::test]
async fn what_matches_is_adopted_and_what_does_not_is_released() {
    let pods = [
        pod("ours", "a", Some("u")),
        pod("free", "a", None),
        pod("other", "a", Some("another")),
        pod("strange", "b", Some("u")),
        pod("free-too", "a", None),
        pod("nobodys", "b", None),
    ];
    let (ours, asked) = settle(
        |_, path| match path.rsplit('/').next() {
            Some("j") => (200, job("u", None)),
            Some(name) => (200, pod(name, "a", Some("u"))),
            None => gone(),
        },
        &pods,
    )
    .await;
    assert_eq!(ours.expect("settled"), ["ours", "free", "free-too"]);
    let patch = |name: &str| {
        format!(
            r#"PATCH /api/v1/namespaces/n/pods/{name} {{"metadata":{{"finalizers":["f"],"ownerReferences":[{{"apiVersion":"batch/v1","blockOwnerDeletion":true,"controller":true,"kind":"Job","name":"j","uid":"u"}}],"uid":"{name}"}}}}"#
        )
    };
    let release = r#"PATCH /api/v1/namespaces/n/pods/strange {"metadata":{"$deleteFromPrimitiveList/finalizers":["f"],"ownerReferences":[{"$patch":"delete","uid":"u"}],"uid":"strange"}}"#;
    let once = "GET /apis/batch/v1/namespaces/n/jobs/j";
    assert_eq!(asked, [release, once, &patch("free"), &patch("free-too")]);
}

#[tokio::test]
async fn an_owner_that_is_no_more_adopts_nothing() {
    let pods = [pod("free", "a", None)];
    for (answer, expected) in [
        ((|_, _| (200, job("another", None))) as Answer, "the Job was replaced by another of its name"),
        (|_, _| (200, job("u", Some("2026-01-01T00:00:00Z"))), "the Job has just been deleted"),
    ] {
        let (ours, asked) = settle(answer, &pods).await;
        assert_eq!(ours.expect_err("refused").to_string(), expected);
        assert_eq!(asked.len(), 1, "{asked:?}");
    }
}

#[tokio::test]
async fn an_object_that_is_gone_is_left_out_and_one_that_is_there_is_tried_again() {
    let (ours, _) = settle(
        |method, path| match (method, path.rsplit('/').next()) {
            (_, Some("j")) => (200, job("u", None)),
            ("PATCH", Some("gone")) => gone(),
            ("PATCH", Some("replaced")) => (409, json!({"kind": "Status", "reason": "Conflict", "code": 409})),
            (_, Some("replaced")) => {
                (200, json!({"metadata": {"name": "replaced", "namespace": "n", "uid": "another"}}))
            }
            (_, Some(name)) => (200, pod(name, "a", Some("u"))),
            _ => gone(),
        },
        &[pod("gone", "a", None), pod("replaced", "a", None), pod("free", "a", None)],
    )
    .await;
    assert_eq!(ours.expect("settled"), ["free"]);
    let (ours, _) = settle(
        |method, path| match (method, path.rsplit('/').next()) {
            (_, Some("j")) => (200, job("u", None)),
            ("PATCH", _) => (409, json!({"kind": "Status", "reason": "Conflict", "code": 409})),
            _ => (200, pod("free", "a", None)),
        },
        &[pod("free", "a", None)],
    )
    .await;
    assert!(ours.expect_err("tried again").downcast::<Error>().expect("of the API").is_conflict());
}

#[test]
fn an_orphan_wakes_those_who_select_it_once() {
    let jobs = Informer::<Job>::new();
    let owner = |name: &str, labels: Value| {
        json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"selector": {"matchLabels": labels}, "template": {}}})
    };
    let owners = [owner("a", json!({"app": "a"})), owner("b", json!({"app": "b"})), owner("all", json!({}))];
    jobs.replace(owners.into_iter().map(|job| serde_json::from_value(job).expect("a Job")).collect(), 1);
    labels::index_selectors(&jobs);
    let read = |pod: Value| Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"));
    let free = || read(pod("p", "a", None));
    for (what, delta, wakes) in [
        ("new", Delta::Added(free()), true),
        ("owned", Delta::Added(read(pod("p", "a", Some("u")))), false),
        ("gone", Delta::Deleted(free()), false),
        ("as it was", Delta::Modified { old: free(), new: free() }, false),
        ("relabelled", Delta::Modified { old: read(pod("p", "b", None)), new: free() }, true),
        ("released", Delta::Modified { old: read(pod("p", "a", Some("u"))), new: free() }, true),
    ] {
        let keys = enqueue_for_orphan(&delta, &jobs, |job| job.spec.as_ref()?.selector.as_ref());
        assert_eq!(keys, if wakes { vec![Key::new("n", "a")] } else { Vec::new() }, "{what}");
    }
}

/// A reconcile of one Deployment or ReplicaSet among a thousand looks at its own and at nothing else of the namespace.
#[test]
fn candidates_of_one_owner_among_a_thousand_are_its_own() {
    let pods = Informer::<Pod>::new();
    let all =
        (0..1000).map(|i| pod(&format!("p{i}"), &format!("a{i}"), (i >= 500).then(|| format!("u{i}")).as_deref()));
    pods.replace(all.map(|pod| serde_json::from_value(pod).expect("a pod")).collect(), 1);
    labels::index_orphans(&pods);
    let found = |i: usize| {
        let owner = ObjectMeta { namespace: Some("n".into()), uid: Some(format!("u{i}")), ..ObjectMeta::default() };
        let wanted = [("app".to_owned(), format!("a{i}"))].into();
        let found = candidates(&pods, &owner, &wanted);
        found.iter().map(|pod| meta::name(&pod.metadata).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found(7), ["p7"], "an orphan that it may want");
    assert_eq!(found(700), ["p700"], "its own");
    assert!(found(1000).is_empty());
}
