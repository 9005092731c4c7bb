//! What servers outside answered, for as long as they allow. Pure: time is passed in.
//!
//! Bounded in entries and bytes: the oldest makes place. Answers are kept as bytes, so that their size is known. An answer with records is
//! kept for the least of their times; an absence for that of the SOA which comes with it, and without one not at all (RFC 2308); a failure for a second
//! (RFC 9520), so that those who try again do not multiply it.

use super::{wire, zone::Answers};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{RData, Record},
};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Most answers.
pub(crate) const ENTRIES: usize = 4096;

/// Most bytes of all answers.
pub(crate) const BYTES: usize = 4 << 20;

/// Longer answers are not kept.
const LARGEST: usize = 8 << 10;

/// The longest time of an answer, and of an absence.
const LONGEST: u32 = 3600;
const LONGEST_ABSENCE: u32 = 300;

/// The time of a failure.
const FAILURE: u32 = 1;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) query: Query,
    pub(crate) dnssec: bool,
    pub(crate) checking_disabled: bool,
}

struct Kept {
    bytes: Box<[u8]>,
    since: Instant,
    time: Duration,
}

/// The answers that are remembered.
pub(crate) struct Cache {
    entries: usize,
    room: usize,
    kept: HashMap<Key, Kept>,
    /// Its keys, the oldest first.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn new(entries: usize, bytes: usize) -> Self {
        Self { entries, room: bytes, kept: HashMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    /// The answer with the times that are left.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Answers> {
        let kept = self.kept.get(key)?;
        let age = now.saturating_duration_since(kept.since);
        if age >= kept.time {
            return None;
        }
        let (mut answers, _) = wire::answer(&kept.bytes, 0, &key.query)?;
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let Answers { answers: records, authorities, additionals, .. } = &mut answers;
        for record in records.iter_mut().chain(authorities).chain(additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answers)
    }

    /// Remembers an answer, if that is allowed.
    pub(crate) fn put(&mut self, key: &Key, answers: &Answers, now: Instant) {
        let (Some(time), Some(bytes)) = (time(answers), bytes(key, answers)) else { return };
        if bytes.len() > LARGEST.min(self.room) || self.entries == 0 {
            return;
        }
        let kept = Kept { bytes, since: now, time: Duration::from_secs(time.into()) };
        self.bytes += kept.bytes.len();
        match self.kept.insert(key.clone(), kept) {
            Some(before) => self.bytes -= before.bytes.len(),
            None => self.order.push_back(key.clone()),
        }
        while self.kept.len() > self.entries || self.bytes > self.room {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(gone) = self.kept.remove(&oldest) {
                self.bytes -= gone.bytes.len();
            }
        }
    }
}

fn bytes(key: &Key, answers: &Answers) -> Option<Box<[u8]>> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = answers.code;
    message.metadata.authentic_data = answers.authentic;
    message.add_query(key.query.clone());
    message.answers.clone_from(&answers.answers);
    message.authorities.clone_from(&answers.authorities);
    message.additionals.clone_from(&answers.additionals);
    message.to_vec().ok().map(Vec::into_boxed_slice)
}

/// Seconds for which an answer may be kept; `None` for not at all.
fn time(answers: &Answers) -> Option<u32> {
    // a time with the highest bit is none (RFC 2181, section 8)
    let of = |record: &Record| if record.ttl > i32::MAX.cast_unsigned() { 0 } else { record.ttl };
    let least = answers.answers.iter().chain(&answers.authorities).map(of).min();
    let soa = answers.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum),
        _ => None,
    });
    let time = match (answers.code, soa) {
        (ResponseCode::NoError | ResponseCode::NXDomain, Some(minimum)) => {
            least.map(|least| least.min(minimum).min(LONGEST_ABSENCE))
        }
        (ResponseCode::NoError, None) if !answers.answers.is_empty() => least.map(|least| least.min(LONGEST)),
        (ResponseCode::NoError | ResponseCode::NXDomain, None) => None,
        _ => Some(FAILURE),
    };
    time.filter(|time| *time > 0)
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
