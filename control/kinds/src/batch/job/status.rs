//! Validation of a Job's status: what its controller may report, also one of another project (`managedBy`). A rule is asked only where what it
//! speaks of changes, so that a status that was right stays writable.

use super::{has_condition, indexes};
use crate::{at::At, edit};
use api::{Cause, Object};
use std::collections::HashSet;

/// A status that is updated.
pub(super) fn update(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let change = Change { object, old, status: At::of(object, "status") };
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        change.status.get(name).not_negative(&mut out);
    }
    uncounted(change.status.get("uncountedTerminatedPods"), &mut out);
    change.times(&mut out);
    change.finished(&mut out);
    change.indexes(&mut out);
    change.counts(&mut out);
    change.success(&mut out);
    change.past(&mut out);
    out
}

/// No pod may be listed twice.
fn uncounted(uncounted: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for uid in ["succeeded", "failed"].into_iter().flat_map(|list| uncounted.get(list).items()) {
        if crate::rules::full(out) {
            return;
        }
        if uid.str().is_empty() {
            out.push(uid.invalid("must not be empty"));
        } else if !seen.insert(uid.str()) {
            out.push(uid.duplicate());
        }
    }
}

struct Change<'a> {
    object: &'a Object,
    old: &'a Object,
    status: At<'a>,
}

