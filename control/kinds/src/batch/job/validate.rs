//! Validation of Jobs and of their updates.

use super::{LEGACY_NAME_LABEL, LEGACY_UID_LABEL, NAME_LABEL, UID_LABEL, has_condition, policies};
use crate::{at::At, edit, podspec, rules};
use api::{Cause, FieldPath, Object, names, selector::Selector};
use serde_json::{Value, json};

const LARGE_JOB_COMPLETIONS: i64 = 100_000;

pub(super) fn job(object: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let spec = At::of(object, "spec");
    generated_selector(object, spec, &mut out);
    selected_spec(spec, &mut out);
    let completions = spec.get("completions").int().unwrap_or(0);
    if spec.get("completionMode").str() == "Indexed" && completions > 0 {
        let host = format!("{}-{}", object.name(), completions - 1);
        if !names::dns1123_label(&host).is_empty() {
            let text = format!("will not able to create pod with invalid DNS label: {host}");
            out.push(Cause::invalid(&FieldPath::new("metadata.name"), &json!(object.name()), &text));
        }
    }
    out
}

/// The spec with its selector.
fn selected_spec(spec: At<'_>, out: &mut Vec<Cause>) {
    job_spec(spec, out);
    let selector = spec.get("selector");
    if !selector.is_set() {
        out.push(selector.required(""));
        return;
    }
    rules::label_selector(selector, out);
    let labels = spec.down(&["template", "metadata", "labels"]);
    if let Ok(parsed) = Selector::from_label_selector(selector.value())
        && !parsed.matches(|key| labels.value().get(key)?.as_str())
    {
        out.push(labels.invalid("`selector` does not match template `labels`"));
    }
}

fn generated_selector(object: &Object, spec: At<'_>, out: &mut Vec<Cause>) {
    if spec.get("manualSelector").bool() || !spec.get("selector").is_set() {
        return;
    }
    if object.uid().is_empty() {
        out.push(Cause::required(&FieldPath::new("metadata.uid"), ""));
    }
    let labels = spec.down(&["template", "metadata", "labels"]);
    let expected = [
        (LEGACY_UID_LABEL, object.uid()),
        (LEGACY_NAME_LABEL, object.name()),
        (UID_LABEL, object.uid()),
        (NAME_LABEL, object.name()),
    ];
    for (label, wanted) in expected {
        let place = labels.field().key(label);
        let text = format!("must be '{wanted}'");
        match labels.value().get(label).and_then(Value::as_str) {
            None => out.push(Cause::required(&place, &text)),
            Some(actual) if actual != wanted => out.push(Cause::invalid(&place, labels.value(), &text)),
            Some(_) => {}
        }
    }
    if let Ok(selector) = Selector::from_label_selector(spec.get("selector").value())
        && !selector.matches(|key| expected.iter().find(|(label, _)| *label == key).map(|(_, value)| *value))
    {
        out.push(spec.get("selector").invalid("`selector` not auto-generated"));
    }
}

/// The spec but for its selector.
pub(in crate::batch) fn job_spec(spec: At<'_>, out: &mut Vec<Cause>) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.get(name).not_negative(out);
    }
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        out.push(spec.get("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    let manager = spec.get("managedBy");
    if manager.is_set() {
        rules::domain_prefixed_path(manager, out);
        if manager.str().len() > 63 {
            out.push(Cause::too_long(&manager.field(), 63));
        }
    }
    let mode = spec.get("completionMode");
    match mode.str() {
        "Indexed" => indexed(spec, out),
        other => {
            if other != "NonIndexed" && mode.is_set() {
                out.push(mode.not_supported(&["NonIndexed", "Indexed"]));
            }
            for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if spec.get(name).is_set() && matches!(other, "NonIndexed" | "") {
                    out.push(spec.get(name).invalid("requires indexed completion mode"));
                }
            }
        }
    }
    policies::validate(spec, out);
    let template = spec.get("template");
    podspec::validate_template(template, out);
    let policy = template.down(&["spec", "restartPolicy"]);
    match policy.str() {
        "Always" | "" => out.push(policy.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec.get("podFailurePolicy").is_set() => {
            out.push(policy.invalid("only \"Never\" is supported when podFailurePolicy is specified"));
        }
        "OnFailure" | "Never" => {}
        _ => out.push(policy.not_supported(&["OnFailure", "Never"])),
    }
}

fn indexed(spec: At<'_>, out: &mut Vec<Cause>) {
    let (completions, parallelism, failed) =
        (spec.get("completions"), spec.get("parallelism"), spec.get("maxFailedIndexes"));
    let over = |at: At<'_>, limit: i64| at.int().is_some_and(|n| n > limit);
    if !completions.is_set() {
        out.push(completions.required("when completion mode is Indexed"));
    }
    if over(parallelism, 100_000) {
        out.push(parallelism.invalid("must be less than or equal to 100000 when completion mode is Indexed"));
    }
    if completions.int().is_some_and(|limit| over(failed, limit)) {
        out.push(failed.invalid("must be less than or equal to completions"));
    }
    if over(failed, 100_000) {
        out.push(failed.invalid("must be less than or equal to 100000"));
    }
    if over(completions, LARGE_JOB_COMPLETIONS) && spec.get("backoffLimitPerIndex").is_set() {
        const HIGH: &str = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        if !failed.is_set() {
            out.push(failed.required("must be specified when completions is above 100000"));
        }
        for at in [parallelism, failed] {
            if over(at, 10_000) {
                out.push(at.invalid(HIGH));
            }
        }
    }
}

pub(super) fn update(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let (spec, before) = (At::of(object, "spec"), At::of(old, "spec"));
    if !edit::deep_equal(spec.value(), before.value()) {
        // Upstream validates it again here.
        selected_spec(spec, &mut out);
    }
    let completions = spec.get("completions");
    if spec.get("completionMode").str() != "Indexed" {
        completions.immutable(before.get("completions"), &mut out);
    } else if completions.is_set()
        && completions.value() != before.get("completions").value()
        && completions.value() != spec.get("parallelism").value()
    {
        out.push(completions.invalid("can only be modified in tandem with spec.parallelism"));
    }
    rules::selector_stays(spec.get("selector"), before.get("selector"), &mut out);
    template_update(spec, before, old, &mut out);
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        spec.get(name).immutable(before.get(name), &mut out);
    }
    out
}

