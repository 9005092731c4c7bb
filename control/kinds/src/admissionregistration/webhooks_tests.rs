//! Webhook configurations: defaults, faults in upstream's words, and what an update may keep.

use super::{mutatingwebhookconfiguration as mutating, validatingwebhookconfiguration as validating};
use crate::testing::{context, created, errors, parse, row, update_errors, yaml};
use expect_test::expect;
use server::Strategy;

fn text(webhooks: &str) -> String {
    format!(
        "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {{name: w}}, webhooks: {webhooks}}}"
    )
}

/// A webhook that is right, with more fields.
fn webhook(rest: &str) -> String {
    let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
    format!(
        "{{name: a.example.com, clientConfig: {{url: 'https://example.com/x'}}, sideEffects: None, admissionReviewVersions: [v1]{rest}}}"
    )
}

#[test]
fn a_webhook_gets_upstreams_defaults() {
    let text = text(
        "[{name: a.example.com, clientConfig: {service: {name: s, namespace: ns}}, rules: [{operations: ['*']}, {scope: Cluster}]}]",
    );
    let object = created(&mutating::FORM, &text);
    expect![[r#"
        - clientConfig:
            service:
              name: s
              namespace: ns
              port: 443
          failurePolicy: Fail
          matchPolicy: Equivalent
          name: a.example.com
          namespaceSelector: {}
          objectSelector: {}
          reinvocationPolicy: Never
          rules:
          - operations:
            - "*"
            scope: "*"
          - scope: Cluster
          timeoutSeconds: 10
    "#]]
    .assert_eq(&api::yaml::to_string(object.at(&["webhooks"]).unwrap()));
    let object = created(&validating::FORM, &text);
    assert!(!yaml(&object).contains("reinvocationPolicy"));
}

#[test]
fn each_fault_has_upstreams_text() {
    let right = "[{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods, pods/status]}]";
    for (webhooks, expected) in [
        ("[]".to_owned(), expect![[""]]),
        (format!("[{}]", webhook(&format!("rules: {right}"))), expect![[""]]),
        (
            "[{}, {name: a.b}, {name: A.b.c, sideEffects: Some, timeoutSeconds: 31, failurePolicy: Never, matchPolicy: Any, \
              admissionReviewVersions: [v2, v2, '2']}]"
                .to_owned(),
            expect![[r#"
                webhooks[0].name: Required value
                webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun
                webhooks[0].clientConfig: Required value: exactly one of url or service is required
                webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1
                webhooks[1].name: Invalid value: "a.b": should be a domain with at least three segments separated by dots
                webhooks[1].sideEffects: Required value: must specify one of None, NoneOnDryRun
                webhooks[1].clientConfig: Required value: exactly one of url or service is required
                webhooks[1].admissionReviewVersions: Required value: must specify one of v1, v1beta1
                webhooks[2].name: Invalid value: "A.b.c": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                webhooks[2].failurePolicy: Unsupported value: "Never": supported values: "Fail", "Ignore"
                webhooks[2].matchPolicy: Unsupported value: "Any": supported values: "Equivalent", "Exact"
                webhooks[2].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"
                webhooks[2].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds
                webhooks[2].clientConfig: Required value: exactly one of url or service is required
                webhooks[2].admissionReviewVersions[1]: Invalid value: "v2": duplicate version
                webhooks[2].admissionReviewVersions[2]: Invalid value: "2": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
                webhooks[2].admissionReviewVersions: Invalid value: ["v2","v2","2"]: must include at least one of v1, v1beta1
            "#]],
        ),
        (
            format!(
                "[{}, {}]",
                webhook("rules: [{}, {operations: ['*', GET], apiGroups: ['*', a], apiVersions: ['*', ''], resources: ['*', 'pods/*', pods/a, '*/b', c/b, ''], scope: Any}, {operations: [''], apiGroups: [a], apiVersions: [v1], resources: ['*/*', '*', pods]}]"),
                webhook("reinvocationPolicy: Always, namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [' ']}]}, objectSelector: {matchExpressions: [{key: a, operator: Is}]}")
            ),
            expect![[r#"
                webhooks[0].rules[0].operations: Required value
                webhooks[0].rules[0].apiGroups: Required value
                webhooks[0].rules[0].apiVersions: Required value
                webhooks[0].rules[0].resources: Required value
                webhooks[0].rules[1].operations: Invalid value: ["*","GET"]: if '*' is present, must not specify other operations
                webhooks[0].rules[1].operations[1]: Unsupported value: "GET": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"
                webhooks[0].rules[1].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other API groups
                webhooks[0].rules[1].apiVersions: Invalid value: ["*",""]: if '*' is present, must not specify other API versions
                webhooks[0].rules[1].apiVersions[1]: Required value
                webhooks[0].rules[1].resources[2]: Invalid value: "pods/a": if 'pods/*' is present, must not specify pods/a
                webhooks[0].rules[1].resources[4]: Invalid value: "c/b": if '*/b' is present, must not specify c/b
                webhooks[0].rules[1].resources[5]: Required value
                webhooks[0].rules[1].scope: Unsupported value: "Any": supported values: "*", "Cluster", "Namespaced"
                webhooks[0].rules[2].operations[0]: Unsupported value: "": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"
                webhooks[0].rules[2].resources: Invalid value: ["*/*","*","pods"]: if '*/*' is present, must not specify other resources
                webhooks[0].rules[2].resources: Invalid value: ["*/*","*","pods"]: if '*' is present, must not specify other resources without subresources
                webhooks[1].namespaceSelector.matchExpressions[0].values[0]: Invalid value: " ": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
                webhooks[1].objectSelector.matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator
                webhooks[1].reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never"
                webhooks[1].name: Duplicate value: "a.example.com"
            "#]],
        ),
        (
            format!(
                "[{}]",
                webhook("matchConditions: [{name: a, expression: 'true'}, {name: a, expression: ' '}, {expression: x}, {name: 'a b', expression: ' 1 '}]")
            ),
            expect![[r#"
                webhooks[0].matchConditions[1].expression: Required value
                webhooks[0].matchConditions[1].name: Duplicate value: "a"
                webhooks[0].matchConditions[2].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                webhooks[0].matchConditions[2].name: Required value
                webhooks[0].matchConditions[3].expression: Invalid value: "1": must evaluate to bool but got int
                webhooks[0].matchConditions[3].name: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            "#]],
        ),
    ] {
        expected.assert_eq(&errors(&mutating::FORM, &text(&webhooks)));
    }
}

#[test]
fn a_webhook_is_reached_by_url_or_service() {
    let mut all = String::new();
    for config in [
        "{}",
        "{url: 'https://a', service: {name: s, namespace: ns}}",
        "{url: ''}",
        "{url: 'http://me@a/b?c#d'}",
        "{url: 'https://a b/'}",
        "{service: {name: s, port: 65536, path: //}}",
        "{service: {namespace: ns, path: x//Y/}}",
        "{service: {name: s, namespace: ns, path: /a/b.c/}}",
    ] {
        let text = text(&format!(
            "[{{name: a.example.com, clientConfig: {config}, sideEffects: None, admissionReviewVersions: [v1]}}]"
        ));
        let faults = errors(&validating::FORM, &text);
        all.push_str(&format!("{config}\n{}", faults.replace("webhooks[0].clientConfig", "  ")));
    }
    expect![[r#"
        {}
          : Required value: exactly one of url or service is required
        {url: 'https://a', service: {name: s, namespace: ns}}
          : Required value: exactly one of url or service is required
        {url: ''}
          .url: Invalid value: "": 'https' is the only allowed URL scheme; desired format: https://host[/path]
          .url: Invalid value: "": host must be specified; desired format: https://host[/path]
        {url: 'http://me@a/b?c#d'}
          .url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]
          .url: Invalid value: "me": user information is not permitted in the URL
          .url: Invalid value: "d": fragments are not permitted in the URL
          .url: Invalid value: "c": query parameters are not permitted in the URL
        {url: 'https://a b/'}
          .url: Required value: url must be a valid URL: parse "https://a b/": invalid character " " in host name; desired format: https://host[/path]
        {service: {name: s, port: 65536, path: //}}
          .service.name: Required value
          .service.port: Invalid value: 65536: port is not valid: must be between 1 and 65535, inclusive
          .service.path: Invalid value: "//": segment[0] may not be empty
        {service: {namespace: ns, path: x//Y/}}
          .service.namespace: Required value
          .service.path: Invalid value: "x//Y/": must start with a '/'
          .service.path: Invalid value: "x//Y/": segment[0] may not be empty
          .service.path: Invalid value: "x//Y/": segment[1] may not be empty
          .service.path: Invalid value: "x//Y/": segment[2]: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        {service: {name: s, namespace: ns, path: /a/b.c/}}
    "#]].assert_eq(&all);
}

#[test]
fn an_update_is_as_strict_as_what_is_stored() {
    let kind = validating::FORM;
    let lax = "[{name: a.example.com, clientConfig: {url: 'https://a'}, sideEffects: Unknown, admissionReviewVersions: [v2], \
        matchConditions: [{}], namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [' ']}]}}]";
    let old = created(&kind, &text(lax));
    assert_eq!(errors(&kind, &text(lax)).lines().count(), 5);
    let mut new = old.clone();
    assert_eq!(update_errors(&kind, &new, &old), "");
    new.entry(&["webhooks"])[0]["timeoutSeconds"] = 0.into();
    new.entry(&["webhooks"])[0]["sideEffects"] = "Many".into();
    new.entry(&["webhooks"])[0]["matchConditions"][0]["name"] = "n".into();
    expect![[r#"
        webhooks[0].sideEffects: Unsupported value: "Many": supported values: "None", "NoneOnDryRun", "Some", "Unknown"
        webhooks[0].timeoutSeconds: Invalid value: 0: the timeout value must be between 1 and 30 seconds
        webhooks[0].matchConditions[0].expression: Required value
    "#]]
    .assert_eq(&update_errors(&kind, &new, &old));
    let twice = format!("[{0}, {0}]", webhook(""));
    let old = created(&kind, &text(&twice));
    assert_eq!(errors(&kind, &text(&twice)), "webhooks[1].name: Duplicate value: \"a.example.com\"\n");
    assert_eq!(update_errors(&kind, &old, &old), "");
    let mut cx = context();
    cx.operation = server::Operation::Update;
    assert_eq!(kind.validate(&cx, &old), [], "an update is judged by what is stored");
}

#[test]
fn rows_and_warnings() {
    let object = text(&format!("[{}]", webhook("")));
    expect!["w | 1 | <unknown>"].assert_eq(&row(&validating::FORM, &object));
    let kind = mutating::FORM;
    expect!["w | 1 | <unknown>"].assert_eq(&row(&kind, &object));
    let reserved = parse(&object.replace("name: w", "name: w.static.k8s.io"));
    expect![[r#"
        [
            "metadata.name: names ending with \".static.k8s.io\" are reserved for static manifest-based configurations and cannot be managed via the API",
        ]
    "#]]
    .assert_debug_eq(&kind.warnings(&context(), &reserved, None));
}
