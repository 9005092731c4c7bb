//! How HTTP handlers are served, configured by annotations of the pod. Pure.
//!
//! `sampan.dev/KEY` applies to all containers of the pod. `CONTAINER.sampan.dev/KEY` applies to one container and takes precedence. A
//! change takes effect when the container starts again.
//!
//! | key | value | default |
//! | --- | --- | --- |
//! | `instances` | `per-request`, or `reuse`: one after the other | `per-request` |
//! | `max-instance-requests` | requests that an instance answers | 1000 |
//! | `max-instance-age` | time from its beginning on | 1h |
//! | `max-instance-idle` | time that it may be idle | 30s |
//! | `min-instances` | instances that are there before a request | 0 |
//! | `request-timeout` | time that a request may take | none |
//! | `max-concurrent-requests` | requests that compute at a time | 64 |
//! | `max-queued-requests` | requests that wait for their turn | what memory holds |
//! | `access-log` | `true`: a line in the log for each request | `false` |
//! | `trace-context` | `true`: a request without `traceparent` gets one | `false` |

use container::{HttpPolicy, InstancePolicy, Reuse};
use std::{collections::BTreeMap, time::Duration};

/// The maximum of `min-instances`: a quarter of the node's pool.
const MIN_INSTANCES: u64 = 512;

/// Reads the HTTP policy of a container.
///
/// # Errors
/// A value is invalid. The error names its annotation.
pub fn http(annotations: Option<&BTreeMap<String, String>>, container: &str) -> Result<HttpPolicy, String> {
    let of = Annotations { all: annotations, container };
    let mut policy = HttpPolicy {
        request_timeout: of.read("request-timeout", duration)?,
        max_concurrent: of.read("max-concurrent-requests", |text| count(text, 1, 65_536))?.map(size),
        max_queued: of.read("max-queued-requests", |text| count(text, 0, 1 << 20))?.map(size),
        access_log: of.read("access-log", boolean)?.unwrap_or(false),
        trace_context: of.read("trace-context", boolean)?.unwrap_or(false),
        ..HttpPolicy::default()
    };
    if of.read("instances", reuse)?.unwrap_or(false) {
        let usual = Reuse::default();
        policy.instances = InstancePolicy::Reuse(Reuse {
            max_requests: of
                .read("max-instance-requests", |text| count(text, 1, u64::MAX))?
                .unwrap_or(usual.max_requests),
            max_age: of.read("max-instance-age", duration)?.unwrap_or(usual.max_age),
            max_idle: of.read("max-instance-idle", duration)?.unwrap_or(usual.max_idle),
            min: of.read("min-instances", |text| count(text, 0, MIN_INSTANCES))?.map_or(usual.min, size),
        });
    } else {
        let alone = ["max-instance-requests", "max-instance-age", "max-instance-idle", "min-instances"];
        if let Some((name, _)) = alone.iter().find_map(|key| of.get(key)) {
            return Err(format!("annotation {name} means nothing without sampan.dev/instances: reuse"));
        }
    }
    Ok(policy)
}

struct Annotations<'a> {
    all: Option<&'a BTreeMap<String, String>>,
    container: &'a str,
}

impl Annotations<'_> {
    fn get(&self, key: &str) -> Option<(String, &str)> {
        let names = [format!("{}.sampan.dev/{key}", self.container), format!("sampan.dev/{key}")];
        names.into_iter().find_map(|name| {
            let value = self.all?.get(&name)?;
            Some((name, value.as_str()))
        })
    }

    fn read<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        let Some((name, value)) = self.get(key) else { return Ok(None) };
        read(value).map(Some).map_err(|wanted| format!("annotation {name}: invalid value {value:?}: {wanted}"))
    }
}

fn reuse(text: &str) -> Result<bool, String> {
    match text {
        "reuse" => Ok(true),
        "per-request" => Ok(false),
        _ => Err("must be per-request or reuse".into()),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".into())
}

fn count(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| match most {
        u64::MAX => format!("must be a number of at least {least}"),
        _ => format!("must be a number from {least} to {most}"),
    })
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Parses a positive duration in Go's format with whole numbers: `500ms`, `90s`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let (mut total, mut rest) = (Duration::ZERO, text);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u32 = rest[..digits].parse().ok()?;
            let unit = &rest[digits..];
            let unit = &unit[..unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len())];
            let one = match unit {
                "ms" => Duration::from_millis(1),
                "s" => Duration::from_secs(1),
                "m" => Duration::from_secs(60),
                "h" => Duration::from_secs(3600),
                _ => return None,
            };
            total = total.checked_add(one.checked_mul(number)?)?;
            rest = &rest[digits + unit.len()..];
        }
        (!total.is_zero()).then_some(total)
    };
    parse().ok_or_else(|| "must be a time above 0, such as 500ms, 90s, 2m or 1h30m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_means_nothing_is_refused_by_name() {
        for (name, value, wanted) in [
            ("sampan.dev/instances", "pool", "must be per-request or reuse"),
            ("web.sampan.dev/instances", "", "must be per-request or reuse"),
            ("sampan.dev/request-timeout", "0s", "must be a time above 0, such as 500ms, 90s, 2m or 1h30m"),
            ("sampan.dev/request-timeout", "90", "must be a time above 0, such as 500ms, 90s, 2m or 1h30m"),
            ("sampan.dev/request-timeout", "-1s", "must be a time above 0, such as 500ms, 90s, 2m or 1h30m"),
            ("sampan.dev/request-timeout", "1d", "must be a time above 0, such as 500ms, 90s, 2m or 1h30m"),
            ("sampan.dev/request-timeout", "", "must be a time above 0, such as 500ms, 90s, 2m or 1h30m"),
            ("sampan.dev/max-concurrent-requests", "0", "must be a number from 1 to 65536"),
            ("sampan.dev/max-queued-requests", "many", "must be a number from 0 to 1048576"),
            ("sampan.dev/access-log", "yes", "must be true or false"),
            ("sampan.dev/trace-context", "1", "must be true or false"),
        ] {
            let text = format!("annotation {name}: invalid value {value:?}: {wanted}");
            assert_eq!(of(&[(name, value)]), Err(text));
        }
        let reuse = ("sampan.dev/instances", "reuse");
        for (name, value, wanted) in [
            ("sampan.dev/max-instance-requests", "0", "must be a number of at least 1"),
            ("sampan.dev/min-instances", "513", "must be a number from 0 to 512"),
        ] {
            let text = format!("annotation {name}: invalid value {value:?}: {wanted}");
            assert_eq!(of(&[reuse, (name, value)]), Err(text));
        }
        let text = "annotation sampan.dev/min-instances means nothing without sampan.dev/instances: reuse";
        assert_eq!(of(&[("sampan.dev/min-instances", "2")]), Err(text.into()));
    }
}
