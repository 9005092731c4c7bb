//! Which webhooks a request is for, what they are sent, and what their answers mean.

use super::*;
use crate::testing::parse;
use api::{GroupVersionKind, GroupVersionResource, Object};
use base64::{Engine, prelude::BASE64_STANDARD};
use expect_test::expect;
use serde_json::{Value, json};
use server::User;
use std::sync::Arc;

fn hook(fields: &str) -> Hook {
    let selectors = ["namespaceSelector", "objectSelector"].into_iter().filter(|name| !fields.contains(name));
    let selectors: String = selectors.map(|name| format!("{name}: {{}}, ")).collect();
    all(&format!("[{{name: a.example.com, matchPolicy: Equivalent, {selectors}{fields}}}]"), true).remove(0)
}

fn all(webhooks: &str, mutating: bool) -> Vec<Hook> {
    hooks(&[Arc::new(parse(&format!("{{metadata: {{name: c}}, webhooks: {webhooks}}}")))], mutating)
}

fn served(group: &str, version: &str, resource: &str, kind: &str) -> Served {
    Served {
        resource: GroupVersionResource::new(group, version, resource),
        kind: GroupVersionKind::new(group, version, kind),
    }
}

fn request<'a>(operation: &'a str, served: &'a Served, subresource: &'a str, namespace: &'a str) -> Request<'a> {
    Request { operation, served, subresource, namespace, name: "x", object: None, old: None, stored_namespace: None }
}

/// `v1 pods`, if the webhook is called.
fn called(hook: &Hook, request: &Request<'_>, others: &[Served]) -> String {
    match hook.invocation(request, others) {
        Ok(Some(served)) => format!("{} {}", served.resource.api_version(), served.resource.resource),
        Ok(None) => "no".to_owned(),
        Err(status) => format!("{} {}", status.code, status.message),
    }
}

#[test]
fn rules_say_which_requests() {
    let pods = served("", "v1", "pods", "Pod");
    let namespaces = served("", "v1", "namespaces", "Namespace");
    let nodes = served("", "v1", "nodes", "Node");
    let deployments = served("apps", "v1", "deployments", "Deployment");
    let core = "apiGroups: [''], apiVersions: [v1]";
    let any = "apiGroups: ['*'], apiVersions: ['*']";
    let namespace = parse("{metadata: {name: n1}}");
    for (rule, who) in [
        (format!("operations: [CREATE], {core}, resources: [pods]"), "pods CREATE"),
        (format!("operations: ['*'], {core}, resources: [pods]"), "pods CREATE, pods DELETE, pods UPDATE"),
        (format!("operations: [UPDATE], {core}, resources: [pods/status]"), "pods/status UPDATE"),
        (
            format!("operations: [CREATE, UPDATE], {core}, resources: ['pods/*']"),
            "pods CREATE, pods UPDATE, pods/status UPDATE",
        ),
        (format!("operations: [UPDATE], {any}, resources: ['*/status']"), "pods/status UPDATE"),
        (format!("operations: [CONNECT], {any}, resources: ['*/*']"), "pods/exec CONNECT"),
        (
            format!("operations: [CREATE], {any}, resources: ['*']"),
            "deployments.apps CREATE, namespaces CREATE, nodes CREATE, pods CREATE",
        ),
        (format!("operations: [CREATE], {any}, resources: ['*'], scope: Cluster"), "namespaces CREATE, nodes CREATE"),
        (
            format!("operations: [CREATE], {any}, resources: ['*'], scope: Namespaced"),
            "deployments.apps CREATE, pods CREATE",
        ),
        ("operations: [CREATE], apiGroups: [apps], apiVersions: [v2], resources: ['*']".to_owned(), ""),
        ("operations: [], apiGroups: [apps], apiVersions: [v1], resources: ['*']".to_owned(), ""),
    ] {
        let hook = hook(&format!("rules: [{{{rule}}}]"));
        let mut found = Vec::new();
        for (served, operation, subresource, ns) in [
            (&deployments, "CREATE", "", "n1"),
            (&namespaces, "CREATE", "", "n1"),
            (&nodes, "CREATE", "", ""),
            (&pods, "CREATE", "", "n1"),
            (&pods, "DELETE", "", "n1"),
            (&pods, "UPDATE", "", "n1"),
            (&pods, "CONNECT", "exec", "n1"),
            (&pods, "UPDATE", "status", "n1"),
        ] {
            let mut request = request(operation, served, subresource, ns);
            request.object = Some(&namespace);
            if called(&hook, &request, &[]) != "no" {
                let slash = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
                found.push(format!("{}{slash} {operation}", served.resource.group_resource()));
            }
        }
        assert_eq!(found.join(", "), who, "{rule}");
    }
}

