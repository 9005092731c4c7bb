//! Sets the rules of ClusterRoles with an `aggregationRule` to those of the ClusterRoles that it selects.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>.

use crate::{Context, meta};
use client::{Client, Controller, Informer, Key, Next, Patch, Wakeups};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};

/// Collects rules. Upstream's `clusterrole-aggregation-controller`.
pub(crate) struct ClusterRoleAggregationController {
    client: Client,
    roles: Informer<ClusterRole>,
}

impl ClusterRoleAggregationController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), roles: cx.informers.of() }
    }
}

/// A rule in which no list and an empty one are the same.
fn plain(rule: &PolicyRule) -> PolicyRule {
    let list = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    PolicyRule {
        api_groups: list(&rule.api_groups),
        non_resource_urls: list(&rule.non_resource_urls),
        resource_names: list(&rule.resource_names),
        resources: list(&rule.resources),
        verbs: rule.verbs.clone(),
    }
}

fn rules(role: &ClusterRole) -> impl Iterator<Item = PolicyRule> {
    role.rules.iter().flatten().map(plain)
}

/// The rules that a role should have: selector by selector, role by role in the order of their names, each rule once. `None` where it has
/// them, and where it collects none. `roles` are sorted by name.
///
/// # Errors
/// A selector is invalid.
fn plan(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Result<Option<Vec<PolicyRule>>, String> {
    let Some(aggregation) = &role.aggregation_rule else { return Ok(None) };
    let (mut wanted, mut seen) = (Vec::new(), HashSet::new());
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let selector = meta::selector(selector)?;
        let others = roles.iter().filter(|other| meta::name(&other.metadata) != meta::name(&role.metadata));
        for other in others.filter(|other| meta::matches(&selector, other.metadata.labels.as_ref())) {
            wanted.extend(rules(other).filter(|rule| seen.insert(json!(rule).to_string())));
        }
    }
    Ok(if rules(role).eq(wanted.iter().cloned()) { None } else { Some(wanted) })
}

/// What is applied. No rules are none that this controller owns, as upstream.
fn configuration(name: &str, rules: &[PolicyRule]) -> Value {
    let mut config =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
    if !rules.is_empty() {
        config["rules"] = json!(rules);
    }
    config
}

#[async_trait::async_trait]
impl Controller for ClusterRoleAggregationController {
    const NAME: &'static str = "clusterrole-aggregation-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        // There are few, and each may be selected by any.
        wakeups.on(&self.roles, |_| vec![Key::default()]);
    }

    async fn reconcile(&self, _: &Key) -> anyhow::Result<Next> {
        let roles = self.roles.list();
        let mut failed = None;
        for role in roles.iter().filter(|role| role.aggregation_rule.is_some()) {
            let name = meta::name(&role.metadata);
            let rules = match plan(role, &roles) {
                Ok(Some(rules)) => rules,
                Ok(None) => continue,
                Err(why) => {
                    failed = Some(anyhow::anyhow!("ClusterRole {name}: {why}"));
                    continue;
                }
            };
            let (config, manager) = (configuration(name, &rules), Self::NAME.to_owned());
            match self.client.patch::<ClusterRole>("", name, Patch::Apply { config, manager, force: true }).await {
                Err(error) if !error.is_not_found() => failed = Some(error.into()),
                _ => {}
            }
        }
        failed.map_or(Ok(Next::Done), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, rules: &[&str], selects: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<Value> =
            rules.iter().map(|what| json!({"verbs": ["get"], "apiGroups": [""], "resources": [what]})).collect();
        let mut value = json!({"metadata": {"name": name, "labels": {"l": label}}, "rules": rules});
        if !selects.is_empty() {
            let selectors: Vec<Value> = selects.iter().map(|l| json!({"matchLabels": {"l": l}})).collect();
            value["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        Arc::new(serde_json::from_value(value).expect("a ClusterRole"))
    }

    fn planned(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Option<Vec<String>> {
        let rules = plan(role, roles).expect("valid selectors")?;
        Some(rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect())
    }

    #[test]
    fn rules_come_by_selector_then_name_and_each_once() {
        let roles = [
            role("a", "x", &["pods", "nodes"], &[]),
            role("b", "y", &["secrets", "pods"], &[]),
            role("c", "x", &["leases"], &[]),
            role("self", "x", &["never"], &[]),
        ];
        for (has, selects, expected) in [
            (&["never"][..], &["x"][..], Some(&["pods", "nodes", "leases"][..])),
            (&[], &["y", "x"], Some(&["secrets", "pods", "nodes", "leases"])),
            (&["pods", "nodes", "leases"], &["x"], None),
            (&["leases", "nodes", "pods"], &["x"], Some(&["pods", "nodes", "leases"])),
            (&["pods"], &["z"], Some(&[])),
            (&[], &["z"], None),
            (&["pods"], &[], None),
        ] {
            let own = role("self", "x", has, selects);
            let expected = expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
            assert_eq!(planned(&own, &roles), expected, "{has:?} {selects:?}");
        }
    }

    #[test]
    fn an_empty_list_is_none_and_what_is_wrong_is_said() {
        let with = |text: Value| -> ClusterRole { serde_json::from_value(text).expect("a ClusterRole") };
        let source = with(json!({"metadata": {"name": "a", "labels": {"l": "x"}},
            "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": []}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]}));
        let own = role("self", "", &[], &["x"]);
        assert_eq!(plan(&own, &[Arc::new(source)]).expect("valid").expect("rules").len(), 1);
        let odd = with(json!({"metadata": {"name": "self"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]}}));
        assert!(plan(&odd, &[]).is_err());
        assert_eq!(configuration("self", &[]).get("rules"), None);
    }
}
