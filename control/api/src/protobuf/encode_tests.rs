use super::{
    super::{Decoder, Envelope, decode},
    *,
};
use crate::schema::{builtin, openapi};
use proptest::prelude::*;
use serde_json::json;

/// The JSON in a body, as the decoder reads it; kinds that only answers have included.
fn read_back(bytes: &[u8]) -> Result<Value, String> {
    let envelope = Envelope::read(bytes)?;
    let gvk = GroupVersionKind::from_api_version(&envelope.api_version, &envelope.kind);
    let (schema, id) = structure(&gvk).ok_or("no such kind")?;
    let mut map = Map::new();
    Decoder { values: 0, messages: 0 }.message(&schema.arena, id, &[], envelope.raw, &mut map, 0)?;
    map.insert("apiVersion".into(), envelope.api_version.into());
    map.insert("kind".into(), envelope.kind.into());
    Ok(Value::Object(map))
}

/// Every kind that can be encoded.
fn kinds() -> Vec<GroupVersionKind> {
    let answers = ["PartialObjectMetadata", "PartialObjectMetadataList"].map(|kind| ("meta.k8s.io", "v1", kind));
    let discovery = [("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList"), ("meta.k8s.io", "v1beta1", answers[0].2)];
    let answers = answers.into_iter().chain(discovery).map(|(g, v, k)| GroupVersionKind::new(g, v, k));
    openapi::kinds().chain(answers).collect()
}

/// Numbers from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn pick(&mut self, all: &[Value]) -> Value {
        all[usize::try_from(self.below(all.len() as u64)).expect("small")].clone()
    }
}

/// A value of a type in the form of Go's JSON. `full`: with every field.
fn sample(arena: &Arena, node: NodeId, numbers: &mut Numbers, depth: usize, full: bool) -> Value {
    let any = || json!({"a": [1, null, {"b": "c"}], "d": -2.5});
    match arena.node(node).kind {
        Kind::String => numbers.pick(&[json!("a"), json!("böse\u{0}"), json!("x".repeat(200))]),
        Kind::Bool => numbers.pick(&[json!(true), json!(false)]),
        Kind::Int32 => numbers.pick(&[json!(1), json!(-1), json!(0), json!(i32::MAX), json!(i32::MIN), json!(300)]),
        Kind::Int64 => numbers.pick(&[json!(0), json!(-7), json!(i64::MAX), json!(i64::MIN), json!(1_i64 << 40)]),
        Kind::Double => numbers.pick(&[json!(0.5), json!(-1e300), json!(7.0)]),
        Kind::Bytes => numbers.pick(&[json!("AA=="), json!("/+8="), json!("aGVsbG8=")]),
        Kind::Quantity => numbers.pick(&[json!("0"), json!("100m"), json!("2Gi"), json!("1500")]),
        Kind::Time => {
            numbers.pick(&[json!("2026-01-01T00:00:05Z"), json!("1970-01-01T00:00:00Z"), json!("0001-01-01T00:00:01Z")])
        }
        Kind::MicroTime => numbers.pick(&[json!("2026-01-01T00:00:05.123456Z"), json!("1969-12-31T23:59:59.999999Z")]),
        Kind::IntOrString => numbers.pick(&[json!(80), json!("http"), json!("25%"), json!(""), json!(-1)]),
        Kind::Raw | Kind::Any => numbers.pick(&[any(), json!({}), json!("text"), json!([1])]),
        Kind::Json => numbers.pick(&[any(), json!(false), json!(0), json!("")]),
        Kind::Fields => json!({"f:spec": {"f:x": {}, "k:{\"a\":1}": {".": {}}}}),
        Kind::SchemaOrBool(_) if depth > 4 => json!(true),
        Kind::SchemaOrArray(_) | Kind::SchemaOrStrings(_) if depth > 4 => json!([]),
        Kind::SchemaOrArray(schema) => match numbers.below(2) {
            0 => sample(arena, schema, numbers, depth + 1, false),
            _ => json!([
                sample(arena, schema, numbers, depth + 1, false),
                sample(arena, schema, numbers, depth + 1, false)
            ]),
        },
        Kind::SchemaOrBool(schema) => match numbers.below(3) {
            0 => json!(false),
            1 => json!(true),
            _ => sample(arena, schema, numbers, depth + 1, false),
        },
        Kind::SchemaOrStrings(schema) => match numbers.below(2) {
            0 => sample(arena, schema, numbers, depth + 1, false),
            _ => json!(["a", "b"]),
        },
        Kind::Struct(id) => {
            let mut map = Map::new();
            for field in &arena.structure(id).fields {
                let inner = arena.node(field.node).kind;
                let large = !matches!(inner, Kind::String | Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Quantity);
                let wanted = full || numbers.below(2) == 0;
                if field.tags.as_slice().is_empty() || !wanted || (large && depth > 9) {
                    continue;
                }
                let value = sample(arena, field.node, numbers, depth + 1, full && depth < 6);
                // Go's JSON has no zero here.
                if !field.omit_zero || (value != json!(0) && value != json!(false)) {
                    map.insert(field.name.to_string(), value);
                }
            }
            Value::Object(map)
        }
        Kind::List(item) => (0..=numbers.below(2)).map(|_| sample(arena, item, numbers, depth + 1, full)).collect(),
        Kind::Map(item) => {
            let entries =
                (0..=numbers.below(2)).map(|at| (format!("key-{at}"), sample(arena, item, numbers, depth + 1, full)));
            Value::Object(entries.collect())
        }
    }
}

