//! Event. Two APIs share one storage: `v1` is the stored form, `events.k8s.io/v1` is converted.

mod validate;

use crate::{cells, edit};
use api::{Cause, Object, Status};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{
    Column, Context, Resource, Strategy, TableConvertor,
    strategy::{Convertor, Recheck},
};
use std::time::Duration;

const COLUMNS: &[Column] = &[
    Column::new("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
    Column::new("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
    Column::new("Reason", "This should be a short, machine understandable string that gives the reason for the event."),
    Column::new("Object", "The object that this event is about."),
    Column::new("Subobject", "The part of the object that this event is about.").wide(),
    Column::new("Source", "The component reporting this event.").wide(),
    Column::new("Message", "A human-readable description of the status of this operation."),
    Column::new("First Seen", "The time at which the event was first recorded.").wide(),
    Column::new("Count", "The number of times this event has occurred.").wide(),
    name_column(),
];

const fn name_column() -> Column {
    Column::name().wide()
}

/// `v1` Event.
pub(crate) struct Core;

/// The two resources: one storage, served in two forms.
pub(crate) fn resources() -> [Resource; 2] {
    let core = Resource::new("", "v1", "events", "Event", Core);
    let grouped =
        Resource::new("events.k8s.io", "v1", "events", "Event", Grouped).stored_as("", "events", "v1", Grouped);
    [core, grouped].map(|resource| resource.short(&["ev"]).creating_on_update().expiring(TTL))
}

/// Events live an hour.
const TTL: Duration = Duration::from_secs(3600);

impl Strategy for Core {
    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Nothing
    }

    fn allows_any_finalizer(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        let fields = &mut object.0;
        edit::object(fields, "involvedObject");
        edit::object(fields, "source");
        edit::fill(fields, "reportingComponent", "");
        edit::fill(fields, "reportingInstance", "");
    }

    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        // The older API only requires a valid path segment.
        api::names::path_segment(name)
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        validate::legacy(object, "reportingComponent")
    }

    fn field_labels(&self) -> &[&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn field(&self, object: &Object, label: &str) -> String {
        let at = |path: &[&str]| object.str_at(path).unwrap_or_default();
        match label {
            "source" if at(&["source", "component"]).is_empty() => at(&["reportingComponent"]).to_owned(),
            "source" => at(&["source", "component"]).to_owned(),
            _ => at(&label.split('.').collect::<Vec<_>>()).to_owned(),
        }
    }
}

impl TableConvertor for Core {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        row(object, now)
    }
}

/// `events.k8s.io/v1` Event.
pub(crate) struct Grouped;

impl Strategy for Grouped {
    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let mut v1 = object.clone();
        to_storage(&mut v1);
        let mut out = validate::legacy(&v1, "reportingController");
        // On updates only immutable fields are checked, because old events may lack fields that are required now.
        if cx.operation == server::Operation::Create {
            validate::strict(&v1, &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let (mut new, mut old) = (object.clone(), old.clone());
        to_storage(&mut new);
        to_storage(&mut old);
        validate::update(&new, &old)
    }

    fn field_labels(&self) -> &[&'static str] {
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ]
    }
}

/// Converts between `events.k8s.io/v1` and `v1`, the stored form.
#[async_trait::async_trait]
impl Convertor for Grouped {
    async fn to_storage(&self, mut object: Object) -> Result<Object, Status> {
        to_storage(&mut object);
        Ok(object)
    }

    async fn from_storage(&self, mut objects: Vec<Object>) -> Result<Vec<Object>, Status> {
        objects.iter_mut().for_each(from_storage);
        Ok(objects)
    }
}

fn to_storage(object: &mut Object) {
    rename(object, "v1", |(served, stored)| (served, stored));
    Core.default(object);
}

fn from_storage(object: &mut Object) {
    rename(object, "events.k8s.io/v1", |(served, stored)| (stored, served));
    edit::drop_zero(&mut object.0, &["reportingController", "reportingInstance"]);
}

impl TableConvertor for Grouped {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let mut v1 = object.clone();
        to_storage(&mut v1);
        row(&v1, now)
    }
}

