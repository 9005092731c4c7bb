//! Priority and fairness: what FlowSchemas and PriorityLevelConfigurations decide about requests.

use crate::*;
use futures::future::BoxFuture;
use std::{collections::HashMap, time::Duration};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

/// A server that keeps the objects which every cluster has.
async fn kept() -> Cluster {
    let cluster = Cluster::new().await;
    let clock = api::Clock::new(|| Timestamp::from_second(NOW).unwrap());
    let bootstrap = kinds::bootstrap::Bootstrap::new(&cluster.server, harness::settings("test"), clock);
    let shutdown = cluster.shutdown.clone();
    tokio::spawn(async move { bootstrap.run(std::future::ready(()), &shutdown).await });
    while cluster.get(SCHEMAS).await.ok()["items"].as_array().unwrap().len() < 11
        || cluster.get(LEVELS).await.ok()["items"].as_array().unwrap().len() < 8
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster
}

/// The names of what is stored, by uid.
async fn names(cluster: &Cluster) -> HashMap<String, String> {
    let mut names = HashMap::new();
    for path in [SCHEMAS, LEVELS] {
        for item in cluster.get(path).await.ok()["items"].as_array().unwrap() {
            let text = |field: &str| item["metadata"][field].as_str().unwrap().to_owned();
            names.insert(text("uid"), text("name"));
        }
    }
    names
}

/// Schema and level that an answer names.
fn flow(names: &HashMap<String, String>, headers: &http::HeaderMap) -> Option<String> {
    let name = |header: &str| headers.get(header).map(|uid| names[uid.to_str().unwrap()].as_str());
    Some(format!("{} {}", name("x-kubernetes-pf-flowschema-uid")?, name("x-kubernetes-pf-prioritylevel-uid")?))
}

/// A level of 100 of the server's seats, which has queues of three, for the accounts of namespace `default`.
async fn small(cluster: &Cluster) {
    let queuing = json!({"queues": 64, "handSize": 6, "queueLengthLimit": 3});
    let limited = json!({"nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Queue", "queuing": queuing}});
    let level = json!({"metadata": {"name": "small"}, "spec": {"type": "Limited", "limited": limited}});
    let made = cluster.post(LEVELS, level).await;
    assert_eq!(made.header("warning"), "", "somebody acts on it");
    made.ok();
    let rule = json!({"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "default", "name": "*"}}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version"]}]});
    let spec = json!({"priorityLevelConfiguration": {"name": "small"}, "matchingPrecedence": 50,
        "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]});
    let made = cluster.post(SCHEMAS, json!({"metadata": {"name": "small"}, "spec": spec})).await;
    assert_eq!(made.header("warning"), "", "somebody acts on it");
    made.ok();
}

/// An account that asks for `/version` over the network.
struct Account {
    token: String,
    network: Service,
}

impl Account {
    async fn new(cluster: &Cluster, name: &str) -> Self {
        cluster.post(ACCOUNTS, json!({"metadata": {"name": name}})).await.ok();
        let request = cluster.post(&format!("{ACCOUNTS}/{name}/token"), json!({"spec": {}})).await.ok();
        let token = format!("Bearer {}", request["status"]["token"].as_str().unwrap());
        Self { token, network: cluster.server.service_for_network() }
    }

    /// An answer that is held holds its seat.
    fn ask(&self) -> BoxFuture<'static, Response<Body>> {
        let request = Request::get("/version").header("authorization", &self.token).body(Body::empty()).unwrap();
        let network = self.network.clone();
        Box::pin(async move { network.handle(request).await })
    }
}

/// A metric of the level `small`.
async fn metric(cluster: &Cluster, name: &str, more: &str) -> String {
    let labels = format!("{{priority_level=\"small\",flow_schema=\"small\"{more}}} ");
    let wanted = format!("apiserver_flowcontrol_{name}{labels}");
    let text = cluster.get("/metrics").await.text();
    text.lines().find_map(|line| line.strip_prefix(&wanted)).unwrap_or("none").to_owned()
}

