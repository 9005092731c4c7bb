//! Policies by themselves: what they decide, in which order things are evaluated and what that may cost.

use super::{
    binding::Bindings,
    compiler::{Compiler, Purpose},
    decisions::Validations,
    patches::Mutations,
    policy::{Policies, Policy, Rules},
    rounds::Rounds,
};
use crate::{
    admission::{expressions::Input, matching::same},
    testing::{Stored, context_for, parse},
};
use api::Object;
use expect_test::expect;
use serde_json::{Value, json};
use server::{
    Index, Resource,
    authz::{Authorizer, Union},
    strategy::Plain,
};
use std::sync::Arc;

fn policy<R: Rules>(spec: &str) -> Policy<R> {
    Policy::of(&parse(&format!("{{metadata: {{name: p}}, spec: {spec}}}")))
}

/// Does something with the request of an object of kind Test.
fn with_input<T>(object: &Object, run: impl FnOnce(&Input<'_>) -> T) -> T {
    let cx = context_for(Resource::new("", "v1", "tests", "Test", Plain), Stored::default());
    let authorizer: Arc<dyn Authorizer> = Arc::new(Union::new(Vec::new()));
    let request = json!({"name": "x", "operation": "CREATE", "userInfo": {"username": "tester"}});
    run(&Input::new(&cx, &authorizer, (Some(object), None), request))
}

fn decide(spec: &str, params: Option<&str>) -> String {
    let (policy, params) = (policy::<Validations>(spec), params.map(parse));
    let object = parse("{metadata: {name: x}, n: 3, list: [1, 2, 3]}");
    let decisions = with_input(&object, |input| policy.decide(input, input, params.as_ref()));
    let mut out = String::new();
    for denial in decisions.denials {
        out.push_str(&format!("{} {:?}: {}\n", denial.index, denial.reason, denial.message));
    }
    for (key, value) in decisions.annotations {
        out.push_str(&format!("{key} = {value}\n"));
    }
    for error in decisions.failed_annotations {
        out.push_str(&format!("annotation: {error}\n"));
    }
    out
}

#[test]
fn a_policy_decides_as_upstream() {
    let long = "x".repeat(6000);
    for (spec, expected) in [
        ("{validations: [{expression: 'object.n == 3'}]}".to_owned(), expect![[""]]),
        (
            format!(
                "{{validations: [{{expression: '  object.n == 4 '}}, {{expression: object.n == 3}}, {{expression: 'false', message: ' m ', reason: Forbidden}}, \
                  {{expression: 'false', messageExpression: \"' \" + string(object.n) + ' '\"}}, {{expression: 'false', messageExpression: \"'a\\\\nb'\"}}, \
                  {{expression: 'false', messageExpression: \"'{long}'\", message: short}}, {{expression: 'false', messageExpression: object.none, message: kept}}]}}"
            )
            .replace("\"' \" + string(object.n) + ' '\"", "\"' ' + string(object.n) + ' '\""),
            expect![[r#"
                0 Invalid: failed expression: object.n == 4
                2 Forbidden: m
                3 Invalid: 3
                4 Invalid: failed expression: false
                5 Invalid: short
                6 Invalid: kept
            "#]],
        ),
        ("{validations: [{expression: object.none == 1}, {expression: 'false'}]}".to_owned(), expect![[r#"
            0 Invalid: expression 'object.none == 1' resulted in error: no such key: none
            1 Invalid: failed expression: false
        "#]]),
        // What fails is ignored, what does not hold is not.
        (
            "{failurePolicy: Ignore, validations: [{expression: object.none == 1}, {expression: 'false'}], auditAnnotations: [{key: k, valueExpression: string(object.none)}]}"
                .to_owned(),
            expect![[r#"
                1 Invalid: failed expression: false
            "#]],
        ),
        (
            "{auditAnnotations: [{key: a, valueExpression: \"' a '\"}, {key: b, valueExpression: \"' '\"}, {key: c, valueExpression: 'null'}, {key: d, valueExpression: string(object.none)}]}"
                .to_owned(),
            expect![[r#"
                a = a
                annotation: expression 'string(object.none)' resulted in error: no such key: none
            "#]],
        ),
        // Conditions: one that does not hold decides, then errors do.
        (
            "{matchConditions: [{expression: object.none == 1}, {expression: 'false'}], validations: [{expression: 'false'}]}".to_owned(),
            expect![[""]],
        ),
        (
            "{matchConditions: [{expression: object.none == 1}, {expression: object.none == 1}, {expression: object.more == 1}], validations: [{expression: 'false'}]}"
                .to_owned(),
            expect![[r#"
                0 Invalid: [expression 'object.none == 1' resulted in error: no such key: none, expression 'object.more == 1' resulted in error: no such key: more]
            "#]],
        ),
        (
            "{failurePolicy: Ignore, matchConditions: [{expression: object.none == 1}], validations: [{expression: 'false'}]}".to_owned(),
            expect![[""]],
        ),
    ] {
        expected.assert_eq(&decide(&spec, None));
    }
}

#[test]
fn parameters_may_be_missing() {
    let spec = "{paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: params != null && object.n <= params.max}]}";
    assert_eq!(decide(spec, Some("{max: 3}")), "");
    let refused = "0 Invalid: failed expression: params != null && object.n <= params.max\n";
    assert_eq!(decide(spec, Some("{max: 2}")), refused);
    assert_eq!(decide(spec, None), refused);
}

#[test]
fn variables_are_computed_once_when_they_are_asked_for() {
    let variables = "variables: [{name: num, expression: object.n}, {name: bad, expression: object.none}, {name: twice, expression: variables.num * 2}, {name: worse, expression: variables.bad}]";
    for (expression, expected) in [
        ("variables.twice == 6 && variables.num == 3", expect![[""]]),
        ("variables.num == 3 || variables.bad == 1", expect![[""]]),
        ("variables.bad == 1 || variables.num == 3", expect![[""]]),
        (
            "variables.worse == 1",
            expect![[r#"
            0 Invalid: expression 'variables.worse == 1' resulted in error: composited variable "worse" fails to evaluate: composited variable "bad" fails to evaluate: no such key: none
        "#]],
        ),
    ] {
        expected.assert_eq(&decide(&format!("{{{variables}, validations: [{{expression: '{expression}'}}]}}"), None));
    }
    // A variable of which each round asks costs what it costs once: a thousand times would be more than there is.
    let costly = "object.list.all(a, object.list.all(b, object.list.all(c, object.list.all(d, object.list.all(e, object.list.all(f, object.list.all(g, object.list.all(h, a + b + c > 0))))))))";
    let rounds = format!("[{}].all(x, variables.costly)", vec!["1"; 1000].join(", "));
    let spec = format!(
        "{{variables: [{{name: costly, expression: '{costly}'}}], validations: [{{expression: '{rounds}'}}, {{expression: variables.costly}}]}}"
    );
    assert_eq!(decide(&spec, None), "");
}

#[test]
fn costs_are_bounded_for_an_expression_a_variable_and_a_policy() {
    // Each costs about 800,000.
    let list = format!("[{}]", vec!["1"; 400].join(", "));
    let near = format!("{list}.all(a, {list}.all(b, true))");
    let over = format!("{list}.all(a, {list}.all(b, b > 0 && a > 0))");
    let exhausted =
        "0 Invalid: validation failed due to running out of cost budget, no further validation rules will be run\n";
    let cancelled = decide(&format!("{{validations: [{{expression: '{over}'}}]}}"), None);
    assert!(cancelled.ends_with("resulted in error: operation cancelled: actual cost limit exceeded\n"), "{cancelled}");
    let all = |count: usize| vec![format!("{{expression: '{near}'}}"); count].join(", ");
    assert_eq!(decide(&format!("{{validations: [{}]}}", all(2)), None), "");
    assert_eq!(decide(&format!("{{validations: [{}]}}", all(40)), None), exhausted);
    let variables: Vec<_> = (0..40).map(|i| format!("{{name: v{i}, expression: '{near}'}}")).collect();
    let uses: Vec<_> = (0..40).map(|i| format!("variables.v{i}")).collect();
    let spec =
        format!("{{variables: [{}], validations: [{{expression: '{}'}}]}}", variables.join(", "), uses.join(" && "));
    assert_eq!(decide(&spec, None), exhausted, "variables of one expression");
    let variable =
        format!("{{variables: [{{name: v, expression: '{over}'}}], validations: [{{expression: variables.v}}]}}");
    let cancelled = decide(&variable, None);
    let why = "composited variable \"v\" fails to evaluate: operation cancelled: actual cost limit exceeded\n";
    assert!(cancelled.ends_with(why), "{cancelled}");
}

#[test]
fn variables_that_depend_on_one_another_take_no_endless_room() {
    let nested = format!("{}1{}", "(1 + ".repeat(60), ")".repeat(60));
    let mut variables = vec![format!("{{name: v0, expression: '{nested}'}}")];
    variables.extend((1..1000).map(|i| format!("{{name: v{i}, expression: 'variables.v{} + {nested}'}}", i - 1)));
    let spec = |asked: usize| {
        format!("{{variables: [{}], validations: [{{expression: variables.v{asked} > 0}}]}}", variables.join(", "))
    };
    assert_eq!(decide(&spec(15), None), "");
    assert!(decide(&spec(999), None).contains("too many variables depend on one another"));
    // Of two with one name the last counts; it asks for itself.
    let own = "{variables: [{name: a, expression: '1'}, {name: a, expression: variables.a + 1}], validations: [{expression: variables.a > 0}]}";
    assert!(decide(own, None).contains("too many variables depend on one another"));
}

#[test]
fn what_an_expression_may_name_depends_on_its_purpose() {
    let fault = |compiler: &Compiler, purpose, text: &str| {
        let fault = compiler.expression(purpose, text).fault().unwrap_or("fine").to_owned();
        fault.lines().next().unwrap_or_default().to_owned()
    };
    let (bare, full) = (Compiler::new(false, false), Compiler::new(true, true));
    full.variable("a", "[1]");
    full.variable("t", "timestamp('2026-01-01T00:00:00Z')");
    let undeclared = |name: &str| {
        format!("compilation failed: ERROR: <input>:1:1: undeclared reference to '{name}' (in container '')")
    };
    for (compiler, purpose, text, expected) in [
        (&full, Purpose::Validation, "params.a == variables.a[0]", "fine".to_owned()),
        (
            &full,
            Purpose::Validation,
            "variables.a[0] == 'x'",
            "compilation failed: ERROR: <input>:1:16: found no matching overload for '_==_' applied to '(int, string)'"
                .to_owned(),
        ),
        (
            &full,
            Purpose::Validation,
            "variables.b",
            "compilation failed: ERROR: <input>:1:10: undefined field 'b'".to_owned(),
        ),
        (
            &full,
            Purpose::Validation,
            "variables.t",
            "must evaluate to bool but got google.protobuf.Timestamp".to_owned(),
        ),
        (&bare, Purpose::Validation, "params == null", undeclared("params")),
        (&bare, Purpose::Condition, "variables.a == 1", undeclared("variables")),
        (&bare, Purpose::Message, "authorizer.path('/').check('get').reason()", undeclared("authorizer")),
        (&bare, Purpose::Message, "1", "must evaluate to string but got int".to_owned()),
        (&bare, Purpose::AuditAnnotation, "null", "fine".to_owned()),
        (&bare, Purpose::AuditAnnotation, "1", "must evaluate to one of [string null_type] but got int".to_owned()),
        (&bare, Purpose::ApplyConfiguration, "Object{spec: Object.spec{a: 1}}", "fine".to_owned()),
        (&bare, Purpose::ApplyConfiguration, "{'a': 1}", "must evaluate to Object but got map(string, int)".to_owned()),
        (&bare, Purpose::JsonPatch, "[JSONPatch{op: 'remove', path: '/a'}]", "fine".to_owned()),
        (&bare, Purpose::JsonPatch, "[1]", "must evaluate to list(JSONPatch) but got list(int)".to_owned()),
        (&bare, Purpose::Validation, "Object{} == null", undeclared("Object")),
    ] {
        let found = fault(compiler, purpose, text);
        if purpose == Purpose::Validation && text.starts_with("Object") {
            assert_ne!(found, "fine");
            continue;
        }
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn a_mutation_gives_a_configuration_or_operations() {
    let evaluate = |mutation: &str| -> Result<Value, String> {
        let policy = policy::<Mutations>(&format!(
            "{{variables: [{{name: v, expression: object.n + 1}}], mutations: [{mutation}]}}"
        ));
        let object = parse("{metadata: {name: x}, n: 3}");
        let first = policy.rules.all.first().expect("a mutation");
        with_input(&object, |input| first.evaluate(&policy.variables, input, None))
    };
    let apply = |text: &str| {
        evaluate(&format!("{{patchType: ApplyConfiguration, applyConfiguration: {{expression: '{text}'}}}}"))
    };
    let patch = |text: &str| evaluate(&format!("{{patchType: JSONPatch, jsonPatch: {{expression: '{text}'}}}}"));
    assert_eq!(apply("Object{spec: Object.spec{n: variables.v}}"), Ok(json!({"spec": {"n": 4}})));
    assert_eq!(
        patch(
            "[JSONPatch{op: \"add\", path: \"/a\", value: Object.spec.x{y: [1]}}, JSONPatch{op: \"move\", path: \"/a\", from: \"/b\"}, JSONPatch{op: \"remove\", path: \"/a\", from: \"\"}]"
        ),
        Ok(
            json!([{"op": "add", "path": "/a", "value": {"y": [1]}}, {"op": "move", "path": "/a", "from": "/b"}, {"op": "remove", "path": "/a"}])
        )
    );
    assert_eq!(apply("object.n"), Err("must evaluate to Object but got dyn".to_owned()));
    let wrong = "type mismatch: unexpected type name \"Object.b\", expected \"Object.a.b\", which matches field name path from root Object type";
    assert_eq!(patch("[JSONPatch{op: \"add\", path: \"/a\", value: Object.a{b: Object.b{}}}]"), Err(wrong.to_owned()));
}

#[test]
fn who_asks_for_it_is_invoked_again() {
    let (before, after) = (parse("{a: 1}"), parse("{a: 2}"));
    // Who changed the object, and whether other plugins did after that; then who is invoked again. A and c ask for it.
    for (changer, others, again) in [(None, false, ""), (Some("b"), false, "ac"), (None, true, "ac")] {
        let mut rounds = Rounds::default();
        for name in ["a", "b", "c"] {
            assert!(rounds.invokes(name));
            rounds.was_invoked(name.to_owned(), changer == Some(name), name != "b");
        }
        rounds.end(&before, changer.is_some());
        rounds.begin_second(if others { &after } else { &before }, same);
        let invoked: String = ["a", "b", "c"].into_iter().filter(|name| rounds.invokes(name)).collect();
        assert_eq!(invoked, again, "{changer:?} {others}");
    }
}

#[test]
fn indexes_follow_what_is_stored() {
    let mut policies = Policies::<Validations>::default();
    let mut bindings = Bindings::default();
    let of = |policy: &str| parse(&format!("{{metadata: {{name: b}}, spec: {{policyName: {policy}}}}}"));
    bindings.put("", "b", Some(&of("p")));
    let held = bindings.all.clone();
    bindings.put("", "b", Some(&of("q")));
    assert_eq!(bindings.all.keys().collect::<Vec<_>>(), ["q"]);
    assert_eq!(held.keys().collect::<Vec<_>>(), ["p"], "a request goes on with what it has begun with");
    bindings.put("", "b", None);
    bindings.put("", "none", None);
    assert!(bindings.all.is_empty());
    policies.put("", "p", Some(&parse("{metadata: {name: p}}")));
    policies.put("", "p", None);
    assert!(policies.0.is_empty());
}