#[test]
fn selectors_look_at_namespace_and_objects() {
    let rules = "rules: [{operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: ['*', '*/status']}]";
    let by_namespace = hook(&format!("{rules}, namespaceSelector: {{matchLabels: {{team: a}}}}"));
    let by_object = hook(&format!("{rules}, objectSelector: {{matchExpressions: [{{key: app, operator: Exists}}]}}"));
    let (pods, nodes, namespaces) = (
        served("", "v1", "pods", "Pod"),
        served("", "v1", "nodes", "Node"),
        served("", "v1", "namespaces", "Namespace"),
    );
    let ours = parse("{metadata: {name: n1, labels: {team: a}}}");
    let theirs = parse("{metadata: {name: n1, labels: {team: b}}}");
    let app = parse("{metadata: {labels: {app: x}}}");
    let ask = |hook: &Hook, served, operation, subresource, namespace, object, old, stored| {
        let request =
            Request { object, old, stored_namespace: stored, ..request(operation, served, subresource, namespace) };
        called(hook, &request, &[])
    };
    let of = |object| -> Option<&Object> { Some(object) };
    for (served, operation, subresource, namespace, object, stored, expected) in [
        (&pods, "CREATE", "", "n1", of(&app), of(&ours), "v1 pods"),
        (&pods, "CREATE", "", "n1", of(&ours), of(&theirs), "no"),
        (&pods, "CREATE", "", "n1", of(&app), None, "404 namespaces \"n1\" not found"),
        (&nodes, "CREATE", "", "", of(&app), None, "v1 nodes"),
        // What is written counts, but for deletions and subresources.
        (&namespaces, "CREATE", "", "n1", of(&ours), None, "v1 namespaces"),
        (&namespaces, "UPDATE", "", "n1", of(&theirs), of(&ours), "no"),
        (&namespaces, "UPDATE", "status", "n1", of(&theirs), of(&ours), "v1 namespaces"),
        (&namespaces, "DELETE", "", "n1", None, of(&ours), "v1 namespaces"),
    ] {
        let got = ask(&by_namespace, served, operation, subresource, namespace, object, None, stored);
        assert_eq!(got, expected, "{operation} {}/{subresource}", served.resource.resource);
    }
    for (object, old, expected) in [
        (of(&app), None, "v1 pods"),
        (of(&ours), None, "no"),
        (of(&ours), of(&app), "v1 pods"),
        (None, of(&app), "v1 pods"),
        (None, None, "no"),
    ] {
        assert_eq!(ask(&by_object, &pods, "UPDATE", "", "n1", object, old, of(&theirs)), expected);
    }
    // A namespace that is not there, and selectors that are wrong, count only for webhooks that the request is for.
    let elsewhere = rules.replace("'*/status'", "x").replace("resources: ['*', ", "resources: [");
    let elsewhere = hook(&format!("{elsewhere}, namespaceSelector: {{matchLabels: {{team: a}}}}"));
    assert_eq!(ask(&elsewhere, &pods, "CREATE", "", "n1", of(&app), None, None), "no");
    let wrong = hook(&format!("{rules}, objectSelector: {{matchExpressions: [{{key: app, operator: Is}}]}}"));
    let text = "500 Internal error occurred: \"Is\" is not a valid label selector operator";
    assert_eq!(ask(&wrong, &pods, "CREATE", "", "n1", of(&app), None, of(&ours)), text);
}

