//! What holds for every kind: the table, the cells, the published types.

use super::*;
use crate::{
    apps::{daemonset, deployment, replicaset, statefulset},
    batch::job,
    core::{endpoints, namespace, node, pod, secret, service},
    discovery::endpointslice,
    events::event,
};
use api::Object;
use expect_test::expect;
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::{Value, json};
use server::{Strategy, Verb};
use testing::{context_for, created, parse, settings};

#[test]
fn the_table_is_kubernetes() {
    let mut table = String::new();
    for resource in testing::resources() {
        let verbs = if resource.verbs == Verb::ALL {
            "all8".to_owned()
        } else {
            resource.verbs.iter().map(Verb::to_string).collect::<Vec<_>>().join(",")
        };
        let subresources: Vec<String> = resource
            .subresources
            .iter()
            .map(|s| {
                let verbs: Vec<&str> = s.verbs.iter().map(|v| v.as_str()).collect();
                let other = if s.kind == resource.gvk() { String::new() } else { format!(" → {}", s.kind.kind) };
                format!("{}({}){other}", s.name, verbs.join(","))
            })
            .collect();
        let line = [
            resource.gvr.api_version(),
            resource.gvr.resource.clone(),
            resource.kind.clone(),
            if resource.namespaced { "ns" } else { "cluster" }.to_owned(),
            resource.short_names.join(","),
            resource.categories.join(","),
            verbs,
            subresources.join("; "),
        ];
        table.push_str(line.join(" | ").trim_end());
        table.push('\n');
    }
    expect![[r#"
        v1 | bindings | Binding | ns |  |  | create |
        v1 | componentstatuses | ComponentStatus | cluster | cs |  | get,list |
        v1 | configmaps | ConfigMap | ns | cm |  | all8 |
        v1 | endpoints | Endpoints | ns | ep |  | all8 |
        v1 | events | Event | ns | ev |  | all8 |
        v1 | limitranges | LimitRange | ns | limits |  | all8 |
        v1 | namespaces | Namespace | cluster | ns |  | create,delete,get,list,patch,update,watch | finalize(update); status(get,patch,update)
        v1 | nodes | Node | cluster | no |  | all8 | proxy(create,delete,get,patch,update) → NodeProxyOptions; status(get,patch,update)
        v1 | persistentvolumeclaims | PersistentVolumeClaim | ns | pvc |  | all8 | status(get,patch,update)
        v1 | persistentvolumes | PersistentVolume | cluster | pv |  | all8 | status(get,patch,update)
        v1 | pods | Pod | ns | po | all | all8 | attach(create,get) → PodAttachOptions; binding(create) → Binding; ephemeralcontainers(get,patch,update); eviction(create) → Eviction; exec(create,get) → PodExecOptions; log(get); portforward(create,get) → PodPortForwardOptions; proxy(create,delete,get,patch,update) → PodProxyOptions; resize(get,patch,update); status(get,patch,update)
        v1 | podtemplates | PodTemplate | ns |  |  | all8 |
        v1 | replicationcontrollers | ReplicationController | ns | rc | all | all8 | scale(get,patch,update) → Scale; status(get,patch,update)
        v1 | resourcequotas | ResourceQuota | ns | quota |  | all8 | status(get,patch,update)
        v1 | secrets | Secret | ns |  |  | all8 |
        v1 | serviceaccounts | ServiceAccount | ns | sa |  | all8 | token(create) → TokenRequest
        v1 | services | Service | ns | svc | all | all8 | proxy(create,delete,get,patch,update) → ServiceProxyOptions; status(get,patch,update)
        apiregistration.k8s.io/v1 | apiservices | APIService | cluster |  | api-extensions | all8 | status(get,patch,update)
        apps/v1 | controllerrevisions | ControllerRevision | ns |  |  | all8 |
        apps/v1 | daemonsets | DaemonSet | ns | ds | all | all8 | status(get,patch,update)
        apps/v1 | deployments | Deployment | ns | deploy | all | all8 | scale(get,patch,update) → Scale; status(get,patch,update)
        apps/v1 | replicasets | ReplicaSet | ns | rs | all | all8 | scale(get,patch,update) → Scale; status(get,patch,update)
        apps/v1 | statefulsets | StatefulSet | ns | sts | all | all8 | scale(get,patch,update) → Scale; status(get,patch,update)
        events.k8s.io/v1 | events | Event | ns | ev |  | all8 |
        autoscaling/v2 | horizontalpodautoscalers | HorizontalPodAutoscaler | ns | hpa | all | all8 | status(get,patch,update)
        autoscaling/v1 | horizontalpodautoscalers | HorizontalPodAutoscaler | ns | hpa | all | all8 | status(get,patch,update)
        batch/v1 | cronjobs | CronJob | ns | cj | all | all8 | status(get,patch,update)
        batch/v1 | jobs | Job | ns |  | all | all8 | status(get,patch,update)
        certificates.k8s.io/v1 | certificatesigningrequests | CertificateSigningRequest | cluster | csr |  | all8 | approval(get,patch,update); status(get,patch,update)
        networking.k8s.io/v1 | ingressclasses | IngressClass | cluster |  |  | all8 |
        networking.k8s.io/v1 | ingresses | Ingress | ns | ing |  | all8 | status(get,patch,update)
        networking.k8s.io/v1 | ipaddresses | IPAddress | cluster | ip |  | all8 |
        networking.k8s.io/v1 | networkpolicies | NetworkPolicy | ns | netpol |  | all8 |
        networking.k8s.io/v1 | servicecidrs | ServiceCIDR | cluster |  |  | all8 | status(get,patch,update)
        policy/v1 | poddisruptionbudgets | PodDisruptionBudget | ns | pdb |  | all8 | status(get,patch,update)
        rbac.authorization.k8s.io/v1 | clusterrolebindings | ClusterRoleBinding | cluster |  |  | all8 |
        rbac.authorization.k8s.io/v1 | clusterroles | ClusterRole | cluster |  |  | all8 |
        rbac.authorization.k8s.io/v1 | rolebindings | RoleBinding | ns |  |  | all8 |
        rbac.authorization.k8s.io/v1 | roles | Role | ns |  |  | all8 |
        storage.k8s.io/v1 | csidrivers | CSIDriver | cluster |  |  | all8 |
        storage.k8s.io/v1 | csinodes | CSINode | cluster |  |  | all8 |
        storage.k8s.io/v1 | csistoragecapacities | CSIStorageCapacity | ns |  |  | all8 |
        storage.k8s.io/v1 | storageclasses | StorageClass | cluster | sc |  | all8 |
        storage.k8s.io/v1 | volumeattachments | VolumeAttachment | cluster |  |  | all8 | status(get,patch,update)
        storage.k8s.io/v1 | volumeattributesclasses | VolumeAttributesClass | cluster | vac |  | all8 |
        admissionregistration.k8s.io/v1 | mutatingadmissionpolicies | MutatingAdmissionPolicy | cluster |  | api-extensions | all8 |
        admissionregistration.k8s.io/v1 | mutatingadmissionpolicybindings | MutatingAdmissionPolicyBinding | cluster |  | api-extensions | all8 |
        admissionregistration.k8s.io/v1 | mutatingwebhookconfigurations | MutatingWebhookConfiguration | cluster |  | api-extensions | all8 |
        admissionregistration.k8s.io/v1 | validatingadmissionpolicies | ValidatingAdmissionPolicy | cluster |  | api-extensions | all8 | status(get,patch,update)
        admissionregistration.k8s.io/v1 | validatingadmissionpolicybindings | ValidatingAdmissionPolicyBinding | cluster |  | api-extensions | all8 |
        admissionregistration.k8s.io/v1 | validatingwebhookconfigurations | ValidatingWebhookConfiguration | cluster |  | api-extensions | all8 |
        apiextensions.k8s.io/v1 | customresourcedefinitions | CustomResourceDefinition | cluster | crd,crds | api-extensions | all8 | status(get,patch,update)
        scheduling.k8s.io/v1 | priorityclasses | PriorityClass | cluster | pc |  | all8 |
        coordination.k8s.io/v1 | leases | Lease | ns |  |  | all8 |
        node.k8s.io/v1 | runtimeclasses | RuntimeClass | cluster |  |  | all8 |
        discovery.k8s.io/v1 | endpointslices | EndpointSlice | ns |  |  | all8 |
        resource.k8s.io/v1 | deviceclasses | DeviceClass | cluster |  |  | all8 |
        resource.k8s.io/v1 | resourceclaims | ResourceClaim | ns |  |  | all8 | status(get,patch,update)
        resource.k8s.io/v1 | resourceclaimtemplates | ResourceClaimTemplate | ns |  |  | all8 |
        resource.k8s.io/v1 | resourceslices | ResourceSlice | cluster |  |  | all8 |
        flowcontrol.apiserver.k8s.io/v1 | flowschemas | FlowSchema | cluster |  |  | all8 | status(get,patch,update)
        flowcontrol.apiserver.k8s.io/v1 | prioritylevelconfigurations | PriorityLevelConfiguration | cluster |  |  | all8 | status(get,patch,update)
        metrics.k8s.io/v1beta1 | nodes | NodeMetrics | cluster |  |  | get,list |
        metrics.k8s.io/v1beta1 | pods | PodMetrics | ns |  |  | get,list |
        custom.metrics.k8s.io/v1beta2 | pods | MetricValueList | ns |  |  |  | http_requests_per_second(get)
        custom.metrics.k8s.io/v1beta2 | services | MetricValueList | ns |  |  |  | http_requests_per_second(get)
        authentication.k8s.io/v1 | selfsubjectreviews | SelfSubjectReview | cluster |  |  | create |
        authentication.k8s.io/v1 | tokenreviews | TokenReview | cluster |  |  | create |
        authorization.k8s.io/v1 | localsubjectaccessreviews | LocalSubjectAccessReview | ns |  |  | create |
        authorization.k8s.io/v1 | selfsubjectaccessreviews | SelfSubjectAccessReview | cluster |  |  | create |
        authorization.k8s.io/v1 | selfsubjectrulesreviews | SelfSubjectRulesReview | cluster |  |  | create |
        authorization.k8s.io/v1 | subjectaccessreviews | SubjectAccessReview | cluster |  |  | create |
    "#]]
    .assert_eq(&table);
}

#[test]
fn every_row_has_a_cell_for_every_column() {
    for resource in testing::resources().into_iter().filter(|r| r.serves(Verb::Get)) {
        for text in ["{metadata: {name: a}}", "{}"] {
            let cells = resource.table.row(&parse(text), testing::now());
            assert_eq!(cells.len(), resource.table.columns().len(), "{}", resource.kind);
            for (cell, column) in cells.iter().zip(resource.table.columns().iter()) {
                let fits = match column.kind {
                    "integer" => cell.is_i64() || cell.is_u64(),
                    // Upstream prints some as text.
                    "boolean" => cell.is_boolean() || cell.is_string(),
                    _ => !cell.is_null() && !cell.is_array() && !cell.is_object(),
                };
                assert!(fits, "{} {}: {cell}", resource.kind, column.name);
            }
        }
    }
}

#[test]
fn every_kind_bears_an_object_with_nothing_in_it() {
    for resource in testing::resources() {
        let name = resource.kind.clone();
        let strategy = resource.strategy.clone();
        let cx = context_for(resource, testing::Stored::default());
        for text in [
            "{}",
            "{metadata: {name: a, namespace: b}, spec: {}}",
            "{metadata: 1, spec: x, status: [], data: 2, template: 3}",
        ] {
            let mut object = created(&*strategy, text);
            let old = object.clone();
            strategy.prepare_update(&cx, &mut object, &old);
            strategy.prepare_status(&cx, &mut object, &old);
            let _ = strategy.validate(&cx, &object);
            let changes = strategy.validate_update(&cx, &object, &old);
            // These are judged as a whole at each change, as upstream does.
            let whole = ["CustomResourceDefinition", "DaemonSet", "PersistentVolume"].contains(&&*name);
            assert!(whole || changes.is_empty(), "{name}: an unchanged object may be written: {changes:?}");
            let _ = strategy.validate_status(&cx, &object, &old);
            let _ = strategy.warnings(&cx, &object, Some(&old));
            let _ = strategy.grace_period(&object, None);
            strategy.field_labels().iter().for_each(|label| drop(strategy.field(&object, label)));
        }
    }
}

fn decodes<T: DeserializeOwned>(strategy: &dyn Strategy, text: &str) {
    let object: Object = created(strategy, text);
    if let Err(error) = serde_json::from_value::<T>(object.clone().into_value()) {
        panic!("{error}: {}", testing::yaml(&object));
    }
}

#[test]
fn defaulted_objects_have_the_published_types() {
    use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core, discovery::v1 as discovery};
    const SPEC: &str = "{restartPolicy: Never, hostNetwork: true, containers: [{name: a, image: i, ports: [{containerPort: 80}], env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}], resources: {limits: {cpu: 1}}, livenessProbe: {grpc: {port: 1}}, readinessProbe: {httpGet: {port: 80}}}], volumes: [{name: a}, {name: b, secret: {secretName: s}}, {name: c, projected: {sources: [{serviceAccountToken: {path: t}}]}}, {name: d, hostPath: {path: /}}, {name: e, image: {reference: r}}]}";
    let of = |api: &str, kind: &str, rest: &str| {
        format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: a, namespace: b, uid: u}}, {rest}}}")
    };
    decodes::<core::Pod>(&pod::Pods(Default::default()), &of("v1", "Pod", &format!("spec: {SPEC}")));
    let template = format!(
        "spec: {{selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {SPEC}}}}}"
    );
    decodes::<apps::Deployment>(&deployment::Deployments(Default::default()), &of("apps/v1", "Deployment", &template));
    decodes::<apps::ReplicaSet>(&replicaset::ReplicaSets(Default::default()), &of("apps/v1", "ReplicaSet", &template));
    decodes::<apps::StatefulSet>(
        &statefulset::StatefulSets(Default::default()),
        &of("apps/v1", "StatefulSet", &template),
    );
    decodes::<apps::DaemonSet>(&daemonset::DaemonSets(Default::default()), &of("apps/v1", "DaemonSet", &template));
    decodes::<batch::Job>(&job::Jobs(Default::default()), &of("batch/v1", "Job", &template));
    let services = service::Services::new(&settings());
    decodes::<core::Service>(
        &services,
        &of("v1", "Service", "spec: {type: LoadBalancer, sessionAffinity: ClientIP, ports: [{port: 80}]}"),
    );
    decodes::<core::Node>(&node::Nodes, &of("v1", "Node", "status: {capacity: {cpu: 1}}"));
    decodes::<core::Namespace>(&namespace::Namespaces, &of("v1", "Namespace", "spec: {}"));
    decodes::<core::Secret>(&secret::Secrets, &of("v1", "Secret", "stringData: {a: b}"));
    decodes::<core::Event>(&event::Core, &of("v1", "Event", "involvedObject: {name: a}"));
    decodes::<core::Endpoints>(
        &endpoints::AllEndpoints,
        &of("v1", "Endpoints", "subsets: [{addresses: [{ip: 1.2.3.4}], ports: [{port: 1}]}]"),
    );
    decodes::<discovery::EndpointSlice>(
        &endpointslice::Slices,
        &of(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "addressType: IPv4, ports: [{port: 1}], endpoints: [{addresses: [1.2.3.4]}]",
        ),
    );
}

