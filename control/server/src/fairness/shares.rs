//! How many of the server's seats each priority level has: by its share, and beyond that what others lend. Follows KEP-1040, "Dispatching" and
//! "Borrowing".

use super::{
    config::{PriorityLevel, Queuing, Response},
    demand::Smoothed,
};

/// The largest part of its level's seats that one list may take.
const WIDEST: f64 = 0.15;
/// A demand of nothing, as a number that can be divided by.
const LEAST_TARGET: f64 = 0.001;

/// Between which numbers the seats of a level are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// By its share.
    pub(super) nominal: u32,
    /// With everything lent that may be.
    pub(super) least: u32,
    /// With everything borrowed that may be.
    pub(super) most: u32,
}

impl Bounds {
    /// Those of a level, of `total` seats in `shares` shares. They are rounded up, so that they may sum up to a few more than there are.
    pub(super) fn of(level: &PriorityLevel, total: u32, shares: u64) -> Self {
        let all = f64::from(total);
        let nominal = match shares {
            0 => 0.0,
            shares => (all * f64::from(level.shares) / shares as f64).ceil(),
        };
        let percent = |part: u32| (nominal * f64::from(part) / 100.0).round();
        let lent = percent(level.lendable.min(100));
        let borrowed = level.borrowing.map_or(all, percent);
        // At most a small multiple of `total`, or as many as the percentage says.
        Self { nominal: nominal as u32, least: (nominal - lent) as u32, most: (nominal + borrowed) as u32 }
    }

    /// The fewest that a level with this demand is to have.
    fn floor(self, demand: Smoothed) -> u32 {
        self.least.max(self.nominal.min(demand.peak))
    }
}

/// The most seats of one list in a level, so that a few lists do not take all; 0 for no bound but that of all lists.
pub(super) fn widest(nominal: u32, response: Response) -> u32 {
    let Response::Queue(Queuing { hand, .. }) = response else { return 0 };
    let part = (f64::from(nominal) * WIDEST).ceil() as u32;
    part.min(nominal / hand).max(1)
}

/// How many seats each level has until the next adjustment. `levels` are whether a level is exempt, its bounds and its demand.
pub(super) fn adjust(levels: &[(bool, Bounds, Smoothed)]) -> Vec<u32> {
    let sum = |of: &dyn Fn(Bounds, Smoothed) -> u32| -> i64 {
        levels.iter().filter(|(exempt, ..)| !exempt).map(|(_, bounds, demand)| i64::from(of(*bounds, *demand))).sum()
    };
    let nominal: i64 = levels.iter().map(|(_, bounds, _)| i64::from(bounds.nominal)).sum();
    let busy = |bounds: Bounds, demand: Smoothed| bounds.least.max(demand.peak);
    let exempt = levels.iter().filter(|(exempt, ..)| *exempt);
    let left = nominal - exempt.map(|(_, bounds, demand)| i64::from(busy(*bounds, *demand))).sum::<i64>();
    let (least, floor) = (sum(&|bounds, _| bounds.least), sum(&|bounds, demand| bounds.floor(demand)));
    // What the exempt requests take is missing for the others: first what they would borrow, then what they need.
    let give: Box<dyn Fn(Bounds, Smoothed) -> u32> = if left <= least {
        Box::new(|bounds, _| bounds.least)
    } else if left <= floor {
        let part = (left - least) as f64 / (floor - least) as f64;
        Box::new(move |bounds, demand| {
            bounds.least + (f64::from(bounds.floor(demand) - bounds.least) * part).round() as u32
        })
    } else {
        let others = levels.iter().filter(|(exempt, ..)| !exempt);
        let items: Vec<Item> = others.map(|(_, bounds, demand)| Item::of(*bounds, *demand)).collect();
        let ratio = fair_ratio(nominal as f64, &items);
        Box::new(move |bounds, demand| Item::of(bounds, demand).at(ratio).round() as u32)
    };
    let seats = |(exempt, bounds, demand): &(bool, Bounds, Smoothed)| match exempt {
        true => busy(*bounds, *demand),
        false => give(*bounds, *demand),
    };
    levels.iter().map(seats).collect()
}

/// What a level is to have, and between which numbers.
struct Item {
    target: f64,
    least: f64,
    most: f64,
}

impl Item {
    fn of(bounds: Bounds, demand: Smoothed) -> Self {
        let least = f64::from(bounds.floor(demand));
        Self { target: demand.seats.max(least).max(LEAST_TARGET), least, most: f64::from(bounds.most).max(least) }
    }

