//! Job: pods that run to completion. Its selector and the labels of its pods are generated from its uid.

mod indexes;
mod policies;
mod status;
pub(super) mod validate;

use crate::{Capabilities, apps::workload, at::At, cells, edit, podspec};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor, strategy::Recheck};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Status", "Status of the job."),
    Column::new("Completions", "The number of pods which reached phase Succeeded."),
    Column::new("Duration", "Time required to complete the job."),
    Column::age(),
    Column::new("Containers", "Names of each container in the template.").wide(),
    Column::new("Images", "Images referenced by each container in the template.").wide(),
    Column::new("Selector", "A label query over pods that should match the pod count.").wide(),
];

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const LEGACY_UID_LABEL: &str = "controller-uid";
const LEGACY_NAME_LABEL: &str = "job-name";

pub(crate) struct Jobs(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let jobs = Jobs(capabilities.clone());
    Resource::new("batch", "v1", "jobs", "Job", jobs).category("all").with_generation().with_status()
}

impl Strategy for Jobs {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        default_spec(spec);
        default_labels(object);
        edit::object(&mut object.0, "status");
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
        if !object.bool_at(&["spec", "manualSelector"]) {
            generate_selector(object);
        }
        // Upstream applies defaults again when it reads an object from the store: a Job without labels shows those of its template.
        default_labels(object);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        validate::job(object)
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        validate::update(object, old)
    }

    fn validate_status(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        status::update(object, old)
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = workload::warnings(&self.0, object, old, "Pod names and hostnames");
        out.extend(large_indexed(At::of(object, "spec")));
        out
    }

    fn field_labels(&self) -> &[&'static str] {
        &["status.successful"]
    }

    fn field(&self, object: &Object, _label: &str) -> String {
        cells::number(object, &["status", "succeeded"]).to_string()
    }

    fn unknown_field(&self, label: &str) -> String {
        format!("field label \"{label}\" not supported for Job")
    }

    fn default_propagation(&self) -> &'static str {
        "Orphan"
    }
}

impl TableConvertor for Jobs {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let [names, images] = cells::containers(At::of(object, "spec").down(&["template", "spec"]));
        vec![
            json!(object.name()),
            json!(status_text(object)),
            json!(completions(object)),
            json!(duration(object, now)),
            cells::age(object, now),
            names,
            images,
            json!(cells::label_selector(object.at(&["spec", "selector"]))),
        ]
    }
}

/// A warning about the spec of an Indexed Job that is too large to be tracked.
pub(super) fn large_indexed(spec: At<'_>) -> Option<String> {
    let number = |name| spec.get(name).int().unwrap_or(0);
    let large = number("completions") > 100_000 && number("parallelism") > 10_000;
    let text = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
    (spec.get("completionMode").str() == "Indexed" && large).then(|| format!("{}: {text}", spec.field()))
}

/// Defaults of a Job's spec.
fn default_spec(spec: &mut edit::Fields) {
    let unset = |spec: &edit::Fields, key: &str| spec.get(key).is_none_or(Value::is_null);
    if unset(spec, "completions") && unset(spec, "parallelism") {
        edit::fill(spec, "completions", 1);
    }
    edit::fill(spec, "parallelism", 1);
    let limit = if unset(spec, "backoffLimitPerIndex") { 6 } else { i32::MAX };
    edit::fill(spec, "backoffLimit", limit);
    edit::fill(spec, "completionMode", "NonIndexed");
    edit::fill(spec, "suspend", false);
    edit::fill(spec, "manualSelector", false);
    let replace = if unset(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    edit::fill(spec, "podReplacementPolicy", replace);
    if let Some(policy) = edit::object_if(spec, "podFailurePolicy") {
        for pattern in edit::objects(policy, "rules").flat_map(|rule| edit::objects(rule, "onPodConditions")) {
            edit::fill_str(pattern, "status", "True");
        }
    }
    podspec::default_template(spec);
}

/// A Job without labels has those of its template.
fn default_labels(object: &mut Object) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]);
    let labels = labels.filter(|l| l.as_object().is_some_and(|l| !l.is_empty())).cloned();
    // Labels that are refused at the template are not copied, so that they are refused only once.
    let right = |value: &Value| value.as_str().is_some_and(|value| names::label_value(value).is_empty());
    let labels = labels.filter(|labels| labels.as_object().is_some_and(|labels| labels.values().all(right)));
    let none = object.at(&["metadata", "labels"]).and_then(Value::as_object).is_none_or(Map::is_empty);
    if let Some(labels) = labels.filter(|_| none) {
        object.set(&["metadata", "labels"], labels);
    }
}

fn generate_selector(object: &mut Object) {
    let (name, uid) = (object.name().to_owned(), object.uid().to_owned());
    let spec = edit::object(&mut object.0, "spec");
    let labels = edit::object(edit::object(edit::object(spec, "template"), "metadata"), "labels");
    for (label, value) in [(LEGACY_NAME_LABEL, &name), (NAME_LABEL, &name), (LEGACY_UID_LABEL, &uid), (UID_LABEL, &uid)]
    {
        labels.entry(label).or_insert_with(|| value.as_str().into());
    }
    let wanted = edit::object(edit::object(spec, "selector"), "matchLabels");
    wanted.entry(UID_LABEL).or_insert_with(|| uid.into());
}

