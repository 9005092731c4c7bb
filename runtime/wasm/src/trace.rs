//! W3C trace context (<https://www.w3.org/TR/trace-context/>).

use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Starts traces. Their identifiers are unique, not secret.
pub(crate) struct Tracer {
    seed: Sha256,
    next: AtomicU64,
}

impl Tracer {
    /// A tracer for the container `name`, started `now` on the node with this key: the three make its identifiers unique.
    pub(crate) fn new(key: &[u8; 32], name: &str, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let seed = Sha256::new().chain_update(b"trace\0").chain_update(key).chain_update(now.to_be_bytes());
        Self { seed: seed.chain_update(name), next: AtomicU64::new(0) }
    }

    /// Returns the trace headers of a request. A request without a valid context starts a trace, which is added to its headers.
    pub(crate) fn trace(&self, headers: &mut HeaderMap) -> HeaderMap {
        let mut named = headers.get_all(TRACEPARENT).iter();
        let valid = matches!((named.next(), named.next()), (Some(one), None) if is_valid(one.as_bytes()));
        if !valid {
            headers.remove(STATE);
            headers.insert(TRACEPARENT, self.begin());
        }
        let of = |name: HeaderName| headers.get_all(&name).iter().map(move |value| (name.clone(), value.clone()));
        of(TRACEPARENT).chain(of(STATE)).collect::<Vec<_>>().into_iter().fold(
            HeaderMap::new(),
            |mut all, (name, value)| {
                all.append(name, value);
                all
            },
        )
    }

    fn begin(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Relaxed);
        let hash = hex::encode(self.seed.clone().chain_update(number.to_be_bytes()).finalize());
        let text = format!("00-{}-{}-01", &hash[..32], &hash[32..48]);
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Whether the text is a `traceparent` of version 00, or can be one of a later version.
fn is_valid(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let some = |part: &[u8]| hex(part) && part.iter().any(|byte| *byte != b'0');
    if text.len() < 55 || [2, 35, 52].iter().any(|at| text[*at] != b'-') {
        return false;
    }
    let (version, rest) = (&text[..2], &text[55..]);
    let whole = match version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    whole && hex(version) && some(&text[3..35]) && some(&text[36..52]) && hex(&text[53..55])
}

/// The trace headers of requests that one instance answers at the same time, by the task that answers each.
pub(crate) struct TraceTable<K> {
    count: u64,
    traces: BTreeMap<K, (u64, HeaderMap)>,
}

impl<K> Default for TraceTable<K> {
    fn default() -> Self {
        Self { count: 0, traces: BTreeMap::new() }
    }
}

impl<K: Ord> TraceTable<K> {
    /// Sets the trace of a task. Returns a number for [`TraceTable::end`].
    pub(crate) fn begin(&mut self, task: K, trace: HeaderMap) -> u64 {
        self.count += 1;
        self.traces.insert(task, (self.count, trace));
        self.count
    }

    /// Removes the trace of a task that has ended. A new task may have its identifier, and keeps its own trace.
    pub(crate) fn end(&mut self, task: K, number: u64) {
        if self.traces.get(&task).is_some_and(|(last, _)| *last == number) {
            self.traces.remove(&task);
        }
    }

    pub(crate) fn get(&self, task: K) -> Option<HeaderMap> {
        self.traces.get(&task).map(|(_, trace)| trace.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_kept_and_a_bad_one_is_replaced_with_its_state() {
        let tracer = Tracer::new(&[1; 32], "a", SystemTime::UNIX_EPOCH);
        let run = |parents: &[&str]| {
            let mut headers = HeaderMap::new();
            for parent in parents {
                headers.append(TRACEPARENT, parent.parse().unwrap());
            }
            headers.append(STATE, "a=1".parse().unwrap());
            headers.append(STATE, "b=2".parse().unwrap());
            let trace = tracer.trace(&mut headers);
            assert_eq!(trace, headers, "the guest and who it asks are told the same");
            (trace.get(TRACEPARENT).unwrap().to_str().unwrap().to_owned(), trace.get_all(STATE).iter().count())
        };
        assert_eq!(run(&[GOOD]), (GOOD.to_owned(), 2));
        let later = format!("01{}-more", &GOOD[2..]);
        assert_eq!(run(&[&later]), (later.clone(), 2));
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &format!("{GOOD}-more"),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
        ] {
            let (made, states) = run(&[bad]);
            assert!(is_valid(made.as_bytes()) && made != GOOD && states == 0, "{bad}: {made}");
        }
        assert_eq!(run(&[GOOD, GOOD]).1, 0, "two are none");
        assert_ne!(run(&[]).0, run(&[]).0);
        let other = Tracer::new(&[1; 32], "b", SystemTime::UNIX_EPOCH);
        assert_ne!(other.begin(), Tracer::new(&[1; 32], "a", SystemTime::UNIX_EPOCH).begin());
    }

    #[test]
    fn a_task_with_the_identifier_of_one_that_ended_keeps_its_trace() {
        let trace = |text: &'static str| HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(text))]);
        let mut table = TraceTable::default();
        let first = table.begin(7, trace("first"));
        let second = table.begin(7, trace("second"));
        table.end(7, first);
        assert_eq!(table.get(7), Some(trace("second")));
        table.end(7, second);
        assert_eq!(table.get(7), None);
    }
}
