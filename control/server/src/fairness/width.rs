//! How many seats a request takes. A list, and a watch that begins with all objects, takes them by the bytes that it reads, as upstream's
//! `SizeBasedListCostEstimate` of lists that are served from memory; anything else takes one.

use crate::{
    Item, Verb,
    request::{Query, RequestInfo},
    route::Target,
};
use store::Store;

/// Bytes for which a list takes a seat.
const BYTES_PER_SEAT: usize = 100_000;
/// The bytes above which a list takes no more seats: it is sent as it is made, so that they are never there at once.
const MOST_BYTES: usize = 1_000_000;
/// How many objects say how large they are on average.
const SAMPLE: usize = 16;

/// The seats of a request, at most `widest` of a list; 0 is no bound.
pub(crate) fn seats(
    store: &Store<Item>,
    target: Option<&Target>,
    (info, query): (&RequestInfo, &Query),
    widest: u32,
) -> u32 {
    let lists = |target: &&Target| match target.verb {
        Verb::List => true,
        Verb::Watch => sends_objects(query),
        _ => false,
    };
    let stored = |target: &&Target| target.subresource.is_none() && target.resource.action.is_none();
    let Some(target) = target.filter(lists).filter(stored) else { return 1 };
    let Ok(snapshot) = store.snapshot(None) else { return 1 };
    let mut prefix = target.resource.prefix();
    if target.resource.namespaced && !info.namespace.is_empty() {
        prefix.push_str(&info.namespace);
        prefix.push('/');
    }
    let (sampled, bytes) = snapshot
        .range(&prefix, None)
        .take(SAMPLE)
        .fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.payload.length()));
    let one = (!info.name.is_empty()).then_some(1);
    let limit = query.number("limit").ok().flatten().and_then(|limit| usize::try_from(limit).ok());
    let objects = match one.or(limit.filter(|limit| *limit > 0)) {
        Some(limit) => limit.min(snapshot.count(&prefix)),
        None => snapshot.count(&prefix),
    };
    list_seats(objects, bytes / sampled.max(1), widest)
}

/// Whether a watch begins with the objects that are there.
fn sends_objects(query: &Query) -> bool {
    query.flag("sendInitialEvents") || matches!(query.get("resourceVersion"), None | Some("0"))
}

/// The seats of a list of so many objects of so many bytes each.
fn list_seats(objects: usize, average: usize, widest: u32) -> u32 {
    let seats = objects.saturating_mul(average).min(MOST_BYTES).div_ceil(BYTES_PER_SEAT);
    let seats = u32::try_from(seats).unwrap_or(u32::MAX).max(1);
    if widest > 0 { seats.min(widest) } else { seats }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_wide_as_it_is_long() {
        for (objects, average, widest, seats) in [
            (0, 0, 10, 1),
            (10, 1000, 10, 1),
            (100, 1000, 10, 1),
            (101, 1000, 10, 2),
            (500, 1000, 10, 5),
            (100_000, 1000, 10, 10),
            (100_000, 1000, 0, 10),
            (100_000, 1000, 4, 4),
            (1, 3_000_000, 0, 10),
            (usize::MAX, 2, 0, 10),
        ] {
            assert_eq!(list_seats(objects, average, widest), seats, "{objects} of {average}, {widest}");
        }
    }

    #[test]
    fn a_watch_that_goes_on_from_a_revision_is_narrow() {
        for (query, sends) in [
            ("watch=1", true),
            ("watch=1&resourceVersion=0", true),
            ("watch=1&resourceVersion=7", false),
            ("watch=1&resourceVersion=7&sendInitialEvents=true", true),
            ("watch=1&resourceVersion=7&sendInitialEvents=false", false),
        ] {
            let uri = format!("/x?{query}").parse().expect("a target");
            assert_eq!(sends_objects(&Query::of(&uri)), sends, "{query}");
        }
    }
}
