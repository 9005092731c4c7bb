//! Admission policies and their bindings: defaults, faults in upstream's words, rows.

use super::{
    mutatingadmissionpolicy as mutating, mutatingadmissionpolicybinding as mutating_binding,
    validatingadmissionpolicy as validating, validatingadmissionpolicybinding as validating_binding,
};
use crate::testing::{context, created, errors, parse, row, update_errors};
use expect_test::expect;
use server::Strategy;

fn text(spec: &str) -> String {
    format!("{{apiVersion: admissionregistration.k8s.io/v1, kind: Policy, metadata: {{name: p}}, spec: {spec}}}")
}

const RULES: &str = "resourceRules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods], resourceNames: [a]}]";

#[test]
fn policies_get_upstreams_defaults() {
    let object =
        created(&validating::FORM, &text(&format!("{{matchConstraints: {{{RULES}, excludeResourceRules: [{{}}]}}}}")));
    expect![[r#"
        failurePolicy: Fail
        matchConstraints:
          excludeResourceRules:
          - scope: "*"
          matchPolicy: Equivalent
          namespaceSelector: {}
          objectSelector: {}
          resourceRules:
          - apiGroups:
            - ""
            apiVersions:
            - v1
            operations:
            - CREATE
            resourceNames:
            - a
            resources:
            - pods
            scope: "*"
    "#]]
    .assert_eq(&api::yaml::to_string(object.at(&["spec"]).unwrap()));
    let object = created(&validating_binding::FORM, &text("{matchResources: {}}"));
    expect![[r#"
        matchResources:
          matchPolicy: Equivalent
          namespaceSelector: {}
          objectSelector: {}
    "#]]
    .assert_eq(&api::yaml::to_string(object.at(&["spec"]).unwrap()));
}

#[test]
fn each_fault_of_a_validating_policy_has_upstreams_text() {
    let long = "a".repeat(5 * 1024 + 1);
    let many = (0..21).map(|i| format!("{{key: k{i}, valueExpression: 'null'}}")).collect::<Vec<_>>().join(", ");
    for (spec, expected) in [
        (format!("{{matchConstraints: {{{RULES}}}, validations: [{{expression: 'true'}}]}}"), expect![[""]]),
        ("{failurePolicy: Never}".to_owned(), expect![[r#"
            spec.failurePolicy: Unsupported value: "Never": supported values: "Fail", "Ignore"
            spec.matchConstraints: Required value
            spec.validations: Required value: validations or auditAnnotations must contain at least one item
            spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item
        "#]]),
        (
            "{matchConstraints: {matchPolicy: Any, excludeResourceRules: [{resourceNames: [a, a, b/c]}]}, paramKind: {apiVersion: a/b/c, kind: '1'}, \
              validations: [{}, {expression: x, message: ' ', messageExpression: ' ', reason: Never}, {expression: x, message: \"a\\nb\", reason: Invalid}]}"
                .to_owned(),
            expect![[r#"
                spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c
                spec.paramKind.kind: Invalid value: "1": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
                spec.matchConstraints.matchPolicy: Unsupported value: "Any": supported values: "Equivalent", "Exact"
                spec.matchConstraints.excludeResourceRules[0].resourceNames[1]: Duplicate value: "a"
                spec.matchConstraints.excludeResourceRules[0].resourceNames[2]: Invalid value: "b/c": may not contain '/'
                spec.matchConstraints.excludeResourceRules[0].operations: Required value
                spec.matchConstraints.excludeResourceRules[0].apiGroups: Required value
                spec.matchConstraints.excludeResourceRules[0].apiVersions: Required value
                spec.matchConstraints.excludeResourceRules[0].resources: Required value
                spec.matchConstraints.resourceRules: Required value
                spec.validations[0].expression: Required value: expression is not specified
                spec.validations[1].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                spec.validations[1].messageExpression: Invalid value: " ": must be non-empty if specified
                spec.validations[1].message: Invalid value: " ": must be non-empty if specified
                spec.validations[1].reason: Unsupported value: "Never": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"
                spec.validations[2].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                spec.validations[2].message: Invalid value: "a\nb": must not contain line breaks
            "#]],
        ),
        (
            format!(
                "{{matchConstraints: {{{RULES}}}, paramKind: {{apiVersion: A/1, kind: ''}}, \
                  variables: [{{}}, {{name: a-b, expression: x}}, {{name: in, expression: x}}, {{name: _a1, expression: x}}], \
                  auditAnnotations: [{{key: a/b, valueExpression: x}}, {{key: k, valueExpression: ' '}}, {{key: k, valueExpression: {long}}}]}}"
            ),
            expect![[r#"
                spec.paramKind.apiVersion: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.paramKind.apiVersion: Invalid value: "1": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
                spec.paramKind.kind: Required value
                spec.variables[0].name: Required value: name is not specified
                spec.variables[0].expression: Required value: expression is not specified
                spec.variables[1].name: Invalid value: "a-b": must be a valid CEL identifier
                spec.variables[1].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                spec.variables[2].name: Invalid value: "in": must be a valid CEL identifier
                spec.variables[2].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                spec.variables[3].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                spec.auditAnnotations[0].key: Invalid value: "p/a/b": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                spec.auditAnnotations[0].valueExpression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified
                spec.auditAnnotations[2].valueExpression: Required value: must not exceed 5120 bytes in length
                spec.auditAnnotations[2].key: Duplicate value: "k"
            "#]],
        ),
        (format!("{{matchConstraints: {{{RULES}}}, auditAnnotations: [{many}]}}"), expect![[r#"
            spec.auditAnnotations: Invalid value: [{"Key":"k0","ValueExpression":"null"},{"Key":"k1","ValueExpression":"null"},{"Key":"k2","ValueExpression":"null"},{"Key":"k3","ValueExpression":"null"},{"Key":"k4","ValueExpression":"null"},{"Key":"k5","ValueExpression":"null"},{"Key":"k6","ValueExpression":"null"},{"Key":"k7","ValueExpression":"null"},{"Key":"k8","ValueExpression":"null"},{"Key":"k9","ValueExpression":"null"},{"Key":"k10","ValueExpression":"null"},{"Key":"k11","ValueExpression":"null"},{"Key":"k12","ValueExpression":"null"},{"Key":"k13","ValueExpression":"null"},{"Key":"k14","ValueExpression":"null"},{"Key":"k15","ValueExpression":"null"},{"Key":"k16","ValueExpression":"null"},{"Key":"k17","ValueExpression":"null"},{"Key":"k18","ValueExpression":"null"},{"Key":"k19","ValueExpression":"null"},{"Key":"k20","ValueExpression":"null"}]: must not have more than 20 auditAnnotations
        "#]]),
        (
            format!("{{matchConstraints: {{{RULES}}}, paramKind: {{apiVersion: v/, kind: Kind}}, validations: [{{expression: x}}]}}"),
            expect![[r#"
                spec.paramKind.apiVersion: Invalid value: "v/": version must be specified
                spec.validations[0].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
            "#]],
        ),
    ] {
        expected.assert_eq(&errors(&validating::FORM, &text(&spec)));
    }
}

#[test]
fn each_fault_of_a_mutating_policy_has_upstreams_text() {
    for (spec, expected) in [
        (
            format!(
                "{{matchConstraints: {{{RULES}}}, reinvocationPolicy: Never, mutations: [{{patchType: JSONPatch, jsonPatch: {{expression: '[JSONPatch{{op: \"remove\", path: \"/a\"}}]'}}}}]}}"
            ),
            expect![[""]],
        ),
        ("{}".to_owned(), expect![[r#"
            spec.matchConstraints: Required value
            spec.mutations: Required value: mutations must contain at least one item
            spec.reinvocationPolicy: Required value
        "#]]),
        (
            "{matchConstraints: {resourceRules: [{operations: [DELETE, CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}, reinvocationPolicy: Always, \
              mutations: [{}, {patchType: Other}, {patchType: JSONPatch, applyConfiguration: {expression: x}}, \
              {patchType: ApplyConfiguration, jsonPatch: {}, applyConfiguration: {}}]}"
                .to_owned(),
            expect![[r#"
                spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"
                spec.mutations[0].patchType: Required value
                spec.mutations[1].patchType: Unsupported value: "Other": supported values: "ApplyConfiguration", "JSONPatch"
                spec.mutations[2].jsonPatch: Required value: must be specified when patchType is JSONPatch
                spec.mutations[2].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch
                spec.mutations[3].applyConfiguration.expression: Required value
                spec.mutations[3].jsonPatch: Invalid value: "{jsonPatch}": must not be specified when patchType is ApplyConfiguration
                spec.reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never"
            "#]],
        ),
    ] {
        expected.assert_eq(&errors(&mutating::FORM, &text(&spec)));
    }
}

#[test]
fn expressions_are_compiled_with_what_each_may_name() {
    let spec = format!(
        "{{matchConstraints: {{{RULES}}}, paramKind: {{apiVersion: v1, kind: ConfigMap}}, \
          matchConditions: [{{name: a, expression: ' params.a == 1'}}, {{name: b, expression: variables.v}}], \
          variables: [{{name: v, expression: '1'}}, {{name: w, expression: variables.later}}, {{name: later, expression: '2'}}], \
          validations: [{{expression: ' variables.v', messageExpression: variables.v}}, {{expression: variables.later > 0, messageExpression: \"params.a + 'x'\"}}], \
          auditAnnotations: [{{key: k, valueExpression: ' variables.v'}}, {{key: l, valueExpression: string(variables.v)}}]}}"
    );
    expect![[r#"
        spec.matchConditions[1].expression: Invalid value: "variables.v": compilation failed: ERROR: <input>:1:1: undeclared reference to 'variables' (in container '')
         | variables.v
         | ^
        spec.variables[1].expression: Invalid value: "variables.later": compilation failed: ERROR: <input>:1:10: undefined field 'later'
         | variables.later
         | .........^
        spec.validations[0].expression: Invalid value: " variables.v": must evaluate to bool but got int
        spec.validations[0].messageExpression: Invalid value: "variables.v": must evaluate to string but got int
        spec.auditAnnotations[0].valueExpression: Invalid value: " variables.v": must evaluate to one of [string null_type] but got int
    "#]].assert_eq(&errors(&validating::FORM, &text(&spec)));
    let spec = format!(
        "{{matchConstraints: {{{RULES}}}, reinvocationPolicy: Never, variables: [{{name: v, expression: '1'}}], mutations: [ \
          {{patchType: JSONPatch, jsonPatch: {{expression: ' [1]'}}}}, {{patchType: ApplyConfiguration, applyConfiguration: {{expression: params.a}}}}, \
          {{patchType: ApplyConfiguration, applyConfiguration: {{expression: 'Object{{spec: Object.spec{{n: variables.v}}}}'}}}}]}}"
    );
    expect![[r#"
        spec.mutations[0].jsonPatch.expression: Invalid value: "[1]": must evaluate to list(JSONPatch) but got list(int)
        spec.mutations[1].applyConfiguration.expression: Invalid value: "params.a": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')
         | params.a
         | ^
    "#]].assert_eq(&errors(&mutating::FORM, &text(&spec)));
}

#[test]
fn each_fault_of_a_binding_has_upstreams_text() {
    for (spec, expected) in [
        ("{policyName: p, validationActions: [Deny, Audit]}", expect![[""]]),
        (
            "{}",
            expect![[r#"
            spec.policyName: Required value
            spec.validationActions: Required value: at least one validation action is required
        "#]],
        ),
        (
            "{policyName: P, paramRef: {}, validationActions: [Deny, Warn, Warn, Log], matchResources: {resourceRules: [{operations: [DELETE]}]}}",
            expect![[r#"
                spec.policyName: Invalid value: "P": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.paramRef: Required value: one of name or selector must be specified
                spec.paramRef.parameterNotFoundAction: Required value
                spec.matchResources.resourceRules[0].apiGroups: Required value
                spec.matchResources.resourceRules[0].apiVersions: Required value
                spec.matchResources.resourceRules[0].resources: Required value
                spec.validationActions[2]: Duplicate value: "Warn"
                spec.validationActions[3]: Unsupported value: "Log": supported values: "Audit", "Deny", "Warn"
                spec.validationActions: Invalid value: ["Deny","Warn","Warn","Log"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)
            "#]],
        ),
        (
            "{policyName: p, paramRef: {name: a/b, selector: {matchLabels: {'': b}}, parameterNotFoundAction: Wait}, validationActions: [Audit]}",
            expect![[r#"
                spec.paramRef.name: Invalid value: "a/b": may not contain '/'
                spec.paramRef.name: Forbidden: name and selector are mutually exclusive
                spec.paramRef.selector.matchLabels: Invalid value: "": name part must be non-empty
                spec.paramRef.selector.matchLabels: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.paramRef.selector: Forbidden: name and selector are mutually exclusive
                spec.paramRef.parameterNotFoundAction: Unsupported value: "Wait": supported values: "Deny", "Allow"
            "#]],
        ),
    ] {
        expected.assert_eq(&errors(&validating_binding::FORM, &text(spec)));
    }
    let spec = "{matchResources: {resourceRules: [{operations: [DELETE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}}";
    expect![[r#"
        spec.policyName: Required value
        spec.matchResources.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"
    "#]].assert_eq(&errors(&mutating_binding::FORM, &text(spec)));
}

#[test]
fn unchanged_match_conditions_are_not_asked_again() {
    let kind = validating::FORM;
    let spec = format!(
        "{{matchConstraints: {{{RULES}}}, validations: [{{expression: 'true'}}], matchConditions: [{{name: a}}]}}"
    );
    let old = created(&kind, &text(&spec));
    let mut new = old.clone();
    assert_eq!(errors(&kind, &text(&spec)), "spec.matchConditions[0].expression: Required value\n");
    new.set(&["spec", "validations"], serde_json::json!([{"expression": "false"}, {}]));
    let only = "spec.validations[1].expression: Required value: expression is not specified\n";
    assert_eq!(update_errors(&kind, &new, &old), only);
    new.set(&["spec", "paramKind"], serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    assert_eq!(update_errors(&kind, &new, &old), format!("spec.matchConditions[0].expression: Required value\n{only}"));
}

#[test]
fn a_status_has_whole_warnings_and_conditions() {
    let status = "{typeChecking: {expressionWarnings: [{}, {fieldRef: 'spec.validations[0].expression', warning: w}]}, conditions: [{type: a, status: 'True'}]}";
    let object = parse(&format!("{{kind: x, status: {status}}}"));
    let causes = validating::FORM.validate_status(&context(), &object, &object);
    let lines: String = causes.iter().map(|cause| format!("{cause}\n")).collect();
    expect![[r#"
        status.typeChecking.expressionWarnings[0].warning: Required value
        status.typeChecking.expressionWarnings[0].fieldRef: Required value
        status.conditions[0].lastTransitionTime: Required value
        status.conditions[0].reason: Required value
    "#]]
    .assert_eq(&lines);
}

#[test]
fn rows_show_parameters() {
    let policy = text("{validations: [{}, {}], mutations: [{}], paramKind: {apiVersion: a/v1, kind: K}}");
    expect!["p | 2 | a/v1/K | <unknown>"].assert_eq(&row(&validating::FORM, &policy));
    expect!["p | 1 | a/v1/K | <unknown>"].assert_eq(&row(&mutating::FORM, &policy));
    expect!["p | 0 | <unset> | <unknown>"].assert_eq(&row(&mutating::FORM, &text("{}")));
    let mut rows = String::new();
    for reference in [
        "{name: obj}",
        "{name: obj, namespace: ns}",
        "{}",
        "{selector: {matchLabels: {b: c, a: b}, matchExpressions: [{key: k, operator: In, values: [x, z]}]}}",
    ] {
        let text = text(&format!("{{policyName: p, paramRef: {reference}}}"));
        rows.push_str(&format!("{}\n", row(&validating_binding::FORM, &text)));
    }
    rows.push_str(&row(&mutating_binding::FORM, &text("{policyName: p}")));
    expect![[r#"
        p | p | */obj | <unknown>
        p | p | ns/obj | <unknown>
        p | p | <unset> | <unknown>
        p | p | &LabelSelector{MatchLabels:map[string]string{a: b,b: c,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x z],},},} | <unknown>
        p | p | <unset> | <unknown>"#]].assert_eq(&rows);
}
