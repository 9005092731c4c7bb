//! FlowSchema: which requests belong to which priority level.

use super::{EXEMPT, GROUP, conditions, standard};
use crate::{at::At, cells, edit, rules};
use api::{Cause, CauseKind, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("PriorityLevel", "The PriorityLevelConfiguration of the requests."),
    Column::new("MatchingPrecedence", "Of the FlowSchemas that match a request, that with the lowest number counts."),
    Column::new("DistinguisherMethod", "What tells one flow of requests from another."),
    Column::age(),
    Column::new("MissingPL", "Whether the PriorityLevelConfiguration does not exist."),
];

/// The highest precedence, and that of a FlowSchema that names none.
const MAX_PRECEDENCE: i64 = 10_000;
const DEFAULT_PRECEDENCE: i64 = 1000;

/// Verbs of requests.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// The subjects that a rule names: the kind, and the field that names one.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

pub(crate) struct Schemas;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "flowschemas", "FlowSchema", Schemas).cluster_scoped().with_generation().with_status()
}

impl Strategy for Schemas {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn default(&self, object: &mut Object) {
        edit::object(&mut object.0, "status");
        let spec = edit::object(&mut object.0, "spec");
        edit::object(spec, "priorityLevelConfiguration");
        edit::fill_int(spec, "matchingPrecedence", DEFAULT_PRECEDENCE);
        for rule in edit::objects(spec, "rules") {
            edit::objects(rule, "resourceRules").for_each(|rule| edit::drop_zero(rule, &["clusterScope"]));
        }
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        edit::keep_metadata(object, old);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        precedence(object.name(), spec.get("matchingPrecedence"), &mut out);
        let method = spec.get("distinguisherMethod");
        if method.is_set() && !matches!(method.get("type").str(), "ByNamespace" | "ByUser") {
            let shown = method.printed("io.k8s.api.flowcontrol.v1.FlowDistinguisherMethod");
            let text = "supported values: \"ByNamespace\", \"ByUser\"";
            out.push(Cause::shown(CauseKind::NotSupported, &method.get("type").field(), &shown, text));
        }
        let level = spec.down(&["priorityLevelConfiguration", "name"]);
        if level.is_empty() {
            out.push(level.required("must reference a priority level"));
        } else {
            rules::subdomain_name(level, &mut out);
        }
        spec.get("rules").items().for_each(|rule| validate_rule(rule, &mut out));
        if let Some(fixed) = standard::mandatory_spec("flowschemas", object.name())
            && !edit::deep_equal(spec.value(), fixed)
        {
            let shown = spec.printed("io.k8s.api.flowcontrol.v1.FlowSchemaSpec");
            let text = format!("spec of '{}' must equal the fixed value", object.name());
            out.push(Cause::invalid_shown(&spec.field(), &shown, &text));
        }
        out
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        conditions(At::of(object, "status"), &mut out);
        out
    }

    fn reset_fields(&self, subresource: &str) -> &[&'static [&'static str]] {
        if subresource == "status" { &[&["metadata"], &["spec"]] } else { &[] }
    }
}

