//! Which of several nodes loses the least. Pure.

use crate::pod::PodInfo;
use jiff::Timestamp;
use std::{cmp::Reverse, sync::Arc};

/// A node where the pod fits without the victims.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The node.
    pub(super) node: String,
    /// The pods that must go, the most important first.
    pub(super) victims: Vec<Arc<PodInfo>>,
    /// How many of them a PodDisruptionBudget protects.
    pub(super) violations: usize,
}

/// When a pod started; the end of time if it has not.
fn started(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0)
}

/// Sorts the most important pods first: by priority, then those that have run longest; equals by uid.
pub(super) fn sort_by_importance(pods: &mut [Arc<PodInfo>]) {
    pods.sort_by_cached_key(|pod| (Reverse(pod.priority), started(pod), pod.key.clone()));
}

impl Candidate {
    /// The less, the better: violated budgets, the highest priority, the sum of priorities, the number of victims, and last how long the
    /// most important victims have run.
    fn loss(&self) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
        let highest = self.victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
        // as upstream: all summands are positive, so that more victims of a negative priority are not better than few
        let sum = self.victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
        let earliest = self.victims.iter().filter(|pod| pod.priority == highest).map(|pod| started(pod)).min();
        (self.violations, highest, sum, self.victims.len(), Reverse(earliest.unwrap_or(Timestamp::MAX)))
    }
}

/// The best of all.
pub(super) fn best(candidates: Vec<Arc<Candidate>>) -> Option<Arc<Candidate>> {
    candidates.into_iter().min_by_key(|candidate| candidate.loss())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn victim(priority: i32, start: u32) -> Arc<PodInfo> {
        let value = json!({"metadata": {"name": "p", "uid": "p"}, "spec": {"priority": priority, "containers": []},
            "status": {"startTime": format!("2026-01-{start:02}T00:00:00Z")}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn candidate(node: &str, violations: usize, victims: &[(i32, u32)]) -> Arc<Candidate> {
        let victims = victims.iter().map(|(priority, start)| victim(*priority, *start)).collect();
        Candidate { node: node.to_owned(), victims, violations }.into()
    }

    #[test]
    fn the_node_that_loses_least_is_chosen() {
        for (what, candidates, expected) in [
            ("fewest violations", vec![candidate("a", 1, &[(1, 1)]), candidate("b", 0, &[(5, 1), (5, 1)])], "b"),
            ("lowest highest priority", vec![candidate("a", 0, &[(5, 1)]), candidate("b", 0, &[(4, 1), (4, 1)])], "b"),
            (
                "lowest sum of priorities",
                vec![candidate("a", 0, &[(5, 1), (4, 1)]), candidate("b", 0, &[(5, 1), (3, 1)])],
                "b",
            ),
            (
                "fewest of a negative priority",
                vec![candidate("a", 0, &[(-5, 1), (-5, 1)]), candidate("b", 0, &[(-5, 1)])],
                "b",
            ),
            ("latest start of the highest", vec![candidate("a", 0, &[(5, 1)]), candidate("b", 0, &[(5, 2)])], "b"),
            (
                "the earliest of the highest counts",
                vec![candidate("a", 0, &[(5, 9), (5, 1)]), candidate("b", 0, &[(5, 3), (5, 2)])],
                "b",
            ),
            ("the first of equals", vec![candidate("a", 0, &[(5, 1)]), candidate("b", 0, &[(5, 1)])], "a"),
        ] {
            assert_eq!(best(candidates).expect("one").node, expected, "{what}");
        }
        assert!(best(Vec::new()).is_none());
    }
}
