//! Node selectors and node affinity. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>.

use k8s_openapi::api::{
    core::v1::{
        Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, TopologySelectorLabelRequirement,
    },
    storage::v1::StorageClass,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a node must have for a pod.
#[derive(Clone, Debug, Default)]
pub struct Required {
    labels: BTreeMap<String, String>,
    /// One of them must match; `None` requires nothing, an empty list never matches.
    terms: Option<Vec<NodeSelectorTerm>>,
}

impl Required {
    /// `nodeSelector` and the required node affinity of a pod.
    pub fn of(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let selector = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            labels: spec.node_selector.clone().unwrap_or_default(),
            terms: selector.map(|s| s.node_selector_terms.clone()),
        }
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.terms.is_none()
    }

    /// The only nodes that can meet the requirements, where every term names some by `metadata.name`. `None`: names do not tell.
    pub fn names(&self) -> Option<BTreeSet<String>> {
        let terms = self.terms.as_ref().filter(|terms| !terms.is_empty())?;
        let mut all = BTreeSet::new();
        for term in terms {
            let by_name = term.match_fields.iter().flatten();
            let by_name = by_name.filter(|r| r.key == "metadata.name" && r.operator == "In");
            let named = by_name.map(|r| r.values.iter().flatten().cloned().collect::<BTreeSet<String>>());
            // all requirements of a term hold, and one of the terms
            all.extend(named.reduce(|one, other| &one & &other)?);
        }
        Some(all)
    }

    /// Whether `node` meets all requirements.
    pub fn matches(&self, node: &Node) -> bool {
        let has = |(k, v): (&String, &String)| label(node, k) == Some(v);
        self.labels.iter().all(has)
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|t| term_matches(t, node)))
    }
}

impl From<&NodeSelector> for Required {
    fn from(selector: &NodeSelector) -> Self {
        Self { labels: BTreeMap::new(), terms: Some(selector.node_selector_terms.clone()) }
    }
}

/// Whether a StorageClass allows volumes on the node.
pub fn topologies_match(class: &StorageClass, node: &Node) -> bool {
    let requires = |one: &TopologySelectorLabelRequirement| {
        label(node, &one.key).is_some_and(|v| one.values.iter().any(|w| w == v))
    };
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty() || terms.iter().any(|term| term.match_label_expressions.iter().flatten().all(requires))
}

/// The preferred node affinity, with weights.
#[derive(Clone, Debug, Default)]
pub struct Preferred(Vec<(i64, NodeSelectorTerm)>);

impl Preferred {
    /// The preferred node affinity of a pod.
    pub fn of(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        Self(terms.into_iter().flatten().map(|t| (i64::from(t.weight), t.preference.clone())).collect())
    }

    /// Whether nothing is preferred.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of the weights of the terms that match `node`.
    pub fn score(&self, node: &Node) -> i64 {
        self.0.iter().filter(|(_, term)| term_matches(term, node)).map(|(weight, _)| weight).sum()
    }
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// A term without any requirement matches no node.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement_matches(r, label(node, &r.key)))
        && fields.iter().all(|r| requirement_matches(r, field(&r.key)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, actual: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || actual.is_some_and(|a| values.iter().any(|v| v == a));
    let compare = |holds: fn(i64, i64) -> bool| {
        let bound = values.first().filter(|_| values.len() == 1).and_then(|v| v.parse().ok());
        let number = actual.and_then(|a| a.parse().ok());
        bound.zip(number).is_some_and(|(b, n)| holds(n, b))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compare(|n, b| n > b),
        "Lt" => compare(|n, b| n < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}}))
            .expect("a node")
    }

    fn required(terms: Value) -> bool {
        let spec = json!({"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        Required::of(&serde_json::from_value(spec).expect("a spec")).matches(&node())
    }

    #[test]
    fn every_operator_is_understood() {
        for (key, operator, values, expected) in [
            ("zone", "In", json!(["a", "b"]), true),
            ("zone", "In", json!(["b"]), false),
            ("zone", "NotIn", json!(["b"]), true),
            ("none", "NotIn", json!(["b"]), true),
            ("zone", "Exists", json!(null), true),
            ("none", "Exists", json!(null), false),
            ("none", "DoesNotExist", json!(null), true),
            ("cores", "Gt", json!(["7"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("zone", "Lt", json!(["9"]), false),
        ] {
            let term = json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
            assert_eq!(required(term), expected, "{key} {operator}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_nothing() {
        let zone = |z: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [z]}]});
        let name = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        assert!(required(json!([zone("b"), zone("a")])));
        assert!(required(json!([name])));
        assert!(!required(json!([{}])));
        assert!(!required(json!([])));
    }

    #[test]
    fn fulfilled_wishes_add_their_weights() {
        let wish = |weight: i32, zone: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}});
        let spec = json!({"containers": [], "affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [wish(5, "a"), wish(7, "b"), wish(11, "a")]}}});
        assert_eq!(Preferred::of(&serde_json::from_value(spec).expect("a spec")).score(&node()), 16);
    }

    #[test]
    fn a_node_selector_asks_for_every_label() {
        for (labels, expected) in [(json!({"zone": "a"}), true), (json!({"zone": "a", "disk": "ssd"}), false)] {
            let spec = json!({"containers": [], "nodeSelector": labels});
            assert_eq!(Required::of(&serde_json::from_value(spec).expect("a spec")).matches(&node()), expected);
        }
    }

    #[test]
    fn names_bound_the_nodes_where_every_term_has_some() {
        let named = |values: &[&str]| json!({"key": "metadata.name", "operator": "In", "values": values});
        let zone = json!({"key": "zone", "operator": "Exists"});
        let names = |terms: Value| {
            let spec = json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
            let spec = serde_json::from_value(spec).expect("a spec");
            Required::of(&spec).names().map(|names| names.into_iter().collect::<Vec<_>>().join(" "))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(names(json!([{"matchFields": [named(&["a"])]}, {"matchFields": [named(&["b"])]}])), text("a b"));
        assert_eq!(names(json!([{"matchFields": [named(&["a", "b"]), named(&["b", "c"])]}])), text("b"));
        assert_eq!(names(json!([{"matchFields": [named(&["a"]), named(&["b"])]}])), text(""), "none can");
        assert_eq!(names(json!([{"matchFields": [named(&["a"])], "matchExpressions": [zone]}])), text("a"));
        assert_eq!(names(json!([{"matchFields": [named(&["a"])]}, {"matchExpressions": [zone]}])), None);
        let other = json!({"key": "metadata.name", "operator": "NotIn", "values": ["a"]});
        assert_eq!((names(json!([{"matchFields": [other]}])), names(json!([]))), (None, None));
        assert_eq!(Required::default().names(), None);
    }
}
