use super::*;
use proptest::prelude::*;
use serde_json::json;

/// Bodies that kubectl 1.32 sent, each with the JSON that the same command prints with `--dry-run=client -o json`.
const CAPTURED: &str = include_str!("captured.jsonl");

fn captured() -> Vec<(String, Vec<u8>, Value)> {
    let unhex = |text: &str| {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex")).collect()
    };
    CAPTURED
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            let text = |name: &str| value[name].as_str().expect("text").to_owned();
            (text("command"), unhex(&text("hex")), value["json"].clone())
        })
        .collect()
}

fn normal(mut value: Value) -> Value {
    let gvk = GroupVersionKind::from_api_version(
        value["apiVersion"].as_str().expect("set"),
        value["kind"].as_str().expect("set"),
    );
    let problems = Schema::for_kind(&gvk).expect("built in").decode_check(&mut value).expect("decodes");
    assert_eq!(problems, Vec::<String>::new());
    value
}

#[test]
fn what_kubectl_sends_is_what_it_prints() {
    let all = captured();
    assert!(all.len() >= 25);
    for (command, bytes, mut wanted) in all {
        let found = decode(&bytes).unwrap_or_else(|e| panic!("{command}: {e}"));
        // Printed objects carry the namespace of the context.
        for object in [&mut wanted] {
            if found["metadata"].get("namespace").is_none() {
                object["metadata"].as_object_mut().expect("object").remove("namespace");
            }
        }
        assert_eq!(normal(found), normal(wanted), "{command}");
    }
}

#[test]
fn an_encoded_envelope_is_refused() {
    let (_, bytes, _) = captured().remove(0);
    let encoded = |name: &str| {
        let field = [&[3 << 3 | 2, u8::try_from(name.len()).expect("short")], name.as_bytes()].concat();
        decode(&[&bytes, &field[..]].concat())
    };
    encoded("").expect("none");
    assert_eq!(encoded("gzip").expect_err("refused"), "the content encoding \"gzip\" is not supported");
}

