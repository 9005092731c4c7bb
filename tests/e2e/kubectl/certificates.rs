//! Certificates that are asked for, tokens of Secrets, and roles, with kubectl.

use crate::harness::Cluster;
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, DnType, KeyPair};
use std::fs;

/// A request of somebody in a group, PEM, and the key.
fn asked(group: &str, name: &str) -> (String, String) {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::OrganizationName, group);
    parameters.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let request = parameters.serialize_request(&key).expect("a request").pem().expect("PEM");
    (request, key.serialize_pem())
}

/// The arguments of somebody who has no certificate of the cluster's kubeconfig.
fn other(c: &Cluster<'_>, args: &[&str], who: &[String]) -> Vec<String> {
    let server = [
        "--kubeconfig=/dev/null".to_owned(),
        "--insecure-skip-tls-verify".to_owned(),
        format!("--server={}", c.endpoint),
    ];
    args.iter().map(|arg| (*arg).to_owned()).chain(server).chain(who.iter().cloned()).collect()
}

fn fails(c: &Cluster<'_>, args: &[&str], who: &[String]) -> String {
    let args = other(c, args, who);
    c.kubectl_fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), "")
}

fn request(name: &str, usage: &str, pem: &str) -> String {
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  \
         request: {}\n  signerName: kubernetes.io/kube-apiserver-client\n  expirationSeconds: 3600\n  usages: [{usage}]\n",
        BASE64_STANDARD.encode(pem)
    )
}

/// The cells of a request's row, but for its age.
fn row(c: &Cluster<'_>, name: &str) -> Vec<String> {
    let text = c.kubectl(&["get", "csr", name, "--no-headers"]);
    let mut cells: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    cells.remove(1);
    cells
}

#[test]
fn a_certificate_is_asked_for_approved_and_used_and_another_is_denied() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    let (pem, private) = asked("devs", "jane");
    for name in ["jane", "never"] {
        c.kubectl_with(&["create", "-f", "-"], &request(name, "client auth", &pem));
    }
    c.kubectl_with(&["create", "-f", "-"], &request("odd", "server auth", &pem));
    let signer = "kubernetes.io/kube-apiserver-client";
    assert_eq!(row(&c, "jane"), ["jane", signer, "kubernetes-admin", "60m", "Pending"]);
    let approved = c.kubectl(&["certificate", "approve", "jane", "odd"]);
    assert!(approved.contains("certificatesigningrequest.certificates.k8s.io/jane approved"), "{approved}");
    c.kubectl(&["certificate", "deny", "never"]);
    c.eventually("the certificate", || (row(&c, "jane")[4] == "Approved,Issued").then_some(()));
    c.eventually("the failure", || (row(&c, "odd")[4] == "Approved,Failed").then_some(()));
    assert_eq!(row(&c, "never")[4], "Denied");
    let described = c.kubectl(&["describe", "csr", "jane"]);
    assert!(described.contains("jane") && described.contains("devs"), "{described}");
    let why = c.field("csr/odd", "{.status.conditions[1].message}");
    assert_eq!(why, "invalid usage for client certificate: server auth");
    let again = c.kubectl_fails(&["certificate", "approve", "never"], "");
    assert!(
        again.contains("Approved and Denied conditions are mutually exclusive") || again.contains("Denied"),
        "{again}"
    );
    // The certificate is one of jane, whom the API knows and who may do nothing.
    let made = BASE64_STANDARD.decode(c.field("csr/jane", "{.status.certificate}")).expect("base64");
    let (certificate, key) = (machine.path("jane.crt"), machine.path("jane.key"));
    fs::write(&certificate, &made).expect("written");
    fs::write(&key, private).expect("written");
    let who = [format!("--client-certificate={}", certificate.display()), format!("--client-key={}", key.display())];
    let refused = fails(&c, &["get", "pods"], &who);
    assert!(refused.contains("User \"jane\" cannot list resource \"pods\""), "{refused}");
    // Nobody becomes an administrator so.
    let masters = request("masters", "client auth", &asked("system:masters", "x").0);
    let refused = c.kubectl_fails(&["create", "-f", "-"], &masters);
    assert!(refused.contains("signer with system:masters group is not allowed"), "{refused}");
    let bad = request("bad", "client auth", "hello");
    let refused = c.kubectl_fails(&["create", "-f", "-"], &bad);
    assert!(refused.contains("PEM block type must be CERTIFICATE REQUEST"), "{refused}");
}

#[test]
fn a_token_of_a_secret_is_somebody_until_its_account_goes() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "serviceaccount", "robot"]);
    let secret = "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  name: robot\n  \
                  annotations: {kubernetes.io/service-account.name: robot}\n";
    c.kubectl_with(&["apply", "-f", "-"], secret);
    let token = c.eventually("the token", || {
        let token = c.field("secret/robot", "{.data.token}");
        (!token.is_empty()).then_some(token)
    });
    let token = String::from_utf8(BASE64_STANDARD.decode(token).expect("base64")).expect("text");
    let who = [format!("--token={token}")];
    let args = other(&c, &["auth", "whoami"], &who);
    let said = c.kubectl(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("system:serviceaccount:default:robot"), "{said}");
    let described = c.kubectl(&["describe", "secret", "robot"]);
    assert!(described.contains("kubernetes.io/service-account.uid") && described.contains("ca.crt"), "{described}");
    c.kubectl(&["delete", "serviceaccount", "robot"]);
    let refused = fails(&c, &["auth", "whoami"], &who);
    assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
    c.kubectl(&["wait", "--for=delete", "secret/robot", "--timeout=60s"]);
}

#[test]
fn roles_are_kept_shown_and_collected() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    let quiet = |args: &[&str]| {
        let output = c.kubectl_output(args, "");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && text.is_empty(), "{args:?}: {text}");
    };
    quiet(&["create", "role", "reader", "--verb=get,list", "--resource=pods,deployments.apps"]);
    quiet(&[
        "create",
        "rolebinding",
        "readers",
        "--role=reader",
        "--user=u",
        "--group=g",
        "--serviceaccount=default:s",
    ]);
    quiet(&["create", "clusterrole", "system:x", "--verb=get", "--non-resource-url=/healthz"]);
    quiet(&["create", "clusterrole", "all", "--aggregation-rule=rbac.example.com/to-all=true"]);
    quiet(&["create", "clusterrolebinding", "xs", "--clusterrole=system:x", "--group=g"]);
    let described = c.kubectl(&["describe", "role", "reader"]);
    assert!(described.contains("deployments.apps") && described.contains("[get list]"), "{described}");
    let wide = c.kubectl(&["get", "rolebinding", "readers", "-o", "wide", "--no-headers"]);
    for cell in ["Role/reader", "default/s"] {
        assert!(wide.contains(cell), "{wide}");
    }
    let label = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: part, labels: {rbac.example.com/to-all: 'true'}}\n\
                 rules: [{verbs: [watch], apiGroups: [''], resources: [nodes]}]\n";
    c.kubectl_with(&["apply", "-f", "-"], label);
    c.eventually("the collected rules", || {
        (c.field("clusterrole/all", "{.rules[*].resources[*]}") == "nodes").then_some(())
    });
    let moved = c.kubectl_fails(&["patch", "rolebinding", "readers", "-p", "{\"roleRef\":{\"name\":\"other\"}}"], "");
    assert!(moved.contains("cannot change roleRef"), "{moved}");
}
