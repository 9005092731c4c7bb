//! Requests that openssl made, and what becomes of them when somebody changes a byte.

use super::*;
use rcgen::{CertificateParams, DnType, KeyPair};

/// `/O=devs/O=ops/CN=jane` with a name of each form, ECDSA P-256.
const TWO_GROUPS: &str = include_str!("testdata/two-groups.csr");
/// `/O=system:masters/CN=x`, RSA 2048.
const RSA: &str = "-----BEGIN CERTIFICATE REQUEST-----\n\
    MIICajCCAVICAQAwJTEXMBUGA1UECgwOc3lzdGVtOm1hc3RlcnMxCjAIBgNVBAMM\n\
    AXgwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQC3UYTWidSkE11nc4h6\n\
    K16/lI2RCdEGYW1/s1yJXF+M3Ygwr5QM9q0ZQqrDBDvsIqLWSR6HhFt0xXLyb7Gi\n\
    k6M6kGCony2CmkGqsS2Wny7hoBm8/HWW2XvsxQNVOtIbvlQU9BxlD7nppT37Zml3\n\
    iFppErLbv7EgSGlSCnkCbJE0WDUug2Pki+LCYnqtiYpzzuZ1YqnZ8+tZsrkVsx2q\n\
    XLMnMm2LJHVabPz1k69JGHSsR+CEgCx97uUqpUgoPaNHssE9AQ3H8eOI+WyiAHF8\n\
    c7pH9z/3rMbF5rCoLIUsWkJEOqt0liqmfFls3u0PMWrxS0J9jxRJzAiostnpG/EA\n\
    ODcLAgMBAAGgADANBgkqhkiG9w0BAQsFAAOCAQEAgr+U4xhD6XzP7idjDoFASQwe\n\
    LHnWtD2OpjndWorh90g5qDaME4he/CJlzxR7/1xZZWYPj9VqcqU1qQnhBM8pDGi5\n\
    WDl7iRLrNA5or8Lzl4PGMggyDrxGMHgl+fNJbty5izPMUwl0q7Rffg9WlpoWYHty\n\
    AFJEw/XSQ/hICjdAS/AHV7xTRDgOZFC+QKpFbjHf4SLFuJ5QMokO/gUaTeZjUo6d\n\
    PNcUMjfGu1HQlwGG8wly7vwK6k2Eazq3UB541f1fOaqihoroVrTtUPWwE2MfDtun\n\
    H2PNnP7URJk7GLJpc/bp7d7+asKBMli4Q/AIDharH6/htL1fKM9/OjtkUtsFQw==\n\
    -----END CERTIFICATE REQUEST-----";
/// `/CN=a/CN=b`.
const TWO_NAMES: &str = "-----BEGIN CERTIFICATE REQUEST-----\n\
    MIHRMHoCAQAwGDEKMAgGA1UEAwwBYTEKMAgGA1UEAwwBYjBZMBMGByqGSM49AgEG\n\
    CCqGSM49AwEHA0IABPvYDZd8rAhXqZ+wJfvYKtMyEJGvHfhGtD7QKPKWmnAVimkJ\n\
    QuLqfvyptwYerTKE9n9WDOjCgEdy1RVYlRzgBxygADAKBggqhkjOPQQDAgNHADBE\n\
    AiBG+tCgCx0GW7Vm1mw/MhQ+hvB0ZfokdlrjrxEi5Me3OwIge6r4+r5LXC5h+whZ\n\
    6+lT/WJXTfJ6GmRRfBq7FVObt3o=\n\
    -----END CERTIFICATE REQUEST-----";
