//! Requests for certificates: approved, signed, refused and cleaned up.

use crate::world::{World, condition};
use base64::{Engine, prelude::BASE64_STANDARD};
use client::Client;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use server::{User, authn::user_of_certificate};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";

fn request(name: &str, signer: &str, (group, user): (&str, &str), usages: &[&str]) -> Value {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::OrganizationName, group);
    parameters.distinguished_name.push(DnType::CommonName, user);
    let pem = parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {"request": BASE64_STANDARD.encode(pem), "signerName": signer, "usages": usages}})
}

async fn decide(world: &World, name: &str, kind: &str) {
    let mut object = found(world, name).unwrap();
    object["status"]["conditions"] = json!([{"type": kind, "status": "True", "reason": "Test"}]);
    world.call("PUT", &format!("{REQUESTS}/{name}/approval"), object).await;
}

fn found(world: &World, name: &str) -> Option<Value> {
    world.find("certificates.k8s.io", "certificatesigningrequests", name)
}

fn certificate(world: &World, name: &str) -> Option<Vec<u8>> {
    let text = found(world, name)?["status"]["certificate"].as_str()?.to_owned();
    let pem = String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    Some(BASE64_STANDARD.decode(body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_approved_request_is_signed_once_and_cleaned_up_after_an_hour() {
    let world = World::empty(1).await;
    world.call("POST", REQUESTS, request("jane", API_CLIENT, ("devs", "jane"), &["client auth"])).await;
    world.pass(60).await;
    let stored = found(&world, "jane").unwrap();
    assert_eq!(stored["spec"]["username"], "admin");
    assert_eq!((&stored["status"]["conditions"], &stored["status"]["certificate"]), (&Value::Null, &Value::Null));
    decide(&world, "jane", "Approved").await;
    world.until("the certificate", |w| certificate(w, "jane").is_some()).await;
    let made = certificate(&world, "jane").unwrap();
    let user = user_of_certificate(&made).unwrap();
    assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("jane", "devs"));
    let signed = found(&world, "jane");
    world.pass(3000).await;
    assert_eq!(found(&world, "jane"), signed, "it is signed once");
    world.pass(2 * 3600).await;
    assert_eq!(found(&world, "jane"), None);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_its_signer_fails_and_what_is_denied_gets_nothing() {
    let world = World::empty(1).await;
    world.call("POST", REQUESTS, request("odd", API_CLIENT, ("devs", "jane"), &["server auth"])).await;
    world.call("POST", REQUESTS, request("no", API_CLIENT, ("devs", "jane"), &["client auth"])).await;
    world.call("POST", REQUESTS, request("other", "a.example/b", ("devs", "jane"), &["client auth"])).await;
    decide(&world, "odd", "Approved").await;
    decide(&world, "no", "Denied").await;
    decide(&world, "other", "Approved").await;
    world.until("the failure", |w| condition(&found(w, "odd").unwrap(), "Failed") == "True").await;
    let failed = found(&world, "odd").unwrap()["status"]["conditions"][1].clone();
    assert_eq!(
        (&failed["reason"], &failed["message"]),
        (&json!("SignerValidationFailure"), &json!("invalid usage for client certificate: server auth"),)
    );
    world.pass(600).await;
    assert!(["odd", "no", "other"].iter().all(|name| certificate(&world, name).is_none()));
    let masters = request("masters", API_CLIENT, ("system:masters", "x"), &["client auth"]);
    let error = world.try_call("POST", REQUESTS, masters).await.unwrap_err().to_string();
    assert!(
        error.contains("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"),
        "{error}"
    );
    world.pass(2 * 3600).await;
    let left = ["odd", "no", "other"].map(|name| found(&world, name).is_some());
    assert_eq!(left, [false, false, true], "what is decided is cleaned up");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_gets_its_certificate_without_a_question_and_nobody_else() {
    let world = World::empty(1).await;
    let node = ("system:nodes", "system:node:n9");
    let usages = ["client auth", "digital signature"];
    let client = |user: &str, groups: &[&str]| {
        Client::new(kube::Client::new(world.server.service_for(User::new(user, groups)), "default"))
    };
    let ask = async |client: &Client, name: &str, what: (&str, &str)| {
        let body = request(name, KUBELET_CLIENT, what, &usages).to_string().into_bytes();
        client.raw("POST".parse().unwrap(), REQUESTS, Some(("application/json", body))).await
    };
    let kubelet = client("system:node:n9", &["system:nodes", "system:authenticated"]);
    ask(&kubelet, "own", node).await.unwrap();
    world.until("its certificate", |w| certificate(w, "own").is_some()).await;
    let stored = found(&world, "own").unwrap();
    assert_eq!(stored["spec"]["username"], "system:node:n9");
    assert_eq!(
        stored["status"]["conditions"][0]["message"],
        "Auto approving self kubelet client certificate after SubjectAccessReview."
    );
    assert_eq!(user_of_certificate(&certificate(&world, "own").unwrap()).unwrap().name, "system:node:n9");
    // An administrator may ask for others, and gets no certificate of another form without a question.
    ask(&world.admin, "other", node).await.unwrap();
    world.until("its certificate", |w| certificate(w, "other").is_some()).await;
    ask(&world.admin, "person", ("devs", "jane")).await.unwrap();
    // Somebody who may not.
    let account = "system:serviceaccount:default:default";
    let mut object = request("stranger", KUBELET_CLIENT, node, &usages);
    object["spec"]["username"] = "system:node:n9".into();
    let stranger = client(account, &["system:serviceaccounts", "system:authenticated"]);
    let body = object.to_string().into_bytes();
    assert!(stranger.raw("POST".parse().unwrap(), REQUESTS, Some(("application/json", body))).await.is_err());
    world.pass(3600).await;
    assert!(found(&world, "person").unwrap()["status"]["conditions"].is_null());
    world.end().await;
}
