//! Connections that wait for a Service whose Deployments were scaled to zero because they were idle. They are bounded in number and time, and
//! nothing is read of them while they wait: their bytes stay where their senders put them.

use container::net::{Error, Result};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

/// How long it is between two requests to wake the same Service.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) all: usize,
    pub(crate) of_service: usize,
    pub(crate) time: Duration,
}

/// The connections that wait.
pub(crate) struct Holds {
    bounds: Bounds,
    state: Mutex<State>,
    /// Somebody waits for a Service that nobody has asked for of late.
    asked: Notify,
}

#[derive(Default)]
struct State {
    held: usize,
    services: HashMap<String, Waited>,
}

struct Waited {
    held: usize,
    /// Told when the table has another entry for the Service.
    changed: Arc<Notify>,
    /// When it was last asked to wake.
    asked: Option<Instant>,
}

/// One that waits. Ends when dropped.
pub(crate) struct Held<'a> {
    holds: &'a Holds,
    service: String,
    changed: Arc<Notify>,
    deadline: Instant,
}

impl Holds {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default(), asked: Notify::new() }
    }

    /// How many wait.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().held
    }

    /// Begins to wait for a Service.
    ///
    /// # Errors
    /// Too many wait.
    pub(crate) fn enter(&self, service: &str) -> Result<Held<'_>> {
        let mut state = self.state.lock();
        let (all, of_service) = (self.bounds.all, self.bounds.of_service);
        let waiting = state.services.get(service).map_or(0, |waited| waited.held);
        if state.held >= all || waiting >= of_service {
            let bound = if waiting >= of_service { of_service } else { all };
            let text = format!("service \"{service}\" is scaled to zero and {bound} requests wait already: try again");
            return Err(Error::Exhausted(text));
        }
        state.held += 1;
        let new = || Waited { held: 0, changed: Arc::default(), asked: None };
        let waited = state.services.entry(service.to_owned()).or_insert_with(new);
        waited.held += 1;
        if waited.asked.is_none() {
            self.asked.notify_one();
        }
        let (service, changed) = (service.to_owned(), waited.changed.clone());
        Ok(Held { holds: self, service, changed, deadline: Instant::now() + self.bounds.time })
    }

    /// Tells those that wait for a Service that the table has changed.
    pub(crate) fn changed(&self, service: &str) {
        if let Some(waited) = self.state.lock().services.get(service) {
            waited.changed.notify_waiters();
        }
    }

    /// Waits until a Service is to be asked to wake. Each is returned once a second as long as somebody waits for it.
    pub(crate) async fn due(&self) -> Vec<String> {
        loop {
            let asked = self.asked.notified();
            let now = Instant::now();
            let (due, next) = self.state.lock().due(now);
            if !due.is_empty() {
                return due;
            }
            match next {
                Some(next) => drop(tokio::time::timeout_at(next, asked).await),
                None => asked.await,
            }
        }
    }
}

impl State {
    fn due(&mut self, now: Instant) -> (Vec<String>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (service, waited) in &mut self.services {
            let at = waited.asked.map_or(now, |asked| asked + ASK_AGAIN);
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            waited.asked = Some(now);
            due.push(service.clone());
        }
        (due, next)
    }
}

impl Held<'_> {
    /// The next change of the table, counted from this call on.
    pub(crate) fn next_change(&self) -> OwnedNotified {
        self.changed.clone().notified_owned()
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// It has waited for as long as it may.
    pub(crate) async fn wait(&self, change: OwnedNotified) -> Result<()> {
        let late = |_| {
            let (service, time) = (&self.service, self.holds.bounds.time.as_secs());
            Error::TimedOut(format!("service \"{service}\" is scaled to zero and did not wake within {time} s"))
        };
        tokio::time::timeout_at(self.deadline, change).await.map_err(late)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.holds.state.lock();
        state.held -= 1;
        if let Some(waited) = state.services.get_mut(&self.service) {
            waited.held -= 1;
            if waited.held == 0 {
                state.services.remove(&self.service);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(all: usize, of_service: usize) -> Holds {
        Holds::new(Bounds { all, of_service, time: Duration::from_secs(60) })
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_are_bounded_in_number_and_time() {
        let holds = holds(3, 2);
        let a = holds.enter("ns/a").expect("room");
        let again = holds.enter("ns/a").expect("room");
        let full = holds.enter("ns/a").map(drop);
        assert!(matches!(&full, Err(Error::Exhausted(text)) if text.contains("2 requests wait already")), "{full:?}");
        let b = holds.enter("ns/b").expect("room");
        let full = holds.enter("ns/c").map(drop);
        assert!(matches!(&full, Err(Error::Exhausted(text)) if text.contains("3 requests wait already")), "{full:?}");
        drop(again);
        let begin = Instant::now();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let late = a.wait(a.next_change()).await;
        assert!(matches!(&late, Err(Error::TimedOut(text)) if text.contains("did not wake within 60 s")), "{late:?}");
        assert_eq!(begin.elapsed().as_secs(), 60, "from its beginning, not from the last change");
        drop((a, b));
        assert_eq!((holds.held(), holds.state.lock().services.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_between_the_look_and_the_wait_is_not_missed() {
        let holds = holds(3, 3);
        let held = holds.enter("ns/a").expect("room");
        let change = held.next_change();
        holds.changed("ns/a");
        held.wait(change).await.expect("changed");
        let change = held.next_change();
        holds.changed("ns/b");
        assert!(held.wait(change).await.is_err(), "another Service");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_asked_for_once_a_second_as_long_as_somebody_waits() {
        let holds = holds(100, 100);
        let nobody = tokio::time::timeout(Duration::from_secs(3600), holds.due()).await;
        assert!(nobody.is_err(), "nobody waits, nothing is due");
        let many: Vec<_> = (0..50).map(|_| holds.enter("ns/a").expect("room")).collect();
        assert_eq!(holds.due().await, ["ns/a"]);
        let begin = Instant::now();
        let other = holds.enter("ns/b").expect("room");
        assert_eq!(holds.due().await, ["ns/b"], "at once");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        drop(other);
        assert_eq!(holds.due().await, ["ns/a"]);
        assert_eq!(begin.elapsed(), ASK_AGAIN);
        drop(many);
        assert!(tokio::time::timeout(Duration::from_secs(3600), holds.due()).await.is_err());
    }
}
