//! Slices of devices: faults in upstream's words, what is prepared, fields that select.

use super::resourceslice::Slices;
use crate::testing::{context, created, errors, parse, row, update_errors};
use expect_test::expect;
use server::Strategy;

fn text(spec: &str) -> String {
    format!("{{apiVersion: resource.k8s.io/v1, kind: ResourceSlice, metadata: {{name: s}}, spec: {spec}}}")
}

/// A slice of right devices, with more fields.
fn slice(rest: &str) -> String {
    text(&format!(
        "{{driver: d.example, pool: {{name: p, resourceSliceCount: 1, generation: 0}}, allNodes: true, {rest}}}"
    ))
}

fn slices() -> Slices {
    Slices(Default::default())
}

#[test]
fn each_fault_of_a_slice_has_upstreams_text() {
    let sets = (0..9).map(|i| format!("{{name: c{i}, counters: {{a: {{value: 1}}}}}}")).collect::<Vec<_>>().join(", ");
    for (text, expected) in [
        (slice(""), expect![[""]]),
        (
            text("{}"),
            expect![[r#"
            spec.driver: Required value
            spec.pool.name: Required value
            spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero
            spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required
        "#]],
        ),
        (
            text(
                "{driver: D_, pool: {name: 'a//b', generation: -1}, nodeName: '', allNodes: false, perDeviceNodeSelection: false, \
                nodeSelector: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}, {}]}}",
            ),
            expect![[r#"
                spec.driver: Invalid value: "D_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.pool.name: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero
                spec.pool.generation: Invalid value: -1: must be greater than or equal to zero
                spec.nodeName: Invalid value: "": must be either unset or set to a non-empty string
                spec.nodeSelector.nodeSelectorTerms: Invalid value: [{"MatchExpressions":null,"MatchFields":[{"Key":"metadata.name","Operator":"In","Values":["n1"]}]},{"MatchExpressions":null,"MatchFields":null}]: must have exactly one node selector term
                spec.allNodes: Invalid value: false: must be either unset or set to true
                spec.perDeviceNodeSelection: Invalid value: false: must be either unset or set to true
            "#]],
        ),
        (
            slice("nodeName: N1, perDeviceNodeSelection: true, sharedCounters: [{}], devices: []"),
            expect![[r#"
                spec.nodeName: Invalid value: "N1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec: Invalid value: "{`nodeName`, `allNodes`, `perDeviceNodeSelection`}": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set
                spec: Invalid value: "": only one of `sharedCounters` or `devices` is allowed
                spec.sharedCounters[0].name: Required value
                spec.sharedCounters[0].counters: Required value
            "#]],
        ),
        (
            slice(&format!("sharedCounters: [{sets}]")),
            expect![[r#"
            spec.sharedCounters: Too many: 9: must have at most 8 items
        "#]],
        ),
        (
            slice("sharedCounters: [{name: a, counters: {A: {value: 1}}}, {name: a, counters: {}}]"),
            expect![[r#"
            spec.sharedCounters[0].counters: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.sharedCounters[1].counters: Required value
            spec.sharedCounters[1]: Duplicate value: "a"
        "#]],
        ),
    ] {
        expected.assert_eq(&errors(&slices(), &text));
    }
}

#[test]
fn each_fault_of_a_device_has_upstreams_text() {
    let many = (0..33).map(|i| format!("a{i}: {{int: 1}}")).collect::<Vec<_>>().join(", ");
    let long = "v".repeat(65);
    let key = "k".repeat(120);
    for (device, expected) in [
        (
            "name: x, attributes: {a: {int: 1}, d.example/b: {string: s}, c: {version: 1.2.3-rc.1}, d: {bool: false}}"
                .to_owned(),
            expect![[""]],
        ),
        (
            format!("name: x, attributes: {{{many}}}"),
            expect![[r#"
            spec.devices[0]: Invalid value: 33: the total number of attributes and capacities must not exceed 32
        "#]],
        ),
        (
            format!(
                "name: X, attributes: {{a-b: {{}}, D_/c: {{int: 1, bool: true}}, /x: {{string: {long}}}, 'e/': {{version: v1}}, {key}: {{string: {long}}}}}"
            ),
            expect![[r#"
                spec.devices[0].name: Invalid value: "X": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.devices[0].attributes: Invalid value: "": the domain must not be empty
                spec.devices[0].attributes[/x].string: Too long: may not be more than 64 bytes
                spec.devices[0].attributes: Invalid value: "D_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.devices[0].attributes[D_/c]: Invalid value: {"IntValue":1,"BoolValue":true,"StringValue":null,"VersionValue":null,"IntValues":null,"BoolValues":null,"StringValues":null,"VersionValues":null}: exactly one value must be specified
                spec.devices[0].attributes: Invalid value: "a-b": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')
                spec.devices[0].attributes[a-b]: Invalid value: "": exactly one value must be specified
                spec.devices[0].attributes: Invalid value: "": the name must not be empty
                spec.devices[0].attributes[e/].version: Invalid value: "v1": must be a string compatible with semver.org spec 2.0.0
                spec.devices[0].attributes: Too long: may not be more than 32 bytes
                spec.devices[0].attributes[kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk].string: Too long: may not be more than 64 bytes
            "#]],
        ),
        (
            "name: x, nodeName: n1, taints: [{}, {key: a b, value: ' ', effect: Any}, {key: k, effect: NoSchedule}], \
              consumesCounters: [{}, {counterSet: C, counters: {a: {value: 1}}}], bindingConditions: [a, b, c, d, e]"
                .to_owned(),
            expect![[r#"
                spec.devices[0].taints[0].key: Invalid value: "": name part must be non-empty
                spec.devices[0].taints[0].key: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.devices[0].taints[0].effect: Required value
                spec.devices[0].taints[1].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.devices[0].taints[1].value: Invalid value: " ": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
                spec.devices[0].taints[1].effect: Unsupported value: "Any": supported values: "NoExecute", "NoSchedule", "None"
                spec.devices[0].consumesCounters[0].counterSet: Required value
                spec.devices[0].consumesCounters[0].counters: Required value
                spec.devices[0].consumesCounters[1].counterSet: Invalid value: "C": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec
                spec.devices[0].bindingConditions: Too many: 5: must have at most 4 items
                spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions
            "#]],
        ),
        (
            "name: x, capacity: {a: {value: 1, requestPolicy: {}}}".to_owned(),
            expect![[r#"
            spec.devices[0].capacity[a].requestPolicy: Forbidden: allowMultipleAllocations must be true
        "#]],
        ),
    ] {
        expected.assert_eq(&errors(&slices(), &slice(&format!("devices: [{{{device}}}]"))));
    }
    let per_device = slice("devices: [{name: a}, {name: b, nodeName: n1, allNodes: true}, {name: c, nodeName: '', allNodes: false, nodeSelector: {}}, {name: c, allNodes: true}]")
        .replace("allNodes: true, devices", "perDeviceNodeSelection: true, devices");
    expect![[r#"
        spec.devices[0]: Required value: exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec
        spec.devices[1]: Invalid value: "{`nodeName`, `allNodes`}": exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec
        spec.devices[2].nodeName: Invalid value: "": must not be empty
        spec.devices[2].nodeSelector.nodeSelectorTerms: Required value: must have at least one node selector term
        spec.devices[2].allNodes: Invalid value: false: must be either unset or set to true
        spec.devices[3]: Duplicate value: "c"
    "#]].assert_eq(&errors(&slices(), &per_device));
}

#[test]
fn each_fault_of_a_request_policy_has_upstreams_text() {
    let mut all = String::new();
    for policy in [
        "{}",
        "{default: 2, validValues: [1, 2, 10]}",
        "{default: 2, validRange: {min: 1, max: 9, step: 1}}",
        "{validValues: [1], validRange: {min: 1}}",
        "{validValues: [1]}",
        "{validRange: {min: 1}}",
        "{default: 3, validValues: [2, 1, 1, 11]}",
        "{default: 1, validValues: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}",
        "{default: 3, validRange: {}}",
        "{default: 0, validRange: {min: 11, max: 12, step: 2}}",
        "{default: 5, validRange: {min: 3, max: 2, step: 4}}",
        "{default: 1, validRange: {min: 1, step: 0}}",
    ] {
        let text = slice(&format!(
            "devices: [{{name: x, allowMultipleAllocations: true, capacity: {{m: {{value: 10, requestPolicy: {policy}}}}}}}]"
        ));
        let faults = errors(&slices(), &text).replace("spec.devices[0].capacity[m].requestPolicy", " ");
        all.push_str(&format!("{policy}\n{faults}"));
    }
    expect![[r#"
        {}
        {default: 2, validValues: [1, 2, 10]}
        {default: 2, validRange: {min: 1, max: 9, step: 1}}
        {validValues: [1], validRange: {min: 1}}
         : Forbidden: exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time
        {validValues: [1]}
         .default: Required value: required when validValues is defined
        {validRange: {min: 1}}
         .default: Required value: required when validRange is defined
        {default: 3, validValues: [2, 1, 1, 11]}
         .validValues[1]: Invalid value: "1": values must be sorted in ascending order
         .validValues[3]: Invalid value: "11": option is larger than capacity value: 10
         .validValues[2]: Duplicate value: "1"
         .validValues: Invalid value: "3": default value is not valid according to the requestPolicy
        {default: 1, validValues: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}
         .validValues: Too many: 11: must have at most 10 items
         .validValues: Invalid value: "1": default value is not valid according to the requestPolicy
        {default: 3, validRange: {}}
         .validRange.min: Required value: required when validRange is defined
        {default: 0, validRange: {min: 11, max: 12, step: 2}}
         .validRange.min: Invalid value: "11": min is larger than capacity value: 10
         .validRange.min: Invalid value: "0": default is less than min: 11
         .validRange.max: Invalid value: "12": max is larger than capacity value: 10
         .validRange.step: Invalid value: "2": one step 13 is larger than capacity value: 10
         .validRange.step: Invalid value: "0": value is not a multiple of a given step (2) from (11)
         .validRange.step: Invalid value: "12": value is not a multiple of a given step (2) from (11)
        {default: 5, validRange: {min: 3, max: 2, step: 4}}
         .validRange.max: Invalid value: "3": min is larger than max: 2
         .validRange.max: Invalid value: "5": default is more than max: 2
         .validRange.step: Invalid value: "5": value is not a multiple of a given step (4) from (3)
         .validRange.step: Invalid value: "2": value is not a multiple of a given step (4) from (3)
        {default: 1, validRange: {min: 1, step: 0}}
         .validRange.step: Invalid value: "1": value is not a multiple of a given step (0) from (1)
    "#]].assert_eq(&all);
}

#[test]
fn amounts_are_canonical_and_alpha_fields_go() {
    let text = slice(
        "devices: [{name: x, attributes: {a: {ints: [1], int: 2}}, nodeAllocatableResourceMappings: {cpu: {}}, taints: [{key: k, effect: None}], \
          capacity: {m: {value: 1024Mi, requestPolicy: {default: 0.5, validValues: [1000m], validRange: {min: '1e3', max: 2048Ki, step: 1}}}}, \
          consumesCounters: [{counterSet: c, counters: {a: {value: 1000m}}}]}]",
    );
    let object = created(&slices(), &text);
    expect![[r#"
        - attributes:
            a:
              int: 2
          capacity:
            m:
              requestPolicy:
                default: 500m
                validRange:
                  max: 2Mi
                  min: "1e3"
                  step: "1"
                validValues:
                - "1"
              value: 1Gi
          consumesCounters:
          - counterSet: c
            counters:
              a:
                value: "1"
          name: x
          taints:
          - effect: None
            key: k
            timeAdded: "2026-01-01T00:01:00Z"
    "#]]
    .assert_eq(&api::yaml::to_string(object.at(&["spec", "devices"]).unwrap()));
    let shared = created(&slices(), &slice("sharedCounters: [{name: a, counters: {x: {value: 0.5}}}]"));
    expect![[r#"
        - counters:
            x:
              value: 500m
          name: a
    "#]]
    .assert_eq(&api::yaml::to_string(shared.at(&["spec", "sharedCounters"]).unwrap()));
}

#[test]
fn an_update_keeps_driver_pool_and_node() {
    let old = created(
        &slices(),
        &text(
            "{driver: d.example, pool: {name: p, resourceSliceCount: 1}, nodeName: n1, devices: [{name: x, taints: [{}]}]}",
        ),
    );
    let mut new = old.clone();
    assert_eq!(update_errors(&slices(), &new, &old), "");
    new.set(&["spec", "pool", "generation"], 2);
    assert_eq!(update_errors(&slices(), &new, &old), "", "taints that are stored are not judged again");
    new.set(&["spec", "pool", "name"], "q");
    new.set(&["spec", "driver"], "e.example");
    new.set(&["spec", "nodeName"], "n2");
    expect![[r#"
        spec.pool.name: Invalid value: "q": field is immutable
        spec.driver: Invalid value: "e.example": field is immutable
        spec.nodeName: Invalid value: "n2": field is immutable
    "#]]
    .assert_eq(&update_errors(&slices(), &new, &old));
}

#[test]
fn rows_fields_and_warnings() {
    let text = text("{driver: D.example, pool: {name: p}, nodeName: n1}");
    expect!["s | n1 | D.example | p | <unknown>"].assert_eq(&row(&slices(), &text));
    let object = parse(&text);
    let fields: Vec<String> = slices().field_labels().iter().map(|label| slices().field(&object, label)).collect();
    assert_eq!(fields, ["n1", "D.example"]);
    assert_eq!(
        slices().unknown_field("spec.x"),
        "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.x"
    );
    expect![[r#"
        [
            "spec.driver: driver names should be lowercase; \"D.example\" contains uppercase characters",
            "ResourceSlice is stored, but nothing in this cluster acts on it yet",
        ]
    "#]]
    .assert_debug_eq(&slices().warnings(&context(), &object, None));
}
