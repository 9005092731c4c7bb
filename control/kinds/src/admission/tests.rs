//! All plugins in their order over small clusters in memory.

use super::*;
use crate::{
    authorization::privileged::Privileged,
    testing::{Stored, context_for, parse, settings, yaml},
};
use api::{Object, Status};
use expect_test::expect;
use server::{Operation, Resource, admission::Attributes, strategy::Plain};

const NAMESPACE: &str = "{metadata: {name: default}, status: {phase: Active}}";
const ACCOUNT: &str = "{metadata: {name: default, namespace: default}, imagePullSecrets: [{name: reg}]}";
const POD: &str = "{metadata: {name: p, namespace: default}, spec: {containers: [{name: a, image: i}]}}";

fn resource(group: &str, name: &str, kind: &str) -> Resource {
    Resource::new(group, "v1", name, kind, Plain)
}

/// All plugins, over who may do what here.
fn everything() -> Vec<Arc<dyn Admission>> {
    let authorizer: Arc<dyn Authorizer> = Arc::new(Privileged);
    all(&settings(), &authorizer)
}

fn cluster() -> Stored {
    Stored::default().with("", "namespaces", NAMESPACE).with("", "serviceaccounts", ACCOUNT)
}

fn attributes(resource: Resource, stored: Stored, operation: Operation) -> Attributes {
    let mut context = context_for(resource, stored);
    context.operation = operation;
    Attributes::new(context, None)
}

/// Runs all plugins as the server does.
async fn admit(attributes: &Attributes, text: &str) -> Result<Object, Status> {
    let mut object = parse(text);
    let plugins = everything();
    let plugins = || plugins.iter().filter(|plugin| plugin.handles(attributes));
    if attributes.context.operation != Operation::Delete {
        for plugin in plugins() {
            plugin.admit(attributes, &mut object).await?;
        }
    }
    for plugin in plugins() {
        plugin.validate(attributes, &object).await?;
    }
    Ok(object)
}

async fn pod(stored: Stored, text: &str) -> Result<Object, String> {
    admit(&attributes(resource("", "pods", "Pod"), stored, Operation::Create), text)
        .await
        .map_err(|status| status.message)
}

#[test]
fn the_order_is_upstreams() {
    let names: Vec<&str> = everything().iter().map(|plugin| plugin.name()).collect();
    assert_eq!(
        names,
        [
            "NamespaceLifecycle",
            "LimitRanger",
            "ServiceAccount",
            "TaintNodesByCondition",
            "Priority",
            "DefaultTolerationSeconds",
            "DefaultStorageClass",
            "StorageObjectInUseProtection",
            "PersistentVolumeClaimResize",
            "RuntimeClass",
            "EscalationCheck",
            "PolicyParameters",
            "CertificateApproval",
            "CertificateSigning",
            "CertificateSubjectRestriction",
            "DefaultIngressClass",
            "NodeDeclaredFeatureValidator",
            "PodResizeValidator",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionWebhook",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionWebhook",
            "ResourceQuota"
        ]
    );
}

