//! Pod affinity terms and topology spread constraints, parsed once for each pod. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/> and
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

use api::selector::{Operator, Requirement, Selector};
use k8s_openapi::{
    api::core::v1::{Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint, WeightedPodAffinityTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::collections::{BTreeMap, BTreeSet};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether labels satisfy a selector; no labels are an empty set.
pub fn selects(selector: &Selector, labels: Option<&Labels>) -> bool {
    selector.matches(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
}

/// Parses a selector. One that is absent or invalid selects nothing: the API server has validated it.
pub fn parse(selector: Option<&LabelSelector>) -> Selector {
    let Some(selector) = selector else { return Selector::nothing() };
    let value = serde_json::to_value(selector).unwrap_or_default();
    Selector::from_label_selector(&value).unwrap_or_else(|_| Selector::nothing())
}

/// A text that is equal for equal selectors only.
fn text(selector: &Selector) -> String {
    if *selector == Selector::nothing() { "<none>".to_owned() } else { selector.to_string() }
}

/// One term of pod affinity or anti-affinity.
#[derive(Clone, Debug)]
pub struct Term {
    /// The label of nodes whose equal values are one domain.
    pub topology_key: String,
    namespaces: BTreeSet<String>,
    namespace_selector: Selector,
    selector: Selector,
    /// Equal for equal terms only.
    pub text: String,
}

impl Term {
    /// The term of a pod in `namespace`, which is meant where the term names no other.
    pub fn new(namespace: &str, term: &PodAffinityTerm) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        let namespace_selector = parse(term.namespace_selector.as_ref());
        let (selector, topology_key) = (parse(term.label_selector.as_ref()), term.topology_key.clone());
        let text =
            format!("{topology_key}|{namespaces:?}|{}|{}", self::text(&namespace_selector), self::text(&selector));
        Self { topology_key, namespaces, namespace_selector, selector, text }
    }

    /// Whether the term selects namespaces by their labels.
    pub fn selects_namespaces(&self) -> bool {
        self.namespace_selector != Selector::nothing()
    }

    /// Whether a pod is meant, in a namespace with these labels.
    pub fn matches(&self, pod: &Pod, namespace_labels: Option<&Labels>) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        (self.namespaces.contains(namespace) || selects(&self.namespace_selector, namespace_labels))
            && selects(&self.selector, pod.metadata.labels.as_ref())
    }
}

/// The terms of a pod's affinity and anti-affinity to other pods; preferred ones with their weights.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Required affinity.
    pub affinity: Vec<Term>,
    /// Required anti-affinity.
    pub anti_affinity: Vec<Term>,
    /// Preferred affinity.
    pub preferred: Vec<(i64, Term)>,
    /// Preferred anti-affinity.
    pub preferred_anti: Vec<(i64, Term)>,
}