/// The template is immutable, except scheduling directives and resources while the job is suspended and has no active pods. Upstream's
/// `validatePodTemplateUpdate`.
fn template_update(spec: At<'_>, before: At<'_>, old: &Object, out: &mut Vec<Cause>) {
    let idle = before.get("suspend").bool()
        && (old.at(&["status", "startTime"]).is_none() || has_condition(old, "Suspended"))
        && old.int_at(&["status", "active"]).unwrap_or(0) == 0;
    let template = spec.get("template");
    let mut allowed = before.get("template").value().clone();
    if !idle {
        if !edit::deep_equal(template.value(), &allowed) {
            out.push(template.invalid("field is immutable"));
        }
        return;
    }
    let pod = template.get("spec");
    let allowed = &mut allowed["spec"];
    allow_scheduling(allowed, pod.value());
    allow_resources(allowed, pod.value());
    if !edit::deep_equal(pod.value(), allowed) {
        out.push(pod.invalid("field is immutable"));
    }
}

/// Copies the scheduling directives; of the affinity only node affinity.
fn allow_scheduling(old: &mut Value, new: &Value) {
    for name in ["nodeSelector", "tolerations", "schedulingGates"] {
        old[name] = new[name].clone();
    }
    let fresh = &new["affinity"]["nodeAffinity"];
    let affinity = &mut old["affinity"];
    if !affinity.is_object() {
        *affinity = if fresh.is_null() { Value::Null } else { json!({ "nodeAffinity": fresh }) };
        return;
    }
    affinity["nodeAffinity"] = fresh.clone();
    if new["affinity"].is_null() && affinity.as_object().is_some_and(|a| a.values().all(Value::is_null)) {
        *affinity = Value::Null;
    }
}

