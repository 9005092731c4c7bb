//! Which kinds a policy is checked against: those that its rules name without a wildcard.

use api::GroupVersionKind;
use client::discovery::Resource;
use k8s_openapi::api::admissionregistration::v1::{NamedRuleWithOperations, ValidatingAdmissionPolicy};
use std::collections::BTreeSet;

/// How many kinds a rule may name: the rule that does is the last that counts.
const MOST: usize = 10;

/// What a rule names.
struct Named<'a> {
    groups: Vec<&'a str>,
    versions: Vec<&'a str>,
    resources: Vec<&'a str>,
}

impl<'a> Named<'a> {
    /// Sorted, so that the first are always the same. Nothing, if a group or version is a wildcard; without wildcards of resources and without
    /// subresources.
    fn of(rule: &'a NamedRuleWithOperations) -> Option<Self> {
        let sorted = |list: &'a Option<Vec<String>>| {
            let mut all: Vec<&str> = list.iter().flatten().map(String::as_str).collect();
            all.sort_unstable();
            all
        };
        let (groups, versions) = (sorted(&rule.api_groups), sorted(&rule.api_versions));
        let mut resources = sorted(&rule.resources);
        resources.retain(|name| !name.contains(['*', '/']));
        let wild = |all: &[&str]| all.iter().any(|name| name.contains('*'));
        let empty = groups.is_empty() || versions.is_empty() || resources.is_empty();
        (!empty && !wild(&groups) && !wild(&versions)).then_some(Self { groups, versions, resources })
    }

    /// The kinds, group by group and version by version.
    fn kinds(&self, served: &[Resource]) -> impl Iterator<Item = GroupVersionKind> {
        let versions = self.groups.iter().flat_map(|group| self.versions.iter().map(move |version| (*group, *version)));
        let all = versions.flat_map(|at| self.resources.iter().map(move |resource| (at, *resource)));
        all.flat_map(|((group, version), resource)| {
            served.iter().filter(move |one| is_it(one, group, version, resource)).map(move |one| GroupVersionKind {
                group: one.group.clone(),
                version: version.to_owned(),
                kind: one.kind.clone(),
            })
        })
    }
}

/// Whether a resource is named. To upstream's mapper no group is any group.
fn is_it(one: &Resource, group: &str, version: &str, resource: &str) -> bool {
    one.resource == resource.to_lowercase()
        && (group.is_empty() || one.group == group)
        && std::iter::once(&one.version).chain(&one.others).any(|served| served == version)
}

fn rules(policy: &ValidatingAdmissionPolicy) -> impl Iterator<Item = Named<'_>> {
    let constraints = policy.spec.as_ref().and_then(|spec| spec.match_constraints.as_ref());
    let rules = constraints.and_then(|constraints| constraints.resource_rules.as_ref());
    rules.into_iter().flatten().filter_map(Named::of)
}

/// Whether a policy names any kind.
pub(super) fn names_any(policy: &ValidatingAdmissionPolicy) -> bool {
    rules(policy).next().is_some()
}

/// The kinds that a policy is checked against, by group, version and kind.
pub(super) fn to_check(policy: &ValidatingAdmissionPolicy, served: &[Resource]) -> BTreeSet<GroupVersionKind> {
    let mut found = BTreeSet::new();
    for rule in rules(policy) {
        let kinds: Vec<GroupVersionKind> = rule.kinds(served).take(MOST).collect();
        let full = kinds.len() == MOST;
        found.extend(kinds);
        if full {
            break;
        }
    }
    found
}

/// The kind of a policy's parameters.
pub(super) fn of_parameters(policy: &ValidatingAdmissionPolicy) -> Option<GroupVersionKind> {
    let kind = policy.spec.as_ref()?.param_kind.as_ref()?;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Some(GroupVersionKind::from_api_version(&text(&kind.api_version), &text(&kind.kind)))
}
