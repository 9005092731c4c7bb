//! The conditions of a terminating namespace. Pure.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::NamespaceCondition, apimachinery::pkg::apis::meta::v1::Time};
use std::collections::BTreeMap;

/// What a deletion of the content found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Groups whose discovery failed.
    pub discovery: Vec<String>,
    /// Deletions that failed.
    pub failures: Vec<String>,
    /// Remaining objects by `resource.group`.
    pub remaining: BTreeMap<String, usize>,
    /// Remaining objects by finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

/// A condition: its type, the reason and message while it is true, and the reason and message while it is false.
type Wanted = (&'static str, &'static str, Option<String>, &'static str, &'static str);

/// The five conditions in upstream's order.
fn wanted(findings: &Findings) -> [Wanted; 5] {
    let list = |map: &BTreeMap<String, usize>, verb: &str| {
        map.iter().map(|(what, n)| format!("{what} {verb} {n} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let mut failures = findings.failures.clone();
    failures.sort();
    let discovery = (!findings.discovery.is_empty()).then(|| {
        let count = findings.discovery.len();
        let text = findings.discovery.join(", ");
        format!("Discovery failed for some groups, {count} failing: unable to retrieve the complete list of server APIs: {text}")
    });
    let failed = (!failures.is_empty())
        .then(|| format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", ")));
    let remaining = (!findings.remaining.is_empty())
        .then(|| format!("Some resources are remaining: {}", list(&findings.remaining, "has")));
    let finalizers = (!findings.finalizers.is_empty()).then(|| {
        format!("Some content in the namespace has finalizers remaining: {}", list(&findings.finalizers, "in"))
    });
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            "DiscoveryFailed",
            discovery,
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeletionFailed",
            failed,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            "SomeResourcesRemain",
            remaining,
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            "SomeFinalizersRemain",
            finalizers,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
}

/// The five conditions, with upstream's order and texts; `None` if they have not changed.
pub(crate) fn conditions(
    old: &[NamespaceCondition],
    findings: &Findings,
    now: Timestamp,
) -> Option<Vec<NamespaceCondition>> {
    let mut conditions = old.to_vec();
    for (type_, bad, message, good, fine) in wanted(findings) {
        let (status, reason, message) = match message {
            Some(message) => ("True", bad, message),
            None => ("False", good, fine.to_owned()),
        };
        let slot = conditions.iter_mut().find(|c| c.type_ == type_);
        let since = slot.as_ref().filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(now))),
        };
        match slot {
            Some(slot) => *slot = condition,
            None => conditions.push(condition),
        }
    }
    (conditions != old).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(conditions: &'a [NamespaceCondition], type_: &str) -> (&'a str, &'a str) {
        let c = conditions.iter().find(|c| c.type_ == type_).expect("a condition");
        (c.status.as_str(), c.message.as_deref().unwrap_or(""))
    }

    #[test]
    fn what_is_left_is_told_in_upstreams_words() {
        let findings = Findings {
            remaining: [("pods.".to_owned(), 2), ("widgets.example.com".to_owned(), 1)].into(),
            finalizers: [("example.com/x".to_owned(), 1)].into(),
            ..Findings::default()
        };
        let c = conditions(&[], &findings, Timestamp::UNIX_EPOCH).expect("a change");
        assert_eq!(c.len(), 5);
        assert_eq!(
            find(&c, "NamespaceContentRemaining"),
            (
                "True",
                "Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances"
            )
        );
        assert_eq!(
            find(&c, "NamespaceFinalizersRemaining"),
            ("True", "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances")
        );
        assert_eq!(find(&c, "NamespaceDeletionContentFailure").0, "False");
        assert_eq!(conditions(&c, &findings, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn the_time_moves_only_with_the_status() {
        let failing = Findings { failures: vec!["b".into(), "a".into()], ..Findings::default() };
        let first = conditions(&[], &failing, Timestamp::UNIX_EPOCH).expect("a change");
        assert_eq!(
            find(&first, "NamespaceDeletionContentFailure"),
            ("True", "Failed to delete all resource types, 2 remaining: a, b")
        );
        let later = Timestamp::from_second(100).expect("a time");
        let second = conditions(&first, &Findings::default(), later).expect("a change");
        let moved: Vec<_> =
            second.iter().filter(|c| c.last_transition_time == Some(Time(later))).map(|c| c.type_.as_str()).collect();
        assert_eq!(moved, ["NamespaceDeletionContentFailure"]);
    }
}