/// Copies the resources of containers, if the containers are the same.
fn allow_resources(old: &mut Value, new: &Value) {
    for list in ["containers", "initContainers"] {
        let fresh = new[list].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(containers) = old[list].as_array_mut().filter(|c| c.len() == fresh.len()) else { continue };
        for (container, new) in containers.iter_mut().zip(fresh) {
            if container["name"] == new["name"] {
                container["resources"] = new["resources"].clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Jobs;
    use crate::testing::{created, errors, update_errors};
    use api::Object;
    use expect_test::expect;
    use serde_json::Value;

    const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: pi, namespace: default, uid: u-1}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: pi, image: 'perl:5'}]
";

    #[test]
    fn a_job_needs_a_restart_policy_and_its_own_labels() {
        let text = JOB
            .replace("restartPolicy: Never", "restartPolicy: Always")
            .replace("  template:\n", "  parallelism: -1\n  template:\n    metadata: {labels: {job-name: other}}\n");
        expect![[r#"
            spec.template.metadata.labels[job-name]: Invalid value: {"batch.kubernetes.io/controller-uid":"u-1","batch.kubernetes.io/job-name":"pi","controller-uid":"u-1","job-name":"other"}: must be 'pi'
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
        "#]]
        .assert_eq(&errors(&Jobs(Default::default()), &text));
    }

    #[test]
    fn a_running_jobs_template_is_immutable() {
        let old = created(&Jobs(Default::default()), JOB);
        let mut new = old.clone();
        new.set(&["spec", "completions"], 5);
        new.set(&["spec", "template", "spec", "restartPolicy"], "OnFailure");
        let texts = update_errors(&Jobs(Default::default()), &new, &old);
        assert!(
            texts
                .starts_with("spec.completions: Invalid value: 5: field is immutable\nspec.template: Invalid value: {"),
            "{texts}"
        );
    }

    /// What upstream's `validatePodTemplateUpdate` takes and refuses, one patch of `spec` a line.
    #[test]
    fn a_suspended_jobs_pods_may_go_elsewhere_and_use_more() {
        const NODES: &str = r#"{"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}"#;
        const PODS: &str = r#"{"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}"#;
        let patch = |job: &mut Object, path: &str, value: &str| {
            let value = value.replace("NODES", NODES).replace("PODS", PODS);
            let mut path: Vec<&str> = path.split('.').collect();
            if let Some(at) = path.iter().position(|p| *p == "0") {
                let mut list = job.at(&path[..at]).cloned().expect("a list");
                list[0][path[at + 1]] = serde_json::from_str(&value).expect("JSON");
                path.truncate(at);
                job.set(&path, list);
            } else {
                job.set(&path, serde_json::from_str::<Value>(&value).expect("JSON"));
            }
        };
        let affinities = [
            "null",
            r#"{"nodeAffinity": NODES}"#,
            r#"{"podAffinity": PODS}"#,
            r#"{"nodeAffinity": NODES, "podAffinity": PODS}"#,
        ];
        let refused = |old_affinity: &str, path: &str, value: &str| {
            let mut old = created(&Jobs(Default::default()), JOB);
            old.set(&["spec", "suspend"], true);
            patch(&mut old, "spec.template.spec.affinity", old_affinity);
            let mut new = old.clone();
            patch(&mut new, path, value);
            update_errors(&Jobs(Default::default()), &new, &old)
        };
        for affinity in affinities {
            for (path, value) in [
                ("spec.suspend", "true"),
                ("spec.suspend", "false"),
                ("spec.parallelism", "3"),
                ("spec.ttlSecondsAfterFinished", "100"),
                ("spec.backoffLimit", "2"),
                ("spec.activeDeadlineSeconds", "60"),
                ("metadata.labels", r#"{"a": "b"}"#),
                ("spec.template.metadata.annotations", r#"{"a": "b"}"#),
                ("spec.template.spec.nodeSelector", r#"{"a": "b"}"#),
                ("spec.template.spec.tolerations", r#"[{"operator": "Exists"}]"#),
                ("spec.template.spec.schedulingGates", r#"[{"name": "a/b"}]"#),
                ("spec.template.spec.containers.0.resources", r#"{"requests": {"cpu": "1"}}"#),
            ] {
                assert_eq!(refused(affinity, path, value), "", "{affinity}: {path}={value}");
            }
            for (path, value) in [
                ("spec.template.spec.restartPolicy", r#""OnFailure""#),
                ("spec.template.spec.containers.0.image", r#""other""#),
                ("spec.template.spec.containers.0.name", r#""other""#),
                ("spec.template.spec.containers", "[]"),
                ("spec.template.spec.priorityClassName", r#""high""#),
                ("spec.template.spec.topologySpreadConstraints", r#"[{"maxSkew": 1}]"#),
            ] {
                let text = refused(affinity, path, value);
                assert!(text.contains("spec.template.spec: Invalid value: {"), "{affinity}: {path}={value}: {text}");
                assert!(text.ends_with(": field is immutable\n"), "{text}");
            }
        }
        // whether each of the affinities may follow each
        for (old, taken) in affinities.iter().zip([
            [true, true, false, false],
            [true, true, false, false],
            [false, false, true, true],
            [false, false, true, true],
        ]) {
            for (new, taken) in affinities.iter().zip(taken) {
                let text = refused(old, "spec.template.spec.affinity", new);
                assert_eq!(text.is_empty(), taken, "{old} → {new}: {text}");
            }
        }
    }

    #[test]
    fn a_suspended_job_that_runs_still_is_as_immutable_as_any() {
        let mut old = created(&Jobs(Default::default()), JOB);
        old.set(&["spec", "suspend"], true);
        old.set(&["status"], serde_json::json!({"startTime": "2026-01-01T00:00:00Z", "active": 1}));
        let mut new = old.clone();
        new.set(&["spec", "template", "spec", "nodeSelector"], serde_json::json!({"a": "b"}));
        let text = update_errors(&Jobs(Default::default()), &new, &old);
        assert!(text.starts_with("spec.template: Invalid value: {"), "{text}");
        old.set(&["status"], serde_json::json!({"conditions": [{"type": "Suspended", "status": "True"}]}));
        assert_eq!(update_errors(&Jobs(Default::default()), &new, &old), "");
    }
}
