use crate::{GroupVersionKind, schema::Schema};
use proptest::prelude::*;
use serde_json::{Value, json};

fn decode(api_version: &str, kind: &str, mut value: Value) -> Result<(Value, Vec<String>), String> {
    let schema = Schema::for_kind(&GroupVersionKind::from_api_version(api_version, kind)).expect("a built-in kind");
    schema.decode_check(&mut value).map(|problems| (value, problems))
}

#[test]
fn type_errors_have_gos_text() {
    for (value, error) in [
        (
            json!({"spec": {"replicas": "3"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 3_000_000_000_u64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": []}),
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            json!({"spec": {"paused": "yes"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool",
        ),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"metadata": {"labels": "x"}}),
            "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            json!({"metadata": {"name": true}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (
            json!({"metadata": {"creationTimestamp": 5}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (
            json!({"metadata": {"creationTimestamp": "now"}}),
            r#"parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#,
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": {}}}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}}}}),
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.template.spec.containers.ports.containerPort of type int32",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"imagePullPolicy": 1}]}}}}),
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        (
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": true}}}}),
            "json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Deployment"),
    ] {
        assert_eq!(decode("apps/v1", "Deployment", value).expect_err(error), error);
    }
}

#[test]
fn unknown_fields_are_pruned_and_named_with_indices() {
    let (value, problems) = decode(
        "apps/v1",
        "Deployment",
        json!({"foo": 1, "metadata": {"labels": {"any": "x"}, "bar": null},
            "spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "b", "foo": {}, "env": [{"nome": "x"}]}]}}}}),
    )
    .expect("decodes");
    assert_eq!(
        problems,
        [
            r#"unknown field "foo""#,
            r#"unknown field "metadata.bar""#,
            r#"unknown field "spec.template.spec.containers[1].env[0].nome""#,
            r#"unknown field "spec.template.spec.containers[1].foo""#
        ]
    );
    assert_eq!(value["spec"]["template"]["spec"]["containers"][1], json!({"name": "b", "env": [{}]}));
    assert_eq!(value["metadata"], json!({"labels": {"any": "x"}}));
}

#[test]
fn the_list_of_problems_is_bounded() {
    let many: serde_json::Map<String, Value> = (0..1000).map(|i| (format!("x{i}"), json!(1))).collect();
    assert_eq!(decode("v1", "ConfigMap", Value::Object(many)).expect("decodes").1.len(), 100);
}

#[test]
fn nulls_are_dropped_from_objects_and_zero_in_lists_and_maps() {
    let (value, _) = decode(
        "v1",
        "Pod",
        json!({"metadata": {"name": null, "finalizers": [null, "a"], "annotations": {"a": null}},
            "spec": {"containers": [null, {"args": null}], "nodeSelector": null}, "status": null}),
    )
    .expect("decodes");
    assert_eq!(
        value,
        json!({"metadata": {"finalizers": ["", "a"], "annotations": {"a": ""}}, "spec": {"containers": [{"name": ""}, {}]}})
    );
}

#[test]
fn quantities_times_and_ports_become_canonical() {
    let (value, _) = decode(
        "v1",
        "Pod",
        json!({"metadata": {"creationTimestamp": "2026-01-01T02:00:00.5+02:00"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": "1000m", "memory": "1.5Gi"}, "requests": {"cpu": 0.5, "x/y": 2}}}]}}),
    )
    .expect("decodes");
    assert_eq!(value["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(
        value["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "1", "memory": "1536Mi"}, "requests": {"cpu": "500m", "x/y": "2"}})
    );
    let (lease, _) =
        decode("coordination.k8s.io/v1", "Lease", json!({"spec": {"renewTime": "2026-01-01T00:00:00.123456Z"}}))
            .expect("decodes");
    assert_eq!(lease["spec"]["renewTime"], "2026-01-01T00:00:00.123456Z");
}

#[test]
fn int_or_string_takes_both() {
    for target in [json!("http"), json!(80)] {
        let (value, problems) =
            decode("v1", "Service", json!({"spec": {"ports": [{"targetPort": target}]}})).expect("decodes");
        assert!(problems.is_empty());
        assert_eq!(value["spec"]["ports"][0]["targetPort"], target);
    }
    assert_eq!(
        decode("v1", "Service", json!({"spec": {"ports": [{"targetPort": 1.5}]}})).expect_err("no integer"),
        "json: cannot unmarshal number 1.5 into Go struct field ServicePort.spec.ports.targetPort of type int32"
    );
}

#[test]
fn secret_data_is_checked_and_rewritten_as_go_does() {
    for (text, canonical) in [("", ""), ("aGk=", "aGk="), ("aG\nk=\r\n", "aGk="), ("aGl=", "aGk="), ("aGkh", "aGkh")] {
        let (value, _) = decode("v1", "Secret", json!({"data": {"a": text}})).expect(text);
        assert_eq!(value["data"]["a"], canonical, "{text}");
    }
    for (text, at) in
        [("hello", 4), ("h", 0), ("aGk", 0), ("a-k=", 1), ("aGk=x", 4), ("=", 0), ("aG=x", 2), ("aG=", 3), ("a\nb", 1)]
    {
        let error = decode("v1", "Secret", json!({"data": {"a": text}})).expect_err(text);
        assert_eq!(error, format!("illegal base64 data at input byte {at}"), "{text:?}");
    }
    let (value, _) = decode("v1", "Secret", json!({"data": {"a": [104, 105]}})).expect("bytes");
    assert_eq!(value["data"]["a"], "aGk=");
}

#[test]
fn free_form_places_are_kept_as_they_are() {
    let data = json!({"anything": [null, {"x": null}], "n": 1.5});
    let (value, problems) =
        decode("apps/v1", "ControllerRevision", json!({"revision": 1, "data": data})).expect("decodes");
    assert!(problems.is_empty());
    assert_eq!(value["data"], data);
    let managed = json!([{"manager": "m", "fieldsV1": {"f:x": {}}}]);
    let (value, problems) =
        decode("v1", "ConfigMap", json!({"metadata": {"managedFields": managed}})).expect("decodes");
    assert!(problems.is_empty());
    assert_eq!(value["metadata"]["managedFields"], managed);
}

#[test]
fn json_schema_props_nest() {
    let schema = json!({"type": "object", "properties": {"a": {"items": {"type": "string"}, "default": {"x": null}},
        "b": {"additionalProperties": {"type": "integer"}}, "c": {"additionalProperties": false}}, "x-kubernetes-preserve-unknown-fields": true});
    let crd = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let (value, problems) =
        decode("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd.clone()).expect("decodes");
    assert_eq!((value, problems), (crd, vec![]));
    assert_eq!(
        decode(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"additionalProperties": 1}}}]}})
        )
        .expect_err("a number"),
        "boolean or JSON schema expected"
    );
}

fn any_pod() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![Just("a"), Just("80"), Just("1Gi"), Just("2026-01-01T00:00:00Z"), Just("aGk=")]
            .prop_map(Value::from)
    ];
    let name = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "containers",
        "name",
        "ports",
        "containerPort",
        "env",
        "resources",
        "limits",
        "cpu",
        "labels",
        "creationTimestamp",
        "volumes",
        "secret",
        "finalizers",
        "foo",
        "hostNetwork",
        "livenessProbe",
        "httpGet",
        "port",
    ]);
    leaf.prop_recursive(7, 60, 5, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            4 => prop::collection::vec((name.clone(), inner), 0..5).prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn decoding_is_idempotent_and_never_panics(value in any_pod()) {
        if let Ok((once, _)) = decode("v1", "Pod", value) {
            let (twice, problems) = decode("v1", "Pod", once.clone()).expect("decoded once");
            prop_assert_eq!(problems, Vec::<String>::new());
            prop_assert_eq!(twice, once);
        }
    }
}

#[test]
fn embedded_structs_are_part_of_the_path_in_errors() {
    let pod = |spec: Value| decode("v1", "Pod", json!({"spec": spec})).expect_err("refused");
    for (spec, error) in [
        (
            json!({"volumes": [{"emptyDir": "x"}]}),
            "json: cannot unmarshal string into Go struct field Volume.spec.volumes.VolumeSource.emptyDir of type v1.EmptyDirVolumeSource",
        ),
        (
            json!({"volumes": [{"secret": {"secretName": 1}}]}),
            "json: cannot unmarshal number into Go struct field SecretVolumeSource.spec.volumes.VolumeSource.secret.secretName of type string",
        ),
        (
            json!({"volumes": [{"configMap": {"name": 1}}]}),
            "json: cannot unmarshal number into Go struct field ConfigMapVolumeSource.spec.volumes.VolumeSource.configMap.LocalObjectReference.name of type string",
        ),
        (
            json!({"containers": [{"livenessProbe": {"exec": []}}]}),
            "json: cannot unmarshal array into Go struct field Probe.spec.containers.livenessProbe.ProbeHandler.exec of type v1.ExecAction",
        ),
        (
            json!({"ephemeralContainers": [{"image": 1}]}),
            "json: cannot unmarshal number into Go struct field EphemeralContainer.spec.ephemeralContainers.EphemeralContainerCommon.image of type string",
        ),
    ] {
        assert_eq!(pod(spec), error);
    }
}

#[test]
fn of_several_errors_gos_is_named() {
    let schema = Schema::for_kind(&GroupVersionKind::new("", "v1", "Pod")).expect("a built-in kind");
    let error = |text: &str| {
        let mut value: Value = serde_json::from_str(text).expect("JSON");
        schema.decode_check_in(&mut value, text.as_bytes()).expect_err("refused")
    };
    // The first in the document, although `nodeName` and `hostname` are sorted the other way round.
    let first = error(r#"{"spec": {"nodeName": 1, "hostname": 2}, "metadata": {"name": 3}}"#);
    assert_eq!(first, "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeName of type string");
    // A decoder of its own ends decoding, whatever came before.
    let own = error(
        r#"{"spec": {"nodeName": 1, "containers": [{"resources": {"limits": {"cpu": "x"}}}], "overhead": {"cpu": "1."}}}"#,
    );
    assert_eq!(own, crate::quantity::Quantity::parse("x").expect_err("no quantity").to_string());
    let mut value = json!({"spec": {"nodeName": 1, "hostname": 2}});
    assert_eq!(
        schema.decode_check(&mut value).expect_err("refused"),
        "json: cannot unmarshal number into Go struct field PodSpec.spec.hostname of type string",
        "without a document as Go sorts keys"
    );
}

#[test]
fn strategic_patches_have_the_words_of_upstreams_converter() {
    let schema = Schema::for_kind(&GroupVersionKind::new("apps", "v1", "Deployment")).expect("a built-in kind");
    for (value, error) in [
        (json!({"spec": {"replicas": "x"}}), "unrecognized type: int32"),
        (json!({"spec": {"replicas": 1.5}}), "cannot convert float64 to int32"),
        (json!({"spec": " x"}), "cannot restore struct from: string"),
        (json!({"status": {"conditions": {"x": "y"}}}), "cannot restore slice from map"),
        (json!({"metadata": {"labels": "x"}}), "cannot restore map from string"),
        (json!({"spec": {"template": {"spec": {"dnsPolicy": 1}}}}), "cannot convert int64 to v1.DNSPolicy"),
        (json!({"spec": {"template": {"spec": {"dnsPolicy": {}}}}}), "unrecognized type: string"),
        (
            json!({"metadata": {"creationTimestamp": ["x"]}}),
            "json: cannot unmarshal array into Go value of type string",
        ),
    ] {
        assert_eq!(schema.convert_check(&mut value.clone()).expect_err("refused"), error, "{value}");
    }
}
