use super::*;
use crate::testing::{Stored, context, context_for, created, errors, parse, row};
use base64::{Engine, prelude::BASE64_STANDARD};
use expect_test::expect;
use rcgen::{CertificateParams, DnType, KeyPair};

fn pem() -> String {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "jane");
    parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn certificate() -> String {
    let made = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
    BASE64_STANDARD.encode(made.pem())
}

fn text(rest: &str) -> String {
    let request = BASE64_STANDARD.encode(pem());
    format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: 'a:b_C'}}, \
         spec: {{request: {request}, signerName: a.example/b, usages: [client auth]{rest}}}}}"
    )
}

#[test]
fn each_fault_has_upstreams_text() {
    for (object, expected) in [
        (text(""), expect![[""]]),
        (text(", expirationSeconds: 600"), expect![[""]]),
        (
            "{spec: {request: aGVsbG8=, expirationSeconds: 599}}".to_owned(),
            expect![[r#"
                spec.request: Invalid value: "aGVsbG8=": PEM block type must be CERTIFICATE REQUEST
                spec.usages: Required value
                spec.signerName: Required value
                spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)
            "#]],
        ),
        (
            text(", signerName: kubernetes.io/legacy-unknown, usages: [client auth, flying, client auth]").replacen(
                "signerName: a.example/b, usages: [client auth]",
                "uid: x",
                1,
            ),
            expect![[r#"
                spec.usages[1]: Unsupported value: "flying": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
                spec.usages[2]: Duplicate value: "client auth"
                spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version
            "#]],
        ),
        (
            text("").replace("a.example/b", "a.example"),
            expect![[r#"
                spec.signerName: Invalid value: "a.example": must be a fully qualified domain and path of the form 'example.com/signer-name'
            "#]],
        ),
        (
            text("").replace("a.example/b", "A/b_"),
            expect![[r#"
                spec.signerName: Invalid value: "A": validating label "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.signerName: Invalid value: "b_": validating label "b_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.signerName: Invalid value: "A": should be a domain with at least two segments separated by dots
            "#]],
        ),
    ] {
        expected.assert_eq(&errors(&Requests, &object));
    }
}

#[test]
fn who_asks_is_who_is_logged_in_and_nothing_is_approved_yet() {
    let approved = format!(
        "{}, status: {{conditions: [{{type: Approved, status: 'True'}}]}}}}",
        text("").trim_end_matches('}').to_owned() + "}"
    );
    let mut object = parse(&approved);
    object.set(&["spec", "username"], "admin");
    object.set(&["spec", "extra"], json!({"a": ["b"]}));
    Requests.prepare_create(&context(), &mut object);
    assert_eq!(object.at(&["spec", "username"]), Some(&json!("tester")));
    assert_eq!(object.at(&["spec", "groups"]), Some(&json!(["system:masters"])));
    assert_eq!(
        (object.at(&["spec", "extra"]), object.at(&["spec", "uid"]), object.at(&["status"])),
        (None, None, Some(&json!({})))
    );
    let old = object.clone();
    object.set(&["spec", "signerName"], "c.example/d");
    Requests.prepare_update(&context(), &mut object, &old);
    assert_eq!(object, old, "an update changes nothing of it");
}

fn written(subresource: &str, old: &Object, status: Value) -> (Object, String) {
    let mut cx = context_for(resource(), Stored::default());
    cx.subresource = subresource.to_owned();
    let mut object = old.clone();
    object.set(&["status"], status);
    Requests.prepare_status(&cx, &mut object, old);
    let causes = Requests.validate_status(&cx, &object, old);
    (object, causes.iter().map(|cause| format!("{cause}\n")).collect())
}

#[test]
fn an_approval_changes_conditions_and_a_status_the_certificate() {
    let new = created(&Requests, &text(""));
    let approved = json!({"type": "Approved", "status": "True", "reason": "R"});
    let denied = json!({"type": "Denied", "status": "True"});
    let (object, faults) = written("approval", &new, json!({"conditions": [approved], "certificate": "eA=="}));
    assert_eq!(faults, "");
    assert_eq!(object.at(&["status", "certificate"]), None, "an approval sets no certificate");
    let condition = &object.list_at(&["status", "conditions"])[0];
    assert_eq!(condition["lastUpdateTime"], "2026-01-01T00:01:00Z");
    assert_eq!(condition["lastTransitionTime"], "2026-01-01T00:01:00Z");

    let (_, faults) = written("approval", &object, json!({"conditions": [approved, denied]}));
    expect![[r#"
        status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive
    "#]]
    .assert_eq(&faults);
    let (_, faults) = written("approval", &object, json!({}));
    expect![[r#"
        status.conditions: Forbidden: updates may not remove a condition of type "Approved"
    "#]]
    .assert_eq(&faults);
    let (_, faults) = written("status", &new, json!({"conditions": [approved]}));
    expect![[r#"
        status.conditions: Forbidden: updates may not add a condition of type "Approved"
    "#]]
    .assert_eq(&faults);
    let odd = json!({"conditions": [{"type": "Failed", "status": "False"}, {"type": "X"}, {"type": "X", "status": "No"}, {"status": "True"}]});
    let (_, faults) = written("status", &new, odd);
    expect![[r#"
        status.conditions[0].status: Unsupported value: "False": supported values: "True"
        status.conditions[1].status: Required value
        status.conditions[2].status: Unsupported value: "No": supported values: "False", "True", "Unknown"
        status.conditions[2].type: Duplicate value: "X"
        status.conditions[3].type: Required value
    "#]]
    .assert_eq(&faults);

    // What a status says of an approval does not count.
    let mut other = approved.clone();
    other["reason"] = json!("other");
    let (issued, faults) = written("status", &object, json!({"conditions": [other], "certificate": certificate()}));
    assert_eq!(faults, "");
    assert_eq!(issued.list_at(&["status", "conditions"])[0]["reason"], "R");
    let (_, faults) = written("status", &issued, json!({"conditions": [other], "certificate": certificate()}));
    expect![[r#"
        status.certificate: Forbidden: updates may not modify existing certificate content
    "#]]
    .assert_eq(&faults);
    let (_, faults) = written("status", &object, json!({"conditions": [other], "certificate": "eA=="}));
    expect![[r#"
        status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block
    "#]]
    .assert_eq(&faults);
}

#[test]
fn a_row_shows_who_asks_and_how_it_stands() {
    let with = |status: &str| {
        format!(
            "{{metadata: {{name: r}}, spec: {{signerName: a.example/b, username: jane, expirationSeconds: 3600}}, status: {status}}}"
        )
    };
    expect!["r | <unknown> | a.example/b | jane | 60m | Pending"].assert_eq(&row(&Requests, &with("{}")));
    let issued = with("{conditions: [{type: Approved}], certificate: eA==}");
    expect!["r | <unknown> | a.example/b | jane | 60m | Approved,Issued"].assert_eq(&row(&Requests, &issued));
    let failed = with("{conditions: [{type: Failed}, {type: Denied}]}");
    expect!["r | <unknown> | a.example/b | jane | 60m | Denied,Failed"].assert_eq(&row(&Requests, &failed));
    expect!["r | <unknown> | <none> |  | <none> | Pending"].assert_eq(&row(&Requests, "{metadata: {name: r}}"));
}
