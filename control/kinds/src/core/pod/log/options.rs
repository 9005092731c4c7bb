//! `PodLogOptions`: parsed from the query as Go's conversion does, validated as upstream (`ValidatePodLogOptions`; streams cannot be selected),
//! and encoded as the query to the node.

use api::{Cause, FieldPath, GroupVersionKind, Status, invalid};
use jiff::Timestamp;
use serde_json::json;
use server::Query;

/// The query to the node for the log of a pod, or the error of the client's query.
pub(super) fn parse(query: &Query, pod: &str) -> Result<String, Status> {
    // In the order of upstream's fields, so that the same one of several errors is reported.
    let since_seconds = query.number("sinceSeconds")?;
    let since_time = query.given("sinceTime").map(time).transpose()?;
    let tail = query.number("tailLines")?;
    let bytes = query.number("limitBytes")?;
    let mut causes = Vec::new();
    if let Some(tail) = tail.filter(|n| *n < 0) {
        let detail = "must be greater than or equal to 0";
        causes.push(Cause::invalid(&FieldPath::new("tailLines"), &json!(tail), detail));
    }
    if let Some(bytes) = bytes.filter(|n| *n < 1) {
        causes.push(Cause::invalid(&FieldPath::new("limitBytes"), &json!(bytes), "must be greater than 0"));
    }
    match (since_seconds, &since_time) {
        (Some(_), Some(_)) => {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            // How Go writes a path whose only element is empty.
            causes.push(Cause::forbidden(&FieldPath::new("[]"), detail));
        }
        (Some(seconds), None) if seconds < 1 => {
            causes.push(Cause::invalid(&FieldPath::new("sinceSeconds"), &json!(seconds), "must be greater than 0"));
        }
        _ => {}
    }
    if query.given("stream").is_some() {
        causes.push(Cause::forbidden(&FieldPath::new("stream"), "may not be specified"));
    }
    if !causes.is_empty() {
        return Err(invalid(&GroupVersionKind::new("", "v1", "PodLogOptions"), pod, &causes));
    }
    let flag = |name: &str| query.flag(name).then(|| format!("{name}=true"));
    let number = |name: &str, value: Option<i64>| value.map(|value| format!("{name}={value}"));
    let pairs = [
        flag("follow"),
        flag("previous"),
        number("sinceSeconds", since_seconds),
        since_time.flatten().map(|time| format!("sinceTime={}", api::time::rfc3339(time))),
        flag("timestamps"),
        number("tailLines", tail),
        number("limitBytes", bytes),
    ];
    Ok(pairs.into_iter().flatten().collect::<Vec<_>>().join("&"))
}

/// Parses an RFC 3339 time as Go; empty and `null` are no time.
fn time(text: &str) -> Result<Option<Timestamp>, Status> {
    if text.is_empty() || text == "null" {
        return Ok(None);
    }
    layout(text).map_err(Status::bad_request)?;
    let refuse = |_| Status::bad_request(format!("parsing time {text:?}: day out of range"));
    text.parse().map(Some).map_err(refuse)
}

