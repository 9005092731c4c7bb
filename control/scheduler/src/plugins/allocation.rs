//! What share of a node's resources pods use, and the scores of that. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/>.

use crate::{node::NodeInfo, plugin::MAX_SCORE, pod::PodInfo};
use client::fit::resources::{Amount, Resources};

/// A resource, and how much it weighs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// `cpu`, `memory`, `ephemeral-storage`, or that of an extended resource.
    pub name: String,
    /// From 1 to 100.
    pub weight: i64,
}

impl Weighted {
    /// CPU and memory alike: upstream's default.
    pub fn defaults() -> Vec<Self> {
        ["cpu", "memory"].map(|name| Self { name: name.to_owned(), weight: 1 }).into()
    }
}

/// What a container without requests counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    /// Nothing.
    Requests,
    /// A little: upstream's `NonZeroRequested`.
    Assumed,
}

/// The amounts of one resource on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// What the node has.
    pub(super) all: Amount,
    /// What its pods use.
    pub(super) before: Amount,
    /// What they use with the pod.
    pub(super) after: Amount,
}

/// What a pod asks of a resource.
pub(super) fn asked(pod: &PodInfo, name: &str, counting: Counting) -> Amount {
    match (name, counting) {
        ("cpu", Counting::Assumed) => pod.scored.0,
        ("memory", Counting::Assumed) => pod.scored.1,
        _ => amount(&pod.requests, name),
    }
}

fn amount(resources: &Resources, name: &str) -> Amount {
    match name {
        "cpu" => resources.cpu,
        "memory" => resources.memory,
        "ephemeral-storage" => resources.storage,
        other => resources.scalar.get(other).copied().unwrap_or(0),
    }
}

/// The amounts of a resource; `None` if it does not count: the node has none, or it is an extended one that the pod does not ask for.
pub(super) fn used(pod: &PodInfo, node: &NodeInfo, name: &str, counting: Counting) -> Option<Used> {
    let more = asked(pod, name, counting);
    if more == 0 && !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
        return None;
    }
    let all = amount(&node.allocatable, name);
    let before = match (name, counting) {
        ("cpu", Counting::Assumed) => node.scored.0,
        ("memory", Counting::Assumed) => node.scored.1,
        _ => amount(&node.requested, name),
    };
    (all != 0).then_some(Used { all, before, after: before + more })
}

/// Points of a line that is straight between them: `x` and `y`, by rising `x`.
pub(super) fn broken_line(points: &[(i64, i64)], x: i64) -> i64 {
    let Some(index) = points.iter().position(|point| x <= point.0) else {
        return points.last().map_or(0, |point| point.1);
    };
    let (x1, y1) = points[index];
    let Some((x0, y0)) = index.checked_sub(1).map(|before| points[before]) else { return y1 };
    y0 + (y1 - y0) * (x - x0) / (x1 - x0)
}

/// How even the shares are, from half of [`MAX_SCORE`] to all of it.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as upstream rounds")]
pub(super) fn evenness(parts: impl Iterator<Item = (Amount, Amount)>) -> i64 {
    let shares: Vec<f64> = parts.map(|(used, all)| (used as f64 / all as f64).min(1.0)).collect();
    let deviation = match shares.as_slice() {
        [] | [_] => 0.0,
        [a, b] => ((a - b) / 2.0).abs(),
        several => {
            let count = several.len() as f64;
            let mean = several.iter().sum::<f64>() / count;
            (several.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_straight_between_its_points_and_level_beyond_them() {
        let line = [(10, 100), (60, 0), (80, 50)];
        for (x, expected) in [(0, 100), (10, 100), (35, 50), (60, 0), (70, 25), (80, 50), (100, 50)] {
            assert_eq!(broken_line(&line, x), expected, "{x}");
        }
        assert_eq!(broken_line(&[], 5), 0);
    }

    #[test]
    fn even_shares_score_highest() {
        for (parts, expected) in [
            (vec![], 100),
            (vec![(1, 2)], 100),
            (vec![(1, 2), (2, 4)], 100),
            (vec![(1, 2), (0, 4)], 75),
            (vec![(4, 2), (0, 4)], 50),
            (vec![(1, 1), (0, 1), (0, 1)], 52),
        ] {
            assert_eq!(evenness(parts.iter().copied()), expected, "{parts:?}");
        }
    }
}