/// Fields under their name in `events.k8s.io/v1` and in `v1`.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(
    object: &mut Object,
    api_version: &str,
    way: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    object.0.insert("apiVersion".into(), api_version.into());
    for pair in NAMES {
        let (from, to) = way(*pair);
        if let Some(value) = object.0.remove(from) {
            object.0.insert(to.to_owned(), value);
        }
    }
}

fn row(object: &Object, now: Timestamp) -> Vec<Value> {
    let time = |path: &[&str]| object.str_at(path);
    let first = cells::since(time(&["firstTimestamp"]).or(time(&["eventTime"])), now);
    let mut last = time(&["lastTimestamp"]).map_or_else(|| first.clone(), |t| cells::since(Some(t), now));
    let mut count = cells::number(object, &["count"]).max(1);
    if object.at(&["series"]).is_some_and(Value::is_object) {
        last = cells::since(time(&["series", "lastObservedTime"]), now);
        count = cells::number(object, &["series", "count"]);
    }
    let kind = cells::text(object, &["involvedObject", "kind"]).to_lowercase();
    let target = match cells::text(object, &["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        json!(last),
        json!(cells::text(object, &["type"])),
        json!(cells::text(object, &["reason"])),
        json!(target),
        json!(cells::text(object, &["involvedObject", "fieldPath"])),
        json!(source(object)),
        json!(cells::text(object, &["message"]).trim()),
        json!(first),
        json!(count),
        json!(object.name()),
    ]
}

fn source(object: &Object) -> String {
    let first = |paths: [&[&str]; 2]| {
        paths.into_iter().map(|path| cells::text(object, path)).find(|t| !t.is_empty()).unwrap_or_default().to_owned()
    };
    let component = first([&["source", "component"], &["reportingComponent"]]);
    match first([&["source", "host"], &["reportingInstance"]]).as_str() {
        "" => component,
        host => format!("{component}, {host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{errors, parse, row as shown};
    use expect_test::expect;

    #[test]
    fn both_forms_convert_without_loss() {
        let served = parse(
            "
apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: e, namespace: default}
eventTime: '2026-01-01T00:00:00.000000Z'
regarding: {kind: Pod, name: p, namespace: default}
note: hello
reason: Started
action: Start
type: Normal
reportingController: example.com/c
reportingInstance: c-1
deprecatedCount: 3
deprecatedSource: {}
",
        );
        let mut stored = served.clone();
        to_storage(&mut stored);
        assert_eq!(stored.api_version(), "v1");
        assert_eq!(stored.str_at(&["involvedObject", "name"]), Some("p"));
        assert_eq!(stored.str_at(&["message"]), Some("hello"));
        assert_eq!(stored.int_at(&["count"]), Some(3));
        from_storage(&mut stored);
        assert_eq!(stored, served);
    }

    #[test]
    fn rows_count_repetitions() {
        let text = "
metadata: {name: e}
firstTimestamp: '2026-01-01T00:00:10Z'
lastTimestamp: '2026-01-01T00:00:50Z'
count: 4
type: Warning
reason: BackOff
message: ' Back-off '
involvedObject: {kind: Pod, name: p, fieldPath: 'spec.containers{c}'}
source: {component: kubelet, host: n1}
";
        assert_eq!(
            shown(&Core, text),
            "10s | Warning | BackOff | pod/p | spec.containers{c} | kubelet, n1 | Back-off | 50s | 4 | e"
        );
    }

    #[test]
    fn the_new_api_is_strict() {
        let text = "
metadata: {name: e, namespace: default}
regarding: {kind: Pod, name: p, namespace: other}
type: Odd
deprecatedCount: 1
series: {count: 1}
";
        expect![[r#"
            involvedObject.namespace: Invalid value: "other": does not match event.namespace
            series.count: Invalid value: "": should be at least 2
            series.lastObservedTime: Required value
            eventTime: Required value
            type: Invalid value: "": has invalid value: Odd
            count: Invalid value: "": needs to be unset
        "#]]
        .assert_eq(&errors(&Grouped, text));
    }
}
