//! Who may do what, over the service and over TLS.

use crate::*;

/// A request with a bearer token, as from the network.
pub(crate) async fn bearer(cluster: &Cluster, token: &str, method: &str, target: &str, body: &'static str) -> Answer {
    let network = cluster.server.service_for_network();
    let value = format!("Bearer {token}");
    cluster.send(&network, method, target, &[("authorization", value.as_str())], body).await
}

#[tokio::test]
async fn anonymous_sees_health_and_version_only() {
    let cluster = Cluster::new().await;
    let network = cluster.server.service_for_network();
    for (target, code) in
        [("/readyz", 200), ("/version", 200), ("/api", 403), ("/api/v1/nodes", 403), ("/metrics", 403)]
    {
        assert_eq!(cluster.send(&network, "GET", target, &[], Body::empty()).await.code, code, "{target}");
    }
    cluster.send(&network, "GET", "/api/v1/namespaces/x/pods", &[], Body::empty()).await.fails(
        403,
        r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "x""#,
    );
    cluster
        .send(&network, "GET", "/readyz", &[("authorization", "Bearer nonsense")], Body::empty())
        .await
        .fails(401, "Unauthorized");
    cluster
        .send(&network, "GET", "/readyz", &[("authorization", "Basic eDp5")], Body::empty())
        .await
        .fails(401, "Unauthorized");
    let forged = [("x-remote-user", "admin"), ("x-remote-group", "system:masters"), ("impersonate-user", "admin")];
    assert_eq!(cluster.send(&network, "GET", "/api/v1/nodes", &forged, Body::empty()).await.code, 403);
}

#[tokio::test]
async fn a_user_can_ask_about_itself() {
    let cluster = Cluster::new().await;
    let account = User::new("system:serviceaccount:a:b", &["system:serviceaccounts", "system:authenticated"]);
    let service = cluster.server.service_for(account);
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (attributes, allowed) in [
        (json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "a"}}), false),
        (json!({"nonResourceAttributes": {"verb": "get", "path": "/apis"}}), true),
    ] {
        let body =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": attributes})
                .to_string();
        let answer = cluster.send(&service, "POST", review, &[], body.clone()).await;
        assert_eq!(answer.code, 201);
        assert_eq!(answer.json()["status"]["allowed"], allowed);
        let admin = cluster.send(&cluster.admin, "POST", review, &[], body).await.ok();
        assert_eq!(admin["status"]["allowed"], true);
    }
    let rules = cluster
        .post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", json!({"spec": {"namespace": "default"}}))
        .await
        .ok();
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let answer = cluster.send(&cluster.admin, "POST", review, &table, "{}").await;
    assert_eq!(answer.code, 406, "a review has no metadata to make a table of");
}

#[tokio::test]
async fn a_client_certificate_is_an_identity_over_tls() {
    let network = connections::Network::new(100).await;
    let admin = network.admin();
    let stranger = server::pki::authority("ca", network.validity).unwrap();
    let forged = server::pki::client(&stranger, "admin", &["system:masters"], network.validity).unwrap();
    for alpn in ["h2", "http/1.1"] {
        assert_eq!(network.get(Some(&admin), alpn, "/api/v1/nodes").await.unwrap(), 200);
        assert_eq!(network.get(None, alpn, "/api/v1/nodes").await.unwrap(), 403);
    }
    assert!(network.get(Some(&forged), "http/1.1", "/api/v1/nodes").await.is_err(), "signed by a stranger");
    network.end().await;
}

#[tokio::test]
async fn who_impersonates_may_do_what_the_other_may() {
    let cluster = Cluster::new().await;
    let as_bob = [("impersonate-user", "bob")];
    cluster.send(&cluster.admin, "GET", "/api/v1/namespaces/x/pods", &as_bob, Body::empty()).await.fails(
        403,
        r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "x""#,
    );
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let as_account = [("impersonate-user", "system:serviceaccount:a:b")];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = cluster.send(&cluster.admin, "POST", path, &as_account, review).await.ok();
    assert_eq!(
        who["status"]["userInfo"],
        json!({"username": "system:serviceaccount:a:b", "groups": ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]})
    );
}

