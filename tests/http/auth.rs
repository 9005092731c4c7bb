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
