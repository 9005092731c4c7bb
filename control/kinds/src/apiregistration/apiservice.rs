//! APIService: a version of a group, and the Service that serves it; without one it is served here.

use super::{GROUP, RESOURCE};
use crate::{at::At, cells, clientconfig, edit, rules};
use api::{Cause, FieldPath, Object, names, time};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const KIND: &str = "APIService";

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Service", "The reference to the service that hosts this API endpoint."),
    Column::new("Available", "Whether this service is available."),
    Column::age(),
];

/// The kind.
pub(crate) struct Services;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", RESOURCE, KIND, Services)
        .category("api-extensions")
        .cluster_scoped()
        .with_status()
        .conditional_update_only()
}

impl Strategy for Services {
    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        names::path_segment(name)
    }

    fn default(&self, object: &mut Object) {
        if let Some(spec) = edit::object_if(&mut object.0, "spec") {
            clientconfig::default(spec);
        }
    }

    fn prepare_create(&self, cx: &Context, object: &mut Object) {
        if is_local(object) {
            let condition = json!({
                "type": "Available", "status": "True", "lastTransitionTime": time::rfc3339(cx.now),
                "reason": "Local", "message": "Local APIServices are always available",
            });
            object.set(&["status"], json!({"conditions": [condition]}));
        } else {
            object.set(&["status"], json!({}));
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        name(object, spec, &mut out);
        let (group, version) = (spec.get("group"), spec.get("version"));
        if group.is_empty() && version.str() != "v1" {
            out.push(group.required("only v1 may have an empty group and it better be legacy kube"));
        }
        if !group.is_empty() {
            group.invalid_all(names::dns1123_subdomain(group.str()), &mut out);
        }
        version.invalid_all(names::dns1035_label(version.str()), &mut out);
        for (name, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
            let priority = spec.get(name).int().unwrap_or(0);
            if !(1..=most).contains(&priority) {
                let text = format!("must be positive and less than {most}");
                out.push(Cause::invalid(&spec.get(name).field(), &json!(priority), &text));
            }
        }
        served_by(spec, &mut out);
        out
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        const ALL: &[&str] = &["True", "False", "Unknown"];
        let statuses = At::of(object, "status").get("conditions").items().map(|condition| condition.get("status"));
        let wrong = statuses.filter(|status| !ALL.contains(&status.str())).take(MAX_CAUSES);
        wrong.map(|status| status.or_empty().not_supported(ALL)).collect()
    }
}

/// More faults than any answer names.
const MAX_CAUSES: usize = 1_000;

fn is_local(object: &Object) -> bool {
    !At::of(object, "spec").get("service").is_set()
}

/// A name is version and group; of one that cannot be in a path nothing more is said.
fn name(object: &Object, spec: At<'_>, out: &mut Vec<Cause>) {
    let wanted = format!("{}.{}", spec.get("version").str(), spec.get("group").str());
    for field in ["generateName", "name"] {
        let name = object.str_at(&["metadata", field]).unwrap_or_default();
        if !name.is_empty() && names::path_segment(name).is_empty() && name != wanted {
            let text = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            out.push(Cause::invalid(&FieldPath::new("metadata").child(field), &json!(name), &text));
        }
    }
}