#[tokio::test]
async fn a_node_may_do_what_its_role_says_and_no_more() {
    let cluster = Cluster::new().await;
    let node = User::new("system:node:n", &["system:nodes", "system:authenticated"]);
    let node = cluster.server.service_for(node);
    let pretender = cluster.server.service_for(User::new("system:node:n", &["system:authenticated"]));
    for (method, target, code) in [
        ("GET", "/api/v1/namespaces/default/secrets/none", 404),
        ("GET", "/apis/node.k8s.io/v1/runtimeclasses", 200),
        ("DELETE", "/api/v1/namespaces/default/secrets/none", 403),
        ("GET", "/apis/apps/v1/deployments", 403),
        ("DELETE", "/api/v1/nodes/other", 403),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", 403),
    ] {
        assert_eq!(cluster.send(&node, method, target, &[], "{}").await.code, code, "{method} {target}");
        let answer = cluster.send(&pretender, method, target, &[], "{}").await;
        assert_eq!(answer.code, 403, "{method} {target}: the name alone is nothing");
    }
}

/// What a binding gives, and takes away again, with the next request; until the roles of every cluster are stored they count as if they were.
#[tokio::test]
async fn a_binding_counts_for_the_next_request() {
    let cluster = Cluster::new().await;
    let jane = cluster.server.service_for(User::new("jane", &["system:authenticated"]));
    let group = "/apis/rbac.authorization.k8s.io/v1";
    let pods = "/api/v1/namespaces/default/pods";
    let binding = json!({"metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    for _ in 0..3 {
        assert_eq!(cluster.send(&jane, "GET", pods, &[], "").await.code, 403);
        cluster.post(&format!("{group}/namespaces/default/rolebindings"), binding.clone()).await.ok();
        cluster.send(&jane, "GET", pods, &[], "").await.fails(
            403,
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default": RBAC: role.rbac.authorization.k8s.io "r" not found"#,
        );
        let rules = json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]);
        let role = json!({"metadata": {"name": "r"}, "rules": rules});
        cluster.post(&format!("{group}/namespaces/default/roles"), role).await.ok();
        assert_eq!(cluster.send(&jane, "GET", pods, &[], "").await.code, 200);
        cluster.send(&cluster.admin, "DELETE", &format!("{group}/namespaces/default/roles/r"), &[], "").await.ok();
        cluster
            .send(&cluster.admin, "DELETE", &format!("{group}/namespaces/default/rolebindings/jane"), &[], "")
            .await
            .ok();
    }
}

#[tokio::test]
async fn a_token_is_reviewed_for_its_audiences() {
    let cluster = Cluster::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.post(accounts, json!({"metadata": {"name": "robot"}})).await.ok();
    let asked = json!({"spec": {"audiences": ["vault", "https://kubernetes.default.svc.cluster.local"]}});
    let token = cluster.post(&format!("{accounts}/robot/token"), asked).await.ok()["status"]["token"].clone();
    let review =
        async |spec: Value| cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": spec})).await;
    let known = review(json!({"token": token, "audiences": ["vault", "other"]})).await.ok()["status"].clone();
    assert_eq!((&known["authenticated"], &known["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(known["user"]["username"], "system:serviceaccount:default:robot");
    let api = review(json!({"token": token})).await.ok()["status"].clone();
    assert_eq!(api["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    let nobody = json!({"user": {}, "error": "invalid bearer token"});
    for spec in [json!({"token": token, "audiences": ["other"]}), json!({"token": "nonsense"})] {
        assert_eq!(review(spec).await.ok()["status"], nobody);
    }
    review(json!({})).await.fails(400, "token is required for TokenReview in authentication");
    let review =
        json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "x"}}});
    let local = "/apis/authorization.k8s.io/v1/namespaces/x/localsubjectaccessreviews";
    assert_eq!(cluster.post(local, review).await.ok()["status"], json!({"allowed": false}));
}