/// Whether a condition of this type is True.
fn has_condition(object: &Object, kind: &str) -> bool {
    let conditions = object.list_at(&["status", "conditions"]);
    conditions.iter().find(|c| c["type"] == kind).is_some_and(|c| c["status"] == "True")
}

fn status_text(object: &Object) -> &'static str {
    let after = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
    if has_condition(object, "Complete") {
        "Complete"
    } else if has_condition(object, "Failed") {
        "Failed"
    } else if object.is_deleting() {
        "Terminating"
    } else {
        after.into_iter().find(|kind| has_condition(object, kind)).unwrap_or("Running")
    }
}

fn completions(object: &Object) -> String {
    let done = cells::number(object, &["status", "succeeded"]);
    match object.int_at(&["spec", "completions"]) {
        Some(wanted) => format!("{done}/{wanted}"),
        None => match cells::number(object, &["spec", "parallelism"]) {
            many if many > 1 => format!("{done}/1 of {many}"),
            _ => format!("{done}/1"),
        },
    }
}

fn duration(object: &Object, now: Timestamp) -> String {
    let time = |name: &str| object.str_at(&["status", name]).and_then(|t| t.parse::<Timestamp>().ok());
    match time("startTime") {
        None => String::new(),
        Some(start) => api::time::human_duration(time("completionTime").unwrap_or(now).duration_since(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, created, row};
    use expect_test::expect;

    #[test]
    fn a_name_that_is_no_label_is_refused_at_the_template_alone() {
        let name = "a".repeat(64);
        let job = created(
            &Jobs(Default::default()),
            &format!(
                "{{metadata: {{name: {name}, uid: u}}, spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"
            ),
        );
        assert_eq!(job.at(&["metadata", "labels"]), None);
        assert_eq!(job.str_at(&["spec", "template", "metadata", "labels", NAME_LABEL]), Some(name.as_str()));
    }

    #[test]
    fn a_job_gets_defaults_labels_and_a_selector() {
        let job = created(
            &Jobs(Default::default()),
            "
apiVersion: batch/v1
kind: Job
metadata: {name: pi, namespace: default, uid: u-1}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: pi, image: 'perl:5'}]
",
        );
        expect![[r#"
            apiVersion: batch/v1
            kind: Job
            metadata:
              labels:
                batch.kubernetes.io/controller-uid: u-1
                batch.kubernetes.io/job-name: pi
                controller-uid: u-1
                job-name: pi
              name: pi
              namespace: default
              uid: u-1
            spec:
              backoffLimit: 6
              completionMode: NonIndexed
              completions: 1
              manualSelector: false
              parallelism: 1
              podReplacementPolicy: TerminatingOrFailed
              selector:
                matchLabels:
                  batch.kubernetes.io/controller-uid: u-1
              suspend: false
              template:
                metadata:
                  labels:
                    batch.kubernetes.io/controller-uid: u-1
                    batch.kubernetes.io/job-name: pi
                    controller-uid: u-1
                    job-name: pi
                spec:
                  containers:
                  - image: perl:5
                    imagePullPolicy: IfNotPresent
                    name: pi
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Never
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 30
            status: {}
        "#]]
        .assert_eq(&testing::yaml(&job));
        assert!(Jobs(Default::default()).validate(&testing::context(), &job).is_empty());
    }

    #[test]
    fn defaults_depend_on_the_policies() {
        let created = |spec: &str| {
            let text = format!(
                "{{metadata: {{name: pi, uid: u}}, spec: {{completionMode: Indexed, completions: 3, {spec}, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"
            );
            created(&Jobs(Default::default()), &text)
        };
        let job = created(
            "backoffLimitPerIndex: 1, podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}",
        );
        assert_eq!(job.int_at(&["spec", "backoffLimit"]), Some(i64::from(i32::MAX)));
        assert_eq!(job.str_at(&["spec", "podReplacementPolicy"]), Some("Failed"));
        let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        assert_eq!(job.at(&["spec", "podFailurePolicy", "rules"]), Some(&rules));
        assert!(Jobs(Default::default()).validate(&testing::context(), &job).is_empty());
        assert!(Jobs(Default::default()).warnings(&testing::context(), &job, None).is_empty());
        let job = created("successPolicy: {rules: [{succeededCount: 1}]}, managedBy: example.com/other");
        assert_eq!(job.int_at(&["spec", "backoffLimit"]), Some(6));
        assert_eq!(job.str_at(&["spec", "podReplacementPolicy"]), Some("TerminatingOrFailed"));
        assert!(Jobs(Default::default()).warnings(&testing::context(), &job, None).is_empty());
    }

    #[test]
    fn rows_show_progress() {
        let text = "
metadata: {name: pi, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {completions: 3, selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: c, image: i}]}}}
status: {startTime: '2026-01-01T00:00:10Z', succeeded: 1}
";
        assert_eq!(row(&Jobs(Default::default()), text), "pi | Running | 1/3 | 50s | 60s | c | i | a=b");
        let done = "
metadata: {name: pi, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {parallelism: 5}
status: {startTime: '2026-01-01T00:00:10Z', completionTime: '2026-01-01T00:00:15Z', succeeded: 1, conditions: [{type: Complete, status: 'True'}]}
";
        assert_eq!(row(&Jobs(Default::default()), done), "pi | Complete | 1/1 of 5 | 5s | 60s |  |  | <none>");
    }
}
