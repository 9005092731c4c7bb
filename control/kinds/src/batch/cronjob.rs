//! CronJob: Jobs by a schedule.

use super::job::{self, validate};
use crate::{Capabilities, at::At, cells, edit, podspec, rules};
use api::{Cause, FieldPath, Object, cron};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, columns::since};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
    Column::new("Timezone", "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this will default to the time zone of the kube-controller-manager process. The set of valid time zone names and the time zone offset is loaded from the system-wide time zone database by the API server during CronJob validation and the controller manager during execution. If no system-wide time zone database can be found a bundled version of the database is used instead. If the time zone name becomes invalid during the lifetime of a CronJob or due to a change in host configuration, the controller will stop creating new new Jobs and will create a system event with the reason UnknownTimeZone. More information can be found in https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones"),
    Column::new("Suspend", "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false.").boolean(),
    Column::new("Active", "A list of pointers to currently running jobs.").integer(),
    Column::new("Last Schedule", "Information when was the last time the job was successfully scheduled."),
    Column::age(),
    Column::new("Containers", "Names of each container in the template.").wide(),
    Column::new("Images", "Images referenced by each container in the template.").wide(),
    Column::new("Selector", "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];

/// The longest name, to which a Job's adds a time.
const MAX_NAME: usize = 52;

const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];

pub(crate) struct CronJobs(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let jobs = CronJobs(capabilities.clone());
    Resource::new("batch", "v1", "cronjobs", "CronJob", jobs)
        .short(&["cj"])
        .category("all")
        .with_generation()
        .with_status()
}