    /// The same multiple of its target as every other, within its bounds.
    fn at(&self, ratio: f64) -> f64 {
        (self.target * ratio).clamp(self.least, self.most)
    }
}

/// The multiple of the targets with which the seats sum up to `total`, or come as close as the bounds let them. The sum never falls as the
/// multiple rises, so that halving finds it.
fn fair_ratio(total: f64, items: &[Item]) -> f64 {
    let sum = |ratio: f64| items.iter().map(|item| item.at(ratio)).sum::<f64>();
    let (mut low, mut high) = (0.0, items.iter().map(|item| item.most / item.target).fold(0.0, f64::max));
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if sum(middle) < total { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(shares: u32, lendable: u32, borrowing: Option<u32>) -> PriorityLevel {
        PriorityLevel { name: "l".into(), uid: String::new(), shares, lendable, borrowing, response: Response::Reject }
    }

    #[test]
    fn shares_are_seats_of_the_total() {
        for (shares, lendable, borrowing, nominal, least, most) in [
            // Of every cluster: 245 shares.
            (30, 33, None, 74, 50, 674),
            (40, 25, None, 98, 73, 698),
            (10, 0, None, 25, 25, 625),
            (40, 50, None, 98, 49, 698),
            (100, 90, None, 245, 24, 845),
            (20, 50, None, 49, 24, 649),
            (5, 0, None, 13, 13, 613),
            (0, 0, None, 0, 0, 600),
            (245, 100, Some(0), 600, 0, 600),
            (10, 50, Some(50), 25, 12, 38),
        ] {
            let got = Bounds::of(&level(shares, lendable, borrowing), 600, 245);
            assert_eq!(got, Bounds { nominal, least, most }, "{shares} {lendable} {borrowing:?}");
        }
        assert_eq!(Bounds::of(&level(0, 0, None), 600, 0).nominal, 0);
    }

    #[test]
    fn one_list_takes_a_part_of_a_level() {
        let queue = |hand| Response::Queue(Queuing::new(64, hand, 50).expect("can be dealt"));
        for (nominal, response, expected) in [
            (245, queue(6), 37),
            (98, queue(6), 15),
            (49, queue(6), 8),
            (13, queue(8), 1),
            (0, queue(6), 1),
            (98, Response::Reject, 0),
            (98, Response::Exempt, 0),
        ] {
            assert_eq!(widest(nominal, response), expected, "{nominal} {response:?}");
        }
    }

    #[test]
    fn who_needs_seats_has_those_that_others_do_not_need() {
        let bounds = |nominal, least, most| Bounds { nominal, least, most };
        let (even, idle) = (bounds(100, 50, 300), Smoothed::default());
        let demand = |peak, seats| Smoothed { peak, seats };
        let of = |levels: &[(Bounds, Smoothed)]| {
            adjust(&levels.iter().map(|(bounds, demand)| (false, *bounds, *demand)).collect::<Vec<_>>())
        };
        for (levels, expected) in [
            // Nobody needs anything: as before.
            (vec![(even, idle), (even, idle), (even, idle)], vec![100, 100, 100]),
            // One has what the others may lend.
            (vec![(even, demand(500, 500.0)), (even, idle), (even, idle)], vec![200, 50, 50]),
            // Not more than it may borrow, and what is left is shared by demand.
            (vec![(bounds(100, 50, 120), demand(500, 500.0)), (even, idle), (even, idle)], vec![120, 90, 90]),
            // Who needs its own has its own.
            (vec![(even, demand(500, 500.0)), (even, demand(100, 80.0)), (even, idle)], vec![150, 100, 50]),
            // Two who need more share in proportion.
            (vec![(even, demand(300, 300.0)), (even, demand(150, 150.0)), (even, idle)], vec![150, 100, 50]),
            (vec![(bounds(0, 0, 300), demand(9, 9.0)), (bounds(300, 0, 600), idle)], vec![300, 0]),
        ] {
            assert_eq!(of(&levels), expected, "{levels:?}");
        }
        assert_eq!(adjust(&[]), Vec::<u32>::new());
    }

    #[test]
    fn what_exempt_requests_take_the_others_lack() {
        let (even, own) = (Bounds { nominal: 100, least: 50, most: 300 }, Bounds::default());
        let busy = Smoothed { peak: 100, seats: 100.0 };
        for (exempt, expected) in [(0, [0, 100, 100]), (50, [50, 75, 75]), (99, [99, 51, 51]), (500, [500, 50, 50])] {
            let demand = Smoothed { peak: exempt, seats: 0.0 };
            assert_eq!(adjust(&[(true, own, demand), (false, even, busy), (false, even, busy)]), expected, "{exempt}");
        }
    }
}
