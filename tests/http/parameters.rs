//! Paths and parameters that mean nothing, and what is not there yet: always an answer that says so, never an empty success.

use crate::*;

#[tokio::test(start_paused = true)]
async fn numbers_and_flags_are_read_as_go_reads_them() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    for parameter in ["timeoutSeconds", "limit"] {
        for (value, why) in [
            ("abc", "invalid syntax"),
            ("", "invalid syntax"),
            ("1s", "invalid syntax"),
            ("99999999999999999999", "value out of range"),
        ] {
            let text = format!("strconv.ParseInt: parsing {value:?}: {why}");
            for more in ["", "&watch=true"] {
                cluster.get(&format!("{MAPS}?{parameter}={value}{more}")).await.fails(400, &text);
            }
            cluster.delete(&format!("{MAPS}?{parameter}={value}"), Value::Null).await.fails(400, &text);
        }
    }
    let text = "strconv.ParseInt: parsing \"x\": invalid syntax";
    cluster.delete(&format!("{}?gracePeriodSeconds=x", map("a")), Value::Null).await.fails(400, text);
    for (value, watches) in [("", true), ("yes", true), ("1", true), ("0", false), ("False", false)] {
        let begun = tokio::time::Instant::now();
        let list = cluster.get(&format!("{MAPS}?watch={value}&timeoutSeconds=5")).await;
        assert_eq!((list.code, begun.elapsed().as_secs()), (200, if watches { 5 } else { 0 }), "{value}");
    }
    let over = cluster.get(&format!("{MAPS}?watch=true&timeoutSeconds=-1&resourceVersion=1")).await;
    assert_eq!((over.code, over.text().as_str()), (200, ""));
    let initial = cluster.get(&format!("{MAPS}?sendInitialEvents=")).await;
    assert!(initial.status().2.contains("sendInitialEvents is forbidden for list"), "{}", initial.text());
}

/// As `strconv.ParseUint`: without a sign, within 64 bits, with leading zeros.
#[tokio::test]
async fn a_resource_version_is_a_number_without_a_sign() {
    let cluster = Cluster::new().await;
    let made = cluster.create_map("a", json!({})).await;
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    for (given, why) in
        [("+5", "invalid syntax"), ("-1", "invalid syntax"), ("99999999999999999999", "value out of range")]
    {
        let text = format!("resourceVersion: Invalid value: {given:?}: strconv.ParseUint: parsing {given:?}: {why}");
        let escaped = given.replace('+', "%2B");
        cluster.get(&format!("{}?resourceVersion={escaped}", map("a"))).await.fails(500, &text);
        cluster
            .get(&format!("{MAPS}?resourceVersion={escaped}"))
            .await
            .fails(400, &format!("invalid resource version: {text}"));
        let body = json!({"metadata": {"resourceVersion": given}});
        let text = format!("strconv.ParseUint: parsing {given:?}: {why}");
        cluster.patch(&map("a"), "merge-patch+json", body.clone()).await.fails(500, &text);
        let mut body = body;
        body["metadata"]["name"] = "a".into();
        cluster.put(&map("a"), body).await.fails(500, &text);
    }
    let body = json!({"metadata": {"name": "a", "resourceVersion": format!("0{revision}")}, "data": {"k": "w"}});
    cluster.put(&map("a"), body).await.ok();
    cluster.post(MAPS, json!({"metadata": {"name": "b", "resourceVersion": "+5"}})).await.ok();
}