fn precedence(name: &str, at: At<'_>, out: &mut Vec<Cause>) {
    let number = at.int().unwrap_or_default();
    if number <= 0 {
        out.push(at.invalid("must be a positive value"));
    }
    if number > MAX_PRECEDENCE {
        out.push(at.invalid(&format!("must not be greater than {MAX_PRECEDENCE}")));
    }
    if number == 1 && name != EXEMPT {
        out.push(at.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
    }
}

fn validate_rule(rule: At<'_>, out: &mut Vec<Cause>) {
    let (subjects, resources, urls) = (rule.get("subjects"), rule.get("resourceRules"), rule.get("nonResourceRules"));
    if subjects.is_empty() {
        out.push(subjects.required("subjects must contain at least one value"));
    }
    for subject in subjects.items() {
        if rules::full(out) {
            return;
        }
        validate_subject(subject, out);
    }
    if resources.is_empty() && urls.is_empty() {
        out.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for one in resources.items() {
        if rules::full(out) {
            return;
        }
        resource_rule(one, out);
    }
    for one in urls.items() {
        if rules::full(out) {
            return;
        }
        url_rule(one, out);
    }
}

fn validate_subject(subject: At<'_>, out: &mut Vec<Cause>) {
    let kind = subject.get("kind");
    let Some((named, own)) = SUBJECTS.into_iter().find(|(named, _)| *named == kind.str()) else {
        out.push(kind.or_empty().not_supported(&["Group", "ServiceAccount", "User"]));
        return;
    };
    let at = subject.get(own);
    if at.is_set() {
        subject_name(named, at, out);
    } else {
        out.push(at.required(&format!("{own} is required when subject kind is '{named}'")));
    }
    for (other, field) in SUBJECTS {
        if other != named && subject.get(field).is_set() {
            let text = format!("{field} is forbidden when subject kind is not '{other}'");
            out.push(subject.get(field).forbidden(&text));
        }
    }
}

fn subject_name(kind: &str, subject: At<'_>, out: &mut Vec<Cause>) {
    let (name, namespace) = (subject.get("name"), subject.get("namespace"));
    if name.is_empty() {
        out.push(name.required(""));
    } else if kind == "ServiceAccount" && name.str() != "*" {
        rules::subdomain_name(name, out);
    }
    if kind == "ServiceAccount" {
        match namespace.is_empty() {
            true => out.push(namespace.required("must specify namespace for service account")),
            false => rules::label_name(namespace, out),
        }
    }
}

/// Whether a list has `*`.
fn has_all(list: At<'_>) -> bool {
    list.items().any(|item| item.str() == "*")
}

/// Whether a list has `*`, which must be alone.
fn all_alone(list: At<'_>, what: &str, out: &mut Vec<Cause>) -> bool {
    let all = has_all(list);
    if all && list.len() > 1 {
        out.push(list.invalid(&format!("if '*' is present, must not specify other {what}")));
    }
    all
}

fn verbs(verbs: At<'_>, out: &mut Vec<Cause>) {
    if verbs.is_empty() {
        out.push(verbs.required("verbs must contain at least one value"));
    } else if !all_alone(verbs, "verbs", out) && !verbs.items().all(|verb| VERBS.contains(&verb.str())) {
        out.push(verbs.not_supported(VERBS));
    }
}

fn resource_rule(rule: At<'_>, out: &mut Vec<Cause>) {
    verbs(rule.get("verbs"), out);
    for (name, one, others) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let list = rule.get(name);
        if list.is_empty() {
            out.push(list.required(&format!("resource rules must supply at least one {one}")));
        }
        all_alone(list, others, out);
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && !rule.get("clusterScope").bool() {
        let text = "resource rules that are not cluster scoped must supply at least one namespace";
        out.push(namespaces.required(text));
    } else if !all_alone(namespaces, "namespaces", out) {
        for at in namespaces.items() {
            if rules::full(out) {
                return;
            }
            let problems = names::dns1123_label(at.str()).into_iter();
            let explained = |text| format!("each member of this list must be '*' or a DNS-1123 label; {text}");
            at.invalid_all(problems.map(explained).collect(), out);
        }
    }
}

fn url_rule(rule: At<'_>, out: &mut Vec<Cause>) {
    verbs(rule.get("verbs"), out);
    let urls = rule.get("nonResourceURLs");
    if urls.is_empty() {
        out.push(urls.required("nonResourceURLs must contain at least one value"));
    } else if !all_alone(urls, "non-resource URLs", out) {
        for at in urls.items() {
            if rules::full(out) {
                return;
            }
            out.extend(url_problem(at.str()).map(|text| at.or_empty().invalid(text)));
        }
    }
}

fn url_problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("must not be empty");
    }
    if !path.starts_with('/') {
        return Some("must start with slash");
    }
    if path.contains(' ') {
        return Some("must not contain white-space");
    }
    if path.contains("//") {
        return Some("must not contain double slash");
    }
    let suffix = path.matches('*').count() == 1 && path.ends_with("/*");
    (path.contains('*') && !suffix).then_some("wildcard can only do suffix matching")
}

