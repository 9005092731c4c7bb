//! Places that clients take: so many for all, and for each of them. None waits for one.

use parking_lot::Mutex;
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// The places.
pub(crate) struct Places {
    most: usize,
    of_client: usize,
    taken: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    pub(crate) fn new(most: usize, of_client: usize) -> Arc<Self> {
        Arc::new(Self { most, of_client, taken: Mutex::default() })
    }

    /// A place for a client, if there is one.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let (all, clients) = &mut *taken;
        let its = clients.get(&client).copied().unwrap_or_default();
        if *all >= self.most || its >= self.of_client {
            return None;
        }
        *all += 1;
        clients.insert(client, its + 1);
        Some(Place { places: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        let (all, clients) = &mut *taken;
        *all -= 1;
        if let Some(its) = clients.get_mut(&self.client) {
            *its -= 1;
            if *its == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_share_and_all_have_theirs() {
        let places = Places::new(3, 2);
        let [a, b, c] = [1, 2, 3].map(|n| IpAddr::from([10, 0, 0, n]));
        let of_a = [places.enter(a), places.enter(a)];
        assert!(of_a.iter().all(Option::is_some) && places.enter(a).is_none());
        let of_b = places.enter(b);
        assert!(of_b.is_some() && places.enter(c).is_none(), "all are taken");
        drop(of_a);
        assert!(places.enter(c).is_some());
        drop(of_b);
        assert!(places.taken.lock().1.is_empty() && places.taken.lock().0 == 0, "nothing is left of those who left");
    }
}