fn served_by(spec: At<'_>, out: &mut Vec<Cause>) {
    let (service, bundle, insecure) = (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !service.is_set() {
        if !bundle.is_empty() {
            let shown = json!(format!("{} bytes", rules::decoded_len(bundle.str())));
            out.push(Cause::invalid(&bundle.field(), &shown, "local APIServices may not have a caBundle"));
        }
        if insecure.bool() {
            out.push(insecure.invalid("local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    }
    for field in ["namespace", "name"] {
        if service.get(field).is_empty() {
            out.push(service.get(field).required(""));
        }
    }
    clientconfig::port(service.get("port"), out);
    if insecure.bool() && !bundle.is_empty() {
        out.push(insecure.invalid("may not be true if caBundle is present"));
    }
}

impl TableConvertor for Services {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let service = At::of(object, "spec").get("service");
        let by = match is_local(object) {
            true => "Local".to_owned(),
            false => format!("{}/{}", service.get("namespace").str(), service.get("name").str()),
        };
        let conditions = At::of(object, "status").get("conditions").items();
        let available = conditions.clone().find(|condition| condition.get("type").str() == "Available");
        let available = available.map_or_else(
            || "Unknown".to_owned(),
            |condition| match (condition.get("status").str(), condition.get("reason").str()) {
                (status, "") | (status @ "True", _) => status.to_owned(),
                (status, reason) => format!("{status} ({reason})"),
            },
        );
        vec![json!(object.name()), json!(by), json!(available), cells::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, errors, parse, row};
    use expect_test::expect;

    fn text(name: &str, spec: &str) -> String {
        format!("{{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {{name: {name}}}, spec: {spec}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (name, spec, expected) in [
            ("v1.", "{version: v1, groupPriorityMinimum: 1, versionPriority: 1}", expect![[""]]),
            (
                "v1.a.example",
                "{version: v1, group: a.example, groupPriorityMinimum: 20000, versionPriority: 1000, service: {name: s, namespace: ns}}",
                expect![[""]],
            ),
            (
                "x",
                "{}",
                expect![[r#"
                metadata.name: Invalid value: "x": must be `spec.version+"."+spec.group`: "."
                spec.group: Required value: only v1 may have an empty group and it better be legacy kube
                spec.version: Invalid value: "": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
                spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000
                spec.versionPriority: Invalid value: 0: must be positive and less than 1000
            "#]],
            ),
            (
                "a%",
                "{version: v2, groupPriorityMinimum: 20001, versionPriority: -1, caBundle: YWI=, insecureSkipTLSVerify: true}",
                expect![[r#"
                    spec.group: Required value: only v1 may have an empty group and it better be legacy kube
                    spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000
                    spec.versionPriority: Invalid value: -1: must be positive and less than 1000
                    spec.caBundle: Invalid value: "2 bytes": local APIServices may not have a caBundle
                    spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify
                "#]],
            ),
            (
                "V1.A",
                "{version: V1, group: A, groupPriorityMinimum: 1, versionPriority: 1, caBundle: YWI=, insecureSkipTLSVerify: true, service: {port: 0}}",
                expect![[r#"
                    spec.group: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    spec.version: Invalid value: "V1": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
                    spec.service.namespace: Required value
                    spec.service.name: Required value
                    spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive
                    spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Services, &text(name, spec)));
        }
    }

    #[test]
    fn what_is_served_here_is_available() {
        let local = created(&Services, &text("v1.", "{version: v1}"));
        expect![[r#"
            conditions:
            - lastTransitionTime: "2026-01-01T00:01:00Z"
              message: Local APIServices are always available
              reason: Local
              status: "True"
              type: Available
        "#]]
        .assert_eq(&api::yaml::to_string(local.at(&["status"]).unwrap()));
        let other = created(&Services, &text("v1.", "{service: {name: s}}").replace("spec:", "status: {a: b}, spec:"));
        assert_eq!((other.int_at(&["spec", "service", "port"]), other.at(&["status"])), (Some(443), Some(&json!({}))));
    }

    #[test]
    fn a_status_is_one_of_three() {
        let object = parse("{kind: x, status: {conditions: [{status: 'True'}, {status: Maybe}, {}]}}");
        let causes = Services.validate_status(&context(), &object, &object);
        let lines: String = causes.iter().map(|cause| format!("{cause}\n")).collect();
        expect![[r#"
            status.conditions[1].status: Unsupported value: "Maybe": supported values: "True", "False", "Unknown"
            status.conditions[2].status: Unsupported value: "": supported values: "True", "False", "Unknown"
        "#]]
        .assert_eq(&lines);
    }

    #[test]
    fn a_row_says_who_serves() {
        let rows = [
            text("v1.", "{}"),
            text("v1.a", "{service: {name: s, namespace: ns}}").replace(
                "spec:",
                "status: {conditions: [{type: Available, status: 'False', reason: MissingEndpoints}]}, spec:",
            ),
            text("v1.a", "{service: {name: s, namespace: ns}}").replace(
                "spec:",
                "status: {conditions: [{type: Other}, {type: Available, status: 'True', reason: Passed}]}, spec:",
            ),
        ];
        let rows: String = rows.iter().map(|text| format!("{}\n", row(&Services, text))).collect();
        expect![[r#"
            v1. | Local | Unknown | <unknown>
            v1.a | ns/s | False (MissingEndpoints) | <unknown>
            v1.a | ns/s | True | <unknown>
        "#]]
        .assert_eq(&rows);
    }
}
