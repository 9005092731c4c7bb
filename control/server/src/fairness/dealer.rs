//! Shuffle sharding: the hash of a flow deals it a hand of queues. Two flows seldom have the same hand, so that one that fills its queues leaves
//! almost every other a queue of its own. Follows KEP-1040, "Shuffle sharding".

/// The largest hand: with more cards the bits of a hash do not suffice.
const MAX_HAND: usize = 15;
/// The bits of a hash that may be used up.
const HASH_BITS: f64 = 60.0;
/// The most queues.
const MAX_DECK: u32 = 1 << 26;

/// Whether hands of this size can be dealt from so many queues.
pub(super) fn can_deal(deck: u32, hand: u32) -> bool {
    let bits = (f64::from(deck).log2() * f64::from(hand)).ceil();
    hand > 0 && hand <= deck && deck <= MAX_DECK && bits <= HASH_BITS
}

/// A hand of distinct cards below `deck`, each hand about as likely as any other. [`can_deal`] holds for both.
pub(super) fn deal(mut hash: u64, deck: u32, hand: u32) -> impl Iterator<Item = u32> + Clone {
    let size = (hand as usize).min(MAX_HAND);
    let mut cards = [0_u32; MAX_HAND];
    for (dealt, left) in (0..size).zip((1..=u64::from(deck)).rev()) {
        // The card's place among those that are left; below `deck`, so that it fits.
        let mut card = (hash % left) as u32;
        hash /= left;
        // Skips the cards that are gone, which `cards` has in order.
        let mut at = 0;
        while at < dealt && cards[at] <= card {
            card += 1;
            at += 1;
        }
        cards.copy_within(at..dealt, at + 1);
        cards[at] = card;
    }
    cards.into_iter().take(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_cannot_be_dealt_is_known() {
        for (deck, hand, can) in [
            (1, 1, true),
            (0, 0, false),
            (4, 0, false),
            (4, 5, false),
            (64, 6, true),
            (64, 10, true),
            (64, 11, false),
            (16, 15, true),
            (1 << 26, 2, true),
            ((1 << 26) + 1, 1, false),
        ] {
            assert_eq!(can_deal(deck, hand), can, "{hand} of {deck}");
        }
    }

    #[test]
    fn each_hand_is_dealt_as_often_as_any_other() {
        let mut seen = BTreeMap::new();
        for hash in 0..20 * 10 {
            let hand: Vec<u32> = deal(hash, 6, 3).collect();
            assert!(hand.iter().all(|card| *card < 6), "{hand:?}");
            assert!(hand.windows(2).all(|pair| pair[0] < pair[1]), "distinct and in order: {hand:?}");
            *seen.entry(hand).or_insert(0) += 1;
        }
        // 6 · 5 · 4 hashes are each hand of 3 in each order.
        let hands: BTreeMap<Vec<u32>, u32> = (0..120).fold(BTreeMap::new(), |mut all, hash| {
            *all.entry(deal(hash, 6, 3).collect()).or_insert(0) += 1;
            all
        });
        assert_eq!(hands.len(), 20);
        assert!(hands.values().all(|count| *count == 6), "{hands:?}");
        assert_eq!(seen.len(), 20);
        assert_eq!(deal(u64::MAX, 1, 1).collect::<Vec<_>>(), [0]);
    }
}
