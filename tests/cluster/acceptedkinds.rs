//! Whole objects of kinds that no component reads as a type, for the mutants of `accepted`. What would act on others (a webhook, a policy) is for a
//! group that nobody has.

use serde_json::{Value, json};

/// Kind, path of the collection, and an object that is taken.
pub fn table() -> Vec<(&'static str, &'static str, Value)> {
    let mut all = networking();
    all.extend(storage());
    all.extend(admission());
    all.extend(devices());
    all
}

fn selector() -> Value {
    json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]})
}

fn networking() -> Vec<(&'static str, &'static str, Value)> {
    let backend = |port: Value| json!({"service": {"name": "s", "port": port}});
    vec![
        (
            "networking.k8s.io/v1 NetworkPolicy",
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            json!({"spec": {"podSelector": selector(), "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": selector(), "namespaceSelector": selector()}, {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}],
                    "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"protocol": "UDP", "port": "dns"}]}],
                "egress": [{"to": [{"podSelector": selector()}], "ports": [{"protocol": "TCP", "port": 80}]}]}}),
        ),
        (
            "networking.k8s.io/v1 Ingress",
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"spec": {"ingressClassName": "c", "defaultBackend": backend(json!({"number": 80})), "tls": [{"hosts": ["a.example.com"], "secretName": "s"}],
                "rules": [{"host": "*.example.com", "http": {"paths": [{"path": "/a", "pathType": "Prefix", "backend": backend(json!({"name": "http"}))}]}}]}}),
        ),
        (
            "networking.k8s.io/v1 IngressClass",
            "/apis/networking.k8s.io/v1/ingressclasses",
            json!({"spec": {"controller": "example.com/c", "parameters": {"apiGroup": "k8s.example.com", "kind": "P", "name": "p", "scope": "Namespace", "namespace": "default"}}}),
        ),
        (
            "networking.k8s.io/v1 ServiceCIDR",
            "/apis/networking.k8s.io/v1/servicecidrs",
            json!({"spec": {"cidrs": ["10.1.0.0/16", "2001:db8::/64"]}}),
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1 FlowSchema",
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            json!({"spec": {"priorityLevelConfiguration": {"name": "global-default"}, "matchingPrecedence": 500, "distinguisherMethod": {"type": "ByUser"},
                "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}], "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["default"]}]}]}}),
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration",
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 10, "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}}}),
        ),
        (
            "apiregistration.k8s.io/v1 APIService",
            "/apis/apiregistration.k8s.io/v1/apiservices",
            json!({"spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
                "service": {"namespace": "default", "name": "s", "port": 8443}, "caBundle": "YQ=="}}),
        ),
        (
            "apiextensions.k8s.io/v1 CustomResourceDefinition",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            json!({"spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "p", "kind": "P"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".spec.a"}], "selectableFields": [{"jsonPath": ".spec.a"}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
                        "x-kubernetes-validations": [{"rule": "self.a != 'b'", "message": "no"}],
                        "properties": {"a": {"type": "string", "default": "x", "pattern": "^[a-z]+$", "maxLength": 9}}}}}}}]}}),
        ),
    ]
}

fn storage() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        (
            "storage.k8s.io/v1 CSIDriver",
            "/apis/storage.k8s.io/v1/csidrivers",
            json!({"spec": {"attachRequired": true, "podInfoOnMount": true, "fsGroupPolicy": "File", "storageCapacity": true,
                "volumeLifecycleModes": ["Persistent", "Ephemeral"], "tokenRequests": [{"audience": "a", "expirationSeconds": 3600}], "requiresRepublish": true}}),
        ),
        (
            "storage.k8s.io/v1 CSINode",
            "/apis/storage.k8s.io/v1/csinodes",
            json!({"spec": {"drivers": [{"name": "d.example.com", "nodeID": "n", "topologyKeys": ["example.com/zone"], "allocatable": {"count": 16}}]}}),
        ),
        (
            "storage.k8s.io/v1 CSIStorageCapacity",
            "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
            json!({"storageClassName": "s", "capacity": "10Gi", "maximumVolumeSize": "5Gi", "nodeTopology": selector()}),
        ),
        (
            "storage.k8s.io/v1 VolumeAttachment",
            "/apis/storage.k8s.io/v1/volumeattachments",
            json!({"spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
        ),
        (
            "storage.k8s.io/v1 VolumeAttributesClass",
            "/apis/storage.k8s.io/v1/volumeattributesclasses",
            json!({"driverName": "d.example.com", "parameters": {"iops": "4000"}}),
        ),
    ]
}

