//! RoleBinding and ClusterRoleBinding: who has a role. The role cannot change.

use super::GROUP;
use crate::{at::At, cells, edit, rules};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const OF_NAMESPACE: &[Column] = &[
    Column::name(),
    Column::new(
        "Role",
        "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    Column::age(),
    Column::new("Users", "Users in the roleBinding").wide(),
    Column::new("Groups", "Groups in the roleBinding").wide(),
    Column::new("ServiceAccounts", "ServiceAccounts in the roleBinding").wide(),
];

const OF_CLUSTER: &[Column] = &[
    Column::name(),
    Column::new(
        "Role",
        "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    Column::age(),
    Column::new("Users", "Users in the clusterRoleBinding").wide(),
    Column::new("Groups", "Groups in the clusterRoleBinding").wide(),
    Column::new("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding").wide(),
];

const ACCOUNT: &str = "ServiceAccount";
const USER: &str = "User";
const USERS: &str = "Group";

/// The strategy of both.
struct Bindings {
    namespaced: bool,
}

/// The resources.
pub(crate) fn resources() -> [Resource; 2] {
    let made = |resource: &str, kind: &str, namespaced: bool| {
        let made = Resource::new(GROUP, "v1", resource, kind, Bindings { namespaced }).creating_on_update();
        if namespaced { made } else { made.cluster_scoped() }
    };
    [made("rolebindings", "RoleBinding", true), made("clusterrolebindings", "ClusterRoleBinding", false)]
}

impl Strategy for Bindings {
    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        names::path_segment(name)
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        edit::fill_str(edit::object(&mut object.0, "roleRef"), "apiGroup", GROUP);
        for subject in edit::objects(&mut object.0, "subjects") {
            if matches!(subject.get("kind").and_then(Value::as_str), Some(USER | USERS)) {
                edit::fill_str(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let role = At::of(object, "roleRef");
        if role.get("apiGroup").str() != GROUP {
            out.push(role.get("apiGroup").or_empty().not_supported(&[GROUP]));
        }
        let kinds: &[&str] = if self.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&role.get("kind").str()) {
            out.push(role.get("kind").or_empty().not_supported(kinds));
        }
        let name = role.get("name");
        if name.is_empty() {
            out.push(name.required(""));
        } else {
            name.invalid_all(names::path_segment(name.str()), &mut out);
        }
        for subject in At::of(object, "subjects").items() {
            if rules::full(&out) {
                return out;
            }
            self.subject(subject, &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (new, old) = (At::of(object, "roleRef"), At::of(old, "roleRef"));
        if ["apiGroup", "kind", "name"].iter().all(|field| new.get(field).str() == old.get(field).str()) {
            return Vec::new();
        }
        let shown = new.printed("io.k8s.api.rbac.v1.RoleRef");
        vec![Cause::invalid_shown(&new.field(), &shown, "cannot change roleRef")]
    }
}

impl Bindings {
    fn subject(&self, subject: At<'_>, out: &mut Vec<Cause>) {
        let (kind, name, group) = (subject.get("kind"), subject.get("name"), subject.get("apiGroup"));
        if name.is_empty() {
            out.push(name.required(""));
        }
        match kind.str() {
            ACCOUNT => {
                if !name.is_empty() {
                    name.invalid_all(names::dns1123_subdomain(name.str()), out);
                }
                if !group.is_empty() {
                    out.push(group.not_supported(&[""]));
                }
                if !self.namespaced && subject.get("namespace").is_empty() {
                    out.push(subject.get("namespace").required(""));
                }
            }
            USER | USERS => {
                if group.str() != GROUP {
                    out.push(group.or_empty().not_supported(&[GROUP]));
                }
            }
            _ => out.push(kind.or_empty().not_supported(&[ACCOUNT, USER, USERS])),
        }
    }
}

impl TableConvertor for Bindings {
    fn columns(&self) -> &[Column] {
        if self.namespaced { OF_NAMESPACE } else { OF_CLUSTER }
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let text = |field: &str| cells::text(object, &["roleRef", field]);
        let of_kind = |wanted: &str| {
            let subjects = At::of(object, "subjects").items();
            let found = subjects.filter(|subject| subject.get("kind").str() == wanted).map(|subject| {
                let name = subject.get("name").str();
                if wanted == ACCOUNT { format!("{}/{name}", subject.get("namespace").str()) } else { name.to_owned() }
            });
            json!(found.collect::<Vec<_>>().join(", "))
        };
        let role = format!("{}/{}", text("kind"), text("name"));
        vec![
            json!(object.name()),
            json!(role),
            cells::age(object, now),
            of_kind(USER),
            of_kind(USERS),
            of_kind(ACCOUNT),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, update_errors};
    use expect_test::expect;

    fn text(rest: &str) -> String {
        format!("{{metadata: {{name: 'a:b'}}, {rest}}}")
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (namespaced, rest, expected) in [
            (
                true,
                "roleRef: {kind: Role, name: 'a:b'}, subjects: [{kind: User, name: u}, {kind: Group, name: g}, {kind: ServiceAccount, name: s}]",
                expect![[""]],
            ),
            (
                true,
                "roleRef: {apiGroup: x, kind: Any, name: a/b}, subjects: [{kind: Robot}, {kind: User, apiGroup: x, name: u}, {kind: ServiceAccount, apiGroup: x, name: S}]",
                expect![[r#"
                    roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"
                    roleRef.kind: Unsupported value: "Any": supported values: "Role", "ClusterRole"
                    roleRef.name: Invalid value: "a/b": may not contain '/'
                    subjects[0].name: Required value
                    subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"
                    subjects[1].apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"
                    subjects[2].name: Invalid value: "S": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                    subjects[2].apiGroup: Unsupported value: "x": supported values: ""
                "#]],
            ),
            (
                false,
                "roleRef: {kind: Role}, subjects: [{kind: ServiceAccount, name: s}]",
                expect![[r#"
                    roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"
                    roleRef.name: Required value
                    subjects[0].namespace: Required value
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Bindings { namespaced }, &text(rest)));
        }
    }

    #[test]
    fn the_role_of_a_binding_stays() {
        let kind = Bindings { namespaced: true };
        let old = created(&kind, &text("roleRef: {kind: Role, name: a}"));
        let mut new = old.clone();
        new.set(&["subjects"], json!([{"kind": "User", "name": "u", "apiGroup": GROUP}]));
        assert_eq!(update_errors(&kind, &new, &old), "");
        new.set(&["roleRef", "name"], "b");
        expect![[r#"
            roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"b"}: cannot change roleRef
        "#]]
        .assert_eq(&update_errors(&kind, &new, &old));
    }

    #[test]
    fn a_row_shows_the_role_and_who_has_it() {
        let rest = "roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: User, name: u}, {kind: User, name: v}, {kind: Group, name: g}, {kind: ServiceAccount, name: s, namespace: ns}]";
        expect!["a:b | ClusterRole/view | <unknown> | u, v | g | ns/s"]
            .assert_eq(&row(&Bindings { namespaced: true }, &text(rest)));
    }
}
