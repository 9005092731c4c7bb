//! Tables of claims and volumes.

use super::{plan::*, provision::Refused, *};
use serde_json::{Value, json};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn claim(spec: Value, annotations: Value) -> PersistentVolumeClaim {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    parse(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": annotations}, "spec": all}))
}

fn volume(claim_ref: Value) -> Arc<PersistentVolume> {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "claimRef": claim_ref});
    Arc::new(parse(json!({"metadata": {"name": "v"}, "spec": spec, "status": {"phase": "Available"}})))
}

fn class(mode: &str) -> StorageClass {
    parse(json!({"metadata": {"name": "s"}, "provisioner": "p", "volumeBindingMode": mode, "reclaimPolicy": "Delete"}))
}

fn shown(step: &ClaimStep) -> String {
    match step {
        ClaimStep::Bind(volume) => format!("bind {}", meta::name(&volume.metadata)),
        ClaimStep::Provision => "provision".to_owned(),
        ClaimStep::Class(name) => format!("class {name}"),
        ClaimStep::Phase(phase, told) => {
            let told = told.as_ref().map(|told| format!(" {} {}", told.reason, told.message));
            format!("{phase}{}", told.unwrap_or_default())
        }
    }
}

#[test]
fn a_claim_is_bound_waits_or_gets_a_volume_made() {
    let mine = json!({"name": "c", "namespace": "ns", "uid": "u"});
    let other = json!({"name": "d", "namespace": "ns", "uid": "w"});
    let done = json!({"pv.kubernetes.io/bind-completed": "yes"});
    let (now, later) = (class("Immediate"), class("WaitForFirstConsumer"));
    let none = json!({});
    let of = json!({"storageClassName": "s"});
    let named = json!({"volumeName": "v"});
    for (case, spec, annotations, there, class, default, expected) in [
        ("a free volume", json!({}), &none, Some(volume(Value::Null)), None, None, "bind v"),
        (
            "nothing",
            json!({}),
            &none,
            None,
            None,
            None,
            "Pending FailedBinding no persistent volumes available for this claim and no storage class is set",
        ),
        ("a default", json!({}), &none, None, None, Some("s"), "class s"),
        (
            "no class is wanted",
            json!({"storageClassName": ""}),
            &none,
            None,
            None,
            Some("s"),
            "Pending FailedBinding no persistent volumes available for this claim and no storage class is set",
        ),
        (
            "its class is not there",
            of.clone(),
            &none,
            None,
            None,
            None,
            "Pending ProvisioningFailed storageclass.storage.k8s.io \"s\" not found",
        ),
        ("at once", of.clone(), &none, None, Some(&now), None, "provision"),
        (
            "no pod yet",
            of.clone(),
            &none,
            None,
            Some(&later),
            None,
            "Pending WaitForFirstConsumer waiting for first consumer to be created before binding",
        ),
        (
            "a node is chosen",
            of.clone(),
            &json!({"volume.kubernetes.io/selected-node": "n"}),
            None,
            Some(&later),
            None,
            "provision",
        ),
        ("reserved", of.clone(), &none, Some(volume(mine.clone())), Some(&later), None, "bind v"),
        ("it names a free one", named.clone(), &none, Some(volume(Value::Null)), None, None, "bind v"),
        (
            "it names one of another",
            named.clone(),
            &none,
            Some(volume(other.clone())),
            None,
            None,
            "Pending FailedBinding volume \"v\" already bound to a different claim.",
        ),
        ("it names one that is not there", named.clone(), &none, None, None, None, "Pending"),
        (
            "it names one that is too small",
            json!({"volumeName": "v", "resources": {"requests": {"storage": "3Gi"}}}),
            &none,
            Some(volume(Value::Null)),
            None,
            None,
            "Pending VolumeMismatch Cannot bind to requested volume \"v\": requested PV is too small",
        ),
        ("bound", named.clone(), &done, Some(volume(mine)), None, None, "bind v"),
        ("bound, but its volume is free", named.clone(), &done, Some(volume(Value::Null)), None, None, "bind v"),
        (
            "bound, but its volume is gone",
            named.clone(),
            &done,
            None,
            None,
            None,
            "Lost ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        (
            "bound, but without a volume",
            json!({}),
            &done,
            None,
            None,
            None,
            "Lost ClaimLost Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (
            "bound to one of another",
            named,
            &done,
            Some(volume(other)),
            None,
            None,
            "Lost ClaimMisbound Two claims are bound to the same volume, this one is bound incorrectly",
        ),
    ] {
        let around =
            Around { named: there.clone(), candidates: there.into_iter().collect(), class, default_class: default };
        assert_eq!(shown(&plan::claim(&claim(spec, annotations.clone()), &around)), expected, "{case}");
    }
}