#[test]
fn another_version_will_do_unless_the_exact_one_is_wanted() {
    let rule = |version: &str| {
        format!("{{operations: ['*'], apiGroups: [autoscaling], apiVersions: [{version}], resources: ['*']}}")
    };
    let name = "horizontalpodautoscalers";
    let (v1, v2) = (
        served("autoscaling", "v1", name, "HorizontalPodAutoscaler"),
        served("autoscaling", "v2", name, "HorizontalPodAutoscaler"),
    );
    let others = [v2.clone(), v1.clone()];
    for (rules, policy, expected) in [
        (rule("v1"), "Equivalent", "autoscaling/v1 horizontalpodautoscalers"),
        (rule("v2"), "Equivalent", "autoscaling/v2 horizontalpodautoscalers"),
        (rule("v2"), "Exact", "no"),
        (rule("v3"), "Equivalent", "no"),
        // The requested version is the best, whatever the order.
        (format!("{}, {}", rule("v2"), rule("v1")), "Equivalent", "autoscaling/v1 horizontalpodautoscalers"),
    ] {
        let hook = all(
            &format!("[{{matchPolicy: {policy}, namespaceSelector: {{}}, objectSelector: {{}}, rules: [{rules}]}}]"),
            true,
        )
        .remove(0);
        assert_eq!(called(&hook, &request("UPDATE", &v1, "", "n1"), &others), expected, "{rules} {policy}");
    }
    let exempt = |group: &str, kind: &str| is_exempt(&GroupVersionKind::new(group, "v1", kind));
    assert!(exempt("admissionregistration.k8s.io", "MutatingWebhookConfiguration"));
    assert!(!exempt("example.com", "MutatingWebhookConfiguration") && !exempt("admissionregistration.k8s.io", "Other"));
}

#[test]
fn a_webhook_is_read_from_its_configuration() {
    let [first, second] = [("b", "{url: 'https://example.com/x'}"), ("a", "{service: {name: s, namespace: n1, path: /p}, caBundle: YQ==}")].map(|(name, config)| {
        let rest = "timeoutSeconds: 3, failurePolicy: Ignore, reinvocationPolicy: IfNeeded, matchConditions: [{name: c, expression: ' true '}]";
        let webhook = format!("{{name: h, clientConfig: {config}, {rest}}}");
        Arc::new(parse(&format!("{{metadata: {{name: {name}}}, webhooks: [{webhook}, {{name: h}}]}}")))
    });
    let hooks = hooks(&[first, second], true);
    let ids: Vec<&str> = hooks.iter().map(|hook| hook.id.as_str()).collect();
    assert_eq!(ids, ["a/h/0", "a/h/1", "b/h/0", "b/h/1"]);
    let endpoint = &hooks[0].endpoint;
    assert_eq!((endpoint.url().as_str(), endpoint.authorities.as_slice()), ("https://s.n1.svc:443/p", &b"a"[..]));
    assert_eq!(hooks[2].endpoint.url(), "https://example.com/x");
    assert_eq!((hooks[0].timeout.as_secs(), hooks[1].timeout.as_secs()), (3, 10));
    assert_eq!((hooks[0].ignores_failures, hooks[0].reinvoked, hooks[1].reinvoked), (true, true, false));
    assert_eq!(hooks[0].conditions, [Condition { name: "c".into(), expression: "true".into() }]);
}

