//! Ranges of costs and sizes. Sums and products that are too large stay at the largest number.

use crate::metering::times_factor;

/// From the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Range {
    pub(crate) const ZERO: Range = Range::fixed(0);
    pub(crate) const ONE: Range = Range::fixed(1);
    pub(crate) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
    /// What nothing was joined to yet.
    pub(crate) const NONE: Range = Range { min: u64::MAX, max: 0 };

    pub(crate) const fn fixed(value: u64) -> Range {
        Range { min: value, max: value }
    }

    pub(crate) fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub(crate) fn factor(self, factor: f64) -> Range {
        Range { min: times_factor(self.min, factor), max: times_factor(self.max, factor) }
    }

    /// A range that has both.
    pub(crate) fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}