#[tokio::test]
async fn the_answer_says_to_which_schema_and_level_a_request_belonged() {
    let cluster = kept().await;
    let names = names(&cluster).await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n";
    for (user, groups, request, expected) in [
        ("admin", "system:masters", "GET /api/v1/pods", "exempt exempt"),
        ("system:kube-controller-manager", "", "GET /api/v1/pods", "kube-controller-manager workload-high"),
        ("system:kube-scheduler", "", "GET /api/v1/pods", "kube-scheduler workload-high"),
        ("system:kube-scheduler", "", format!("GET {lease}").as_str(), "system-leader-election leader-election"),
        ("system:node:n", "system:nodes", "GET /api/v1/namespaces/default/pods", "system-nodes system"),
        ("system:node:n", "system:nodes", "PATCH /api/v1/nodes/n/status", "system-node-high node-high"),
        ("system:node:n", "system:nodes", format!("PUT {lease}").as_str(), "system-node-high node-high"),
        (
            "system:serviceaccount:kube-system:deployment-controller",
            "system:serviceaccounts",
            "GET /api/v1/pods",
            "kube-system-service-accounts workload-high",
        ),
        ("system:serviceaccount:a:b", "system:serviceaccounts", "GET /api/v1/pods", "service-accounts workload-low"),
        ("jane", "", "GET /api/v1/pods", "global-default global-default"),
        ("jane", "", "GET /readyz", "probes exempt"),
        ("jane", "", "GET /nothing/here", "global-default global-default"),
    ] {
        let groups: Vec<&str> = groups.split(' ').chain(["system:authenticated"]).filter(|g| !g.is_empty()).collect();
        let service = cluster.server.service_for(User::new(user, &groups));
        let (method, target) = request.split_once(' ').unwrap();
        let answer = cluster.send(&service, method, target, &[], "{}").await;
        assert_eq!(flow(&names, &answer.headers).as_deref(), Some(expected), "{user}: {request}: {}", answer.code);
    }
    // Long-running requests belong to none but watches, which have to begin.
    let log = format!("{PODS}/p/log");
    for (target, expected) in [
        (log.clone(), Some("exempt exempt")),
        (format!("{log}?follow=true"), None),
        (format!("{PODS}/p/exec"), None),
        (format!("{PODS}?watch=true&timeoutSeconds=-1"), Some("exempt exempt")),
    ] {
        assert_eq!(flow(&names, &cluster.get(&target).await.headers).as_deref(), expected, "{target}");
    }
    // Who is nobody has not come as far as that.
    let nobody = cluster.server.service_for_network();
    let wrong = cluster.send(&nobody, "GET", "/version", &[("authorization", "Bearer no")], Body::empty()).await;
    assert_eq!((wrong.code, flow(&names, &wrong.headers)), (401, None));
    cluster.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_noisy_account_waits_and_is_refused_while_others_are_served() {
    let cluster = Cluster::new().await;
    small(&cluster).await;
    let (noisy, quiet) = (Account::new(&cluster, "noisy").await, Account::new(&cluster, "quiet").await);
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(noisy.ask().await);
        assert_eq!(held.last().unwrap().status(), 200);
    }
    // Six queues of three.
    let mut waiting: Vec<_> = (0..18).map(|_| noisy.ask()).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    let refused = noisy.ask().await;
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(refused.headers().contains_key("x-kubernetes-pf-flowschema-uid"));
    let code = refused.status().as_u16();
    let told: Value = serde_json::from_slice(&refused.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((code, told["reason"].as_str()), (429, Some("TooManyRequests")));
    assert_eq!(told["message"], "Too many requests, please try again later.");
    let mut other = quiet.ask();
    assert!(futures::poll!(&mut other).is_pending(), "there is no seat");
    assert_eq!(metric(&cluster, "current_inqueue_requests", "").await, "19");
    assert_eq!(metric(&cluster, "current_executing_requests", "").await, "100");
    assert_eq!(metric(&cluster, "rejected_requests_total", ",reason=\"queue-full\"").await, "1");
    assert_eq!(cluster.get("/version").await.code, 200, "masters are exempt");
    // The first seat that is free is that of the account which had none.
    held.pop();
    let other = other.await;
    assert_eq!(other.status(), 200);
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    // Who goes away leaves the queue.
    waiting.truncate(10);
    assert_eq!(metric(&cluster, "current_inqueue_requests", "").await, "10");
    drop(other);
    let begun = tokio::time::Instant::now();
    let codes: Vec<u16> =
        futures::future::join_all(waiting).await.iter().map(|answer| answer.status().as_u16()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 429).count(), 9, "{codes:?}");
    assert_eq!(begun.elapsed().as_secs(), 15, "a quarter of the time of a request");
    assert_eq!(metric(&cluster, "rejected_requests_total", ",reason=\"time-out\"").await, "17");
    drop(held);
    assert_eq!(metric(&cluster, "current_executing_requests", "").await, "0");
    assert_eq!(metric(&cluster, "dispatched_requests_total", "").await, "102");
    let dump = cluster.get("/debug/api_priority_and_fairness/dump_priority_levels").await.text();
    let row = dump.lines().find(|line| line.starts_with("small,")).unwrap();
    let cells: Vec<&str> = row.split(',').map(str::trim).collect();
    assert_eq!(cells, ["small", "0", "true", "false", "0", "0", "102", "18", "0", "17"]);
}

