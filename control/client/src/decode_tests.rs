//! Every kind, read with every field missing, null or bare, at every level: whatever Go reads is read.

use super::object;
use crate::Kind;
use api::{
    GroupVersionKind,
    schema::{Schema, Shape},
};
use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, node::v1 as node,
    policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use serde_json::{Value, json};

/// Deeper than any built-in kind; JSON schemas hold themselves.
const DEEPEST: usize = 24;

/// A step from an object down.
enum Step {
    Field(String),
    Key,
    Item,
}

/// An object with nothing in it but the way to a value.
fn at(way: &[Step], value: &Value) -> Value {
    way.iter().rev().fold(value.clone(), |inner, step| match step {
        Step::Field(name) => json!({ name.as_str(): inner }),
        Step::Key => json!({ "key": inner }),
        Step::Item => json!([inner]),
    })
}

/// A value that may stand at a place and says as little as possible.
fn bare(schema: &Schema) -> Value {
    let words = ["x", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z", "eA==", "1"].map(Value::from);
    match schema.shape() {
        Shape::Object | Shape::Map | Shape::Any => json!({}),
        Shape::List => json!([]),
        Shape::Integer | Shape::Number => json!(1),
        Shape::Boolean => json!(true),
        Shape::String | Shape::Quantity | Shape::IntOrString => {
            let fits = |word: &Value| schema.decode_check(&mut word.clone()).is_ok_and(|problems| problems.is_empty());
            words.into_iter().find(fits).expect("one fits")
        }
    }
}

/// Walks all places of a schema and calls `each` with the way there and what stands there.
fn walk(schema: &Schema, way: &mut Vec<Step>, each: &mut impl FnMut(&[Step], &Value)) {
    for value in [bare(schema), Value::Null] {
        each(way, &value);
    }
    if way.len() >= DEEPEST {
        return;
    }
    let below: Vec<(Step, Schema)> = match schema.shape() {
        Shape::Object => schema.fields().map(|(name, field)| (Step::Field(name.to_owned()), field)).collect(),
        Shape::Map => schema.items().map(|item| (Step::Key, item)).into_iter().collect(),
        Shape::List => schema.items().map(|item| (Step::Item, item)).into_iter().collect(),
        _ => Vec::new(),
    };
    for (step, child) in below {
        way.push(step);
        walk(&child, way, each);
        way.pop();
    }
}

fn reads<K: Kind>(counted: &mut usize) {
    let kind = GroupVersionKind::new(K::GROUP, K::VERSION, K::KIND);
    let schema = Schema::for_kind(&kind).expect("built in");
    walk(&schema, &mut Vec::new(), &mut |way, value| {
        let mut whole = at(way, value);
        let Some(map) = whole.as_object_mut() else { return };
        map.insert("apiVersion".into(), kind.api_version().into());
        map.insert("kind".into(), kind.kind.clone().into());
        let as_sent = whole.to_string();
        schema.decode_check(&mut whole).unwrap_or_else(|e| panic!("{as_sent}: the server refuses it: {e}"));
        for text in [as_sent, whole.to_string()] {
            object::<K>(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            *counted += 1;
        }
    });
}

macro_rules! all {
    ($($kind:ty),+ $(,)?) => {{
        let mut counted = 0;
        $(reads::<$kind>(&mut counted);)+
        counted
    }};
}

#[test]
fn every_kind_is_read_with_whatever_is_missing() {
    let counted = all![
        core::ConfigMap,
        core::Endpoints,
        core::Event,
        core::LimitRange,
        core::Namespace,
        core::Node,
        core::PersistentVolume,
        core::PersistentVolumeClaim,
        core::Pod,
        core::PodTemplate,
        core::ReplicationController,
        core::ResourceQuota,
        core::Secret,
        core::Service,
        core::ServiceAccount,
        admissionregistration::MutatingWebhookConfiguration,
        admissionregistration::ValidatingAdmissionPolicy,
        admissionregistration::ValidatingWebhookConfiguration,
        apps::ControllerRevision,
        apps::DaemonSet,
        apps::Deployment,
        apps::ReplicaSet,
        apps::StatefulSet,
        autoscaling::HorizontalPodAutoscaler,
        batch::CronJob,
        batch::Job,
        certificates::CertificateSigningRequest,
        coordination::Lease,
        discovery::EndpointSlice,
        events::Event,
        networking::Ingress,
        networking::IPAddress,
        networking::NetworkPolicy,
        networking::ServiceCIDR,
        node::RuntimeClass,
        policy::PodDisruptionBudget,
        rbac::ClusterRole,
        rbac::ClusterRoleBinding,
        rbac::Role,
        rbac::RoleBinding,
        scheduling::PriorityClass,
        storage::CSIDriver,
        storage::CSINode,
        storage::StorageClass,
        storage::VolumeAttachment,
    ];
    assert!(counted > 40_000, "{counted} bodies are too few: the walk does not go down");
}
