//! How many seats a priority level could use: those that are taken, and those that waiting requests ask for. Average, deviation and peak of a
//! period say how many seats the level is to have in the next. Follows KEP-1040, "Seat demand".

use super::Nanos;

/// The time after which seats are shared anew, and the weight of what was before: upstream's.
pub(super) const PERIOD: Nanos = 10_000_000_000;
const SMOOTHING: f64 = 0.977;

/// Follows the demand over a period.
#[derive(Debug, Default)]
pub(super) struct Demand {
    since: Nanos,
    at: Nanos,
    seats: u32,
    peak: u32,
    /// The integrals of the demand and of its square over the time.
    sum: f64,
    squares: f64,
}

/// What a period has shown.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Observed {
    /// How long it was.
    pub(super) time: Nanos,
    /// The most seats.
    pub(super) peak: u32,
    /// Average and deviation over the time.
    pub(super) average: f64,
    pub(super) deviation: f64,
}

impl Demand {
    /// The demand is this from now on.
    pub(super) fn set(&mut self, now: Nanos, seats: u32) {
        let (time, held) = (now.saturating_sub(self.at) as f64, f64::from(self.seats));
        self.sum += held * time;
        self.squares += held * held * time;
        self.at = self.at.max(now);
        self.seats = seats;
        self.peak = self.peak.max(seats);
    }

    /// What was observed so far; a new period begins.
    pub(super) fn take(&mut self, now: Nanos) -> Observed {
        self.set(now, self.seats);
        let time = self.at - self.since;
        let mut observed = Observed { time, peak: self.peak, ..Observed::default() };
        if time > 0 {
            observed.average = self.sum / time as f64;
            let variance = self.squares / time as f64 - observed.average * observed.average;
            observed.deviation = variance.max(0.0).sqrt();
        }
        *self = Self { since: self.at, at: self.at, seats: self.seats, peak: self.seats, sum: 0.0, squares: 0.0 };
        observed
    }
}

/// The demand over many periods, which rises at once and falls slowly: with half of what is too much gone in five minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Smoothed {
    /// The peak of the last period.
    pub(super) peak: u32,
    /// The smoothed demand.
    pub(super) seats: f64,
}

impl Smoothed {
    /// With one more observation, which may be of several periods.
    pub(super) fn with(self, observed: &Observed) -> Self {
        if observed.time == 0 {
            return Self { peak: observed.peak, ..self };
        }
        let high = observed.average + observed.deviation;
        let kept = SMOOTHING.powf(observed.time as f64 / PERIOD as f64);
        Self { peak: observed.peak, seats: high.max(kept * self.seats + (1.0 - kept) * high) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_average_deviation_and_peak() {
        let mut demand = Demand::default();
        demand.set(0, 4);
        demand.set(5, 0);
        let observed = demand.take(10);
        assert_eq!(observed, Observed { time: 10, peak: 4, average: 2.0, deviation: 2.0 });
        demand.set(12, 7);
        assert_eq!(demand.take(12), Observed { time: 2, peak: 7, average: 0.0, deviation: 0.0 });
        // What is there when a period begins is its first peak.
        assert_eq!(demand.take(12), Observed { time: 0, peak: 7, average: 0.0, deviation: 0.0 });
        assert_eq!(demand.take(13), Observed { time: 1, peak: 7, average: 7.0, deviation: 0.0 });
        // A clock that is read by several threads may seem to go back.
        demand.set(11, 1);
        assert_eq!(demand.take(13).time, 0);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let of = |average: f64, time: Nanos| Observed { time, peak: 9, average, deviation: 1.0 };
        let high = Smoothed::default().with(&of(99.0, PERIOD));
        assert_eq!(high, Smoothed { peak: 9, seats: 100.0 });
        let half = (0..30).fold(high, |smoothed, _| smoothed.with(&of(-1.0, PERIOD)));
        assert!((49.0..51.0).contains(&half.seats), "{half:?}");
        let at_once = high.with(&of(-1.0, 30 * PERIOD));
        assert!((at_once.seats - half.seats).abs() < 1e-9, "one long period is as many short ones");
        assert_eq!(high.with(&Observed { peak: 3, ..Observed::default() }), Smoothed { peak: 3, seats: 100.0 });
    }
}
