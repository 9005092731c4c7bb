//! What expressions of admission see, what they may cost, and what is said of those that are wrong.

use super::*;
use crate::testing::{Stored, context_for, parse};
use server::{Resource, authz::Rules, strategy::Plain};

/// Lets the tester get things, and a ServiceAccount nothing.
struct Getters;

#[async_trait::async_trait]
impl Authorizer for Getters {
    async fn authorize(&self, _: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> Decision {
        match (user.name.as_str(), wanted.verb) {
            ("tester", "get") => Decision::Allow,
            ("tester", _) => Decision::NoOpinion,
            (other, _) => Decision::Deny(format!("no {other} in {}", user.groups.join(" "))),
        }
    }

    async fn reason(&self, _: &dyn Objects, _: &User, wanted: &Attributes<'_>) -> String {
        let Attributes { group, resource, subresource, namespace, name, path, .. } = wanted;
        format!("{group}|{resource}|{subresource}|{namespace}|{name}|{path}")
    }

    async fn rules_for(&self, _: &dyn Objects, _: &User, _: &str) -> Rules {
        Rules::default()
    }
}

fn evaluate(text: &str, left: &mut u64) -> String {
    evaluate_until(text, left, Deadline::default())
}

fn evaluate_until(text: &str, left: &mut u64, deadline: Deadline) -> String {
    let (object, old) = (parse("{metadata: {name: x, labels: {a: b}}, n: 3}"), parse("{n: 2}"));
    let namespace =
        parse("{metadata: {name: ns, uid: u, managedFields: [{}], labels: {team: t}}, status: {phase: Active}}");
    let mut cx = context_for(Resource::new("apps", "v1", "things", "Thing", Plain), Stored::default());
    cx.subresource = "status".to_owned();
    cx.deadline = deadline;
    let request = json!({"name": "x", "namespace": "ns", "operation": "UPDATE", "userInfo": {"username": "tester"},
        "kind": {"group": "apps", "version": "v1", "kind": "Thing"}, "options": {"dryRun": ["All"]}});
    let authorizer: Arc<dyn Authorizer> = Arc::new(Getters);
    let input = Input::new(&cx, &authorizer, (Some(&object), Some(&old)), request).in_namespace(Some(&namespace));
    let expression = Expression::new(&cel::admission::env(&Type::Dyn), text, &[Type::Bool]);
    match expression.evaluate(&input.activation(), input.deadline(), left) {
        Ok(Ok(value)) => format!("{:?}", value.as_bool()),
        Ok(Err(error)) => error,
        Err(exhausted) => exhausted.to_string(),
    }
}

#[test]
fn a_request_is_seen_in_all_its_parts() {
    for text in [
        "object.n > oldObject.n && object.metadata.labels.a == 'b'",
        "request.operation == 'UPDATE' && request.kind.kind == 'Thing' && request.userInfo.username.startsWith('t')",
        "!has(request.subResource) && request.options.dryRun == ['All']",
        "namespaceObject.metadata.labels.team == 't' && namespaceObject.status.phase == 'Active'",
        "authorizer.group('apps').resource('things').namespace('a').check('get').allowed()",
        "!authorizer.path('/x').check('put').allowed() && authorizer.path('/x').check('put').reason() == '|||||/x'",
        "authorizer.requestResource.check('get').reason() == 'apps|things|status|ns|x|'",
        "authorizer.serviceAccount('n', 'a').requestResource == null || true",
        "authorizer.serviceAccount('n', 'a').group('').resource('pods').check('get').reason() == \
            'no system:serviceaccount:n:a in system:serviceaccounts system:serviceaccounts:n'",
    ] {
        if text.contains("requestResource == null") {
            // It is a variable and no field.
            assert!(evaluate(text, &mut 1_000).starts_with("compilation error: "), "{text}");
            continue;
        }
        assert_eq!(evaluate(text, &mut 2_500_000), "Some(true)", "{text}");
    }
}

#[test]
fn an_evaluation_ends_with_its_request() {
    for text in [
        "lists.range(1000).all(x, x >= 0)",
        "lists.range(10).all(x, lists.range(50).all(y, x + y >= 0) || true)",
        "!lists.range(1000).map(x, 'aaaaaaaaaaaaaaaa').join().matches('(.?a){1000}y')",
    ] {
        let over = Deadline::after(std::time::Duration::ZERO);
        let wanted = format!("expression '{text}' resulted in error: operation interrupted");
        assert_eq!(evaluate_until(text, &mut 10_000_000, over), wanted);
        let minute = Deadline::after(std::time::Duration::from_secs(60));
        assert_ne!(evaluate_until(text, &mut 10_000_000, minute), wanted);
    }
}

#[test]
fn faults_have_upstreams_words() {
    for (text, wanted) in [
        ("object.none", "compilation error: must evaluate to bool but got dyn"),
        (
            "reqest.name == ''",
            "compilation error: compilation failed: ERROR: <input>:1:1: undeclared reference to 'reqest' (in container '')\n | reqest.name == ''\n | ^",
        ),
        ("object.none == 1", "expression 'object.none == 1' resulted in error: no such key: none"),
        (
            "request.subResource == ''",
            "expression 'request.subResource == ''' resulted in error: no such key: subResource",
        ),
    ] {
        assert_eq!(evaluate(text, &mut 2_500_000), wanted, "{text}");
    }
    let either = Expression::new(&cel::admission::env(&Type::Dyn), "1", &[Type::Bool, Type::String]);
    assert_eq!(either.fault(), Some("must evaluate to one of [bool string] but got int"));
}

#[test]
fn costs_are_bounded_for_one_and_for_all() {
    let loops =
        "[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, a + b + c >= 0)))";
    let mut left = 2_500_000;
    assert_eq!(evaluate(loops, &mut left), "Some(true)");
    let one = 2_500_000 - left;
    assert!((1_000..100_000).contains(&one), "{one}");
    let mut few = one - 1;
    assert_eq!(evaluate(loops, &mut few), Exhausted.to_string());
    let nested =
        format!("[0,1,2,3,4,5,6,7,8,9].all(x, [0,1,2,3,4,5,6,7,8,9].all(y, [0,1,2,3,4,5,6,7,8,9].all(z, {loops})))");
    assert!(
        evaluate(&nested, &mut 10_000_000)
            .ends_with("resulted in error: operation cancelled: actual cost limit exceeded"),
        "one has its own limit"
    );
}
