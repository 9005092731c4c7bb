//! What the targets share: how a case is read, a clock that other programs do not disturb, and changes of JSON that keep it JSON.

mod mutate;

pub use mutate::mutate;

use api::{GroupVersionKind, MAX_DEPTH, nests_deeper, schema::Schema};
use serde_json::Value;
use std::{fs, time::Duration};

/// The CPU time of this thread so far, which does not grow while other programs have the core.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with statistics of its scheduler");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds");
    Duration::from_nanos(nanos)
}

/// Runs `work` and asserts that it took no more CPU time than `most`.
pub fn within<T>(most: Duration, work: impl FnOnce() -> T) -> T {
    let begin = cpu_time();
    let result = work();
    let took = cpu_time() - begin;
    assert!(took <= most, "took {took:?} of at most {most:?}");
    result
}

/// The schema of `apps/v1/Deployment` or `v1/Pod`, or of an OpenAPI schema; nothing for anything else.
pub fn schema_of(kind: &Value) -> Option<Schema> {
    match kind {
        Value::String(name) => {
            let (version, kind) = name.rsplit_once('/')?;
            Schema::for_kind(&GroupVersionKind::from_api_version(version, kind))
        }
        Value::Object(_) => Some(Schema::from_open_api(kind)),
        _ => None,
    }
}

/// The parts of a case, a JSON array whose elements are each no deeper than a request.
pub fn parts(data: &[u8]) -> Option<Vec<Value>> {
    let Ok(Value::Array(parts)) = serde_json::from_slice(data) else { return None };
    parts.iter().all(|part| !nests_deeper(part, MAX_DEPTH)).then_some(parts)
}

/// Asserts that a value is one that the codec accepts and reads as the same.
pub fn assert_survives_json(value: &Value) {
    let text = serde_json::to_vec(value).expect("a value is JSON");
    let (read, duplicates) = api::json::parse(&text).expect("what was written can be read");
    assert_eq!((&read, &*duplicates), (value, &[][..]));
}

/// Asserts that a value of a request, once it has the form of Go's types, keeps it.
pub fn assert_form_is_final(value: &Value, schema: &Schema) {
    let mut once = value.clone();
    if schema.decode_check(&mut once).is_err() {
        return;
    }
    let mut twice = once.clone();
    assert_eq!(schema.decode_check(&mut twice), Ok(Vec::new()), "{once}");
    assert_eq!(twice, once, "decoded again");
    schema.leave_out_empty(&mut once);
    schema.default(&mut once);
    let mut twice = once.clone();
    assert_eq!(schema.decode_check(&mut twice), Ok(Vec::new()), "{once}");
    schema.leave_out_empty(&mut twice);
    schema.default(&mut twice);
    assert_eq!(twice, once, "left out and defaulted again");
    if let Value::Object(map) = &mut twice {
        schema.forget_empty(map);
        schema.internal_field(map, "spec");
    }
    schema.fill_zeros(&mut twice);
    schema.internal_form(&twice);
}
