//! Completion indexes of Indexed Jobs, and how a status writes them: `1,3-5`. Pure.

use crate::meta;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use std::collections::BTreeSet;

/// The annotation and label that hold a pod's index.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The completion index of the pod, if it has a valid one.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// Reads `1,3-5`, up to `completions`.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
        indexes.extend(first.max(0)..=last.min(completions - 1));
    }
    indexes
}

/// Writes `1,3-5`.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for i in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *i => *last = *i,
            _ => ranges.push((*i, *i)),
        }
    }
    let one = |(a, b): (i32, i32)| match b - a {
        0 => a.to_string(),
        1 => format!("{a},{b}"),
        _ => format!("{a}-{b}"),
    };
    ranges.into_iter().map(one).collect::<Vec<_>>().join(",")
}

/// Sets the completion index on `pod`: annotation, label, host name and environment.
pub(super) fn mark(pod: &mut Pod, job: &str, index: i32) {
    let value = index.to_string();
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), value.clone());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), value);
    pod.metadata.generate_name = Some(format!("{job}-{index}-"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0,1,3,4,6-8"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(parse("1-9", 4), [1, 2, 3].into());
        assert_eq!(parse("x,2-y,3", 10), [3].into());
    }
}