#[tokio::test]
async fn a_change_counts_for_the_next_request() {
    let cluster = Cluster::new().await;
    let account = Account::new(&cluster, "a").await;
    let of = async || {
        let (names, answer) = (names(&cluster).await, account.ask().await);
        assert_eq!(answer.status(), 200);
        let named = !answer.headers()["x-kubernetes-pf-flowschema-uid"].is_empty();
        if named { flow(&names, answer.headers()) } else { None }
    };
    assert_eq!(of().await, None, "what counts without an object has no uid");
    small(&cluster).await;
    assert_eq!(of().await.as_deref(), Some("small small"));
    cluster.delete(&format!("{LEVELS}/small"), Value::Null).await.ok();
    assert_eq!(of().await, None, "its level is gone");
    cluster.delete(&format!("{SCHEMAS}/small"), Value::Null).await.ok();
    small(&cluster).await;
    assert_eq!(of().await.as_deref(), Some("small small"));
}

#[tokio::test]
async fn a_schema_says_whether_its_level_exists() {
    let cluster = kept().await;
    small(&cluster).await;
    let dangling = async |status: &str, message: &str| {
        loop {
            let schema = cluster.get(&format!("{SCHEMAS}/small")).await.ok();
            let condition = &schema["status"]["conditions"][0];
            if condition["status"] == status {
                assert_eq!(condition["type"], "Dangling");
                assert_eq!(condition["message"], message);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let start = "This FlowSchema references the PriorityLevelConfiguration object named \"small\"";
    dangling("False", &format!("{start} and it exists")).await;
    cluster.delete(&format!("{LEVELS}/small"), Value::Null).await.ok();
    dangling("True", &format!("{start} but there is no such object")).await;
    cluster.shutdown.cancel();
}

#[tokio::test]
async fn a_watch_holds_its_seats_until_it_has_begun() {
    let cluster = Cluster::new().await;
    cluster.create_map("m", json!({})).await;
    let executing = async || {
        let text = cluster.get("/metrics").await.text();
        let name =
            "apiserver_flowcontrol_current_executing_requests{priority_level=\"exempt\",flow_schema=\"exempt\"} ";
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<u32>().unwrap() - 1
    };
    assert_eq!(executing().await, 0, "but for the one that asks");
    let request = Request::get(format!("{MAPS}?watch=true")).body(Body::empty()).unwrap();
    let mut watch = cluster.admin.handle(request).await.into_body();
    assert_eq!(executing().await, 1);
    watch.frame().await.unwrap().unwrap();
    assert!(futures::poll!(watch.frame()).is_pending(), "the initial events are sent");
    assert_eq!(executing().await, 0);
    cluster.create_map("n", json!({})).await;
    watch.frame().await.unwrap().unwrap();
    assert_eq!(executing().await, 0);
}