impl Terms {
    /// The terms of a pod in `namespace`.
    pub fn of(namespace: &str, spec: &PodSpec) -> Self {
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|term| Term::new(namespace, term)).collect()
        };
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<(i64, Term)> {
            let term = |t: &WeightedPodAffinityTerm| (i64::from(t.weight), Term::new(namespace, &t.pod_affinity_term));
            terms.into_iter().flatten().map(term).collect()
        };
        let with = spec.affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
        let anti = spec.affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
        Self {
            affinity: required(with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            anti_affinity: required(anti.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred: weighted(with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
            preferred_anti: weighted(
                anti.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
        }
    }

    /// Whether the pod has none.
    pub fn is_empty(&self) -> bool {
        self.affinity.is_empty() && self.anti_affinity.is_empty() && !self.prefers()
    }

    /// Whether the pod has preferred ones.
    pub fn prefers(&self) -> bool {
        !self.preferred.is_empty() || !self.preferred_anti.is_empty()
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// By how many pods domains may differ.
    pub max_skew: i64,
    /// The label of nodes whose equal values are one domain.
    pub topology_key: String,
    /// The pods that are counted.
    pub selector: Selector,
    /// With fewer domains than this the least count of a domain is 0.
    pub min_domains: usize,
    /// Whether nodes that the pod's node affinity excludes are left out.
    pub honours_affinity: bool,
    /// Whether nodes with taints that the pod does not tolerate are left out.
    pub honours_taints: bool,
    /// Equal for constraints that count the same pods on the same nodes only.
    pub text: String,
}

impl Constraint {
    /// The constraint for a pod with these labels, from which `matchLabelKeys` takes values.
    pub fn new(constraint: &TopologySpreadConstraint, labels: Option<&Labels>) -> Self {
        let mut selector = parse(constraint.label_selector.as_ref());
        let keys = constraint.match_label_keys.iter().flatten();
        let known = keys.filter_map(|key| labels.and_then(|l| l.get(key)).map(|value| (key, value)));
        let wanted: Vec<_> =
            known.filter_map(|(k, v)| Requirement::new(k, Operator::Equals, vec![v.clone()]).ok()).collect();
        if !wanted.is_empty() && selector != Selector::nothing() {
            selector = Selector::new(selector.requirements().iter().cloned().chain(wanted).collect());
        }
        Self::with_selector(constraint, selector)
    }

    /// The constraint over the pods that `selector` selects.
    pub fn with_selector(constraint: &TopologySpreadConstraint, selector: Selector) -> Self {
        let (honours_affinity, honours_taints) = (
            constraint.node_affinity_policy.as_deref().unwrap_or("Honor") == "Honor",
            constraint.node_taints_policy.as_deref() == Some("Honor"),
        );
        let key = &constraint.topology_key;
        Self {
            max_skew: constraint.max_skew.into(),
            topology_key: key.clone(),
            min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            honours_affinity,
            honours_taints,
            text: format!("{key}|{}|{honours_affinity}|{honours_taints}", text(&selector)),
            selector,
        }
    }

    /// Whether a pod with these labels is counted.
    pub fn selects(&self, labels: Option<&Labels>) -> bool {
        selects(&self.selector, labels)
    }
}

/// The topology spread constraints of a pod.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// `DoNotSchedule`.
    pub hard: Vec<Constraint>,
    /// `ScheduleAnyway`.
    pub soft: Vec<Constraint>,
}

impl Spread {
    /// The constraints of a pod.
    pub fn of(pod: &Pod) -> Self {
        let all = pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
        Self::parse(all, |constraint| Constraint::new(constraint, pod.metadata.labels.as_ref()))
    }

    /// Sorts constraints by what they do when they cannot be met.
    pub fn parse(all: &[TopologySpreadConstraint], read: impl Fn(&TopologySpreadConstraint) -> Constraint) -> Self {
        let of = |action: &str| all.iter().filter(|c| c.when_unsatisfiable == action).map(&read).collect();
        Self { hard: of("DoNotSchedule"), soft: of("ScheduleAnyway") }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hard.is_empty() && self.soft.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, labels: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "labels": labels}})).expect("a pod")
    }

    #[test]
    fn a_term_means_pods_by_namespace_and_label() {
        let other = json!({"team": "x"});
        let app = json!({"matchLabels": {"app": "a"}});
        for (term, namespace, labels, expected) in [
            (json!({"labelSelector": app}), "d", json!({"app": "a"}), true),
            (json!({"labelSelector": app}), "other", json!({"app": "a"}), false),
            (json!({"labelSelector": app}), "d", json!({"app": "b"}), false),
            (json!({"labelSelector": {}}), "d", json!({}), true),
            (json!({}), "d", json!({"app": "a"}), false),
            (json!({"labelSelector": app, "namespaces": ["other"]}), "other", json!({"app": "a"}), true),
            (json!({"labelSelector": app, "namespaces": ["other"]}), "d", json!({"app": "a"}), false),
            (json!({"labelSelector": app, "namespaceSelector": {}}), "any", json!({"app": "a"}), true),
            (
                json!({"labelSelector": app, "namespaceSelector": {"matchLabels": {"team": "x"}}}),
                "other",
                json!({"app": "a"}),
                true,
            ),
            (
                json!({"labelSelector": app, "namespaceSelector": {"matchLabels": {"team": "x"}}}),
                "d",
                json!({"app": "a"}),
                false,
            ),
            (
                json!({"labelSelector": app, "namespaces": ["d"], "namespaceSelector": {"matchLabels": {"team": "x"}}}),
                "d",
                json!({"app": "a"}),
                true,
            ),
        ] {
            let mut value = term.clone();
            value["topologyKey"] = "zone".into();
            let parsed = Term::new("d", &serde_json::from_value(value).expect("a term"));
            let labels_of: Option<Labels> =
                (namespace == "other").then(|| serde_json::from_value(other.clone()).expect("labels"));
            assert_eq!(parsed.matches(&pod(namespace, labels), labels_of.as_ref()), expected, "{term} {namespace}");
        }
    }

    #[test]
    fn label_keys_narrow_a_selector_by_the_pods_own_values() {
        let labels: Labels = serde_json::from_value(json!({"app": "a", "hash": "1"})).expect("labels");
        let of = |selector: Value, keys: Value| {
            let value = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector, "matchLabelKeys": keys});
            Constraint::new(&serde_json::from_value(value).expect("a constraint"), Some(&labels)).selector
        };
        assert_eq!(of(json!({"matchLabels": {"app": "a"}}), json!(["hash", "none"])).to_string(), "app=a,hash=1");
        assert_eq!(of(json!({}), json!(["hash"])).to_string(), "hash=1");
        assert_eq!(of(json!(null), json!(["hash"])), Selector::nothing());
    }
}
