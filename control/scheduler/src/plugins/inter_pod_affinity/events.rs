//! Which changes may make a pod fit that its affinity or that of others kept from all nodes. Pure.

use crate::{
    pod::PodInfo,
    terms::{Term, Terms},
};
use k8s_openapi::api::core::v1::{Node, Pod};

/// As upstream does, without the labels of namespaces: a term that selects namespaces by labels means a pod only if it names its namespace.
fn all_match(terms: &[Term], pod: &Pod) -> bool {
    !terms.is_empty() && terms.iter().all(|term| term.matches(pod, None))
}

/// Whether a pod of a node that came (`new`), went (`old`) or changed (both) helps `pod`.
pub(super) fn pod_helps(pod: &PodInfo, old: Option<&PodInfo>, new: Option<&PodInfo>) -> bool {
    let Terms { affinity, anti_affinity, .. } = &pod.terms;
    let by_labels = affinity.iter().chain(anti_affinity).any(Term::selects_namespaces);
    if by_labels {
        return true;
    }
    match (old, new) {
        (Some(old), Some(new)) => {
            (!all_match(affinity, &old.pod) && all_match(affinity, &new.pod))
                || (all_match(anti_affinity, &old.pod) && !all_match(anti_affinity, &new.pod))
        }
        (None, Some(new)) => all_match(affinity, &new.pod),
        (Some(old), None) => {
            let theirs = &old.terms.anti_affinity;
            all_match(anti_affinity, &old.pod)
                || all_match(theirs, &pod.pod)
                || theirs.iter().any(Term::selects_namespaces)
        }
        (None, None) => false,
    }
}

/// Whether a node that came, or changed from `old`, helps `pod`.
pub(super) fn node_helps(pod: &PodInfo, old: Option<&Node>, new: &Node) -> bool {
    fn value<'a>(node: &'a Node, term: &Term) -> Option<&'a String> {
        node.metadata.labels.as_ref()?.get(&term.topology_key)
    }
    let Terms { affinity, anti_affinity, .. } = &pod.terms;
    let Some(old) = old else {
        return !anti_affinity.is_empty() || affinity.iter().any(|term| value(new, term).is_some());
    };
    let moved = |term: &Term| value(old, term) != value(new, term);
    affinity.iter().any(|term| value(new, term).is_some() && moved(term))
        || anti_affinity.iter().any(|term| value(old, term).is_some() && moved(term))
}
