//! Tables and small worlds on a clock of their own.

use super::*;

const MILLI: Nanos = 1_000_000;

fn queue(queues: u32, hand: u32, length: usize) -> Response {
    Response::Queue(Queuing::new(queues, hand, length).expect("can be dealt"))
}

/// A hash that uses all its bits.
fn hash(flow: u64) -> u64 {
    flow.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn arrival(flow: u64, seats: u32) -> Arrival {
    Arrival { flow, seats, patient: false }
}

/// A level whose requests end after a time that each has.
struct World {
    set: QueueSet<u32>,
    now: Nanos,
    /// How long each request takes.
    times: Vec<Nanos>,
    served: Vec<(Nanos, u32, Ticket)>,
    /// In the order in which they ended.
    ended: Vec<u32>,
}

impl World {
    fn new(response: Response, seats: u32) -> Self {
        Self {
            set: QueueSet::new(response, seats, 0),
            now: 0,
            times: Vec::new(),
            served: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn come(&mut self, arrival: Arrival, time: Nanos) -> Option<Place> {
        let id = u32::try_from(self.times.len()).expect("few");
        self.times.push(time);
        let start = self.set.start(self.now, arrival, || id);
        let place = match start {
            Start::Now(ticket) => {
                self.served.push((self.now + time, id, ticket));
                None
            }
            Start::Later(place) => Some(place),
            Start::Refused(reason) => panic!("{reason}"),
        };
        self.serve();
        place
    }

    fn serve(&mut self) {
        while let Some((id, ticket)) = self.set.next(self.now) {
            self.served.push((self.now + self.times[id as usize], id, ticket));
        }
    }

    /// Ends the next request. Whether there was one.
    fn step(&mut self) -> bool {
        let next = self.served.iter().enumerate().min_by_key(|(_, (end, id, _))| (*end, *id)).map(|(at, _)| at);
        let Some((end, id, ticket)) = next.map(|at| self.served.swap_remove(at)) else { return false };
        self.now = end;
        self.ended.push(id);
        self.set.finish(end, &ticket);
        self.serve();
        true
    }

    fn run(&mut self) {
        while self.step() {}
        assert_eq!(self.set.requests(), (0, 0));
        assert_eq!((self.set.seats_taken, self.set.seats_wanted), (0, 0));
        assert!(self.set.queues.is_empty(), "what is idle is forgotten");
    }
}

#[test]
fn ten_requests_are_not_behind_a_thousand() {
    for (elephant, mouse) in [(1, 2), (77, 12_345), (1 << 40, 5)] {
        let mut world = World::new(queue(64, 6, 1000), 10);
        for _ in 0..1000 {
            world.come(arrival(hash(elephant), 1), 10 * MILLI);
        }
        for _ in 0..10 {
            world.come(arrival(hash(mouse), 1), 10 * MILLI);
        }
        world.run();
        let last = world.ended.iter().position(|id| *id == 1009).expect("ended");
        assert!(last < 60, "the last of the ten was number {last} of {}", world.ended.len());
        assert_eq!(world.now, 1010 * MILLI, "and no seat was left empty");
    }
}

#[test]
fn flows_share_seats_by_the_time_that_they_hold_them() {
    // Two queues, and a flow in each: seats and time of its requests.
    for (one, other) in [((5, 10), (1, 10)), ((1, 50), (1, 1)), ((3, 1), (1, 30)), ((10, 2), (2, 7))] {
        let mut world = World::new(queue(2, 1, 100_000), 10);
        for _ in 0..2000 {
            world.come(arrival(0, one.0), one.1 * MILLI);
            world.come(arrival(1, other.0), other.1 * MILLI);
        }
        // Until one has nothing more to do.
        while world.set.busy_queues() == 2 {
            assert!(world.step());
        }
        let of = |flow: usize, (seats, time): (u32, Nanos)| {
            let ended = world.ended.iter().filter(|id| **id as usize % 2 == flow).count();
            ended as f64 * f64::from(seats) * time as f64
        };
        let part = of(0, one) / (of(0, one) + of(1, other));
        assert!((0.45..0.55).contains(&part), "{one:?} {other:?}: {part}");
    }
}

#[test]
fn a_flow_that_was_quiet_has_saved_nothing_up() {
    let mut world = World::new(queue(2, 1, 1000), 1);
    // One request at a time for long, less than its share.
    for _ in 0..200 {
        world.come(arrival(0, 1), 10 * MILLI);
        world.come(arrival(1, 1), MILLI);
        world.step();
        world.step();
    }
    let before = world.ended.len();
    for _ in 0..100 {
        world.come(arrival(1, 1), 10 * MILLI);
        world.come(arrival(0, 1), 10 * MILLI);
    }
    world.run();
    let of_one = world.ended[before..before + 100].iter().filter(|id| **id % 2 == 0).count();
    assert!((45..=55).contains(&of_one), "{of_one}");
}

#[test]
fn a_full_queue_refuses_and_a_patient_request_waits_nevertheless() {
    let mut set = QueueSet::new(queue(1, 1, 2), 1, 0);
    let start = |set: &mut QueueSet<u32>, patient: bool| set.start(0, Arrival { patient, ..arrival(0, 1) }, || 7);
    let Start::Now(ticket) = start(&mut set, false) else { panic!("there is a seat") };
    let Start::Later(first) = start(&mut set, false) else { panic!("there is a place") };
    let Start::Later(second) = start(&mut set, false) else { panic!("there is a place") };
    assert_eq!(start(&mut set, false), Start::Refused("queue-full"));
    let Start::Later(third) = start(&mut set, true) else { panic!("it is patient") };
    assert_eq!((set.requests(), set.busy_queues()), ((1, 3), 1));
    assert!(set.cancel(1, second) && set.cancel(1, third));
    assert!(!set.cancel(1, second), "once");
    let Start::Later(fourth) = start(&mut set, false) else { panic!("a place is free again") };
    set.finish(2, &ticket);
    let (wake, ticket) = set.next(2).expect("a seat is free");
    assert_eq!((wake, set.next(2)), (7, None));
    assert!(!set.cancel(3, first), "it is served");
    assert!(set.cancel(3, fourth));
    set.finish(4, &ticket);
    assert_eq!(set.totals(), Totals { dispatched: 2, rejected: 4, cancelled: 3 });
    assert!(set.queues.is_empty());
}

#[test]
fn exempt_requests_are_always_served_and_others_without_queues_while_there_is_a_seat() {
    let mut exempt = QueueSet::<()>::new(Response::Exempt, 0, 0);
    assert!((0..1000).all(|_| matches!(exempt.start(0, arrival(0, 10), || ()), Start::Now(_))));
    assert_eq!((exempt.requests(), exempt.take_demand(0).peak), ((1000, 0), 10_000));
    let mut reject = QueueSet::<()>::new(Response::Reject, 3, 0);
    let Start::Now(wide) = reject.start(0, arrival(0, 5), || ()) else { panic!("alone it is served") };
    assert_eq!(reject.start(0, arrival(0, 1), || ()), Start::Refused("concurrency-limit"));
    reject.finish(1, &wide);
    let served = (0..5).filter(|_| matches!(reject.start(1, arrival(0, 1), || ()), Start::Now(_))).count();
    assert_eq!((served, reject.totals().rejected), (3, 3));
    let patient = Arrival { patient: true, ..arrival(0, 1) };
    assert_eq!(reject.start(1, patient, || ()), Start::Refused("concurrency-limit"), "there is no queue");
}

#[test]
fn what_is_wide_waits_for_room_and_is_not_overtaken_for_ever() {
    let mut world = World::new(queue(2, 1, 100), 4);
    world.come(arrival(0, 1), 10 * MILLI);
    world.come(arrival(1, 4), 10 * MILLI);
    for _ in 0..50 {
        world.come(arrival(0, 1), 10 * MILLI);
    }
    // And one that is wider than all seats.
    world.come(arrival(1, 9), 10 * MILLI);
    world.run();
    let place = |id: u32| world.ended.iter().position(|ended| *ended == id).expect("ended");
    assert!(place(1) < 15, "{}", place(1));
    assert!(place(52) < 53, "{}", place(52));
}

#[test]
fn requests_keep_their_places_while_the_configuration_changes() {
    let mut world = World::new(queue(64, 6, 50), 1);
    for flow in 0..20 {
        world.come(arrival(hash(flow), 1), MILLI);
    }
    assert_eq!(world.set.requests(), (1, 19));
    world.set.configure(0, queue(2, 1, 1));
    world.set.set_seats(0, 4);
    world.serve();
    assert_eq!(world.set.requests(), (4, 16), "more seats are used at once");
    world.set.set_seats(0, 2);
    world.serve();
    assert_eq!(world.set.requests(), (4, 16), "and none is taken away");
    world.set.configure(0, Response::Reject);
    assert_eq!(world.set.start(0, arrival(0, 1), || 99), Start::Refused("concurrency-limit"));
    world.step();
    world.step();
    assert_eq!(world.set.requests(), (2, 16));
    world.run();
    assert_eq!(world.ended.len(), 20);
    let mut none = QueueSet::<()>::new(queue(1, 1, 5), 0, 0);
    assert!(matches!(none.start(0, arrival(0, 1), || ()), Start::Later(_)));
    assert!(none.next(0).is_none(), "without seats nothing is served");
}

#[test]
fn a_hand_of_queues_is_filled_evenly() {
    let mut world = World::new(queue(64, 6, 50), 0);
    for _ in 0..60 {
        world.come(arrival(hash(4711), 1), MILLI);
    }
    let mut lengths: Vec<usize> = world.set.queues.values().map(|queue| queue.waiting.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [10; 6]);
}