fn sample_of(gvk: &GroupVersionKind, seed: u64, full: bool) -> Value {
    let schema = Schema::for_answer(gvk).expect("a kind");
    let mut value = sample(&schema.arena, schema.node, &mut Numbers(seed), 0, full);
    value["apiVersion"] = gvk.api_version().into();
    value["kind"] = gvk.kind.clone().into();
    value
}

#[test]
fn every_field_of_every_kind_comes_back_as_it_was() {
    let all = kinds();
    assert!(all.len() > 200, "{}", all.len());
    for gvk in all {
        for seed in 0..4 {
            let value = sample_of(&gvk, seed, seed < 2);
            let bytes = encode(&value).unwrap_or_else(|e| panic!("{gvk}: {e}"));
            assert_eq!(read_back(&bytes), Ok(value), "{gvk}");
        }
    }
}

#[test]
fn bytes_are_those_of_gos_encoder() {
    // Written by hand from runtime.Unknown and the messages of core/v1; Go writes fields in the order of their tags.
    let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "binaryData": {"b": "AAE="}, "data": {"b": "2", "a": "1"},
        "metadata": {"name": "n", "creationTimestamp": "1970-01-01T00:00:01Z", "generation": 300}, "immutable": false, "unknown": 1});
    let raw = b"\x0a\x0c\x0a\x01n\x38\xac\x02\x42\x04\x08\x01\x10\x00\x12\x06\x0a\x01a\x12\x011\x12\x06\x0a\x01b\x12\x012\x1a\x07\x0a\x01b\x12\x02\x00\x01\x20\x00";
    let length = [0x12, u8::try_from(raw.len()).expect("short")];
    let wanted = [&b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap"[..], &length, raw, &[0x1a, 0, 0x22, 0]].concat();
    assert_eq!(encode(&map), Ok(wanted));

    // Volume.volumeSource is a message that JSON inlines; a port by its name.
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [
        {"name": "c", "livenessProbe": {"httpGet": {"port": "web"}, "periodSeconds": -1}}]}});
    let probe = b"\x0a\x0d\x12\x0b\x12\x09\x08\x01\x1a\x03web\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let encoded = encode(&pod).expect("a pod");
    let found = |part: &[u8]| encoded.windows(part.len()).any(|window| window == part);
    assert!(found(b"\x0a\x07\x0a\x01v\x12\x02\x12\x00"), "{encoded:x?}");
    // HTTPGetAction.port is field 2, an IntOrString.
    assert!(found(b"\x12\x07\x08\x01\x1a\x03web"), "{encoded:x?}");
    assert!(found(&probe[15..]), "{encoded:x?}");
}

#[test]
fn what_kubectl_sent_is_encoded_to_the_same() {
    for line in include_str!("captured.jsonl").lines() {
        let mut value = serde_json::from_str::<Value>(line).expect("JSON")["json"].take();
        let gvk = GroupVersionKind::from_api_version(
            value["apiVersion"].as_str().unwrap_or(""),
            value["kind"].as_str().unwrap_or(""),
        );
        let schema = Schema::for_kind(&gvk).expect("built in");
        schema.decode_check(&mut value).expect("decodes");
        let mut back = decode(&encode(&value).expect("encodes")).expect("decodes");
        schema.decode_check(&mut back).expect("decodes");
        // Empty lists and fields that Go's JSON writes always are the same in protobuf.
        for one in [&mut value, &mut back] {
            schema.leave_out_empty(one);
            schema.forget_empty(one.as_object_mut().expect("an object"));
        }
        assert_eq!(back, value, "{line}");
    }
}

#[test]
fn nulls_are_left_out_and_null_elements_are_zero() {
    let crd = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": null},
        "spec": {"versions": [null, {"schema": {"openAPIV3Schema": {"enum": [null, "a"], "default": null, "items": [null]}}}]}});
    let back = read_back(&encode(&crd).expect("encodes")).expect("decodes");
    let schema = json!({"enum": [null, "a"], "items": [{}]});
    assert_eq!(
        (&back["metadata"], &back["spec"]["versions"]),
        (&json!({}), &json!([{}, {"schema": {"openAPIV3Schema": schema}}]))
    );
    let review = json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"groups": [null], "extra": {"a": ["b", null], "c": null, "d": []}}});
    let back = read_back(&encode(&review).expect("encodes")).expect("decodes");
    assert_eq!(back["spec"], json!({"groups": [""], "extra": {"a": ["b", ""], "c": [], "d": []}}));
}

