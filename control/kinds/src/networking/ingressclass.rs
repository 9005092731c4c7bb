//! IngressClass: which controller serves the Ingresses that name it.

use crate::{at::At, cells, edit, rules};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Controller", "The controller that serves Ingresses of the class."),
    Column::new("Parameters", "The object with the settings of the controller."),
    Column::age(),
];

/// The longest name of a controller.
const MAX_CONTROLLER: usize = 250;

/// The annotation of the class that Ingresses without one get.
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

struct Classes;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("networking.k8s.io", "v1", "ingressclasses", "IngressClass", Classes)
        .cluster_scoped()
        .with_generation()
}

impl Strategy for Classes {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        if let Some(parameters) = edit::object_if(edit::object(&mut object.0, "spec"), "parameters") {
            edit::fill(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        if cx.operation == Operation::Create {
            spec(At::of(object, "spec"), &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (mut out, new, old) = (Vec::new(), At::of(object, "spec"), At::of(old, "spec"));
        new.get("controller").or_empty().immutable(old.get("controller").or_empty(), &mut out);
        // What is stored was valid.
        if !edit::deep_equal(new.value(), old.value()) {
            spec(new, &mut out);
        }
        out
    }
}

fn spec(spec: At<'_>, out: &mut Vec<Cause>) {
    let (controller, parameters) = (spec.get("controller"), spec.get("parameters"));
    if controller.str().len() > MAX_CONTROLLER {
        out.push(Cause::too_long(&controller.field(), MAX_CONTROLLER));
    }
    rules::domain_prefixed_path(controller, out);
    if !parameters.is_set() {
        return;
    }
    if parameters.get("apiGroup").is_set() {
        rules::subdomain_name(parameters.get("apiGroup"), out);
    }
    rules::required_segment(parameters.get("kind"), out);
    rules::required_segment(parameters.get("name"), out);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.str() {
        _ if !scope.is_set() => out.push(scope.required("")),
        "Namespace" if !namespace.is_set() => {
            out.push(namespace.required("`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => rules::label_name(namespace, out),
        "Cluster" if namespace.is_set() => out.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'")),
        "Cluster" => {}
        _ => out.push(scope.not_supported(&["Cluster", "Namespace"])),
    }
}

/// Whether Ingresses without a class get this one.
pub(crate) fn is_default(class: &Object) -> bool {
    class.annotation(DEFAULT) == Some("true")
}

impl TableConvertor for Classes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let (name, parameters) = (object.name(), At::of(object, "spec").get("parameters"));
        let (kind, named, group) = (parameters.get("kind"), parameters.get("name"), parameters.get("apiGroup"));
        let shown = match (parameters.is_set(), group.is_set()) {
            (false, _) => "<none>".to_owned(),
            (true, false) => format!("{}/{}", kind.str(), named.str()),
            (true, true) => format!("{}.{}/{}", kind.str(), group.str(), named.str()),
        };
        vec![
            if is_default(object) { json!(format!("{name} (default)")) } else { json!(name) },
            json!(cells::text(object, &["spec", "controller"])),
            json!(shown),
            cells::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, update_errors};
    use expect_test::expect;

    fn text(spec: &str) -> String {
        format!("{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: c}}, spec: {spec}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            (&*"{controller: example.com/a/b}".to_owned(), expect![[""]]),
            (
                "{controller: example.com/a, parameters: {apiGroup: k8s.example, kind: K, name: one, scope: Namespace, namespace: ns}}",
                expect![[""]],
            ),
            (
                "{parameters: {}}",
                expect![[r#"
                spec.controller: Required value
                spec.parameters.kind: Required value
                spec.parameters.name: Required value
            "#]],
            ),
            (
                "{controller: example.com, parameters: {kind: ., name: a/b, scope: World}}",
                expect![[r#"
                spec.controller: Invalid value: "example.com": must be a domain-prefixed path (such as "acme.io/foo")
                spec.parameters.kind: Invalid value: ".": may not be '.'
                spec.parameters.name: Invalid value: "a/b": may not contain '/'
                spec.parameters.scope: Unsupported value: "World": supported values: "Cluster", "Namespace"
            "#]],
            ),
            (
                "{controller: 'EXAMPLE/a b', parameters: {apiGroup: '', kind: K, name: one, namespace: x}}",
                expect![[r#"
                spec.controller: Invalid value: "EXAMPLE": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.controller: Invalid value: "a b": Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')
                spec.parameters.apiGroup: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'
            "#]],
            ),
            (
                "{controller: a/b, parameters: {kind: K, name: one, scope: Namespace}}",
                expect![[r#"
                spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'
            "#]],
            ),
            (
                "{controller: a/b, parameters: {kind: K, name: one, scope: Namespace, namespace: A}}",
                expect![[r#"
                spec.parameters.namespace: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            "#]],
            ),
            (
                &format!("{{controller: a/{}}}", "b".repeat(250)),
                expect![[r#"
                spec.controller: Too long: may not be more than 250 bytes
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Classes, &text(spec)));
        }
    }

    #[test]
    fn the_controller_stays() {
        let old = created(&Classes, &text("{controller: example.com/a, parameters: {kind: K, name: one}}"));
        assert_eq!(old.str_at(&["spec", "parameters", "scope"]), Some("Cluster"));
        let mut new = old.clone();
        new.set(&["spec", "parameters", "name"], "m");
        assert_eq!(update_errors(&Classes, &new, &old), "");
        new.set(&["spec", "controller"], "b");
        expect![[r#"
            spec.controller: Invalid value: "b": field is immutable
            spec.controller: Invalid value: "b": must be a domain-prefixed path (such as "acme.io/foo")
        "#]]
        .assert_eq(&update_errors(&Classes, &new, &old));
    }

    #[test]
    fn a_row_shows_the_parameters() {
        expect!["c | a/b | <none> | <unknown>"].assert_eq(&row(&Classes, &text("{controller: a/b}")));
        expect!["c | a/b | K/one | <unknown>"]
            .assert_eq(&row(&Classes, &text("{controller: a/b, parameters: {kind: K, name: one}}")));
        let text = text("{controller: a/b, parameters: {apiGroup: g.example, kind: K, name: one}}")
            .replace("name: c", "name: c, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}");
        expect!["c (default) | a/b | K.g.example/one | <unknown>"].assert_eq(&row(&Classes, &text));
    }
}