/// A whole object of a kind is right by its schema and by its rules, and is of the published type.
fn whole<T: DeserializeOwned>(resource: &str, kind: &str, body: Value) {
    let all = testing::resources();
    let found = all.iter().find(|one| one.gvr.resource == resource && one.kind == kind).expect("a kind that is served");
    let mut body = body;
    body["apiVersion"] = found.gvr.api_version().into();
    body["kind"] = kind.into();
    let problems = found.schema().decode_check(&mut body).expect("the schema's types");
    assert!(problems.is_empty(), "{kind}: {problems:?}");
    let mut object = Object::from_value(body).expect("an object");
    found.strategy.default(&mut object);
    let cx = testing::context();
    found.strategy.prepare_create(&cx, &mut object);
    let name = found.strategy.validate_name(object.name(), false);
    let causes = found.strategy.validate(&cx, &object);
    assert!(causes.is_empty() && name.is_empty(), "{kind}: {causes:?} {name:?}");
    if let Err(error) = serde_json::from_value::<T>(object.clone().into_value()) {
        panic!("{kind}: {error}: {}", testing::yaml(&object));
    }
}

#[test]
fn whole_objects_are_right() {
    use k8s_openapi::{
        api::{admissionregistration::v1 as admission, resource::v1 as resource},
        kube_aggregator::pkg::apis::apiregistration::v1 as registration,
    };
    let metadata = json!({"name": "x", "namespace": "default", "uid": "u"});
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "Namespaced"});
    let condition = json!({"name": "c", "expression": "object.metadata.name != 'x'"});
    let selector =
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]});
    let webhook = json!({"name": "a.example.com", "rules": [rule], "failurePolicy": "Ignore", "matchPolicy": "Exact",
        "clientConfig": {"service": {"namespace": "default", "name": "s", "path": "/p", "port": 8443}, "caBundle": "YQ=="},
        "namespaceSelector": selector, "objectSelector": selector, "sideEffects": "None", "timeoutSeconds": 5,
        "admissionReviewVersions": ["v1"], "matchConditions": [condition]});
    whole::<admission::ValidatingWebhookConfiguration>(
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        json!({"metadata": metadata, "webhooks": [webhook]}),
    );
    let mut mutating = webhook.clone();
    mutating["reinvocationPolicy"] = "IfNeeded".into();
    mutating["clientConfig"] = json!({"url": "https://127.0.0.1:8443/p"});
    whole::<admission::MutatingWebhookConfiguration>(
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        json!({"metadata": metadata, "webhooks": [mutating]}),
    );
    let mut named = rule.clone();
    named["resourceNames"] = json!(["n"]);
    let resources = json!({"namespaceSelector": selector, "objectSelector": selector, "resourceRules": [named], "excludeResourceRules": [rule], "matchPolicy": "Equivalent"});
    let kind = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let variables = json!([{"name": "v", "expression": "object.metadata.name"}]);
    whole::<admission::ValidatingAdmissionPolicy>(
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        json!({"metadata": metadata, "spec": {"failurePolicy": "Fail", "paramKind": kind, "matchConstraints": resources, "matchConditions": [condition], "variables": variables,
            "validations": [{"expression": "variables.v != 'y'", "message": "no", "messageExpression": "'no'", "reason": "Forbidden"}],
            "auditAnnotations": [{"key": "k", "valueExpression": "'v'"}]}}),
    );
    let reference = json!({"name": "p", "namespace": "default", "parameterNotFoundAction": "Deny"});
    whole::<admission::ValidatingAdmissionPolicyBinding>(
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        json!({"metadata": metadata, "spec": {"policyName": "x", "paramRef": reference, "matchResources": resources, "validationActions": ["Deny", "Audit"]}}),
    );
    whole::<admission::MutatingAdmissionPolicy>(
        "mutatingadmissionpolicies",
        "MutatingAdmissionPolicy",
        json!({"metadata": metadata, "spec": {"failurePolicy": "Fail", "paramKind": kind, "matchConstraints": resources, "matchConditions": [condition], "variables": variables,
            "reinvocationPolicy": "IfNeeded", "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/metadata/labels/a', value: 'b'}]"}}]}}),
    );
    whole::<admission::MutatingAdmissionPolicyBinding>(
        "mutatingadmissionpolicybindings",
        "MutatingAdmissionPolicyBinding",
        json!({"metadata": metadata, "spec": {"policyName": "x", "paramRef": reference, "matchResources": resources}}),
    );
    whole::<registration::APIService>(
        "apiservices",
        "APIService",
        json!({"metadata": {"name": "v1.example.com", "uid": "u"}, "spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "service": {"namespace": "default", "name": "s", "port": 8443}, "caBundle": "YQ=="}}),
    );
    let cel = json!([{"cel": {"expression": "device.driver == 'd.example.com'"}}]);
    let config = json!({"opaque": {"driver": "d.example.com", "parameters": {"a": {"b": 1}}}});
    whole::<resource::DeviceClass>(
        "deviceclasses",
        "DeviceClass",
        json!({"metadata": metadata, "spec": {"selectors": cel, "config": [config], "extendedResourceName": "example.com/device"}}),
    );
    let tolerations = json!([{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]);
    let exactly = json!({"deviceClassName": "c", "selectors": cel, "allocationMode": "ExactCount", "count": 2, "tolerations": tolerations, "capacity": {"requests": {"memory": "1Gi"}}});
    let mut first = exactly.clone();
    first["name"] = "s".into();
    let mut for_all = config.clone();
    for_all["requests"] = json!(["a", "b/s"]);
    let spec = json!({"devices": {"requests": [{"name": "a", "exactly": exactly}, {"name": "b", "firstAvailable": [first]}],
        "constraints": [{"requests": ["a"], "matchAttribute": "d.example.com/model"}], "config": [for_all]}});
    whole::<resource::ResourceClaim>("resourceclaims", "ResourceClaim", json!({"metadata": metadata, "spec": spec}));
    whole::<resource::ResourceClaimTemplate>(
        "resourceclaimtemplates",
        "ResourceClaimTemplate",
        json!({"metadata": metadata, "spec": {"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}, "spec": spec}}),
    );
    let device = json!({"name": "d", "attributes": {"model": {"string": "m"}, "size": {"int": 1}, "ready": {"bool": true}, "d.example.com/version": {"version": "1.2.3"}},
        "allowMultipleAllocations": true, "capacity": {"memory": {"value": "2Gi", "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "max": "2Gi", "step": "1Gi"}}}},
        "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}], "consumesCounters": [{"counterSet": "c", "counters": {"memory": {"value": "1Gi"}}}],
        "bindsToNode": true, "bindingConditions": ["example.com/ready"], "bindingFailureConditions": ["example.com/failed"]});
    whole::<resource::ResourceSlice>(
        "resourceslices",
        "ResourceSlice",
        json!({"metadata": metadata, "spec": {"driver": "d.example.com", "nodeName": "n1", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [device]}}),
    );
}

#[test]
fn whole_objects_of_networks_flows_and_storage_are_right() {
    use k8s_openapi::api::{flowcontrol::v1 as flowcontrol, networking::v1 as networking, storage::v1 as storage};
    let metadata = json!({"name": "x", "namespace": "default", "uid": "u"});
    let selector =
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]});
    let block = json!({"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]});
    let ports = json!([{"protocol": "TCP", "port": 80, "endPort": 90}, {"protocol": "UDP", "port": "dns"}]);
    let peers = json!([{"podSelector": selector, "namespaceSelector": selector}, {"ipBlock": block}]);
    whole::<networking::NetworkPolicy>(
        "networkpolicies",
        "NetworkPolicy",
        json!({"metadata": metadata, "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers, "ports": ports}], "egress": [{"to": peers, "ports": ports}]}}),
    );
    let named = json!({"service": {"name": "s", "port": {"name": "http"}}});
    let numbered = json!({"service": {"name": "s", "port": {"number": 80}}});
    let bucket = json!({"resource": {"apiGroup": "k8s.example.com", "kind": "Bucket", "name": "b"}});
    let paths = json!([{"path": "/a", "pathType": "Prefix", "backend": named}, {"path": "/b", "pathType": "Exact", "backend": bucket}]);
    whole::<networking::Ingress>(
        "ingresses",
        "Ingress",
        json!({"metadata": metadata, "spec": {"ingressClassName": "c", "defaultBackend": numbered,
            "tls": [{"hosts": ["a.example.com", "*.example.com"], "secretName": "s"}],
            "rules": [{"host": "*.example.com", "http": {"paths": paths}}]}}),
    );
    whole::<networking::IngressClass>(
        "ingressclasses",
        "IngressClass",
        json!({"metadata": metadata, "spec": {"controller": "example.com/c",
            "parameters": {"apiGroup": "k8s.example.com", "kind": "P", "name": "p", "scope": "Namespace", "namespace": "default"}}}),
    );
    whole::<networking::IPAddress>(
        "ipaddresses",
        "IPAddress",
        json!({"metadata": {"name": "10.1.2.3", "uid": "u"},
            "spec": {"parentRef": {"group": "apps.example.com", "resource": "services", "namespace": "default", "name": "s"}}}),
    );
    whole::<networking::ServiceCIDR>(
        "servicecidrs",
        "ServiceCIDR",
        json!({"metadata": metadata, "spec": {"cidrs": ["10.1.0.0/16", "2001:db8::/64"]}}),
    );
    let subjects = json!([{"kind": "User", "user": {"name": "u"}}, {"kind": "Group", "group": {"name": "g"}},
        {"kind": "ServiceAccount", "serviceAccount": {"name": "a", "namespace": "default"}}]);
    let resources = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["default"], "clusterScope": true}]);
    whole::<flowcontrol::FlowSchema>(
        "flowschemas",
        "FlowSchema",
        json!({"metadata": metadata, "spec": {"priorityLevelConfiguration": {"name": "global-default"}, "matchingPrecedence": 500,
            "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": subjects, "resourceRules": resources,
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/livez/*"]}]}]}}),
    );
    let queuing = json!({"queues": 64, "handSize": 6, "queueLengthLimit": 50});
    whole::<flowcontrol::PriorityLevelConfiguration>(
        "prioritylevelconfigurations",
        "PriorityLevelConfiguration",
        json!({"metadata": metadata, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 10, "lendablePercent": 5,
            "borrowingLimitPercent": 100, "limitResponse": {"type": "Queue", "queuing": queuing}}}}),
    );
    whole::<storage::CSIDriver>(
        "csidrivers",
        "CSIDriver",
        json!({"metadata": metadata, "spec": {"attachRequired": true, "podInfoOnMount": true, "fsGroupPolicy": "File", "storageCapacity": true,
            "volumeLifecycleModes": ["Persistent", "Ephemeral"], "tokenRequests": [{"audience": "a", "expirationSeconds": 3600}],
            "requiresRepublish": true, "seLinuxMount": true, "nodeAllocatableUpdatePeriodSeconds": 60, "serviceAccountTokenInSecrets": true}}),
    );
    whole::<storage::CSINode>(
        "csinodes",
        "CSINode",
        json!({"metadata": metadata, "spec": {"drivers": [{"name": "d.example.com", "nodeID": "n", "topologyKeys": ["example.com/zone"], "allocatable": {"count": 16}}]}}),
    );
    whole::<storage::CSIStorageCapacity>(
        "csistoragecapacities",
        "CSIStorageCapacity",
        json!({"metadata": metadata, "storageClassName": "s", "capacity": "10Gi", "maximumVolumeSize": "5Gi", "nodeTopology": selector}),
    );
    whole::<storage::StorageClass>(
        "storageclasses",
        "StorageClass",
        json!({"metadata": metadata, "provisioner": "d.example.com", "parameters": {"a": "b"}, "mountOptions": ["ro"],
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "a", "values": ["b"]}]}]}),
    );
    let inline = json!({"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d.example.com", "volumeHandle": "h", "volumeAttributes": {"a": "b"}}});
    for source in [json!({"persistentVolumeName": "v"}), json!({"inlineVolumeSpec": inline})] {
        whole::<storage::VolumeAttachment>(
            "volumeattachments",
            "VolumeAttachment",
            json!({"metadata": metadata, "spec": {"attacher": "d.example.com", "nodeName": "n", "source": source}}),
        );
    }
    whole::<storage::VolumeAttributesClass>(
        "volumeattributesclasses",
        "VolumeAttributesClass",
        json!({"metadata": metadata, "driverName": "d.example.com", "parameters": {"iops": "4000"}}),
    );
}

/// A status is a structure of Go, which is always written. What patches it by a path relies on it.
#[test]
fn every_kind_with_a_status_has_one_from_the_start() {
    let with_status = |r: &server::Resource| r.subresources.iter().any(|s| s.name == "status");
    let lacking: Vec<String> = testing::resources()
        .into_iter()
        .filter(with_status)
        .filter(|r| {
            !created(&*r.strategy, "{metadata: {name: a}, spec: {}}").0.get("status").is_some_and(Value::is_object)
        })
        .map(|r| r.kind.clone())
        .collect();
    assert_eq!(lacking, [""; 0]);
}

/// Who patches a status need not give the rest, whose defaults are not looked at then.
#[test]
fn defaults_of_a_status_need_the_rest_only_where_it_is_said() {
    let all = "{metadata: {name: a}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}, replicas: 1},
        spec: {type: LoadBalancer, replicas: 3, names: {kind: A, plural: as}, versions: [{name: v1, storage: true, served: true}]}}";
    for resource in testing::resources() {
        let (mut whole, mut part) = (parse(all), parse(all));
        part.remove(&["spec"]);
        resource.strategy.default(&mut whole);
        resource.strategy.default(&mut part);
        let needs = resource.strategy.status_defaults_need_spec();
        assert_eq!(whole.0.get("status") != part.0.get("status"), needs, "{}", resource.kind);
    }
}