impl TableConvertor for Schemas {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let method = At::of(object, "spec").get("distinguisherMethod");
        let mut conditions = At::of(object, "status").get("conditions").items();
        let dangling = conditions.find(|condition| condition.get("type").str() == "Dangling");
        vec![
            json!(object.name()),
            json!(cells::text(object, &["spec", "priorityLevelConfiguration", "name"])),
            json!(cells::number(object, &["spec", "matchingPrecedence"])),
            json!(if method.is_set() { method.get("type").str() } else { "<none>" }),
            cells::age(object, now),
            json!(dangling.map_or("?", |condition| condition.get("status").str())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, parse, row};
    use expect_test::expect;

    fn text(spec: &str) -> String {
        format!("{{apiVersion: {GROUP}/v1, kind: FlowSchema, metadata: {{name: s}}, spec: {spec}}}")
    }

    const LEVEL: &str = "priorityLevelConfiguration: {name: l}";

    fn with_rule(rule: &str) -> String {
        text(&format!("{{{LEVEL}, rules: [{rule}]}}"))
    }

    const RESOURCES: &str = "resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*']}]";

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            (
                with_rule(&format!(
                    "{{subjects: [{{kind: ServiceAccount, serviceAccount: {{name: '*', namespace: ns}}}}], {RESOURCES}}}"
                )),
                expect![[""]],
            ),
            (
                with_rule(
                    "{subjects: [{kind: User, user: {name: '*'}}], nonResourceRules: [{verbs: [get], nonResourceURLs: [/, /a/*, /b]}], resourceRules: [{verbs: [get, list], apiGroups: [''], resources: [pods, pods/log], clusterScope: true}]}",
                ),
                expect![[""]],
            ),
            (
                text("{}"),
                expect![[r#"
                spec.priorityLevelConfiguration.name: Required value: must reference a priority level
            "#]],
            ),
            (
                text(
                    "{matchingPrecedence: -1, priorityLevelConfiguration: {name: A}, distinguisherMethod: {type: ByMood}, rules: [{}]}",
                ),
                expect![[r#"
                    spec.matchingPrecedence: Invalid value: -1: must be a positive value
                    spec.distinguisherMethod.type: Unsupported value: {"Type":"ByMood"}: supported values: "ByNamespace", "ByUser"
                    spec.priorityLevelConfiguration.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.rules[0].subjects: Required value: subjects must contain at least one value
                    spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty
                "#]],
            ),
            (
                text(&format!("{{matchingPrecedence: 10001, {LEVEL}}}")),
                expect![[r#"
                spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000
            "#]],
            ),
            (
                text(&format!("{{matchingPrecedence: 1, {LEVEL}}}")),
                expect![[r#"
                spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1
            "#]],
            ),
            (
                with_rule(&format!(
                    "{{subjects: [{{kind: Robot}}, {{kind: User, group: {{name: g}}, serviceAccount: {{}}}}, {{kind: Group, group: {{}}, user: {{}}}}, {{kind: ServiceAccount, serviceAccount: {{}}}}, {{kind: ServiceAccount, serviceAccount: {{name: A, namespace: A}}, user: {{name: u}}}}], {RESOURCES}}}"
                )),
                expect![[r#"
                    spec.rules[0].subjects[0].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User"
                    spec.rules[0].subjects[1].user: Required value: user is required when subject kind is 'User'
                    spec.rules[0].subjects[1].serviceAccount: Forbidden: serviceAccount is forbidden when subject kind is not 'ServiceAccount'
                    spec.rules[0].subjects[1].group: Forbidden: group is forbidden when subject kind is not 'Group'
                    spec.rules[0].subjects[2].group.name: Required value
                    spec.rules[0].subjects[2].user: Forbidden: user is forbidden when subject kind is not 'User'
                    spec.rules[0].subjects[3].serviceAccount.name: Required value
                    spec.rules[0].subjects[3].serviceAccount.namespace: Required value: must specify namespace for service account
                    spec.rules[0].subjects[4].serviceAccount.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.rules[0].subjects[4].serviceAccount.namespace: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                    spec.rules[0].subjects[4].user: Forbidden: user is forbidden when subject kind is not 'User'
                "#]],
            ),
            (
                with_rule(
                    "{subjects: [{kind: User, user: {name: u}}], resourceRules: [{}, {verbs: ['*', get], apiGroups: ['*', a], resources: ['*', a], namespaces: ['*', a]}, {verbs: [get, fly], apiGroups: [a], resources: [a], namespaces: [A]}]}",
                ),
                expect![[r#"
                    spec.rules[0].resourceRules[0].verbs: Required value: verbs must contain at least one value
                    spec.rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group
                    spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource
                    spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace
                    spec.rules[0].resourceRules[1].verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs
                    spec.rules[0].resourceRules[1].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other api groups
                    spec.rules[0].resourceRules[1].resources: Invalid value: ["*","a"]: if '*' is present, must not specify other resources
                    spec.rules[0].resourceRules[1].namespaces: Invalid value: ["*","a"]: if '*' is present, must not specify other namespaces
                    spec.rules[0].resourceRules[2].verbs: Unsupported value: ["get","fly"]: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"
                    spec.rules[0].resourceRules[2].namespaces[0]: Invalid value: "A": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                "#]],
            ),
            (
                with_rule(
                    "{subjects: [{kind: User, user: {name: u}}], nonResourceRules: [{}, {verbs: [get], nonResourceURLs: ['*', /]}, {verbs: [get], nonResourceURLs: ['', a, '/a b', //, '/a*', '/*/a', '/*/*']}]}",
                ),
                expect![[r#"
                    spec.rules[0].nonResourceRules[0].verbs: Required value: verbs must contain at least one value
                    spec.rules[0].nonResourceRules[0].nonResourceURLs: Required value: nonResourceURLs must contain at least one value
                    spec.rules[0].nonResourceRules[1].nonResourceURLs: Invalid value: ["*","/"]: if '*' is present, must not specify other non-resource URLs
                    spec.rules[0].nonResourceRules[2].nonResourceURLs[0]: Invalid value: "": must not be empty
                    spec.rules[0].nonResourceRules[2].nonResourceURLs[1]: Invalid value: "a": must start with slash
                    spec.rules[0].nonResourceRules[2].nonResourceURLs[2]: Invalid value: "/a b": must not contain white-space
                    spec.rules[0].nonResourceRules[2].nonResourceURLs[3]: Invalid value: "//": must not contain double slash
                    spec.rules[0].nonResourceRules[2].nonResourceURLs[4]: Invalid value: "/a*": wildcard can only do suffix matching
                    spec.rules[0].nonResourceRules[2].nonResourceURLs[5]: Invalid value: "/*/a": wildcard can only do suffix matching
                    spec.rules[0].nonResourceRules[2].nonResourceURLs[6]: Invalid value: "/*/*": wildcard can only do suffix matching
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Schemas, &spec));
        }
    }

    #[test]
    fn those_of_every_cluster_are_fixed() {
        let exempt = text(&format!("{{matchingPrecedence: 1, {LEVEL}}}")).replace("name: s", "name: exempt");
        expect![[r#"
            spec: Invalid value: {"PriorityLevelConfiguration":{"Name":"l"},"MatchingPrecedence":1,"DistinguisherMethod":null,"Rules":null}: spec of 'exempt' must equal the fixed value
        "#]].assert_eq(&errors(&Schemas, &exempt));
        for (name, object) in
            standard::all().iter().filter(|one| one.resource == "flowschemas").map(|one| (one.name(), &one.object))
        {
            assert_eq!(errors(&Schemas, &object.to_string()), "", "{name}");
        }
    }

    #[test]
    fn a_status_has_each_condition_once_and_keeps_the_metadata() {
        let old = created(&Schemas, &text(&format!("{{{LEVEL}}}")));
        assert_eq!(old.int_at(&["spec", "matchingPrecedence"]), Some(1000));
        let mut new = old.clone();
        new.set(&["status", "conditions"], parse("{list: [{type: A}, {type: A}, {}]}").0["list"].clone());
        new.set(&["metadata", "annotations"], json!({"a": "b"}));
        Schemas.prepare_status(&context(), &mut new, &old);
        assert_eq!(new.annotation("a"), None);
        let causes = Schemas.validate_status(&context(), &new, &old);
        expect![[r#"
            status.conditions[1].type: Duplicate value: "A"
            status.conditions[2].type: Required value
        "#]]
        .assert_eq(&causes.iter().map(|cause| format!("{cause}\n")).collect::<String>());
    }

    #[test]
    fn a_row_shows_the_level() {
        expect!["s | l | 0 | <none> | <unknown> | ?"].assert_eq(&row(&Schemas, &text(&format!("{{{LEVEL}}}"))));
        let text = text(&format!("{{{LEVEL}, matchingPrecedence: 5, distinguisherMethod: {{type: ByUser}}}}"))
            .replace("spec:", "status: {conditions: [{type: Dangling, status: 'False'}]}, spec:");
        expect!["s | l | 5 | ByUser | <unknown> | False"].assert_eq(&row(&Schemas, &text));
    }
}