impl Strategy for CronJobs {
    fn default(&self, object: &mut Object) {
        let spec = edit::object(&mut object.0, "spec");
        edit::fill_str(spec, "concurrencyPolicy", "Allow");
        edit::fill(spec, "suspend", false);
        edit::fill(spec, "successfulJobsHistoryLimit", 3);
        edit::fill(spec, "failedJobsHistoryLimit", 1);
        podspec::default_template(edit::object(edit::object(spec, "jobTemplate"), "spec"));
        edit::object(&mut object.0, "status");
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        object.set(&["status"], json!({}));
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        let schedule = spec.get("schedule");
        if schedule.str().is_empty() {
            out.push(schedule.required(""));
        } else if let Err(why) = cron::Schedule::parse(schedule.str()) {
            out.push(schedule.invalid(&why));
        }
        // An update compares with the old object.
        if cx.operation == Operation::Create {
            zone_in_schedule(object, None, &mut out);
        }
        spec.get("startingDeadlineSeconds").not_negative(&mut out);
        if cx.operation == Operation::Create {
            time_zone(spec.get("timeZone"), &mut out);
        }
        spec.get("concurrencyPolicy").one_of(POLICIES, &mut out);
        let template = spec.down(&["jobTemplate", "spec"]);
        validate::job_spec(template, &mut out);
        let selector = template.get("selector");
        if selector.is_set() {
            out.push(selector.invalid("`selector` will be auto-generated"));
        }
        let manual = template.get("manualSelector");
        if manual.bool() {
            out.push(manual.not_supported(&["nil", "false"]));
        }
        spec.get("successfulJobsHistoryLimit").not_negative(&mut out);
        spec.get("failedJobsHistoryLimit").not_negative(&mut out);
        if cx.operation == Operation::Create && object.name().len() > MAX_NAME {
            let text = "must be no more than 52 characters";
            out.push(Cause::invalid(&FieldPath::new("metadata.name"), &json!(object.name()), text));
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        zone_in_schedule(object, Some(old), &mut out);
        let zone = At::of(object, "spec").get("timeZone");
        if zone.value() != At::of(old, "spec").get("timeZone").value() {
            time_zone(zone, &mut out);
        }
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_none() {
            rules::host_name_warning(object, "Pod names and hostnames", &mut out);
        }
        let spec = At::of(object, "spec");
        if old.is_none_or(|old| !edit::deep_equal_at(object, old, &["spec"])) {
            let template = spec.down(&["jobTemplate", "spec"]);
            out.extend(podspec::template_warnings(&self.0, template.get("template")));
            out.extend(job::large_indexed(template));
        }
        if old.is_some() && spec.get("schedule").str().contains("TZ") {
            out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        out
    }
}

/// A time zone in the schedule: only one that had one before may keep it.
fn zone_in_schedule(object: &Object, old: Option<&Object>, out: &mut Vec<Cause>) {
    let spec = At::of(object, "spec");
    let schedule = spec.get("schedule");
    let kept = old.is_some_and(|old| At::of(old, "spec").get("schedule").str().contains("TZ"));
    match (schedule.str().contains("TZ"), kept, spec.get("timeZone").is_set()) {
        (true, true, true) => {
            out.push(schedule.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule"));
        }
        (true, false, _) => {
            out.push(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
        }
        _ => {}
    }
}

fn time_zone(at: At<'_>, out: &mut Vec<Cause>) {
    if !at.is_set() {
        return;
    }
    let name = at.str();
    if name.is_empty() {
        out.push(at.invalid("timeZone must be nil or non-empty string"));
        return;
    }
    let strange = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        part.is_empty()
            || part == "."
            || part == ".."
            || part.starts_with('-')
            || !part.chars().all(plain)
            || part.len() > 14
    };
    if name.split('/').any(strange) {
        out.push(at.invalid(&format!("unknown time zone {name}")));
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        out.push(at.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"));
    }
    // Go knows the zone Local.
    if name != "Local"
        && let Err(why) = cron::zone(name)
    {
        out.push(at.invalid(&why));
    }
}

impl TableConvertor for CronJobs {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let spec = At::of(object, "spec");
        let job = spec.down(&["jobTemplate", "spec"]);
        let [names, images] = cells::containers(job.down(&["template", "spec"]));
        let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
        let last = cells::text(object, &["status", "lastScheduleTime"]);
        let suspended = match spec.get("suspend").value() {
            Value::Bool(true) => "True",
            Value::Bool(false) => "False",
            _ => "<unset>",
        };
        vec![
            json!(object.name()),
            json!(spec.get("schedule").str()),
            json!(or_none(spec.get("timeZone").str())),
            json!(suspended),
            json!(object.list_at(&["status", "active"]).len()),
            json!(if last.is_empty() { "<none>".to_owned() } else { since(Some(last), now) }),
            cells::age(object, now),
            names,
            images,
            json!(cells::label_selector(object.at(&["spec", "jobTemplate", "spec", "selector"]))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, errors, row, update_errors};
    use expect_test::expect;

    fn crons() -> CronJobs {
        CronJobs(Capabilities::default())
    }

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: c, namespace: ns}}, spec: {{schedule: '0 * * * *', jobTemplate: {{spec: \
             {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}{spec}}}}}"
        )
    }

    #[test]
    fn defaults_are_upstreams() {
        let cron = created(&crons(), &text(""));
        let mut spec = cron.0["spec"].clone();
        let job = spec.as_object_mut().unwrap().remove("jobTemplate").unwrap();
        let expected = json!({"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
            "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1});
        assert_eq!(spec, expected);
        assert_eq!(
            job["spec"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["template"],
            "a Job's own come with the Job"
        );
        assert_eq!(job["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    }

    #[test]
    fn each_fault_has_upstreams_text() {
        for (spec, expected) in [
            ("", expect![[""]]),
            (
                ", startingDeadlineSeconds: -1, concurrencyPolicy: Any, successfulJobsHistoryLimit: -1, failedJobsHistoryLimit: -1",
                expect![[r#"
                    spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0
                    spec.concurrencyPolicy: Unsupported value: "Any": supported values: "Allow", "Forbid", "Replace"
                    spec.successfulJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0
                    spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0
                "#]],
            ),
            (
                ", timeZone: ''",
                expect![[r#"
                spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string
            "#]],
            ),
            (
                ", timeZone: local",
                expect![[r#"
                spec.timeZone: Invalid value: "local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones
                spec.timeZone: Invalid value: "local": unknown time zone local
            "#]],
            ),
            (
                ", timeZone: Europe/Nowhere",
                expect![[r#"
                spec.timeZone: Invalid value: "Europe/Nowhere": unknown time zone Europe/Nowhere
            "#]],
            ),
            (
                ", timeZone: ../x",
                expect![[r#"
                spec.timeZone: Invalid value: "../x": unknown time zone ../x
            "#]],
            ),
            (", timeZone: Europe/Berlin", expect![[""]]),
        ] {
            expected.assert_eq(&errors(&crons(), &text(spec)));
        }
        for (schedule, expected) in [
            (
                "''",
                expect![[r#"
                spec.schedule: Required value
            "#]],
            ),
            (
                "'61 * * * *'",
                expect![[r#"
                spec.schedule: Invalid value: "61 * * * *": end of range (61) above maximum (59): 61
            "#]],
            ),
            (
                "'TZ=UTC 0 * * * *'",
                expect![[r#"
                spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead
            "#]],
            ),
        ] {
            expected.assert_eq(&errors(&crons(), &text("").replace("'0 * * * *'", schedule)));
        }
        let long = text("").replace("name: c, namespace", &format!("name: {}, namespace", "x".repeat(53)));
        expect![[r#"
            metadata.name: Invalid value: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": must be no more than 52 characters
        "#]].assert_eq(&errors(&crons(), &long));
        let job = text("")
            .replace("restartPolicy: Never", "restartPolicy: Always")
            .replace("{template", "{manualSelector: true, selector: {}, template");
        expect![[r#"
            spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
            spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated
            spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"
        "#]]
        .assert_eq(&errors(&crons(), &job));
    }

    #[test]
    fn a_time_zone_in_the_schedule_stays_where_it_was() {
        let plain = created(&crons(), &text(""));
        let with = |object: &Object, schedule: &str| {
            let mut changed = object.clone();
            changed.set(&["spec", "schedule"], schedule);
            changed
        };
        let zoned = with(&plain, "TZ=UTC 0 * * * *");
        expect![[r#"
            spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead
        "#]].assert_eq(&update_errors(&crons(), &zoned, &plain));
        assert_eq!(update_errors(&crons(), &with(&zoned, "CRON_TZ=UTC 1 * * * *"), &zoned), "");
    }

    #[test]
    fn a_row_shows_the_schedule() {
        expect!["c | 0 * * * * | Europe/Berlin | True | 0 | <none> | <unknown> | c | i | <none>"]
            .assert_eq(&row(&crons(), &text(", timeZone: Europe/Berlin, suspend: true")));
    }
}