impl Change<'_> {
    fn now(&self, kind: &str) -> bool {
        has_condition(self.object, kind)
    }

    fn was(&self, kind: &str) -> bool {
        has_condition(self.old, kind)
    }

    fn turned(&self, kind: &str) -> bool {
        self.now(kind) != self.was(kind)
    }

    fn is_finished(&self) -> bool {
        self.now("Complete") || self.now("Failed")
    }

    fn finishes(&self) -> bool {
        self.is_finished() != (self.was("Complete") || self.was("Failed"))
    }

    fn changed(&self, name: &str) -> bool {
        !edit::deep_equal_at(self.object, self.old, &["status", name])
    }

    fn is_indexed(&self) -> bool {
        self.object.str_at(&["spec", "completionMode"]) == Some("Indexed")
    }

    fn forbid(&self, text: &str, out: &mut Vec<Cause>) {
        out.push(Cause::invalid_unshown(&self.status.get("conditions").field(), text));
    }

    fn count(&self, name: &'static str) -> i64 {
        self.status.get(name).int().unwrap_or(0)
    }

    fn times(&self, out: &mut Vec<Cause>) {
        let (start, completion) = (self.status.get("startTime"), self.status.get("completionTime"));
        let complete = self.now("Complete");
        if complete && self.now("Failed") && (self.turned("Complete") || self.turned("Failed")) {
            self.forbid("cannot set Complete=True and Failed=true conditions", out);
        }
        if complete && self.now("FailureTarget") && (self.turned("Complete") || self.turned("FailureTarget")) {
            self.forbid("cannot set Complete=True and FailureTarget=true conditions", out);
        }
        if self.turned("Complete") || self.changed("completionTime") {
            if completion.is_set() && !complete {
                out.push(completion.invalid("cannot set completionTime when there is no Complete=True condition"));
            }
            if !completion.is_set() && complete {
                out.push(completion.required("completionTime is required for Complete jobs"));
            }
        }
        let time = |at: At<'_>| at.str().parse::<jiff::Timestamp>().ok();
        let backwards = time(start).zip(time(completion)).is_some_and(|(start, completion)| completion < start);
        if backwards && (self.changed("startTime") || self.changed("completionTime")) {
            out.push(completion.invalid("must be equal to or after `startTime`"));
        }
    }

    fn finished(&self, out: &mut Vec<Cause>) {
        let (failed, complete, finished) = (self.now("Failed"), self.now("Complete"), self.is_finished());
        if failed && !self.now("FailureTarget") && (self.turned("Failed") || self.changed("failedIndexes")) {
            self.forbid("cannot set Failed=True condition without the FailureTarget=true condition", out);
        }
        let turned = self.turned("Complete") || self.turned("SuccessCriteriaMet");
        if complete && !self.now("SuccessCriteriaMet") && turned {
            self.forbid("cannot set Complete=True condition without the SuccessCriteriaMet=true condition", out);
        }
        if !finished {
            return;
        }
        let changes = |name: &str| self.finishes() || self.changed(name);
        if self.count("active") > 0 && changes("active") {
            out.push(self.status.get("active").invalid("active>0 is invalid for finished job"));
        }
        let nothing =
            self.object.bool_at(&["spec", "suspend"]) && self.object.int_at(&["spec", "completions"]) == Some(0);
        if !self.status.get("startTime").is_set() && !nothing && changes("startTime") {
            out.push(self.status.get("startTime").required("startTime is required for finished job"));
        }
        let uncounted = self.status.get("uncountedTerminatedPods");
        if !(uncounted.get("succeeded").is_empty() && uncounted.get("failed").is_empty())
            && changes("uncountedTerminatedPods")
        {
            out.push(uncounted.invalid("must be empty for finished job"));
        }
    }

    fn indexes(&self, out: &mut Vec<Cause>) {
        let completions = self.object.int_at(&["spec", "completions"]);
        let per_index = self.object.at(&["spec", "backoffLimitPerIndex"]).is_some_and(|limit| !limit.is_null());
        let (completed, failed) = (self.status.get("completedIndexes"), self.status.get("failedIndexes"));
        let mut check = |at: At<'_>, name: &str, asked: bool| {
            let total = completions.filter(|_| asked).map(|completions| indexes::total(at.str(), completions));
            if let Some(Err(problem)) = total {
                out.push(at.invalid(&format!("error parsing {name}: {problem}")));
            }
        };
        check(completed, "completedIndexes", self.changed("completedIndexes"));
        check(failed, "failedIndexes", self.changed("failedIndexes") && per_index && failed.is_set());
        if self.changed("completedIndexes") && !completed.str().is_empty() && !self.is_indexed() {
            out.push(completed.invalid("cannot set non-empty completedIndexes when non-indexed completion mode"));
        }
        if self.changed("failedIndexes") && failed.is_set() && !per_index {
            out.push(failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null"));
        }
        let changed = self.changed("failedIndexes") || self.changed("completedIndexes");
        let overlap = |completions| indexes::overlap(completed.str(), failed.str(), completions);
        if let Some(index) = completions.filter(|_| changed).and_then(overlap) {
            out.push(failed.invalid(&format!("failedIndexes and completedIndexes overlap at index: {index}")));
        }
    }

    fn counts(&self, out: &mut Vec<Cause>) {
        if self.is_finished() && self.count("terminating") > 0 && (self.finishes() || self.changed("terminating")) {
            out.push(self.status.get("terminating").invalid("terminating>0 is invalid for finished job"));
        }
        if self.count("ready") > self.count("active") && (self.changed("ready") || self.changed("active")) {
            out.push(self.status.get("ready").invalid("cannot set more ready pods than active"));
        }
    }

    fn success(&self, out: &mut Vec<Cause>) {
        let met = self.now("SuccessCriteriaMet");
        if met && self.now("Failed") {
            self.forbid("cannot set SuccessCriteriaMet=True and Failed=true conditions", out);
        }
        if met && self.now("FailureTarget") {
            self.forbid("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", out);
        }
        let policy = self.object.at(&["spec", "successPolicy"]).is_some_and(|policy| !policy.is_null());
        if policy && !met && self.now("Complete") {
            self.forbid("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True", out);
        }
    }

    /// What was reported stays.
    fn past(&self, out: &mut Vec<Cause>) {
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if self.was(kind) && !self.now(kind) {
                self.forbid(&format!("cannot disable the terminal {kind}=True condition"), out);
            }
        }
        let before = |name: &str| self.old.int_at(&["status", name]).unwrap_or(0);
        if self.count("failed") < before("failed") {
            out.push(
                self.status
                    .get("failed")
                    .with(&self.count("failed").into())
                    .invalid("cannot decrease the failed counter"),
            );
        }
        // completions of an elastic Job can be fewer than have succeeded
        let elastic = self.is_indexed()
            && edit::deep_equal(&self.object.0["spec"]["completions"], &self.object.0["spec"]["parallelism"]);
        if self.count("succeeded") < before("succeeded") && !elastic {
            let succeeded = self.count("succeeded").into();
            out.push(self.status.get("succeeded").with(&succeeded).invalid("cannot decrease the succeeded counter"));
        }
        let (completion, start) = (self.status.get("completionTime"), self.status.get("startTime"));
        let old = |name: &str| self.old.at(&["status", name]).is_some_and(|time| !time.is_null());
        if completion.is_set() && old("completionTime") && self.changed("completionTime") {
            out.push(completion.invalid("field is immutable"));
        }
        let conditions = self.object.list_at(&["status", "conditions"]);
        let resumes =
            self.was("Suspended") && conditions.iter().any(|c| c["type"] == "Suspended" && c["status"] == "False");
        if old("startTime") && self.changed("startTime") && !resumes && !self.object.bool_at(&["spec", "suspend"]) {
            out.push(start.invalid("field is immutable for unsuspended job once set"));
        }
        if self.was("SuccessCriteriaMet") && !self.now("SuccessCriteriaMet") {
            self.forbid("cannot disable the SuccessCriteriaMet=True condition", out);
        }
        if self.was("Complete") && !self.was("SuccessCriteriaMet") && self.now("SuccessCriteriaMet") {
            self.forbid("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions", out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Jobs;
    use crate::testing::{context, parse};
    use api::Object;
    use server::Strategy;

    fn faults(spec: &str, old: &str, new: &str) -> String {
        let job = |status: &str| -> Object { parse(&format!("{{spec: {spec}, status: {status}}}")) };
        let causes = Jobs(Default::default()).validate_status(&context(), &job(new), &job(old));
        causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    const FINISHED: &str = "{startTime: '2026-01-01T00:00:00Z', completionTime: '2026-01-01T00:01:00Z', succeeded: 1, conditions: [{type: Complete, status: 'True'}, {type: SuccessCriteriaMet, status: 'True'}]}";
    const PLAIN: &str = "{completions: 3, completionMode: NonIndexed}";
    const INDEXED: &str = "{completions: 3, parallelism: 2, completionMode: Indexed, backoffLimitPerIndex: 1}";

    #[test]
    fn a_finished_job_stays_finished() {
        assert_eq!(
            faults("{}", FINISHED, "{startTime: '2026-01-01T00:00:00Z', succeeded: 0}"),
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition\n\
             status.succeeded: Invalid value: 0: cannot decrease the succeeded counter\n\
             status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition"
        );
        let later = FINISHED.replace("00:01:00", "00:02:00");
        assert_eq!(
            faults("{}", FINISHED, &later),
            "status.completionTime: Invalid value: \"2026-01-01T00:02:00Z\": field is immutable"
        );
        assert_eq!(faults("{}", FINISHED, FINISHED), "");
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        let started = "startTime: '2026-01-01T00:00:00Z'";
        let with = |conditions: &str, more: &str| {
            let conditions: Vec<String> =
                conditions.split_whitespace().map(|kind| format!("{{type: {kind}, status: 'True'}}")).collect();
            format!("{{{started}, conditions: [{}]{more}}}", conditions.join(", "))
        };
        let complete = ", completionTime: '2026-01-01T00:01:00Z'";
        for (spec, old, new, expected) in [
            (
                PLAIN,
                "{}".into(),
                "{active: 2, ready: 2, uncountedTerminatedPods: {succeeded: [a], failed: [b]}}".into(),
                "",
            ),
            (PLAIN, "{}".into(), with("FailureTarget Failed", ""), ""),
            (PLAIN, "{}".into(), with("SuccessCriteriaMet Complete", complete), ""),
            (
                PLAIN,
                "{}".into(),
                "{uncountedTerminatedPods: {succeeded: [a, ''], failed: [a]}}".into(),
                "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty\n\
                 status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
            ),
            (
                PLAIN,
                "{}".into(),
                with("Failed", ", terminating: 1"),
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition\n\
                 status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
            ),
            (
                PLAIN,
                "{}".into(),
                with("Complete", ""),
                "status.completionTime: Required value: completionTime is required for Complete jobs\n\
                 status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ),
            (
                PLAIN,
                "{}".into(),
                with("SuccessCriteriaMet FailureTarget", ""),
                "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
            ),
            (
                PLAIN,
                "{}".into(),
                with("SuccessCriteriaMet Complete", ", completionTime: '2025-01-01T00:01:00Z'"),
                "status.completionTime: Invalid value: \"2025-01-01T00:01:00Z\": must be equal to or after `startTime`",
            ),
            (
                PLAIN,
                "{}".into(),
                with("FailureTarget Failed", ", active: 1, uncountedTerminatedPods: {failed: [a]}"),
                "status.active: Invalid value: 1: active>0 is invalid for finished job\n\
                 status.uncountedTerminatedPods: Invalid value: {\"failed\":[\"a\"]}: must be empty for finished job",
            ),
            (
                PLAIN,
                "{}".into(),
                "{completedIndexes: '1', failedIndexes: ''}".into(),
                "status.completedIndexes: Invalid value: \"1\": cannot set non-empty completedIndexes when non-indexed completion mode\n\
                 status.failedIndexes: Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ),
            (
                PLAIN,
                "{}".into(),
                "{ready: 1}".into(),
                "status.ready: Invalid value: 1: cannot set more ready pods than active",
            ),
            (
                PLAIN,
                with("", ""),
                "{startTime: '2026-01-01T00:00:09Z'}".into(),
                "status.startTime: Invalid value: \"2026-01-01T00:00:09Z\": field is immutable for unsuspended job once set",
            ),
            (INDEXED, "{}".into(), "{completedIndexes: '0,2', failedIndexes: '1'}".into(), ""),
            (
                INDEXED,
                "{}".into(),
                "{completedIndexes: '0-3', failedIndexes: x}".into(),
                "status.completedIndexes: Invalid value: \"0-3\": error parsing completedIndexes: too large index: \"3\"\n\
                 status.failedIndexes: Invalid value: \"x\": error parsing failedIndexes: cannot convert string to integer for index: \"x\"",
            ),
            (
                INDEXED,
                "{}".into(),
                "{completedIndexes: '0,1', failedIndexes: 1-2}".into(),
                "status.failedIndexes: Invalid value: \"1-2\": failedIndexes and completedIndexes overlap at index: 1",
            ),
        ] {
            assert_eq!(faults(spec, &old, &new), expected, "{spec} {old} {new}");
        }
        let resumed = "{startTime: '2026-01-01T00:00:09Z', conditions: [{type: Suspended, status: 'False'}]}";
        assert_eq!(faults(PLAIN, &with("Suspended", ""), resumed), "", "a Job that is resumed starts anew");
    }
}
