//! Completion indexes of Indexed Jobs, and how a status writes them: `1,3-5`. Pure.

use crate::meta;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use std::fmt;

/// The annotation and label that hold a pod's index.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The longest prefix of a generated name, in bytes.
const MAX_PREFIX: usize = 58;

/// The completion index of the pod, if it has a valid one.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// A set of indexes as ranges: ascending, without overlaps or neighbours. A status may name two thousand million indexes in one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads `1,3-5`, up to `completions`; what cannot be read is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<i32>().ok()?, last.parse::<i32>().ok()?.min(completions - 1));
            (0 <= first && first <= last).then_some((first, last))
        };
        Self::of_ranges(text.split(',').filter_map(range).collect())
    }

    fn of_ranges(mut ranges: Vec<(i32, i32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Both sets together.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self::of_ranges(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Whether the set has the index.
    pub(super) fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes there are.
    pub(super) fn total(&self) -> i32 {
        let total: i64 = self.0.iter().map(|(first, last)| i64::from(*last) - i64::from(*first) + 1).sum();
        i32::try_from(total).unwrap_or(i32::MAX)
    }

    /// How many of the indexes another set has too.
    pub(super) fn shared(&self, other: &Self) -> i32 {
        let (mut a, mut b, mut shared) = (0, 0, 0_i64);
        while let (Some(x), Some(y)) = (self.0.get(a), other.0.get(b)) {
            shared += (i64::from(x.1.min(y.1)) - i64::from(x.0.max(y.0)) + 1).max(0);
            if x.1 < y.1 {
                a += 1;
            } else {
                b += 1;
            }
        }
        i32::try_from(shared).unwrap_or(i32::MAX)
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub(super) fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let (mut free, mut next) = (Vec::new(), 0);
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            free.extend((next..first.min(completions)).take(count - free.len()));
            next = next.max(last.saturating_add(1));
        }
        free
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<T: IntoIterator<Item = i32>>(indexes: T) -> Self {
        Self::of_ranges(indexes.into_iter().map(|i| (i, i)).collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Sets the completion index on `pod`: annotation, label, host name and environment.
pub(super) fn mark(pod: &mut Pod, job: &str, index: i32) {
    let value = index.to_string();
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), value.clone());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), value);
    pod.metadata.generate_name = Some(prefix(job, index));
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(format!("{job}-{index}"));
    let source = EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None }),
        ..EnvVarSource::default()
    };
    let variable = EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value: None, value_from: Some(source) };
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == variable.name) {
            env.push(variable.clone());
        }
    }
}

/// `job-index-`; of a long name the end of the Job's is cut, never the index.
fn prefix(job: &str, index: i32) -> String {
    let index = format!("-{index}-");
    let end = (0..=job.len().min(MAX_PREFIX - index.len())).rev().find(|end| job.is_char_boundary(*end));
    format!("{}{index}", &job[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Indexes {
        Indexes::parse(text, i32::MAX)
    }

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0,1,3,4,6-8", "0-2147483646"] {
            assert_eq!(of(text).to_string(), text);
        }
        for (text, completions, read) in
            [("1-9", 4, "1-3"), ("x,2-y,3", 10, "3"), ("5-2,-3,4", 10, "4"), ("3,1-2,2", 10, "1-3"), ("7", 7, "")]
        {
            assert_eq!(Indexes::parse(text, completions).to_string(), read, "{text}");
        }
    }

    #[test]
    fn sets_are_joined_counted_and_compared() {
        for (a, b, both, shared) in [
            ("", "", "", 0),
            ("0-2", "3", "0-3", 0),
            ("0,1,5-9", "1-5", "0-9", 2),
            ("0-9", "2,4,6-20", "0-20", 6),
            ("0-2147483646", "7", "0-2147483646", 1),
        ] {
            let (a, b) = (of(a), of(b));
            assert_eq!((a.and(&b).to_string(), b.and(&a)), (both.to_owned(), a.and(&b)));
            assert_eq!((a.shared(&b), b.shared(&a)), (shared, shared), "{a} {b}");
        }
        assert_eq!((of("0,2-4").total(), of("0-2147483646").total()), (4, i32::MAX));
        assert_eq!([4, 3, 1, 0, 9].into_iter().collect::<Indexes>().to_string(), "0,1,3,4,9");
        let set = of("1,3-5");
        assert_eq!((0..7).filter(|i| set.contains(*i)).collect::<Vec<_>>(), [1, 3, 4, 5]);
    }

    #[test]
    fn the_first_free_indexes_are_found() {
        for (taken, count, completions, free) in [
            ("", 2, 5, vec![0, 1]),
            ("0,2", 2, 5, vec![1, 3]),
            ("1-3", 9, 5, vec![0, 4]),
            ("0-9", 2, 5, vec![]),
            ("0-2000000000", 1, i32::MAX, vec![2_000_000_001]),
            ("3", 0, 5, vec![]),
        ] {
            assert_eq!(of(taken).missing(count, completions), free, "{taken}");
        }
    }

    #[test]
    fn a_long_name_keeps_its_index() {
        assert_eq!(prefix("j", 7), "j-7-");
        assert_eq!(prefix(&"a".repeat(63), 12), format!("{}-12-", "a".repeat(54)));
    }
}
