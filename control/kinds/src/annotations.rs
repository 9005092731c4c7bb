//! Warnings about annotations of `sampan.dev`, which nobody may read as they are: a typo would only be seen at the start of a container, or
//! never. What is read is in [`api::annotations`].

use crate::at::At;
use api::{
    Object,
    annotations::{Fault, faults_of_pod, faults_of_service, faults_of_workload},
};
use std::collections::BTreeSet;

/// Most warnings that are collected; these are already more than the headers can hold (4 KiB).
const MAX_WARNINGS: usize = 200;

/// Warnings about the annotations of a Pod, or of a template, with these containers.
pub(crate) fn of_pod(metadata: At<'_>, containers: &BTreeSet<&str>) -> Vec<String> {
    let annotations = metadata.get("annotations");
    told(annotations, faults_of_pod(annotations.entries().map(|(name, at)| (name, at.str())), containers, MAX_WARNINGS))
}

/// Warnings about the annotations of an object beside its pod template, `spec.template`.
pub(crate) fn of_workload(object: &Object) -> Vec<String> {
    let annotations = At::of(object, "metadata").get("annotations");
    let all = annotations.entries().map(|(name, at)| (name, at.str()));
    told(annotations, faults_of_workload(all, object.kind(), "spec.template", MAX_WARNINGS))
}

/// Warnings about the annotations of a Service.
pub(crate) fn of_service(object: &Object) -> Vec<String> {
    let annotations = At::of(object, "metadata").get("annotations");
    told(annotations, faults_of_service(annotations.entries().map(|(name, at)| (name, at.str())), MAX_WARNINGS))
}

fn told(annotations: At<'_>, faults: Vec<Fault>) -> Vec<String> {
    faults.iter().map(|fault| format!("{}: {}", annotations.field().key(&fault.name), fault.text)).collect()
}
