//! Webhooks that cannot be asked.

use super::*;
use ::server::{
    dialer::{Dialer, Stream},
    payload,
};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};

#[tokio::test]
async fn the_policy_says_whether_a_failure_counts() {
    let hooks = Hooks::new(|path, _| match path {
        "wrong" => json!({"allowed": true, "patch": "e30="}),
        _ => ask(true),
    })
    .await;
    let cluster = Cluster::new().await;
    // A port at which nobody listens any more.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = format!("https://127.0.0.1:{closed}/x");
    let cases = [
        (
            "lost",
            json!({"clientConfig": {"url": url}}),
            format!(
                "failed to call webhook: Post \"{url}?timeout=5s\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
            ),
        ),
        (
            "wrong",
            json!({}),
            "received invalid webhook response: webhook returned response.patch but not response.patchType".to_owned(),
        ),
        (
            "unknown",
            json!({"clientConfig": {"service": {"namespace": "default", "name": "none", "path": "/x"}}}),
            "failed to call webhook: Post \"https://none.default.svc:443/x?timeout=5s\": service \"none\" not found"
                .to_owned(),
        ),
    ];
    for (name, more, why) in cases {
        for policy in ["Fail", "Ignore"] {
            let mut more = more.clone();
            more["failurePolicy"] = policy.into();
            configure(&cluster, MUTATING, name, json!([webhook(&hooks, name, more)])).await;
            let answer = cluster.post(MAPS, named(&format!("{name}-{}", policy.to_lowercase()))).await;
            match policy {
                "Ignore" => drop(answer.ok()),
                _ => answer.fails(
                    500,
                    &format!("Internal error occurred: failed calling webhook \"{name}.example.com\": {why}"),
                ),
            }
            cluster.delete(&format!("{MUTATING}/{name}"), Value::Null).await.ok();
        }
    }
}

#[tokio::test]
async fn a_webhook_has_its_time_and_no_more() {
    let hooks = Hooks::slow(|_, _| {
        Box::pin(async {
            time::sleep(Duration::from_secs(20)).await;
            ask(true)
        })
    })
    .await;
    let cluster = Cluster::new().await;
    // Concurrent: each has its second.
    let slow = |path: &str| webhook(&hooks, path, json!({"timeoutSeconds": 1}));
    configure(&cluster, VALIDATING, "v", json!([slow("a"), slow("b"), slow("c"), slow("d")])).await;
    let begun = time::Instant::now();
    let text = format!(
        "Internal error occurred: failed calling webhook \"a.example.com\": failed to call webhook: Post \"https://127.0.0.1:{}/a?timeout=1s\": context deadline exceeded",
        hooks.port
    );
    cluster.post(MAPS, named("a")).await.fails(500, &text);
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_millis(3_500)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_dry_run_is_not_shown_to_who_has_side_effects() {
    let hooks = Hooks::new(|_, _| ask(true)).await;
    let cluster = Cluster::new().await;
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "none", json!({"sideEffects": "NoneOnDryRun"}))]))
        .await;
    let dry = format!("{MAPS}?dryRun=All");
    cluster.post(&dry, named("a")).await.ok();
    let (_, asked) = hooks.take().remove(0);
    assert_eq!((&asked["dryRun"], &asked["options"]["dryRun"]), (&json!(true), &json!(["All"])));
    // No such configuration is accepted by this version of the API; it is one that an older one has stored.
    let path = format!("{VALIDATING}/v");
    let mut stored = cluster.get(&path).await.ok();
    stored["webhooks"][0]["sideEffects"] = "Some".into();
    stored["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let key = "/admissionregistration.k8s.io/validatingwebhookconfigurations/v";
    let at = cluster.store.get(key).unwrap().revision;
    let bytes = payload::stored_form(&api::Object::from_value(stored).unwrap());
    cluster.store.put(key, store::Expect::At(at), bytes, None).await.unwrap();
    cluster.post(&dry, named("a")).await.fails(400, "admission webhook \"none.example.com\" does not support dry run");
    assert_eq!(hooks.paths(), [""; 0]);
    cluster.post(MAPS, named("a")).await.ok();
    assert_eq!(hooks.paths(), ["none"]);
}

#[tokio::test]
async fn match_conditions_that_cannot_be_evaluated_are_a_failure() {
    let hooks = Hooks::new(|_, _| ask(false)).await;
    let cluster = Cluster::new().await;
    let conditions = json!([{"name": "c", "expression": "object.nothing.here == 1"}]);
    let why =
        "configmaps \"a\" is forbidden: expression 'object.nothing.here == 1' resulted in error: no such key: nothing";
    for policy in ["Ignore", "Fail"] {
        let more = json!({"matchConditions": conditions, "failurePolicy": policy});
        configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "c", more)])).await;
        let answer = cluster.post(MAPS, named("a")).await;
        match policy {
            "Ignore" => drop(answer.ok()),
            _ => answer.fails(403, why),
        }
        cluster.delete(&format!("{VALIDATING}/v"), Value::Null).await.ok();
        cluster.delete(&map("a"), Value::Null).await;
    }
    assert_eq!(hooks.paths(), [""; 0]);
}

/// Every address of the cluster is the port of the webhooks.
struct To(u16);

#[async_trait::async_trait]
impl Dialer for To {
    async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        assert_eq!(to.port(), 8443);
        Ok(Box::new(TcpStream::connect(("127.0.0.1", self.0)).await?))
    }
}

#[tokio::test]
async fn a_webhook_may_be_a_service() {
    let hooks = Hooks::new(|_, _| patch(json!([{"op": "add", "path": "/data/x", "value": "1"}]))).await;
    let made = harness::Harness::reaching(NOW, Arc::new(Echo), Arc::new(To(hooks.port)), |_, _| {}).await;
    let cluster = Cluster::of(made);
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 8443}]}});
    cluster.post("/api/v1/namespaces/default/services", service).await.ok();
    let more = json!({"clientConfig": hooks.config_by_service("adds")});
    configure(&cluster, MUTATING, "m", json!([webhook(&hooks, "adds", more)])).await;
    assert_eq!(cluster.post(MAPS, named("a")).await.ok()["data"]["x"], "1");
    assert_eq!(hooks.paths(), ["adds"]);
}

#[tokio::test]
async fn a_webhook_may_ask_the_server_during_its_call() {
    let cluster = Cluster::new().await;
    let (admin, from) = (cluster.admin.clone(), Arc::new(AtomicI64::new(0)));
    // It writes what is asked about itself, three deep, and a configuration.
    let hooks = Hooks::slow(move |_, _| {
        let (admin, depth) = (admin.clone(), from.fetch_add(1, Ordering::SeqCst));
        Box::pin(async move {
            let (target, body) = match depth {
                0..3 => (MAPS, named(&format!("depth-{depth}"))),
                _ => (VALIDATING, json!({"metadata": {"name": format!("at-{depth}")}})),
            };
            let request = Request::builder().method("POST").uri(target).body(Body::from(body.to_string())).unwrap();
            ask(admin.handle(request).await.status().is_success())
        })
    })
    .await;
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "asks", json!({}))])).await;
    cluster.post(MAPS, named("a")).await.ok();
    for name in ["depth-0", "depth-1", "depth-2", "a"] {
        cluster.get(&map(name)).await.ok();
    }
    cluster.get(&format!("{VALIDATING}/at-3")).await.ok();
    assert_eq!(hooks.paths().len(), 4);
}