fn admission() -> Vec<(&'static str, &'static str, Value)> {
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["nobody.example.com"], "apiVersions": ["v1"], "resources": ["nothings"], "scope": "Namespaced"});
    let hook = json!({"name": "a.example.com", "rules": [rule], "failurePolicy": "Ignore", "matchPolicy": "Exact", "sideEffects": "None", "timeoutSeconds": 1,
        "clientConfig": {"service": {"namespace": "default", "name": "s", "path": "/p", "port": 8443}, "caBundle": "YQ=="}, "admissionReviewVersions": ["v1"],
        "namespaceSelector": selector(), "objectSelector": selector(), "matchConditions": [{"name": "c", "expression": "object.metadata.name != 'x'"}]});
    let mut mutating = hook.clone();
    mutating["reinvocationPolicy"] = "IfNeeded".into();
    let constraints = json!({"namespaceSelector": selector(), "resourceRules": [rule], "matchPolicy": "Equivalent"});
    let variables = json!([{"name": "v", "expression": "object.metadata.name"}]);
    vec![
        (
            "admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration",
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            json!({"webhooks": [hook]}),
        ),
        (
            "admissionregistration.k8s.io/v1 MutatingWebhookConfiguration",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
            json!({"webhooks": [mutating]}),
        ),
        (
            "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            json!({"spec": {"failurePolicy": "Ignore", "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConstraints": constraints, "variables": variables,
                "validations": [{"expression": "variables.v != 'y'", "messageExpression": "'no'", "reason": "Forbidden"}], "auditAnnotations": [{"key": "k", "valueExpression": "'v'"}]}}),
        ),
        (
            "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "nobody", "paramRef": {"name": "p", "namespace": "default", "parameterNotFoundAction": "Allow"},
                "matchResources": {"namespaceSelector": selector()}, "validationActions": ["Warn", "Audit"]}}),
        ),
        (
            "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy",
            "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
            json!({"spec": {"failurePolicy": "Ignore", "matchConstraints": constraints, "variables": variables, "reinvocationPolicy": "IfNeeded",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/metadata/labels/a', value: 'b'}]"}}]}}),
        ),
        (
            "admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding",
            "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
            json!({"spec": {"policyName": "nobody", "matchResources": {"objectSelector": selector()}}}),
        ),
    ]
}

fn devices() -> Vec<(&'static str, &'static str, Value)> {
    let request = json!({"name": "a", "exactly": {"deviceClassName": "c", "selectors": [{"cel": {"expression": "device.driver == 'd.example.com'"}}],
        "allocationMode": "ExactCount", "count": 2, "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]}});
    let opaque = json!({"driver": "d.example.com", "parameters": {"a": 1}});
    vec![
        (
            "resource.k8s.io/v1 DeviceClass",
            "/apis/resource.k8s.io/v1/deviceclasses",
            json!({"spec": {"selectors": [{"cel": {"expression": "device.driver == 'd.example.com'"}}], "config": [{"opaque": opaque}], "extendedResourceName": "example.com/device"}}),
        ),
        (
            "resource.k8s.io/v1 ResourceClaim",
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims",
            json!({"spec": {"devices": {"requests": [request, {"name": "b", "firstAvailable": [{"name": "s", "deviceClassName": "c"}]}],
                "constraints": [{"requests": ["a"], "matchAttribute": "d.example.com/model"}], "config": [{"requests": ["a", "b/s"], "opaque": opaque}]}}}),
        ),
        (
            "resource.k8s.io/v1 ResourceClaimTemplate",
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates",
            json!({"spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": [request]}}}}),
        ),
        (
            "resource.k8s.io/v1 ResourceSlice",
            "/apis/resource.k8s.io/v1/resourceslices",
            json!({"spec": {"driver": "d.example.com", "nodeName": "n1", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "d", "attributes": {"model": {"string": "m"}, "size": {"int": 1}, "ready": {"bool": true}},
                    "capacity": {"memory": {"value": "2Gi"}}, "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}]}}),
        ),
    ]
}
