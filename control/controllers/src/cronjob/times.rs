//! When a CronJob runs next, and which times it has missed. Pure.
//!
//! Follows upstream's `cronjob/utils.go`.

use crate::meta::{created, non_negative};
use api::cron::{self, Schedule};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::batch::v1::CronJob;
use std::time::Duration;

/// How much later than a scheduled time a CronJob is looked at.
const DELAY: SignedDuration = SignedDuration::from_millis(100);
/// From so many missed times on, they are too many.
const MANY: i64 = 100;
/// Most times that are gone through to find the last one.
const MOST_STEPS: usize = 100_000;

/// Times of the past.
#[derive(Debug, PartialEq)]
pub(super) struct Past {
    /// From when on times count.
    earliest: Timestamp,
    /// The last time that has come.
    pub last: Option<Timestamp>,
    /// How many have come.
    missed: i64,
}

impl Past {
    pub(super) fn is_too_many(&self) -> bool {
        self.missed > MANY
    }
}

/// The time zone of a CronJob.
///
/// # Errors
/// There is none of this name.
pub(super) fn zone(job: &CronJob) -> Result<TimeZone, String> {
    cron::zone(job.spec.time_zone.as_deref().unwrap_or_default())
}

/// The times that have come since the last Job, or since the CronJob was created.
///
/// # Errors
/// The schedule has no two times.
pub(super) fn past(job: &CronJob, now: Timestamp, schedule: &Schedule, with_deadline: bool) -> Result<Past, String> {
    let last = job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
    let mut earliest = last.unwrap_or_else(|| created(&job.metadata));
    let deadline = job.spec.starting_deadline_seconds.filter(|_| with_deadline);
    if let Some(seconds) = deadline {
        let begin = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        earliest = earliest.max(begin);
    }
    const NEVER: &str = "time difference between two schedules is less than 1 second";
    let first = schedule.next(earliest).ok_or(NEVER)?;
    if now < first {
        return Ok(Past { earliest, last: None, missed: 0 });
    }
    let Some(second) = schedule.next(first).filter(|second| *second <= now) else {
        return Ok(Past { earliest, last: Some(first), missed: 0 });
    };
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err(NEVER.to_owned());
    }
    let missed = now.duration_since(first).as_secs() / between + 1;
    // Times may be irregular: from the last but one, as if they were not, they are gone through.
    let skipped = SignedDuration::from_secs(missed.saturating_sub(2).saturating_mul(between));
    let from = first.checked_add(skipped).unwrap_or(now);
    let times = std::iter::successors(schedule.next(from), |time| schedule.next(*time));
    let last = times.take_while(|time| *time <= now).take(MOST_STEPS).last();
    Ok(Past { earliest, last, missed })
}

/// How long until the CronJob is to be looked at again; `None` if there is no next time.
pub(super) fn next_look(job: &CronJob, now: Timestamp, schedule: &Schedule) -> Option<Duration> {
    let from = match past(job, now, schedule, false) {
        Err(_) => now,
        Ok(Past { last: Some(last), .. }) => last,
        Ok(Past { earliest, missed: 0, .. }) => earliest,
        Ok(_) => now,
    };
    let next = schedule.next(from)?.checked_add(DELAY).ok()?;
    Some(non_negative(next.duration_since(now)))
}
