//! Classes, claims and their templates: defaults, faults in upstream's words, states.

use super::{deviceclass::Classes, resourceclaim::Claims, resourceclaimtemplate::Templates};
use crate::testing::{Stored, context, context_for, created, errors, parse, row, update_errors};
use api::Object;
use expect_test::expect;
use server::{Context, Resource, Strategy, strategy::Plain};

fn text(kind: &str, spec: &str) -> String {
    format!("{{apiVersion: resource.k8s.io/v1, kind: {kind}, metadata: {{name: x, namespace: ns}}, spec: {spec}}}")
}

fn claim(devices: &str) -> String {
    text("ResourceClaim", &format!("{{devices: {devices}}}"))
}

fn claims() -> Claims {
    Claims(Default::default())
}

/// A context in which the namespace has labels.
fn labelled(labels: &str) -> Context {
    let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: ns, labels: {labels}}}}}");
    let stored = Stored::default().with("", "namespaces", &namespace);
    context_for(Resource::new("", "v1", "tests", "Test", Plain), stored)
}

fn lines(causes: &[api::Cause]) -> String {
    causes.iter().map(|cause| format!("{cause}\n")).collect()
}

#[test]
fn requests_get_upstreams_defaults() {
    let text = claim(
        "{requests: [{name: a, exactly: {deviceClassName: c, capacity: {requests: {memory: 1024Mi}}}}, \
          {name: b, firstAvailable: [{name: s, deviceClassName: c, allocationMode: All}]}]}",
    );
    let object = created(&claims(), &text);
    expect![[r#"
        devices:
          requests:
          - exactly:
              allocationMode: ExactCount
              capacity:
                requests:
                  memory: 1Gi
              count: 1
              deviceClassName: c
            name: a
          - firstAvailable:
            - allocationMode: All
              deviceClassName: c
              name: s
            name: b
    "#]]
    .assert_eq(&api::yaml::to_string(object.at(&["spec"]).unwrap()));
    let template = text.replace("spec: ", "spec: {spec: ").replace("ResourceClaim", "ResourceClaimTemplate") + "}";
    let inner = created(&Templates(Default::default()), &template);
    assert_eq!(inner.at(&["spec", "spec"]), object.at(&["spec"]));
}

#[test]
fn each_fault_of_a_claim_has_upstreams_text() {
    let many = (0..33).map(|i| format!("{{name: r{i}}}")).collect::<Vec<_>>().join(", ");
    let long = "a".repeat(10 * 1024 + 1);
    for (devices, expected) in [
        ("{}".to_owned(), expect![[""]]),
        (
            "{requests: [{name: a, exactly: {deviceClassName: c}}, {name: b, firstAvailable: [{name: s, deviceClassName: c}]}], \
              constraints: [{requests: [a, b/s], matchAttribute: d.example/id}], config: [{opaque: {driver: d.example, parameters: {}}}]}"
                .to_owned(),
            expect![[""]],
        ),
        (format!("{{requests: [{many}]}}"), expect![[r#"
            spec.devices.requests: Too many: 33: must have at most 32 items
        "#]]),
        (
            "{requests: [{}, {name: A, exactly: {}, firstAvailable: [{}]}, {name: a, exactly: {allocationMode: All, count: 2, selectors: [{}]}}, \
              {name: a, firstAvailable: [{deviceClassName: C, allocationMode: Some}, {name: s, deviceClassName: c, count: -1}, {name: s, deviceClassName: c}]}]}"
                .to_owned(),
            expect![[r#"
                spec.devices.requests[0].name: Invalid value: "": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required
                spec.devices.requests[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.devices.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set
                spec.devices.requests[2].exactly.deviceClassName: Required value
                spec.devices.requests[2].exactly.selectors[0].cel: Required value
                spec.devices.requests[2].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'
                spec.devices.requests[3].firstAvailable[0].name: Invalid value: "": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.devices.requests[3].firstAvailable[0].deviceClassName: Invalid value: "C": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.devices.requests[3].firstAvailable[0].allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount"
                spec.devices.requests[3].firstAvailable[1].count: Invalid value: -1: must be greater than zero
                spec.devices.requests[3].firstAvailable[2]: Duplicate value: "s"
                spec.devices.requests[3]: Duplicate value: "a"
            "#]],
        ),
        (
            format!("{{requests: [{{name: a, exactly: {{deviceClassName: c, selectors: [{{cel: {{expression: {long}}}}}], \
                tolerations: [{{}}, {{key: a b, operator: Exists, value: v, effect: Any}}, {{operator: Equal, value: ' '}}, {{operator: Is}}]}}}}]}}"),
            expect![[r#"
                spec.devices.requests[0].exactly.selectors[0].cel.expression: Too long: may not be more than 10240 bytes
                spec.devices.requests[0].exactly.tolerations[0].operator: Required value
                spec.devices.requests[0].exactly.tolerations[1].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.devices.requests[0].exactly.tolerations[1].value: Invalid value: "v": must be empty for operator `Exists`
                spec.devices.requests[0].exactly.tolerations[1].effect: Unsupported value: "Any": supported values: "NoExecute", "NoSchedule", "None"
                spec.devices.requests[0].exactly.tolerations[2].value: Invalid value: " ": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
                spec.devices.requests[0].exactly.tolerations[3].operator: Unsupported value: "Is": supported values: "Equal", "Exists"
            "#]],
        ),
        (
            "{requests: [{name: a, firstAvailable: [{name: s, deviceClassName: c}]}], \
              constraints: [{}, {requests: [a, a, b, a/x, a/b/c, ''], matchAttribute: id}, {distinctAttribute: 'd/e'}, {matchAttribute: /1a}, {matchAttribute: 'D.e/'}], \
              config: [{}, {opaque: {}}, {requests: [x], opaque: {driver: d_e, parameters: 1}}]}"
                .to_owned(),
            expect![[r#"
                spec.devices.constraints[0]: Required value: exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set
                spec.devices.constraints[1].requests[2]: Invalid value: "b": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
                spec.devices.constraints[1].requests[3]: Invalid value: "a/x": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
                spec.devices.constraints[1].requests[4]: Invalid value: "a/b/c": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
                spec.devices.constraints[1].requests[5]: Invalid value: "": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.devices.constraints[1].requests[5]: Invalid value: "": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
                spec.devices.constraints[1].requests[1]: Duplicate value: "a"
                spec.devices.constraints[1].matchAttribute: Invalid value: "id": a fully qualified name must be a domain and a name separated by a slash
                spec.devices.constraints[3].matchAttribute: Invalid value: "": the domain must not be empty
                spec.devices.constraints[3].matchAttribute: Invalid value: "1a": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')
                spec.devices.constraints[4].matchAttribute: Invalid value: "": the name must not be empty
                spec.devices.config[0].opaque: Required value
                spec.devices.config[1].opaque.driver: Required value
                spec.devices.config[1].opaque.parameters: Required value
                spec.devices.config[2].requests[0]: Invalid value: "x": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
                spec.devices.config[2].opaque.driver: Invalid value: "d_e": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.devices.config[2].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object
            "#]],
        ),
    ] {
        expected.assert_eq(&errors(&claims(), &claim(&devices)));
    }
}

#[test]
fn administrative_access_needs_a_label_of_the_namespace() {
    let requests = "{requests: [{name: a, exactly: {deviceClassName: c}}, {name: b, exactly: {deviceClassName: c, adminAccess: true}}]}";
    let object = created(&claims(), &claim(requests));
    let refused = "spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace\n";
    for (labels, expected) in [
        ("{}", refused),
        ("{resource.kubernetes.io/admin-access: 'false'}", refused),
        ("{resource.kubernetes.io/admin-access: 'true'}", ""),
    ] {
        assert_eq!(lines(&claims().validate(&labelled(labels), &object)), expected, "{labels}");
    }
    assert_eq!(lines(&claims().validate(&context(), &object)), refused, "no namespace, no label");
}

#[test]
fn a_spec_does_not_change() {
    let old = created(&claims(), &claim("{requests: [{name: a, exactly: {deviceClassName: c}}]}"));
    let mut new = old.clone();
    assert_eq!(update_errors(&claims(), &new, &old), "");
    new.entry(&["spec", "devices", "requests"])[0]["name"] = "b".into();
    expect![[r#"
        spec: Invalid value: {"Devices":{"Requests":[{"Name":"b","Exactly":{"DeviceClassName":"c","Selectors":null,"AllocationMode":"ExactCount","Count":1,"AdminAccess":null,"Tolerations":null,"Capacity":null},"FirstAvailable":null}],"Constraints":null,"Config":null}}: field is immutable
    "#]].assert_eq(&update_errors(&claims(), &new, &old));
    let templates = Templates(Default::default());
    let old = created(&templates, &text("ResourceClaimTemplate", "{spec: {}}"));
    let mut new = old.clone();
    new.set(&["spec", "metadata", "labels", "a"], "b");
    expect![[r#"
        spec: Invalid value: {"labels":{"a":"b"},"Spec":{"Devices":{"Requests":null,"Constraints":null,"Config":null}}}: field is immutable
    "#]].assert_eq(&update_errors(&templates, &new, &old));
}

#[test]
fn a_template_has_labels_and_annotations_only() {
    let spec = "{metadata: {uid: u, name: obj, labels: {a b: c}, annotations: {-A: x}, finalizers: [f], generateName: ''}, spec: {devices: {requests: [{}]}}}";
    expect![[r#"
        spec.metadata.annotations: Invalid value: "-A": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        spec.metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        spec.metadata.name: Forbidden: cannot be set
        spec.metadata.uID: Forbidden: cannot be set
        spec.metadata.finalizers: Forbidden: cannot be set
        spec.spec.devices.requests[0].name: Invalid value: "": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        spec.spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required
    "#]].assert_eq(&errors(&Templates(Default::default()), &text("ResourceClaimTemplate", spec)));
}

#[test]
fn each_fault_of_a_class_has_upstreams_text() {
    for (spec, expected) in [
        ("{selectors: [{cel: {expression: 'true'}}], extendedResourceName: example.com/gpu}", expect![[""]]),
        (
            "{selectors: [{}], config: [{}], extendedResourceName: cpu}",
            expect![[r#"
            spec.selectors[0].cel: Required value
            spec.config[0].opaque: Required value
            spec.extendedResourceName: Invalid value: "cpu": must be a valid extended resource name
        "#]],
        ),
        (
            "{extendedResourceName: a/b/c}",
            expect![[r#"
            spec.extendedResourceName: Invalid value: "a/b/c": must be a valid extended resource name
        "#]],
        ),
        (
            "{extendedResourceName: requests.a.b/c}",
            expect![[r#"
            spec.extendedResourceName: Invalid value: "requests.a.b/c": must be a valid extended resource name
        "#]],
        ),
    ] {
        expected.assert_eq(&errors(&Classes(Default::default()), &text("DeviceClass", spec)));
    }
}

const DEVICES: &str = "{results: [{request: a, driver: d.example, pool: p, device: x}]}";

fn with_status(status: &str, deleted: bool) -> Object {
    let text = claim("{requests: [{name: a, exactly: {deviceClassName: c}}]}")
        .replace("spec:", &format!("status: {status}, spec:"));
    let text =
        if deleted { text.replace("name: x", "name: x, deletionTimestamp: '2026-01-01T00:00:00Z'") } else { text };
    parse(&text)
}

#[test]
fn each_fault_of_a_status_has_upstreams_text() {
    let mut all = String::new();
    for (old, new, deleted) in [
        ("{}".to_owned(), format!("{{allocation: {{devices: {DEVICES}}}, reservedFor: [{{resource: pods, name: p, uid: u}}]}}"), false),
        ("{}".to_owned(), "{reservedFor: [{}, {resource: pods, name: p, uid: u}, {resource: pods, name: q, uid: u}]}".to_owned(), false),
        (
            format!("{{allocation: {{devices: {DEVICES}}}, reservedFor: [{{resource: pods, name: p, uid: u}}]}}"),
            format!("{{allocation: {{devices: {DEVICES}}}, reservedFor: [{{resource: pods, name: p, uid: u}}, {{resource: pods, name: q, uid: v}}]}}"),
            true,
        ),
        (
            format!("{{allocation: {{devices: {DEVICES}}}}}"),
            format!("{{allocation: {{devices: {DEVICES}, nodeSelector: {{nodeSelectorTerms: []}}}}}}"),
            false,
        ),
        (
            "{}".to_owned(),
            "{allocation: {devices: {results: [{request: b/c, driver: '', pool: 'P/', device: X, shareID: '1', bindingConditions: [c, c], bindingFailureConditions: [c]}, \
                {request: a, driver: d, pool: p, device: x, shareID: 4F1b1b0e-5a52-4a5e-8f7e-0123456789ab, bindingFailureConditions: [f]}], \
                config: [{}, {source: Other, requests: [z], opaque: {driver: d, parameters: {}}}]}, nodeSelector: {}}}"
                .to_owned(),
            false,
        ),
        (
            "{}".to_owned(),
            format!(
                "{{allocation: {{devices: {DEVICES}}}, devices: [{{driver: d.example, pool: p, device: x, data: [1], conditions: [{{type: a}}], \
                  networkData: {{interfaceName: {}, hardwareAddress: {}, ips: [10.1.2.3/24, 10.1.2.3/24, 010.1.2.3/24, 'fe80::0/64', '::ffff:10.0.0.1/120', x, 10.0.0.1/33]}}}}, \
                  {{driver: d.example, pool: p, device: x}}, {{driver: d.example, pool: p, device: w}}]}}",
                "i".repeat(257),
                "h".repeat(129)
            ),
            false,
        ),
        (
            "{}".to_owned(),
            "{allocation: {devices: {results: [{request: a, driver: d.example, pool: p, device: x, adminAccess: true}]}}}".to_owned(),
            false,
        ),
    ] {
        let (old, new) = (with_status(&old, deleted), with_status(&new, deleted));
        all.push_str("---\n");
        all.push_str(&lines(&claims().validate_status(&context(), &new, &old)));
    }
    expect![[r#"
        ---
        ---
        status.reservedFor[0].resource: Required value
        status.reservedFor[0].name: Required value
        status.reservedFor[0].uid: Required value
        status.reservedFor[2]: Duplicate value: "u"
        status.reservedFor: Forbidden: may not be specified when `allocated` is not set
        ---
        status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set
        ---
        status.allocation: Invalid value: {"Devices":{"Results":[{"Request":"a","Driver":"d.example","Pool":"p","Device":"x","AdminAccess":null,"Tolerations":null,"BindingConditions":null,"BindingFailureConditions":null,"ShareID":"","ConsumedCapacity":null}],"Config":null},"NodeSelector":{"NodeSelectorTerms":[]},"AllocationTimestamp":null}: field is immutable
        ---
        status.allocation.devices.results[0].request: Invalid value: "b/c": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
        status.allocation.devices.results[0].driver: Required value
        status.allocation.devices.results[0].pool: Invalid value: "P": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        status.allocation.devices.results[0].pool: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        status.allocation.devices.results[0].device: Invalid value: "X": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        status.allocation.devices.results[0].bindingConditions[1]: Duplicate value: "c"
        status.allocation.devices.results[0].bindingFailureConditions[0]: Invalid value: "c": bindingFailureConditions must not overlap with bindingConditions
        status.allocation.devices.results[0].shareID: Invalid value: "1": error validating uid: invalid UUID length: 1
        status.allocation.devices.results[1].bindingConditions: Invalid value: null: bindingConditions are required to use bindingFailureConditions
        status.allocation.devices.results[1].shareID: Invalid value: "4F1b1b0e-5a52-4a5e-8f7e-0123456789ab": uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters
        status.allocation.devices.config[0].source: Required value
        status.allocation.devices.config[0].opaque: Required value
        status.allocation.devices.config[1].source: Unsupported value: "Other": supported values: "FromClaim", "FromClass"
        status.allocation.devices.config[1].requests[0]: Invalid value: "z": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
        status.allocation.nodeSelector.nodeSelectorTerms: Required value: must have at least one node selector term
        ---
        status.devices[0].conditions[0].status: Unsupported value: "": supported values: "False", "True", "Unknown"
        status.devices[0].conditions[0].lastTransitionTime: Required value
        status.devices[0].conditions[0].reason: Required value
        status.devices[0].data: Invalid value: "<value omitted>": must be a valid JSON object
        status.devices[0].networkData.interfaceName: Too long: may not be more than 256 bytes
        status.devices[0].networkData.hardwareAddress: Too long: may not be more than 128 bytes
        status.devices[0].networkData.ips[2]: Invalid value: "010.1.2.3/24": must be in canonical form ("10.1.2.3/24")
        status.devices[0].networkData.ips[3]: Invalid value: "fe80::0/64": must be in canonical form ("fe80::/64")
        status.devices[0].networkData.ips[4]: Invalid value: "::ffff:10.0.0.1/120": must be in canonical form ("10.0.0.1/24")
        status.devices[0].networkData.ips[5]: Invalid value: "x": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)
        status.devices[0].networkData.ips[6]: Invalid value: "10.0.0.1/33": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)
        status.devices[0].networkData.ips[1]: Duplicate value: "10.1.2.3/24"
        status.devices[2]: Invalid value: {"Driver":"d.example","Pool":"p","Device":"w","ShareID":""}: must be an allocated device in the claim
        status.devices[1]: Duplicate value: {"Driver":"d.example","Pool":"p","Device":"x","ShareID":""}
        ---
        status.allocation.devices.results[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace
    "#]].assert_eq(&all);
}

#[test]
fn what_is_said_of_a_device_goes_with_it() {
    let said = "devices: [{driver: d.example, pool: p, device: x}, {driver: d.example, pool: p, device: w}]";
    let old = with_status(&format!("{{allocation: {{devices: {DEVICES}}}, {said}}}"), false);
    let mut new = with_status(&format!("{{{said}}}"), false);
    claims().prepare_status(&context(), &mut new, &old);
    assert_eq!(new.list_at(&["status", "devices"]).len(), 1, "of what was never allocated the fault is told");
    let mut new = with_status("{devices: [{driver: d.example, pool: p, device: x}]}", false);
    claims().prepare_status(&context(), &mut new, &old);
    assert_eq!(new.at(&["status", "devices"]), None);
}

#[test]
fn a_row_shows_the_state() {
    let rows: String = [
        with_status("{}", false),
        with_status("{}", true),
        with_status("{allocation: {}}", false),
        with_status("{allocation: {}, reservedFor: [{}]}", true),
    ]
    .iter()
    .map(|object| format!("{}\n", row(&claims(), &crate::testing::yaml(object))))
    .collect();
    expect![[r#"
        x | pending | <unknown>
        x | deleted | <unknown>
        x | allocated | <unknown>
        x | deleted,allocated,reserved | <unknown>
    "#]]
    .assert_eq(&rows);
}