/// `/CN=a`, ECDSA P-521, which nothing here verifies.
const P521: &str = "-----BEGIN CERTIFICATE REQUEST-----\n\
    MIIBTjCBsQIBADAMMQowCAYDVQQDDAFhMIGbMBAGByqGSM49AgEGBSuBBAAjA4GG\n\
    AAQA/vcRxn7i9HQ8uupvC8bQ1A2n2TqGosj2hx3l/2N4m+tY+hiBRygLiIbKdssN\n\
    dk5i2fAehZovFfIxAf9/94sMV04AUrE+FMW88Ho4QV68kOOynXg+YkGLQbnciQf4\n\
    IH566THWvmcVXJNzWJkJ6KyFMkCp9HliCYQXquZH99+fTRMkPC+gADAKBggqhkjO\n\
    PQQDAgOBiwAwgYcCQUEtPFTx7pHW0Cynyelqg0TnmmfCrAzdYDjntxNx9Nmx6SLZ\n\
    0staCz3Ld/pE3V+0djPcmNdHDTwSlwgxaMX3nG1bAkIB95ObvTwvjG+rOX6tv7ww\n\
    aLb9K6Oluo+l+q8ELJfqM+64/x940RofzTdkQrSVvs5Ujh3QwL6VYnSF8tp09eIQ\n\
    Yrs=\n\
    -----END CERTIFICATE REQUEST-----";

#[test]
fn a_request_is_read_with_all_its_names() {
    let request = Request::parse(TWO_GROUPS.as_bytes()).expect("a request");
    assert_eq!(request.common_name, "jane");
    assert_eq!(request.organizations, ["devs", "ops"]);
    assert_eq!(request.names.dns, ["a.example"]);
    assert_eq!(request.names.emails, ["a@b.example"]);
    assert_eq!(request.names.uris, ["spiffe://x/y"]);
    let addresses: Vec<IpAddr> = vec!["10.0.0.1".parse().expect("IPv4"), "::1".parse().expect("IPv6")];
    assert_eq!(request.names.addresses, addresses);
    let rsa = Request::parse(RSA.as_bytes()).expect("a request");
    assert_eq!((rsa.common_name.as_str(), rsa.organizations.as_slice()), ("x", &["system:masters".to_owned()][..]));
}

#[test]
fn what_is_no_request_is_refused_and_says_why() {
    let wrong = TWO_GROUPS.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    let junk = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    for (text, expected) in [
        ("", "PEM block type must be CERTIFICATE REQUEST"),
        ("hello", "PEM block type must be CERTIFICATE REQUEST"),
        (wrong.as_str(), "PEM block type must be CERTIFICATE REQUEST"),
        (junk, "x509: malformed certificate request: ASN.1"),
        (TWO_NAMES, "x509: malformed certificate request: the subject has several common names"),
    ] {
        assert_eq!(Request::parse(text.as_bytes()).expect_err(text).to_string(), expected);
    }
    assert!(matches!(Request::parse(P521.as_bytes()), Err(Error::Signature(_))));
}

#[test]
fn no_changed_byte_changes_what_is_read_and_none_panics() {
    let whole = Request::parse(TWO_GROUPS.as_bytes()).expect("a request");
    let block = Pem::read(std::io::Cursor::new(TWO_GROUPS.as_bytes())).expect("PEM").0;
    for at in 0..block.contents.len() {
        for bits in [1, 0x80, 0xff] {
            let mut der = block.contents.clone();
            der[at] ^= bits;
            // Tags around what is signed are not: another class there changes nothing.
            let read = Request::parse(text("CERTIFICATE REQUEST", &der).as_bytes());
            assert!(read.is_err() || read.as_ref() == Ok(&whole), "byte {at} ^ {bits}: {read:?}");
        }
        assert!(Request::parse(text("CERTIFICATE REQUEST", &block.contents[..at]).as_bytes()).is_err(), "{at} bytes");
    }
}

fn text(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn certificates_are_certificates_and_nothing_else() {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "a");
    parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let made = parameters.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem();
    assert_eq!(check_certificates(made.as_bytes()), Ok(()));
    assert_eq!(check_certificates(format!("{made}{made}").as_bytes()), Ok(()));
    assert_eq!(not_after(made.as_bytes()), "2030-01-01T00:00:00Z".parse().ok());
    let other = format!("{made}{TWO_GROUPS}");
    for (text, expected) in [
        ("", "must contain at least one CERTIFICATE PEM block"),
        ("x", "must contain at least one CERTIFICATE PEM block"),
        (other.as_str(), "only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\""),
        (text("CERTIFICATE", b"x").as_str(), "x509: malformed certificate"),
    ] {
        assert_eq!(check_certificates(text.as_bytes()).expect_err(text).to_string(), expected);
    }
}
