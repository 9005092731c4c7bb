//! How containers are run and HTTP handlers are served, configured by annotations of the pod. Pure.
//!
//! `sampan.dev/KEY` applies to all containers of the pod. `CONTAINER.sampan.dev/KEY` applies to one container and takes precedence. A
//! change takes effect when the container starts again. Names, values and their checks are in [`api::annotations`].

use api::annotations::{
    ACCESS_LOG, COREDUMP, Fault, MAX_CONCURRENT_REQUESTS, MAX_INSTANCE_AGE, MAX_INSTANCE_IDLE, MAX_INSTANCE_REQUESTS,
    MAX_QUEUED_REQUESTS, MIN_INSTANCES, OfContainer, REQUEST_TIMEOUT, TRACE_CONTEXT,
};
use container::{HttpPolicy, InstancePolicy, Reuse};
use std::collections::BTreeMap;

/// Reads the HTTP policy of a container.
///
/// # Errors
/// A value is invalid. The error names its annotation.
pub fn http(annotations: Option<&BTreeMap<String, String>>, container: &str) -> Result<HttpPolicy, String> {
    let value = |name: &str| annotations?.get(name).map(String::as_str);
    read(&OfContainer { container, value: &value }).map_err(|fault| fault.to_string())
}

fn read(of: &OfContainer<'_>) -> Result<HttpPolicy, Fault> {
    let mut policy = HttpPolicy {
        request_timeout: of.read(&REQUEST_TIMEOUT)?,
        max_concurrent: of.read(&MAX_CONCURRENT_REQUESTS)?.map(size),
        max_queued: of.read(&MAX_QUEUED_REQUESTS)?.map(size),
        access_log: of.read(&ACCESS_LOG)?.unwrap_or(false),
        trace_context: of.read(&TRACE_CONTEXT)?.unwrap_or(false),
        ..HttpPolicy::default()
    };
    if of.reuses()? {
        let usual = Reuse::default();
        policy.instances = InstancePolicy::Reuse(Reuse {
            max_requests: of.read(&MAX_INSTANCE_REQUESTS)?.unwrap_or(usual.max_requests),
            max_age: of.read(&MAX_INSTANCE_AGE)?.unwrap_or(usual.max_age),
            max_idle: of.read(&MAX_INSTANCE_IDLE)?.unwrap_or(usual.max_idle),
            min: of.read(&MIN_INSTANCES)?.map_or(usual.min, size),
        });
    }
    Ok(policy)
}

/// Whether a trap of the container leaves a core dump.
///
/// # Errors
/// A value that means nothing, with its annotation.
pub fn core_dump(annotations: Option<&BTreeMap<String, String>>, container: &str) -> Result<bool, String> {
    let value = |name: &str| annotations?.get(name).map(String::as_str);
    let of = OfContainer { container, value: &value };
    Ok(of.read(&COREDUMP).map_err(|fault| fault.to_string())?.unwrap_or(false))
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn of(annotations: &[(&str, &str)]) -> Result<HttpPolicy, String> {
        let all = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        http(Some(&all), "web")
    }

    #[test]
    fn a_container_has_its_own_annotations_and_its_pods() {
        assert_eq!(http(None, "web"), Ok(HttpPolicy::default()));
        assert_eq!(of(&[("other/instances", "x"), ("api.sampan.dev/instances", "x")]), Ok(HttpPolicy::default()));
        let policy = of(&[
            ("sampan.dev/instances", "reuse"),
            ("sampan.dev/max-instance-requests", "10"),
            ("sampan.dev/max-instance-age", "1h30m"),
            ("web.sampan.dev/max-instance-age", "90s"),
            ("sampan.dev/max-instance-idle", "500ms"),
            ("sampan.dev/min-instances", "2"),
            ("sampan.dev/request-timeout", "1m30s"),
            ("sampan.dev/max-concurrent-requests", "8"),
            ("sampan.dev/max-queued-requests", "0"),
            ("sampan.dev/access-log", "true"),
            ("web.sampan.dev/access-log", "false"),
            ("web.sampan.dev/trace-context", "true"),
        ]);
        let wanted = HttpPolicy {
            instances: InstancePolicy::Reuse(Reuse {
                max_requests: 10,
                max_age: Duration::from_secs(90),
                max_idle: Duration::from_millis(500),
                min: 2,
            }),
            request_timeout: Some(Duration::from_secs(90)),
            max_concurrent: Some(8),
            max_queued: Some(0),
            access_log: false,
            trace_context: true,
        };
        assert_eq!(policy, Ok(wanted));
        let usual = of(&[("sampan.dev/instances", "reuse")]).map(|policy| policy.instances);
        assert_eq!(usual, Ok(InstancePolicy::Reuse(Reuse::default())));
        let unlike = of(&[("sampan.dev/instances", "reuse"), ("web.sampan.dev/instances", "per-request")]);
        assert_eq!(unlike, Ok(HttpPolicy::default()));
    }

    #[test]
    fn core_dumps_are_kept_on_request() {
        let of = |annotations: &[(&str, &str)]| {
            let all = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            core_dump(Some(&all), "web")
        };
        assert_eq!((core_dump(None, "web"), of(&[("api.sampan.dev/coredump", "true")])), (Ok(false), Ok(false)));
        assert_eq!(of(&[("sampan.dev/coredump", "true")]), Ok(true));
        assert_eq!(of(&[("sampan.dev/coredump", "true"), ("web.sampan.dev/coredump", "false")]), Ok(false));
        let text = "annotation sampan.dev/coredump: invalid value \"on\": must be true or false";
        assert_eq!(of(&[("sampan.dev/coredump", "on")]), Err(text.into()));
    }

    /// All names and values: `api::annotations`.
    #[test]
    fn what_means_nothing_is_refused_by_name() {
        let text = "annotation web.sampan.dev/instances: invalid value \"\": must be per-request or reuse";
        assert_eq!(of(&[("web.sampan.dev/instances", "")]), Err(text.into()));
        let text = "annotation sampan.dev/min-instances: invalid value \"513\": must be a number from 0 to 512";
        assert_eq!(of(&[("sampan.dev/instances", "reuse"), ("sampan.dev/min-instances", "513")]), Err(text.into()));
        let text = "annotation sampan.dev/min-instances: means nothing without sampan.dev/instances: reuse";
        assert_eq!(of(&[("sampan.dev/min-instances", "2")]), Err(text.into()));
    }
}