#[tokio::test]
async fn dots_are_no_names_and_an_escaped_slash_separates() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    for (target, text) in [
        ("/api/v1/namespaces/%2e%2e/configmaps", "invalid key: \"/configmaps/..\""),
        ("/api/v1/namespaces/./configmaps?watch=true", "invalid key: \"/configmaps/.\""),
        ("/api/v1/namespaces/default/configmaps/%2E%2E", "Name parameter invalid: \"..\": may not be '..'"),
        ("/api/v1/namespaces/default/configmaps/a%25b", "Name parameter invalid: \"a%b\": may not contain '%'"),
        ("/api/v1/namespaces/%2e%2e", "Name parameter invalid: \"..\": may not be '..'"),
        ("/api/v1/nodes/%2e%2e/status", "Name parameter invalid: \"..\": may not be '..'"),
    ] {
        cluster.get(target).await.fails(400, text);
    }
    let same = cluster.get("/api/v1/namespaces/default%2Fconfigmaps%2Fa").await.ok();
    assert_eq!(same["metadata"]["name"], "a");
    for target in ["/api/v1/namespaces/a%2Fb/pods", "/api/v1/namespaces/default/configmaps/a%2Fb"] {
        assert_eq!(cluster.get(target).await.code, 404, "{target}");
    }
    for target in ["/api/v1/namespaces/%2Fabs/configmaps", "/api//v1/namespaces/default/configmaps"] {
        let body = json!({"metadata": {"name": "b"}});
        assert_eq!(cluster.post(target, body).await.code, 404, "{target}");
    }
    assert_eq!(cluster.get("//api/v1/namespaces/default/configmaps/a/").await.code, 200);
}

#[tokio::test]
async fn a_stream_into_a_pod_is_asked_for_by_an_upgrade() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    let body = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    cluster.post(&format!("{PODS}/p/binding"), body).await.ok();
    for subresource in ["exec?command=ls&stdout=1", "attach?stdout=1", "portforward"] {
        for method in ["GET", "POST"] {
            let target = format!("{PODS}/p/{subresource}");
            let answer = cluster.send(&cluster.admin, method, &target, &[], Body::empty()).await;
            answer.fails(400, "Upgrade request required");
        }
    }
    cluster.get(&format!("{PODS}/q/exec")).await.fails(404, "pods \"q\" not found");
    let nothing = cluster.get("/api/v1/namespaces/default/services/p/nothing").await;
    nothing.fails(404, "the server could not find the requested resource");
}

#[tokio::test]
async fn an_unknown_subresource_of_pods_is_not_a_missing_pod() {
    let cluster = Cluster::new().await;
    for (method, subresource) in [("PATCH", "nothing"), ("GET", "nothing")] {
        let target = format!("{PODS}/p/{subresource}");
        let answer = cluster.send(&cluster.admin, method, &target, &[], "{}").await;
        assert_eq!(answer.json()["details"], json!({}), "kubectl looks for a name in the details");
        answer.fails(404, "the server could not find the requested resource");
    }
}

#[tokio::test]
async fn options_of_logs_are_validated_before_anything_is_looked_up() {
    let cluster = Cluster::new().await;
    let text = "PodLogOptions \"q\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0";
    cluster.get(&format!("{PODS}/q/log?tailLines=-1")).await.fails(422, text);
    let time = "parsing time \"zzz\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"zzz\" as \"2006\"";
    cluster.get(&format!("{PODS}/q/log?sinceTime=zzz")).await.fails(400, time);
}

#[tokio::test]
async fn bodies_that_cannot_be_read_say_why_in_their_own_words() {
    let cluster = Cluster::new().await;
    let post = async |media: &str, body: Vec<u8>| {
        cluster.send(&cluster.admin, "POST", MAPS, &[("content-type", media)], body).await.status()
    };
    let (code, _, text) = post("application/yaml", b"a: 1\nb: [".to_vec()).await;
    assert!(code == 400 && text.contains("yaml: line 2: unclosed bracket '['"), "{text}");
    // apiVersion v1, kind ConfigMap; an empty message; encoded by gzip.
    let envelope = b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x00\x1a\x04gzip".to_vec();
    let (code, _, text) = post("application/vnd.kubernetes.protobuf", envelope).await;
    assert!(code == 400 && text.contains("the content encoding \"gzip\" is not supported"), "{text}");
}
