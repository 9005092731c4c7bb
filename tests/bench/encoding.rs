//! What a list of a thousand pods costs as JSON, which is copied from the stored bytes, and as protobuf, which is made of them. Nothing asserts on
//! the figures.
//!
//! `cargo bench -p tests --bench encoding`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints"
)]

use api::{GroupVersionKind, Object, protobuf::ListEncoder};
use bytes::BytesMut;
use serde_json::{Value, json};
use server::payload::View;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PODS: usize = 1_000;
const ROUNDS: u32 = 50;

/// A pod of a Deployment as the control plane leaves it: running, with probes, limits, a token, and managed fields.
fn pod(number: usize) -> Value {
    let (name, time) = (format!("web-6d4cf56db6-{number:05}"), "2026-01-02T03:04:05Z");
    let owned = json!({"f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}, "f:pod-template-hash": {}}, "f:ownerReferences": {".": {},
        "k:{\"uid\":\"5f5b2ed6-1a0d-4d65-b8a7-0d3c6bb0c8d1\"}": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {},
        "f:imagePullPolicy": {}, "f:name": {}, "f:ports": {".": {}, "k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {},
        "f:protocol": {}}}, "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}, "f:memory": {}}}}}, "f:dnsPolicy": {}, "f:restartPolicy": {}}});
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": time});
    let conditions: Vec<Value> =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition).into();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1,
        "successThreshold": 1, "failureThreshold": 3});
    let token = json!({"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
    let container = json!({"name": "web", "image": "registry.example.com/shop/web:1.4.2", "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 8080, "protocol": "TCP"}], "env": [{"name": "REGION", "value": "eu-west"}, {"name": "LOG", "value": "info"}],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "livenessProbe": probe, "readinessProbe": probe, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": "kube-api-access-x7k2p", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]});
    let toleration =
        |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "generateName": "web-6d4cf56db6-", "namespace": "shop", "uid": format!("0c9f8f7e-6c0e-4b54-9d4e-{number:012}"),
            "resourceVersion": format!("{}", 100_000 + number), "generation": 1, "creationTimestamp": time,
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4cf56db6",
                "uid": "5f5b2ed6-1a0d-4d65-b8a7-0d3c6bb0c8d1", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": time,
                "fieldsType": "FieldsV1", "fieldsV1": owned}]},
        "spec": {"volumes": [token], "containers": [container], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "serviceAccountName": "default", "serviceAccount": "default", "nodeName": format!("node-{}", number % 50),
            "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
            "preemptionPolicy": "PreemptLowerPriority",
            "tolerations": [toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")]},
        "status": {"phase": "Running", "observedGeneration": 1, "conditions": conditions, "hostIP": "192.0.2.7", "hostIPs": [{"ip": "192.0.2.7"}],
            "podIP": "10.32.1.9", "podIPs": [{"ip": "10.32.1.9"}], "startTime": time, "qosClass": "Burstable",
            "containerStatuses": [{"name": "web", "state": {"running": {"startedAt": time}}, "lastState": {}, "ready": true, "restartCount": 0,
                "image": "registry.example.com/shop/web:1.4.2", "started": true,
                "imageID": "registry.example.com/shop/web@sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1",
                "containerID": "wasm://9b0d4f6d0b8a4c0e8e9c3f4c6b1a2d3e"}]}})
}

/// The time of the fastest round, and the length of what it makes.
fn measure(mut round: impl FnMut() -> usize) -> (Duration, usize) {
    let times = (0..ROUNDS).map(|_| {
        let begin = Instant::now();
        let length = black_box(round());
        (begin.elapsed(), length)
    });
    times.min().unwrap()
}

fn main() {
    let views: Vec<View> = (0..PODS).map(|number| View::detached(&Object::from_value(pod(number)).unwrap())).collect();
    let head = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "101000"}});
    let json = || {
        let mut out = BytesMut::with_capacity(views.iter().map(|view| view.length() + 1).sum());
        views.iter().for_each(|view| view.write(&mut out, None));
        out.len()
    };
    let protobuf = || {
        let mut encoder = ListEncoder::new(&GroupVersionKind::new("", "v1", "PodList")).unwrap();
        let mut out = Vec::new();
        for view in &views {
            encoder.item(&mut out, &serde_json::from_slice(&view.bytes()).unwrap()).unwrap();
        }
        ListEncoder::head(&head, out.len()).unwrap().len() + out.len() + ListEncoder::TAIL.len()
    };
    let parse = || {
        let parsed = views.iter().map(|view| serde_json::from_slice::<Value>(&view.bytes()).unwrap());
        parsed.filter(|pod| pod.is_object()).count()
    };
    for (what, (time, length)) in
        [("JSON", measure(json)), ("protobuf", measure(protobuf)), ("parsing alone", measure(parse))]
    {
        println!("{PODS} pods as {what}: {time:?}, {length} bytes");
    }
}