#[tokio::test]
async fn a_pod_gets_its_account_token_priority_and_tolerations() {
    let admitted = pod(cluster(), POD).await.unwrap();
    let name = admitted.list_at(&["spec", "volumes"])[0]["name"].as_str().unwrap().to_owned();
    assert_eq!(name.len(), "kube-api-access-xxxxx".len());
    expect![[r#"
        metadata:
          name: p
          namespace: default
        spec:
          containers:
          - image: i
            name: a
            volumeMounts:
            - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
              name: NAME
              readOnly: true
          imagePullSecrets:
          - name: reg
          preemptionPolicy: PreemptLowerPriority
          priority: 0
          serviceAccount: default
          serviceAccountName: default
          tolerations:
          - effect: NoExecute
            key: node.kubernetes.io/not-ready
            operator: Exists
            tolerationSeconds: 300
          - effect: NoExecute
            key: node.kubernetes.io/unreachable
            operator: Exists
            tolerationSeconds: 300
          volumes:
          - name: NAME
            projected:
              defaultMode: 420
              sources:
              - serviceAccountToken:
                  expirationSeconds: 3607
                  path: token
              - configMap:
                  items:
                  - key: ca.crt
                    path: ca.crt
                  name: kube-root-ca.crt
              - downwardAPI:
                  items:
                  - fieldRef:
                      apiVersion: v1
                      fieldPath: metadata.namespace
                    path: namespace
    "#]]
    .assert_eq(&yaml(&admitted).replace(&name, "NAME"));
}

#[tokio::test]
async fn a_pod_may_do_without_a_token() {
    let text =
        POD.replace("spec: {", "spec: {automountServiceAccountToken: false, tolerations: [{operator: Exists}], ");
    let admitted = pod(cluster(), &text).await.unwrap();
    assert_eq!(admitted.at(&["spec", "volumes"]), None);
    assert_eq!(admitted.list_at(&["spec", "tolerations"]).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_account_is_refused() {
    let text = POD.replace("spec: {", "spec: {serviceAccountName: robot, ");
    assert_eq!(
        pod(cluster(), &text).await.unwrap_err(),
        "pods \"p\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not found"
    );
    let empty = Stored::default().with("", "namespaces", NAMESPACE);
    assert_eq!(
        pod(empty, &POD.replace("name: p,", "generateName: p-,")).await.unwrap_err(),
        "pods \"p-\" is forbidden: error looking up service account default/default: serviceaccount \"default\" not found"
    );
}

#[tokio::test]
async fn priorities_come_from_classes() {
    let with = |name: &str| POD.replace("spec: {", &format!("spec: {{priorityClassName: {name}, "));
    let system = pod(cluster(), &with("system-node-critical")).await.unwrap();
    assert_eq!(system.int_at(&["spec", "priority"]), Some(2_000_001_000));
    assert_eq!(
        pod(cluster(), &with("none")).await.unwrap_err(),
        "pods \"p\" is forbidden: no PriorityClass with name none was found"
    );
    let class = "{metadata: {name: high}, value: 7, globalDefault: true, preemptionPolicy: Never}";
    let stored = || cluster().with("scheduling.k8s.io", "priorityclasses", class);
    let high = pod(stored(), POD).await.unwrap();
    assert_eq!(high.str_at(&["spec", "priorityClassName"]), Some("high"));
    assert_eq!(
        (high.int_at(&["spec", "priority"]), high.str_at(&["spec", "preemptionPolicy"])),
        (Some(7), Some("Never"))
    );
    assert_eq!(
        pod(stored(), &POD.replace("spec: {", "spec: {priority: 3, ")).await.unwrap_err(),
        "pods \"p\" is forbidden: the integer value of priority (3) must not be provided in pod spec; priority admission controller computed 7 from the given PriorityClass name"
    );
    let classes = resource("scheduling.k8s.io", "priorityclasses", "PriorityClass").cluster_scoped();
    let second =
        admit(&attributes(classes, stored(), Operation::Create), "{metadata: {name: b}, globalDefault: true}").await;
    assert_eq!(
        second.unwrap_err().message,
        "priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass high is already marked as default. Only one default can exist"
    );
}

#[tokio::test]
async fn a_runtime_class_adds_overhead_and_placement() {
    let class = "{metadata: {name: wasm}, handler: wasm, overhead: {podFixed: {cpu: 10m}}, scheduling: {nodeSelector: {a: b}, tolerations: [{key: k, operator: Exists}]}}";
    let stored = || cluster().with("node.k8s.io", "runtimeclasses", class);
    let text = POD.replace("spec: {", "spec: {runtimeClassName: wasm, ");
    let admitted = pod(stored(), &text).await.unwrap();
    assert_eq!(admitted.str_at(&["spec", "overhead", "cpu"]), Some("10m"));
    assert_eq!(admitted.str_at(&["spec", "nodeSelector", "a"]), Some("b"));
    assert_eq!(admitted.list_at(&["spec", "tolerations"]).len(), 3);
    assert_eq!(
        pod(cluster(), &text).await.unwrap_err(),
        "pods \"p\" is forbidden: pod rejected: RuntimeClass \"wasm\" not found"
    );
    let clash = text.replace("spec: {", "spec: {nodeSelector: {a: c}, ");
    assert_eq!(
        pod(stored(), &clash).await.unwrap_err(),
        "pods \"p\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c"
    );
}

#[tokio::test]
async fn namespaces_must_be_there_and_alive() {
    let maps = || resource("", "configmaps", "ConfigMap");
    let text = "{metadata: {name: c, namespace: default}}";
    let missing = admit(&attributes(maps(), Stored::default(), Operation::Create), text).await.unwrap_err();
    assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"default\" not found"));
    let ending =
        || Stored::default().with("", "namespaces", "{metadata: {name: default}, status: {phase: Terminating}}");
    let refused = admit(&attributes(maps(), ending(), Operation::Create), text).await.unwrap_err();
    assert_eq!(
        refused.message,
        "configmaps \"c\" is forbidden: unable to create new content in namespace default because it is being terminated"
    );
    let cause = &refused.details.unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("NamespaceTerminating", "metadata.namespace"));
    assert!(admit(&attributes(maps(), ending(), Operation::Update), text).await.is_ok());
    let namespaces = || resource("", "namespaces", "Namespace").cluster_scoped();
    for (name, allowed) in [("default", false), ("kube-system", false), ("mine", true)] {
        let text = format!("{{metadata: {{name: {name}}}}}");
        let result = admit(&attributes(namespaces(), Stored::default(), Operation::Delete), &text).await;
        assert_eq!(result.is_ok(), allowed);
        if let Err(status) = result {
            assert_eq!(
                status.message,
                format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")
            );
        }
    }
}

#[tokio::test]
async fn new_nodes_are_not_ready() {
    let nodes = resource("", "nodes", "Node").cluster_scoped();
    let node = admit(&attributes(nodes, Stored::default(), Operation::Create), "{metadata: {name: n1}}").await.unwrap();
    assert_eq!(node.list_at(&["spec", "taints"])[0]["key"], "node.kubernetes.io/not-ready");
}

#[tokio::test]
async fn an_ingress_without_a_class_gets_the_default_one() {
    let class = "{metadata: {name: c, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: a/b}}";
    let of = |operation| {
        let stored = Stored::default().with("", "namespaces", "{metadata: {name: default}, status: {phase: Active}}");
        attributes(
            resource("networking.k8s.io", "ingresses", "Ingress"),
            stored.with("networking.k8s.io", "ingressclasses", class),
            operation,
        )
    };
    for (operation, rest, wanted) in [
        (Operation::Create, "spec: {}", Some("c")),
        (Operation::Create, "spec: {ingressClassName: d}", Some("d")),
        (Operation::Update, "spec: {}", None),
    ] {
        let ingress = admit(&of(operation), &format!("{{metadata: {{name: i, namespace: default}}, {rest}}}")).await;
        assert_eq!(ingress.expect("admitted").str_at(&["spec", "ingressClassName"]), wanted, "{rest}");
    }
    let old = "{metadata: {name: i, namespace: default, annotations: {kubernetes.io/ingress.class: e}}, spec: {}}";
    let ingress = admit(&of(Operation::Create), old).await.expect("admitted");
    assert_eq!(ingress.at(&["spec", "ingressClassName"]), None);
}
