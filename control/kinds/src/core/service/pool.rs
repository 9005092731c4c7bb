//! The pool of node ports, and why an allocation fails. It has two bands: dynamic allocations come from the upper one first, so that the lower
//! one is likely free for static ones (KEP-3668). It is in memory only, and rebuilt from the stored Services when the server starts.

use parking_lot::Mutex;
use std::{collections::HashSet, ops::RangeInclusive};

/// Why an allocation failed. The texts are upstream's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Refused {
    /// The range is exhausted.
    #[error("range is full")]
    Full,
    /// Somebody has the address.
    #[error("provided IP is already allocated")]
    AddressTaken,
    /// The address is in no ServiceCIDR that is ready.
    #[error("the provided network does not match the current range")]
    OtherNetwork,
    /// Another Service has the port.
    #[error("provided port is already allocated")]
    PortTaken,
    /// The port is outside of the node port range, which the message names.
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    NotANodePort(String),
}

/// The numbers below `size`, some of them allocated.
#[derive(Debug)]
struct Numbers {
    size: u64,
    /// Where the upper band begins.
    offset: u64,
    taken: HashSet<u64>,
}

impl Numbers {
    fn next(&mut self, pick: &dyn Fn(u64) -> u64) -> Option<u64> {
        self.next_in(self.offset..self.size, pick).or_else(|| self.next_in(0..self.offset, pick))
    }

    /// The first free number of the band from a random one on, wrapping around.
    fn next_in(&mut self, band: std::ops::Range<u64>, pick: &dyn Fn(u64) -> u64) -> Option<u64> {
        if band.is_empty() {
            return None;
        }
        let start = band.start + pick(band.end - band.start);
        let found = (start..band.end).chain(band.start..start).find(|n| !self.taken.contains(n))?;
        self.taken.insert(found);
        Some(found)
    }
}

/// The size of the lower band: a part of the range, within limits.
pub(super) fn lower_band(size: u64, part: u64, max: u64) -> u64 {
    const MIN: u64 = 16;
    if size <= MIN { 0 } else { (size / part).clamp(MIN, max) }
}

/// The node ports of Services.
#[derive(Debug)]
pub(super) struct NodePorts {
    first: u16,
    last: u16,
    numbers: Mutex<Numbers>,
}

impl NodePorts {
    /// The ports of a range.
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        let size = (u64::from(*range.end()) + 1).saturating_sub(u64::from(*range.start()));
        let offset = lower_band(size, 32, 128);
        Self {
            first: *range.start(),
            last: *range.end(),
            numbers: Mutex::new(Numbers { size, offset, taken: HashSet::new() }),
        }
    }

    /// Allocates this port.
    pub(super) fn take(&self, port: u16) -> Result<(), Refused> {
        if !(self.first..=self.last).contains(&port) {
            return Err(Refused::NotANodePort(format!("{}-{}", self.first, self.last)));
        }
        let number = u64::from(port - self.first);
        if self.numbers.lock().taken.insert(number) { Ok(()) } else { Err(Refused::PortTaken) }
    }

    /// Allocates any port; `pick` returns a random number below its argument.
    pub(super) fn take_any(&self, pick: &dyn Fn(u64) -> u64) -> Result<u16, Refused> {
        let number = self.numbers.lock().next(pick).ok_or(Refused::Full)?;
        Ok(self.first + u16::try_from(number).expect("the range has only ports"))
    }

    /// Releases a port.
    pub(super) fn release(&self, port: u16) {
        if let Some(number) = port.checked_sub(self.first) {
            self.numbers.lock().taken.remove(&u64::from(number));
        }
    }

    /// Marks the port of a stored Service as allocated.
    pub(super) fn mark(&self, port: u16) {
        let _ = self.take(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ports_stay_in_their_range() {
        let pool = NodePorts::new(30000..=32767);
        assert_eq!(pool.take_any(&|_| 0), Ok(30086));
        assert_eq!(pool.take(30000), Ok(()));
        assert_eq!(pool.take(30000), Err(Refused::PortTaken));
        let refused = pool.take(80).unwrap_err().to_string();
        assert_eq!(refused, "provided port is not in the valid range. The range of valid ports is 30000-32767");
    }
}