/// Checks a text as Go's `time.Parse` with its RFC 3339 layout, with the same errors.
fn layout(text: &str) -> Result<(), String> {
    const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
    let fail = |rest: &str, element: &str| {
        Err(format!("parsing time {text:?} as {LAYOUT:?}: cannot parse {rest:?} as {element:?}"))
    };
    let mut rest = text;
    for (element, most, name) in [
        ("2006", 9999, "year"),
        ("-", 0, ""),
        ("01", 12, "month"),
        ("-", 0, ""),
        ("02", 31, "day"),
        ("T", 0, ""),
        ("15", 23, "hour"),
        (":", 0, ""),
        ("04", 59, "minute"),
        (":", 0, ""),
        ("05", 59, "second"),
    ] {
        if name.is_empty() {
            let Some(after) = rest.strip_prefix(element) else { return fail(rest, element) };
            rest = after;
            continue;
        }
        let digits = rest.get(..element.len()).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let Some(digits) = digits else { return fail(rest, element) };
        rest = &rest[element.len()..];
        let value: u32 = digits.parse().unwrap_or(u32::MAX);
        if value > most || (value == 0 && matches!(name, "month" | "day")) {
            return Err(format!("parsing time {text:?}: {name} out of range"));
        }
    }
    // A fraction of a second may follow.
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let after = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = if after.len() < fraction.len() { after } else { rest };
    }
    let zone = match rest.as_bytes() {
        [b'Z', ..] => 1,
        [b'+' | b'-', a, b, b':', c, d, ..] if [a, b, c, d].iter().all(|d| d.is_ascii_digit()) => 6,
        _ => return fail(rest, "Z07:00"),
    };
    match &rest[zone..] {
        "" => Ok(()),
        extra => Err(format!("parsing time {text:?}: extra text: {extra:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<String, (u16, String)> {
        let uri = format!("/x?{query}").parse().expect("a target");
        parse(&Query::of(&uri), "p").map_err(|status| (status.code, status.message))
    }

    #[test]
    fn what_is_valid_goes_on_to_the_node() {
        for (query, wanted) in [
            ("", ""),
            ("container=c&follow=1&timestamps=&previous=false", "follow=true&timestamps=true"),
            ("tailLines=0&sinceSeconds=%2B5&limitBytes=7", "sinceSeconds=5&tailLines=0&limitBytes=7"),
            ("sinceTime=2026-01-02T03:04:05%2B01:00", "sinceTime=2026-01-02T02:04:05Z"),
            ("sinceTime=2026-01-02T03:04:05.25Z", "sinceTime=2026-01-02T03:04:05Z"),
            ("sinceTime=null", ""),
        ] {
            assert_eq!(read(query).as_deref(), Ok(wanted), "{query}");
        }
    }

    #[test]
    fn what_is_not_is_refused_with_upstreams_words() {
        let rfc = "\"2006-01-02T15:04:05Z07:00\"";
        let invalid = |text: &str| format!("PodLogOptions \"p\" is invalid: {text}");
        for (query, code, text) in [
            ("sinceTime=zzz", 400, format!("parsing time \"zzz\" as {rfc}: cannot parse \"zzz\" as \"2006\"")),
            ("sinceTime=2026-01-02", 400, format!("parsing time \"2026-01-02\" as {rfc}: cannot parse \"\" as \"T\"")),
            (
                "sinceTime=2026-01-02T03:04:05",
                400,
                format!("parsing time \"2026-01-02T03:04:05\" as {rfc}: cannot parse \"\" as \"Z07:00\""),
            ),
            (
                "sinceTime=2026-13-02T03:04:05Z",
                400,
                "parsing time \"2026-13-02T03:04:05Z\": month out of range".to_owned(),
            ),
            (
                "sinceTime=2026-02-30T03:04:05Z",
                400,
                "parsing time \"2026-02-30T03:04:05Z\": day out of range".to_owned(),
            ),
            (
                "sinceTime=2026-02-03T03:04:05Zx",
                400,
                "parsing time \"2026-02-03T03:04:05Zx\": extra text: \"x\"".to_owned(),
            ),
            ("sinceSeconds=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()),
            (
                "limitBytes=99999999999999999999",
                400,
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range".to_owned(),
            ),
            ("sinceSeconds=-1", 422, invalid("sinceSeconds: Invalid value: -1: must be greater than 0")),
            ("tailLines=-1", 422, invalid("tailLines: Invalid value: -1: must be greater than or equal to 0")),
            ("limitBytes=0", 422, invalid("limitBytes: Invalid value: 0: must be greater than 0")),
            (
                "sinceSeconds=5&sinceTime=2026-01-02T03:04:05Z",
                422,
                invalid("[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"),
            ),
            (
                "tailLines=-1&stream=Stdout",
                422,
                invalid(
                    "[tailLines: Invalid value: -1: must be greater than or equal to 0, stream: Forbidden: may not be specified]",
                ),
            ),
        ] {
            assert_eq!(read(query), Err((code, text)), "{query}");
        }
    }
}
