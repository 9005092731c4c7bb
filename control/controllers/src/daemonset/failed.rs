//! The back-off of pods that fail again and again on a node. Pure.

use crate::meta::non_negative;
use jiff::{SignedDuration, Timestamp};
use std::{collections::HashMap, time::Duration};

const FIRST: SignedDuration = SignedDuration::from_secs(1);
const MOST: SignedDuration = SignedDuration::from_mins(15);

/// By the uid of a set and the name of a node: when its last failed pod was deleted, and how long the next one waits.
#[derive(Debug, Default)]
pub(super) struct Failed(HashMap<(String, String), (Timestamp, SignedDuration)>);

impl Failed {
    /// Counts a failed pod, which may be deleted now.
    ///
    /// # Errors
    /// It may be deleted after this time only.
    pub(super) fn again(&mut self, set: &str, node: &str, now: Timestamp) -> Result<(), Duration> {
        self.0.retain(|_, (last, _)| now.duration_since(*last) < MOST * 2);
        let entry = self.0.entry((set.to_owned(), node.to_owned()));
        let next = match &entry {
            std::collections::hash_map::Entry::Vacant(_) => FIRST,
            std::collections::hash_map::Entry::Occupied(known) => {
                let (last, delay) = known.get();
                let passed = now.duration_since(*last);
                if passed < *delay {
                    return Err(non_negative(*delay - passed));
                }
                (*delay * 2).min(MOST)
            }
        };
        entry.insert_entry((now, next));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_quarter_of_an_hour_and_is_forgotten() {
        let mut failed = Failed::default();
        let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut waits = Vec::new();
        for _ in 0..13 {
            failed.again("u", "n", now).unwrap();
            let wait = failed.again("u", "n", now).unwrap_err();
            waits.push(wait.as_secs());
            now += SignedDuration::try_from(wait).unwrap();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
        assert_eq!(failed.again("u", "other", now), Ok(()), "another node");
        now += MOST * 3;
        failed.again("u", "n", now).unwrap();
        assert_eq!(failed.again("u", "n", now), Err(Duration::from_secs(1)), "forgotten");
    }
}