#[test]
fn cut_bodies_are_refused_or_shorter_but_never_a_panic() {
    for (_, bytes, _) in captured() {
        for end in 0..bytes.len() {
            let _ = decode(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            let _ = decode(&changed);
        }
    }
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn field(tag: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(tag << 3 | 2, &mut out);
    varint(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

fn number(tag: u64, n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(tag << 3, &mut out);
    varint(n, &mut out);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
}

#[test]
fn options_and_special_messages_are_decoded() {
    let options = [number(1, 0), field(2, &field(1, b"uid-1")), field(4, b"Foreground"), field(5, b"All")].concat();
    for api_version in ["v1", "policy/v1", "example.com/v1"] {
        assert_eq!(
            decode(&envelope(api_version, "DeleteOptions", &options)),
            Ok(json!({"apiVersion": api_version, "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                "preconditions": {"uid": "uid-1"}, "propagationPolicy": "Foreground", "dryRun": ["All"]}))
        );
    }
    let time = [number(1, 1_767_225_600), number(2, 123_456_789)].concat();
    let lease = field(2, &[field(1, b"me"), number(2, 15), field(4, &time)].concat());
    assert_eq!(
        decode(&envelope("coordination.k8s.io/v1", "Lease", &lease)).map(|v| v["spec"].clone()),
        Ok(json!({"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.123456Z"}))
    );
    // The beginning of 1970 is a time, no time is none.
    let epoch = field(1, &[field(8, &[number(1, 0), number(2, 0)].concat()), field(9, b"")].concat());
    assert_eq!(
        decode(&envelope("v1", "ConfigMap", &epoch)).map(|v| v["metadata"].clone()),
        Ok(json!({"creationTimestamp": "1970-01-01T00:00:00Z"}))
    );
    let meta = field(1, &[field(1, b"n"), field(8, &time), field(9, &time), number(7, 0)].concat());
    assert_eq!(
        decode(&envelope("v1", "ConfigMap", &meta)).map(|v| v["metadata"].clone()),
        Ok(
            json!({"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z"})
        )
    );
}

#[test]
fn pointers_keep_empty_and_zero() {
    // PersistentVolumeClaimSpec.storageClassName: "" means no class.
    let claim = field(2, &[field(5, b""), field(3, b"")].concat());
    assert_eq!(
        decode(&envelope("v1", "PersistentVolumeClaim", &claim)).map(|v| v["spec"].clone()),
        Ok(json!({"storageClassName": ""}))
    );
    // JSONSchemaProps.default: JSON that is an empty text.
    let version = field(4, &field(1, &field(8, &field(1, b"\"\""))));
    let crd = field(2, &field(7, &version));
    assert_eq!(
        decode(&envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &crd)).map(|v| v["spec"].clone()),
        Ok(json!({"versions": [{"schema": {"openAPIV3Schema": {"default": ""}}}]}))
    );
    // Volume.volumeSource is inline; emptyDir: {} must stay.
    let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
    let pod = field(2, &[field(1, &volume), number(11, 0)].concat());
    assert_eq!(
        decode(&envelope("v1", "Pod", &pod)).map(|v| v["spec"].clone()),
        Ok(json!({"volumes": [{"name": "v", "emptyDir": {}}]}))
    );
}

#[test]
fn raw_extensions_hold_json_or_an_envelope() {
    let data = field(1, br#"{"a": [1, null]}"#);
    let revision = [field(2, &data), number(3, 7)].concat();
    assert_eq!(
        decode(&envelope("apps/v1", "ControllerRevision", &revision)),
        Ok(json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "data": {"a": [1, null]}, "revision": 7}))
    );
    let inner = envelope("v1", "ConfigMap", &field(1, &field(1, b"n")));
    let revision = field(2, &field(1, &inner));
    assert_eq!(
        decode(&envelope("apps/v1", "ControllerRevision", &revision)).map(|v| v["data"].clone()),
        Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}}))
    );
}

#[test]
fn hostile_bodies_end_in_an_error() {
    let mut deep = Vec::new();
    for _ in 0..5000 {
        deep = field(2, &field(1, &envelope("apps/v1", "ControllerRevision", &deep)));
    }
    for (bytes, error) in [
        (b"{}".to_vec(), "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"),
        (envelope("v1", "", b""), "Object 'Kind' is missing in the protobuf envelope"),
        (
            envelope("v1", "Nope", b""),
            r#"no kind "Nope" is registered for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#,
        ),
        (envelope("v1", "Pod", &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]), "unexpected EOF"),
        (envelope("v1", "Pod", &[0x0a; 1]), "unexpected EOF"),
        (envelope("v1", "Pod", &[0xff; 20]), "proto: integer overflow"),
        (envelope("v1", "Pod", &[0x08, 1]), "proto: wrong wireType = 0 for field 1"),
        (envelope("v1", "Pod", &[0x0f]), "proto: illegal wireType 7"),
        (envelope("v1", "Pod", &[0x00]), "proto: illegal tag 0 (wire type 0)"),
        (envelope("apps/v1", "ControllerRevision", &deep), "proto: exceeded max depth"),
        (envelope("v1", "Pod", &field(1, &field(1, &[0xff, 0xfe]))), "proto: field 1 contains invalid UTF-8"),
        (envelope("v1", "ConfigMap", &field(2, b"").repeat(1_000_001)), "proto: too many values"),
    ] {
        assert_eq!(decode(&bytes), Err(error.to_owned()));
    }
    // JSONSchemaProps may hold itself.
    let mut nested = Vec::new();
    for _ in 0..2000 {
        nested = field(27, &nested);
    }
    let crd = field(2, &field(7, &field(4, &field(1, &nested))));
    assert!(decode(&envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &crd)).is_err());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in "Pod|Secret|DeleteOptions|CustomResourceDefinition|Event") {
        let api_version = if kind == "CustomResourceDefinition" { "apiextensions.k8s.io/v1" } else { "v1" };
        let _ = decode(&bytes);
        let _ = decode(&[MAGIC, &bytes[..]].concat());
        let _ = decode(&envelope(api_version, &kind, &bytes));
    }

    #[test]
    fn well_formed_random_messages_never_panic(parts in prop::collection::vec((1_u64..30, prop::collection::vec(any::<u8>(), 0..20), any::<bool>(), any::<u64>()), 0..10)) {
        let mut raw = Vec::new();
        for (tag, bytes, is_bytes, n) in parts {
            raw.extend(if is_bytes { field(tag, &bytes) } else { number(tag, n) });
        }
        for kind in ["Pod", "Service", "Secret"] {
            let _ = decode(&envelope("v1", kind, &raw));
            let _ = decode(&envelope("v1", kind, &field(2, &raw)));
            let _ = decode(&envelope("v1", kind, &field(2, &field(2, &raw))));
        }
    }
}