#[test]
fn the_review_has_upstreams_shape() {
    let (asked, invoked) =
        (served("apps", "v1", "deployments", "Deployment"), served("apps", "v1beta1", "deployments", "Deployment"));
    let (object, old) = (parse("{kind: Deployment, spec: {replicas: 2}}"), parse("{kind: Deployment}"));
    let request = Request { object: Some(&object), old: Some(&old), ..request("UPDATE", &asked, "scale", "n1") };
    let mut user = User::new("tester", &["g"]);
    user.extra.insert("example.com/k".into(), vec!["v".into()]);
    let options = json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"});
    let body = review(ReviewVersion::V1, "u-1", &request, &invoked, &user, &options, false);
    expect![[r#"
        apiVersion: admission.k8s.io/v1
        kind: AdmissionReview
        request:
          dryRun: false
          kind:
            group: apps
            kind: Deployment
            version: v1beta1
          name: x
          namespace: n1
          object:
            kind: Deployment
            spec:
              replicas: 2
          oldObject:
            kind: Deployment
          operation: UPDATE
          options:
            apiVersion: meta.k8s.io/v1
            kind: UpdateOptions
          requestKind:
            group: apps
            kind: Deployment
            version: v1
          requestResource:
            group: apps
            resource: deployments
            version: v1
          requestSubResource: scale
          resource:
            group: apps
            resource: deployments
            version: v1beta1
          subResource: scale
          uid: u-1
          userInfo:
            extra:
              example.com/k:
              - v
            groups:
            - g
            username: tester
    "#]]
    .assert_eq(&api::yaml::to_string(&body));
    let plain = super::tests::request("DELETE", &asked, "", "");
    let body = review(
        ReviewVersion::V1beta1,
        "u-2",
        &Request { name: "", ..plain },
        &asked,
        &User::default(),
        &Value::Null,
        true,
    );
    expect![[r#"
        apiVersion: admission.k8s.io/v1beta1
        kind: AdmissionReview
        request:
          dryRun: true
          kind:
            group: apps
            kind: Deployment
            version: v1
          object: null
          oldObject: null
          operation: DELETE
          options: null
          requestKind:
            group: apps
            kind: Deployment
            version: v1
          requestResource:
            group: apps
            resource: deployments
            version: v1
          resource:
            group: apps
            resource: deployments
            version: v1
          uid: u-2
          userInfo: {}
    "#]]
    .assert_eq(&api::yaml::to_string(&body));
}

#[test]
fn versions_and_dry_runs() {
    let text = |failure: Option<Failure>| match failure {
        None => "none".to_owned(),
        Some(Failure::Calling(text)) => text,
        Some(Failure::Refused(status)) => format!("{} {}", status.code, status.message),
    };
    assert_eq!(hook("admissionReviewVersions: [v2, v1beta1, v1]").review_version(), Ok(ReviewVersion::V1beta1));
    assert_eq!(
        text(hook("admissionReviewVersions: [v2]").review_version().err()),
        "failed calling webhook \"a.example.com\": could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
    );
    for (effects, expected) in [
        ("sideEffects: None", "none"),
        ("sideEffects: NoneOnDryRun", "none"),
        ("sideEffects: Some", "400 admission webhook \"a.example.com\" does not support dry run"),
        ("x: y", "failed calling webhook \"a.example.com\": Webhook SideEffects is nil"),
    ] {
        assert_eq!(text(hook(effects).refuses_dry_run()), expected);
    }
}

/// What a webhook's answer means, with everything that it says.
fn meaning(hook: &Hook, version: ReviewVersion, body: &str) -> String {
    let (answer, result) = read(hook, version, "u", body.as_bytes());
    let mut out = match result.and_then(|()| answer.patched(hook, Some(&parse("{kind: Pod, spec: {a: 1}}")))) {
        Ok(None) => "allowed".to_owned(),
        Ok(Some(object)) => format!("allowed {}", Value::Object(object.0)),
        Err(Failure::Calling(text)) => text,
        Err(Failure::Refused(status)) => {
            let details = status.details.map(|details| format!(" {details:?}")).unwrap_or_default();
            format!("{} {:?} {}{details}", status.code, status.reason, status.message)
        }
    };
    answer.warnings.iter().for_each(|warning| out.push_str(&format!("\n    warning: {warning}")));
    answer.annotations.iter().for_each(|(key, value)| out.push_str(&format!("\n    {key}: {value}")));
    out
}

#[test]
fn an_answer_has_upstreams_meaning() {
    let base64 = |text: &str| BASE64_STANDARD.encode(text);
    let patch = base64(r#"[{"op": "add", "path": "/spec/b", "value": 2}]"#);
    let same = base64(r#"[{"op": "replace", "path": "/spec/a", "value": 1}]"#);
    let wrong = base64(r#"[{"op": "remove", "path": "/x/y"}]"#);
    let list = base64(r#"[{"op": "replace", "path": "", "value": []}]"#);
    let v1 = |rest: &str| {
        format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {{"uid": "u", {rest}}}}}"#
        )
    };
    let typed = |patch: &str, kind: &str| v1(&format!(r#""allowed": true, "patch": "{patch}", "patchType": "{kind}""#));
    let (mutating, validating) = (hook("x: y"), all("[{name: v.example.com}]", false).remove(0));
    let mut out = String::new();
    for (hook, version, body) in [
        (
            &mutating,
            ReviewVersion::V1,
            v1(r#""allowed": true, "warnings": ["w", "", null], "auditAnnotations": {"k": "v"}"#),
        ),
        (&mutating, ReviewVersion::V1, typed(&patch, "JSONPatch")),
        (&mutating, ReviewVersion::V1, typed(&same, "JSONPatch")),
        (&mutating, ReviewVersion::V1, typed(&base64("[]"), "JSONPatch")),
        (&mutating, ReviewVersion::V1, typed(&base64("null"), "Other")),
        (&mutating, ReviewVersion::V1, typed(&patch, "Other")),
        (&mutating, ReviewVersion::V1, typed(&patch, "")),
        (&mutating, ReviewVersion::V1, typed("", "JSONPatch")),
        (&mutating, ReviewVersion::V1, typed(&base64("{}"), "JSONPatch")),
        (&mutating, ReviewVersion::V1, typed(&wrong, "JSONPatch")),
        (&mutating, ReviewVersion::V1, typed(&list, "JSONPatch")),
        (&mutating, ReviewVersion::V1, typed("?", "JSONPatch")),
        (&mutating, ReviewVersion::V1, v1(&format!(r#""allowed": true, "patch": "{patch}""#))),
        (&validating, ReviewVersion::V1, v1(r#""allowed": true, "patchType": "JSONPatch""#)),
        (&validating, ReviewVersion::V1, typed(&patch, "JSONPatch")),
        (&validating, ReviewVersion::V1, v1(r#""allowed": false, "warnings": ["w"]"#)),
        (
            &validating,
            ReviewVersion::V1,
            v1(
                r#""status": {"message": "no", "reason": "Forbidden", "code": 403, "details": {"name": "x", "causes": [{"field": "f", "message": "m"}]}}"#,
            ),
        ),
        (&validating, ReviewVersion::V1, v1(r#""status": {"reason": "Odd", "code": 200}"#)),
        (&validating, ReviewVersion::V1, v1(r#""status": {"message": 1, "code": -1, "details": 2}"#)),
        (&validating, ReviewVersion::V1, v1(r#""allowed": true"#).replace("\"u\"", "\"other\"")),
        (&validating, ReviewVersion::V1, v1(r#""allowed": true"#).replace("/v1\"", "/v1beta1\"")),
        (&validating, ReviewVersion::V1, r#"{"response": {"uid": "u", "allowed": true}}"#.to_owned()),
        (&validating, ReviewVersion::V1, "{}".to_owned()),
        (&validating, ReviewVersion::V1, "<html>".to_owned()),
        (&validating, ReviewVersion::V1, v1(r#""allowed": "yes""#)),
        (&mutating, ReviewVersion::V1beta1, format!(r#"{{"response": {{"allowed": true, "patch": "{patch}"}}}}"#)),
        (&validating, ReviewVersion::V1beta1, format!(r#"{{"response": {{"allowed": true, "patch": "{patch}"}}}}"#)),
        (&validating, ReviewVersion::V1beta1, r#"{"response": {}}"#.to_owned()),
    ] {
        out.push_str(&meaning(hook, version, &body));
        out.push('\n');
    }
    expect![[r#"
        allowed
            warning: w
            a.example.com/k: v
        allowed {"kind":"Pod","spec":{"a":1,"b":2}}
        allowed
        allowed
        allowed
        failed calling webhook "a.example.com": unsupported patch type "Other"
        failed calling webhook "a.example.com": received invalid webhook response: webhook returned invalid response.patchType of ""
        failed calling webhook "a.example.com": received invalid webhook response: webhook returned response.patchType but not response.patch
        failed calling webhook "a.example.com": received undecodable patch in webhook response: invalid type: map, expected a sequence at line 1 column 0
        500 InternalError Internal error occurred: remove operation does not apply: doc is missing path: "/x/y": missing value StatusDetails { name: "", group: "", kind: "", uid: "", causes: [StatusCause { reason: "", message: "remove operation does not apply: doc is missing path: \"/x/y\": missing value", field: "" }], retry_after_seconds: 0 }
        500 InternalError Internal error occurred: the patched document is not an object StatusDetails { name: "", group: "", kind: "", uid: "", causes: [StatusCause { reason: "", message: "the patched document is not an object", field: "" }], retry_after_seconds: 0 }
        failed calling webhook "a.example.com": failed to call webhook: Invalid symbol 63, offset 0.
        failed calling webhook "a.example.com": received invalid webhook response: webhook returned response.patch but not response.patchType
        failed calling webhook "v.example.com": received invalid webhook response: validating webhook may not return response.patchType
        failed calling webhook "v.example.com": received invalid webhook response: validating webhook may not return response.patch
        400 Unknown admission webhook "v.example.com" denied the request without explanation
            warning: w
        403 Forbidden admission webhook "v.example.com" denied the request: no StatusDetails { name: "x", group: "", kind: "", uid: "", causes: [StatusCause { reason: "", message: "m", field: "f" }], retry_after_seconds: 0 }
        400 Unknown admission webhook "v.example.com" denied the request: Odd
        400 Unknown admission webhook "v.example.com" denied the request without explanation
        failed calling webhook "v.example.com": received invalid webhook response: expected response.uid="u", got "other"
        failed calling webhook "v.example.com": received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview
        failed calling webhook "v.example.com": received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=
        failed calling webhook "v.example.com": received invalid webhook response: webhook response was absent
        failed calling webhook "v.example.com": failed to call webhook: expected value at line 1 column 1
        failed calling webhook "v.example.com": failed to call webhook: invalid type: string "yes", expected a boolean at line 1 column 106
        allowed {"kind":"Pod","spec":{"a":1,"b":2}}
        allowed
        400 Unknown admission webhook "v.example.com" denied the request without explanation
    "#]].assert_eq(&out);
    let (answer, _) = read(&mutating, ReviewVersion::V1, "u", typed(&patch, "JSONPatch").as_bytes());
    let Err(Failure::Refused(status)) = answer.patched(&mutating, None) else { panic!("nothing can be patched") };
    assert_eq!(
        status.message,
        "Internal error occurred: admission webhook \"a.example.com\" attempted to modify the object, which is not supported for this operation"
    );
}

#[test]
fn a_failure_counts_as_the_policy_says() {
    let (open, closed) = (hook("failurePolicy: Ignore"), hook("failurePolicy: Fail"));
    let failure = |hook: &Hook| hook.call_failed("Post \"https://a\": context deadline exceeded");
    assert_eq!(open.outcome(failure(&open)), Ok(()));
    let status = closed.outcome(failure(&closed)).unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            500,
            "Internal error occurred: failed calling webhook \"a.example.com\": failed to call webhook: Post \"https://a\": context deadline exceeded"
        )
    );
    let (_, refusal) = read(&open, ReviewVersion::V1beta1, "u", br#"{"response": {}}"#);
    let status = open.outcome(refusal.unwrap_err()).unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (400, "admission webhook \"a.example.com\" denied the request without explanation")
    );
}

#[test]
fn audit_is_told_who_changed_what() {
    let hook = hook("x: y");
    let (key, value) = mutation(&hook, 0, 3, true);
    assert_eq!(key, "mutation.webhook.admission.k8s.io/round_0_index_3");
    assert_eq!(value, r#"{"configuration":"c","webhook":"a.example.com","mutated":true}"#);
    let (key, value) = patch_annotation(&hook, 1, 0, &json!([{"op": "remove"}]));
    assert_eq!(key, "patch.webhook.admission.k8s.io/round_1_index_0");
    assert_eq!(
        value,
        r#"{"configuration":"c","webhook":"a.example.com","patch":[{"op":"remove"}],"patchType":"JSONPatch"}"#
    );
    let validating = all("[{name: v}]", false).remove(0);
    assert_eq!(failed_open(&hook, 0, 1).0, "failed-open.mutation.webhook.admission.k8s.io/round_0_index_1");
    assert_eq!(
        failed_open(&validating, 0, 1),
        ("failed-open.validating.webhook.admission.k8s.io/round_0_index_1".to_owned(), "v".to_owned())
    );
}

#[test]
fn who_asks_for_it_is_called_again() {
    let hooks = all(
        "[{name: a, reinvocationPolicy: IfNeeded}, {name: b, reinvocationPolicy: Never}, {name: c, reinvocationPolicy: IfNeeded}]",
        true,
    );
    let (before, after) = (parse("{a: 1}"), parse("{a: 2}"));
    // Who changed the object, and whether other plugins did after that; then who is called again.
    for (changer, others, needed, again) in [
        (None, false, false, ""),
        (Some(1), false, true, "a"),
        (Some(0), false, true, ""),
        (Some(2), false, true, "a"),
        (Some(1), true, true, "ac"),
    ] {
        let mut rounds = Rounds::default();
        for (index, hook) in hooks.iter().enumerate() {
            assert!(rounds.calls(hook));
            rounds.was_called(hook, changer == Some(index));
        }
        rounds.end(&before);
        assert_eq!(rounds.is_second_needed(), needed, "{changer:?}");
        rounds.begin_second(if others { &after } else { &before });
        let called: String = hooks.iter().filter(|hook| rounds.calls(hook)).map(|hook| hook.name.as_str()).collect();
        assert_eq!((called.as_str(), rounds.round()), (again, 1), "{changer:?} {others}");
        assert!(!rounds.is_second_needed(), "there is no third");
    }
}