#[test]
fn a_list_is_made_item_by_item_and_is_the_same_as_a_whole() {
    let pods: Vec<Value> = (0..3).map(|seed| sample_of(&GroupVersionKind::new("", "v1", "Pod"), seed, true)).collect();
    let mut list =
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "continue": "x"}});
    let mut encoder = ListEncoder::new(&GroupVersionKind::new("", "v1", "PodList")).expect("a list");
    let mut items = Vec::new();
    for pod in &pods {
        encoder.item(&mut items, pod).expect("a pod");
    }
    let before = items.len();
    encoder.item(&mut items, &json!({"spec": 1})).expect_err("no pod");
    assert_eq!(items.len(), before, "nothing of it is written");
    let parts = [ListEncoder::head(&list, items.len()).expect("a head"), items, ListEncoder::TAIL.to_vec()].concat();
    list["items"] = pods.into();
    assert_eq!(Ok(parts), encode(&list));
    for kind in ["Pod", "Table", "ConfigMap"] {
        assert!(ListEncoder::new(&GroupVersionKind::new("", "v1", kind)).is_err(), "{kind}");
    }
}

#[test]
fn events_of_a_watch_hold_an_object_with_its_envelope() {
    assert_eq!(watch_event("ADDED", b"k8s\0"), b"\x0a\x05ADDED\x12\x06\x0a\x04k8s\0");
}

#[test]
fn what_has_no_form_or_no_sense_is_an_error() {
    let nested = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"not": inner}));
    let crd = |schema: Value| {
        let version = json!({"name": "v1", "schema": {"openAPIV3Schema": schema}});
        json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "spec": {"versions": [version]}})
    };
    assert!(encode(&crd(nested(40))).is_ok());
    for (object, error) in [
        (
            json!({"kind": "Backup", "apiVersion": "example.com/v1"}),
            "Backup in \"example.com/v1\" has no protobuf form",
        ),
        (json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"}), "Table in \"meta.k8s.io/v1\" has no protobuf form"),
        (json!([]), " in \"\" has no protobuf form"),
        (json!({"kind": "Pod", "apiVersion": "v1", "spec": []}), "proto: array is no PodSpec"),
        (json!({"kind": "Pod", "apiVersion": "v1", "spec": {"hostNetwork": "yes"}}), "proto: string is no bool"),
        (json!({"kind": "Pod", "apiVersion": "v1", "spec": {"priority": 1.5}}), "proto: number is no int32"),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "spec": {"nodeSelector": []}}),
            "proto: array is no map[string]string",
        ),
        (
            json!({"kind": "Secret", "apiVersion": "v1", "data": {"a": "%"}}),
            "proto: no base64: Invalid symbol 37, offset 0.",
        ),
        (crd(nested(100)), "proto: exceeded max depth"),
    ] {
        assert_eq!(encode(&object), Err(error.to_owned()));
    }
    // Discovery of the core group has no version.
    let versions = encode(&json!({"kind": "APIVersions", "versions": ["v1"]})).expect("encodes");
    assert!(versions.starts_with(b"k8s\0\x0a\x0f\x0a\x00\x12\x0bAPIVersions"), "{versions:x?}");
}

/// Replaces a value somewhere by one of another type.
fn damage(value: &mut Value, numbers: &mut Numbers) {
    match value {
        Value::Object(map) if !map.is_empty() && numbers.below(5) > 0 => {
            let at = usize::try_from(numbers.below(map.len() as u64)).expect("small");
            map.values_mut().nth(at).into_iter().for_each(|child| damage(child, numbers));
        }
        Value::Array(list) if !list.is_empty() && numbers.below(5) > 0 => {
            let at = usize::try_from(numbers.below(list.len() as u64)).expect("small");
            damage(&mut list[at], numbers);
        }
        _ => {
            *value = numbers.pick(&[
                json!(null),
                json!("x"),
                json!(1e300),
                json!([[]]),
                json!({"a": 1}),
                json!(true),
                json!(u64::MAX),
            ])
        }
    }
}

proptest! {
    #[test]
    fn damaged_objects_are_refused_or_encoded_but_never_a_panic(seed in any::<u64>()) {
        let all = kinds();
        let mut numbers = Numbers(seed);
        let gvk = &all[usize::try_from(numbers.below(all.len() as u64)).expect("small")];
        let mut value = sample_of(gvk, seed, false);
        damage(&mut value, &mut numbers);
        if let Ok(bytes) = encode(&value) {
            let envelope = Envelope::read(&bytes);
            prop_assert!(envelope.is_ok_and(|envelope| envelope.kind == gvk.kind), "{gvk}: {value}");
            let _ = read_back(&bytes);
        }
    }
}

#[test]
fn long_lists_are_encoded_in_linear_time() {
    let subsets = vec![json!({"addresses": vec![json!({"ip": "10.0.0.1"}); 1000]}); 300];
    let endpoints = json!({"kind": "Endpoints", "apiVersion": "v1", "subsets": subsets});
    let bytes = encode(&endpoints).expect("encodes");
    assert!(bytes.len() > 3_000_000 && bytes.len() < 5_000_000, "{}", bytes.len());
    assert!(builtin().kinds().count() > 200);
}
