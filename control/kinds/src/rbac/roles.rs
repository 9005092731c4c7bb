//! Role and ClusterRole: permissions. The rules of a ClusterRole with an `aggregationRule` are those of others.

use super::GROUP;
use crate::{at::At, rules};
use api::{Cause, Object, names, selector::Selector};
use server::{Context, Resource, Strategy, TableConvertor, strategy::Recheck};

/// The strategy of both.
struct Roles {
    namespaced: bool,
}

/// The resources.
pub(crate) fn resources() -> [Resource; 2] {
    let made = |resource: &str, kind: &str, namespaced: bool| {
        let made = Resource::new(GROUP, "v1", resource, kind, Roles { namespaced }).creating_on_update();
        if namespaced { made } else { made.cluster_scoped() }
    };
    [made("roles", "Role", true), made("clusterroles", "ClusterRole", false)]
}

impl Strategy for Roles {
    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        names::path_segment(name)
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        for rule in At::of(object, "rules").items() {
            if rules::full(&out) {
                return out;
            }
            self.rule(rule, &mut out);
        }
        if !self.namespaced {
            aggregation(At::of(object, "aggregationRule"), &mut out);
        }
        out
    }
}

impl Roles {
    fn rule(&self, rule: At<'_>, out: &mut Vec<Cause>) {
        if rule.get("verbs").is_empty() {
            out.push(rule.get("verbs").required("verbs must contain at least one value"));
        }
        let (groups, resources, paths) = (rule.get("apiGroups"), rule.get("resources"), rule.get("nonResourceURLs"));
        if !paths.is_empty() {
            if self.namespaced {
                out.push(paths.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if ![groups, resources, rule.get("resourceNames")].iter().all(|list| list.is_empty()) {
                out.push(paths.invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            return;
        }
        if groups.is_empty() {
            out.push(groups.required("resource rules must supply at least one api group"));
        }
        if resources.is_empty() {
            out.push(resources.required("resource rules must supply at least one resource"));
        }
    }
}

fn aggregation(rule: At<'_>, out: &mut Vec<Cause>) {
    if !rule.is_set() {
        return;
    }
    let selectors = rule.get("clusterRoleSelectors");
    if selectors.is_empty() {
        out.push(selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil"));
    }
    for selector in selectors.items() {
        if rules::full(out) {
            return;
        }
        rules::label_selector(selector, out);
        if Selector::from_label_selector(selector.value()).is_err() {
            out.push(Cause::invalid_shown(&selector.field(), "null", "invalid label selector."));
        }
    }
}

/// They have no table of their own upstream.
impl TableConvertor for Roles {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::errors;
    use expect_test::expect;

    #[test]
    fn each_fault_has_upstreams_text() {
        for (namespaced, text, expected) in [
            (true, "rules: [{verbs: [get], apiGroups: [''], resources: [pods], resourceNames: [a]}]", expect![[""]]),
            (false, "rules: null, aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}", expect![[""]]),
            (false, "rules: [{verbs: ['*'], nonResourceURLs: [/x]}]", expect![[""]]),
            (
                true,
                "rules: [{}, {verbs: [get], nonResourceURLs: [/x], resources: [pods]}]",
                expect![[r#"
                    rules[0].verbs: Required value: verbs must contain at least one value
                    rules[0].apiGroups: Required value: resource rules must supply at least one api group
                    rules[0].resources: Required value: resource rules must supply at least one resource
                    rules[1].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs
                    rules[1].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs
                "#]],
            ),
            (
                false,
                "aggregationRule: {}",
                expect![[r#"
                    aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil
                "#]],
            ),
            (
                false,
                "aggregationRule: {clusterRoleSelectors: [{matchExpressions: [{key: a, operator: Like}]}]}",
                expect![[r#"
                    aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator
                    aggregationRule.clusterRoleSelectors[0]: Invalid value: null: invalid label selector.
                "#]],
            ),
        ] {
            expected.assert_eq(&errors(&Roles { namespaced }, &format!("{{metadata: {{name: 'a:b'}}, {text}}}")));
        }
        assert!(Roles { namespaced: true }.validate_name("system:a:B", false).is_empty());
        assert_eq!(Roles { namespaced: true }.validate_name("a/b", false), ["may not contain '/'"]);
    }
}
