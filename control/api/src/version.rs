//! The order of API versions, by which the preferred one is chosen: v10 before v2 before v1, then v1beta2, v1beta1, v1alpha1, then other names.
//! Follows `k8s.io/apimachinery/pkg/version` and
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#version-priority>.

use std::cmp::Ordering;

/// How stable a version is, and its numbers: `v1beta2` is (1, 1, 2), `v2` is (2, 2, 0).
fn parts(name: &str) -> Option<(u8, u64, u64)> {
    let rest = name.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let major = number(major)?;
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match rest.strip_prefix("beta") {
        Some(minor) => (1, minor),
        None => (0, rest.strip_prefix("alpha")?),
    };
    Some((stability, major, number(minor)?))
}

/// A number as in a version: it does not begin with a zero.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || text.starts_with('0') { None } else { text.parse().ok() }
}

/// Compares two versions; the greater one is preferred. Names that are no versions are the least, and sorted so that `a` is preferred to `b`.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parts(a), parts(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_and_the_new_are_preferred() {
        let wanted =
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10", "v01"];
        let mut sorted = wanted;
        sorted.reverse();
        sorted.sort_by(|a, b| compare(b, a));
        assert_eq!(sorted, wanted);
    }
}