#[test]
fn a_volume_is_free_bound_or_released() {
    let reference = |uid: &str| json!({"name": "c", "namespace": "ns", "uid": uid});
    let made = |mut volume: PersistentVolume, policy: &str| {
        volume.metadata.annotations.get_or_insert_default().insert(PROVISIONED_BY.to_owned(), "p".to_owned());
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some(policy.to_owned());
        volume
    };
    let plain = |claim_ref| (*volume(claim_ref)).clone();
    let with = |name: &str| claim(json!({"volumeName": name}), json!({}));
    for (case, volume, claim, expected) in [
        ("no claim", plain(Value::Null), None, VolumeStep::Phase("Available", "")),
        ("reserved by name", plain(reference("")), Some(with("")), VolumeStep::Phase("Available", "")),
        ("the claim is gone", plain(reference("u")), None, VolumeStep::Release),
        ("the claim was made again", plain(reference("old")), Some(with("")), VolumeStep::Release),
        ("the claim is not bound yet", plain(reference("u")), Some(with("")), VolumeStep::Wait),
        ("bound", plain(reference("u")), Some(with("v")), VolumeStep::Phase("Bound", "")),
        ("the claim took another", plain(reference("u")), Some(with("w")), VolumeStep::Unbind),
        ("and it was made for it", made(plain(reference("u")), "Delete"), Some(with("w")), VolumeStep::Release),
        ("and is kept", made(plain(reference("u")), "Retain"), Some(with("w")), VolumeStep::Unbind),
    ] {
        assert_eq!(plan::volume(&volume, claim.as_ref()), expected, "{case}");
    }
    let reason = |volume: &PersistentVolume| unreclaimable(volume).map(|told| told.reason);
    assert_eq!(reason(&plain(Value::Null)), None, "it is kept");
    assert_eq!(reason(&made(plain(Value::Null), "Delete")), Some("VolumeFailedDelete"));
    let mut driven = made(plain(Value::Null), "Delete");
    driven.spec.as_mut().unwrap().csi = Some(parse(json!({"driver": "d", "volumeHandle": "h"})));
    assert_eq!(reason(&driven), None, "its driver deletes it");
}

#[test]
fn both_sides_of_a_binding_are_written_once() {
    let claim = claim(json!({}), json!({}));
    let bound = client::fit::volumes::reserved(&volume(Value::Null), &claim).expect("a change");
    assert_eq!(meta::annotation(&bound.metadata, BOUND_BY_CONTROLLER), Some("yes"));
    assert_eq!(client::fit::volumes::reserved(&bound, &claim), None);
    let taken = bound_claim(&claim, &bound).expect("a change");
    assert_eq!(taken.spec.as_ref().unwrap().volume_name.as_deref(), Some("v"));
    assert_eq!(bound_claim(&taken, &bound), None);
    assert_eq!(unbound(&bound).spec.unwrap().claim_ref, None);
    let by_user =
        client::fit::volumes::reserved(&volume(json!({"name": "c", "namespace": "ns"})), &claim).expect("a change");
    assert_eq!(meta::annotation(&by_user.metadata, BOUND_BY_CONTROLLER), None);
    let kept = unbound(&by_user).spec.unwrap().claim_ref.expect("it stays reserved");
    assert_eq!((kept.name.as_deref(), kept.uid), (Some("c"), None));
}

#[test]
fn a_volume_is_made_on_the_chosen_node_or_one_that_is_ready() {
    let node = |name: &str, ready: bool| -> Arc<Node> {
        let status = if ready { "True" } else { "False" };
        Arc::new(parse(json!({"metadata": {"name": name, "labels": {"zone": name}},
            "status": {"conditions": [{"type": "Ready", "status": status}]}})))
    };
    let nodes = [node("b", true), node("a", false), node("c", true)];
    let on = |annotations: Value, class: &StorageClass| {
        let claim = claim(json!({"storageClassName": "s"}), annotations);
        provision::local(&claim, class, &nodes, "d.example").map(|volume| {
            let terms =
                volume.spec.as_ref().unwrap().node_affinity.clone().unwrap().required.unwrap().node_selector_terms;
            let values = terms[0].match_fields.as_ref().unwrap()[0].values.clone().unwrap();
            assert_eq!(volume.metadata.labels.as_ref().unwrap()["d.example/node"], values[0]);
            (meta::name(&volume.metadata).to_owned(), values.join(","))
        })
    };
    let class = class("Immediate");
    assert_eq!(on(json!({}), &class), Ok(("pvc-u".to_owned(), "b".to_owned())));
    let selected = json!({"volume.kubernetes.io/selected-node": "a"});
    assert_eq!(on(selected, &class), Ok(("pvc-u".to_owned(), "a".to_owned())), "the scheduler knows");
    let gone = json!({"volume.kubernetes.io/selected-node": "x"});
    assert_eq!(on(gone, &class), Err(Refused::Node("node \"x\" cannot have the volume".to_owned())));
    let mut allowed = class.clone();
    allowed.allowed_topologies = Some(parse(json!([{"matchLabelExpressions": [{"key": "zone", "values": ["c"]}]}])));
    assert_eq!(on(json!({}), &allowed), Ok(("pvc-u".to_owned(), "c".to_owned())));
    let made = provision::local(&claim(json!({}), json!({})), &class, &nodes, "d.example").unwrap();
    let spec = made.spec.unwrap();
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    assert_eq!(spec.capacity.unwrap()["storage"].0, "1Gi");
    for wrong in
        [json!({"volumeMode": "Block"}), json!({"selector": {}}), json!({"dataSource": {"kind": "a", "name": "b"}})]
    {
        assert!(matches!(provision::local(&claim(wrong, json!({})), &class, &nodes, "d"), Err(Refused::Claim(_))));
    }
}
