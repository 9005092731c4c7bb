//! What was issued is what was asked for, and no more.

use super::*;
use crate::{authn::user_of_certificate, pki};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// `/O=devs/O=ops/CN=jane` with a name of each form.
const TWO_GROUPS: &str = include_str!("../../../api/src/testdata/two-groups.csr");

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn validity(from: &str, until: &str) -> Validity {
    Validity { from: at(from), until: at(until) }
}

fn usages(all: &[&str]) -> Vec<String> {
    all.iter().map(|usage| (*usage).to_owned()).collect()
}

#[test]
fn a_certificate_has_all_groups_and_names_of_its_request() {
    let authority = pki::authority("ca", validity("2026-01-01T00:00:00Z", "2060-01-01T00:00:00Z")).expect("made");
    let request = Request::parse(TWO_GROUPS.as_bytes()).expect("a request");
    let asked = usages(&["client auth", "key encipherment", "digital signature", "server auth", "decipher only"]);
    let made = issue_for(&authority, &request, &asked, validity("2026-02-01T00:00:00Z", "2055-01-01T00:00:00Z"));
    let made = CertificateDer::from_pem_slice(made.expect("issued").as_bytes()).expect("PEM");
    let user = user_of_certificate(&made).expect("a user");
    assert_eq!(user.name, "jane");
    assert_eq!(user.groups, ["devs", "ops", "system:authenticated"]);
    let (rest, read) = X509Certificate::from_der(&made).expect("X.509");
    assert!(rest.is_empty());
    let signer = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).expect("PEM");
    let (_, signer) = X509Certificate::from_der(&signer).expect("X.509");
    read.verify_signature(Some(signer.public_key())).expect("signed by the authority");
    assert_eq!(read.issuer(), signer.subject());
    assert_eq!(read.public_key().raw, request.public_key);
    assert!(!read.is_ca());
    assert_eq!(read.validity().not_before.timestamp(), at("2026-02-01T00:00:00Z").as_second());
    assert_eq!(read.validity().not_after.timestamp(), at("2055-01-01T00:00:00Z").as_second());
    let key = read.key_usage().expect("readable").expect("there").value;
    assert!(key.digital_signature() && key.key_encipherment() && key.decipher_only());
    assert!(!key.key_cert_sign() && !key.crl_sign() && !key.data_encipherment() && !key.encipher_only());
    let extended = read.extended_key_usage().expect("readable").expect("there").value;
    assert!(extended.client_auth && extended.server_auth && !extended.any && !extended.code_signing);
    let names = read.subject_alternative_name().expect("readable").expect("there");
    assert!(!names.critical);
    let text = format!("{:?}", names.value.general_names);
    for name in ["a.example", "a@b.example", "spiffe://x/y", "[10, 0, 0, 1]"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn a_certificate_ends_with_its_authority_and_none_is_made_after_that() {
    let authority = pki::authority("ca", validity("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")).expect("made");
    let request = Request::parse(TWO_GROUPS.as_bytes()).expect("a request");
    let issue = |from, until, all: &[&str]| issue_for(&authority, &request, &usages(all), validity(from, until));
    let made = issue("2026-06-01T00:00:00Z", "2028-01-01T00:00:00Z", &["any"]).expect("issued");
    assert_eq!(api::csr::not_after(made.as_bytes()), Some(at("2027-01-01T00:00:00Z")));
    let other = issue("2026-06-01T00:00:00Z", "2028-01-01T00:00:00Z", &["any"]).expect("issued");
    assert_ne!(made, other, "serial numbers are random");
    let late = issue("2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z", &["any"]).expect_err("ended");
    assert!(late.to_string().contains("the signer has expired"), "{late}");
    let odd = issue("2026-06-01T00:00:00Z", "2026-07-01T00:00:00Z", &["flying"]).expect_err("unknown");
    assert!(odd.to_string().contains("unrecognized usage values: \"flying\""), "{odd}");
}
