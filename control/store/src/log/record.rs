//! The encoding of records and the detection of damage. A checksum in each record shows whether it is damaged; the number and the sum of
//! all checksums show whether a record is missing or reappeared.

use super::{LogError, Record};
use bytes::Bytes;
use std::num::NonZeroU64;

/// Revision, created, expires (three little-endian u64, 0 for none) and the checksum (u32). The value follows.
const HEADER: usize = 28;
/// The range of the checksum.
const CHECKSUM: std::ops::Range<usize> = 24..HEADER;

/// The length of a record for a value, in bytes.
pub(super) fn length(value: usize) -> usize {
    HEADER + value
}

/// Encodes a record into `space`, which has the record's length. Returns its checksum.
pub(super) fn encode(space: &mut [u8], key: &str, numbers: [u64; 3], value: &[u8]) -> u32 {
    for (place, number) in space.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    space[HEADER..].copy_from_slice(value);
    let sum = checksum(key, space);
    space[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Decodes a record. Fails if it is damaged.
pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<(Record, u32), LogError> {
    let stored = stored_checksum(bytes).ok_or_else(|| damaged(key))?;
    if checksum(key, bytes) != stored {
        return Err(damaged(key));
    }
    let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let record = Record {
        key: key.into(),
        revision: number(0),
        created: number(8),
        expires: NonZeroU64::new(number(16)),
        value: Bytes::copy_from_slice(&bytes[HEADER..]),
    };
    Ok((record, stored))
}

/// The checksum of a record. `None` if the record is too short.
pub(super) fn stored_checksum(bytes: &[u8]) -> Option<u32> {
    bytes.get(CHECKSUM)?.try_into().ok().map(u32::from_le_bytes)
}

fn checksum(key: &str, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(key.as_bytes());
    sum.update(&bytes[..CHECKSUM.start]);
    sum.update(&bytes[HEADER..]);
    sum.finalize()
}

fn damaged(key: &str) -> LogError {
    LogError::Corrupt(format!("the record {key} is not what was written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_any_changed_bit_is_damaged_and_named() {
        let mut bytes = vec![0; length(5)];
        let sum = encode(&mut bytes, "/a", [7, 8, 9], b"value");
        let (record, read) = decode("/a", &bytes).unwrap();
        assert_eq!((record.revision, record.created, record.expires.map(NonZeroU64::get)), (7, 8, Some(9)));
        assert_eq!((&record.value[..], read, stored_checksum(&bytes)), (&b"value"[..], sum, Some(sum)));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = decode("/a", &changed).unwrap_err().to_string();
            assert_eq!(error, "it is damaged: the record /a is not what was written");
        }
        assert!(decode("/b", &bytes).is_err(), "the record of another key");
        for length in 0..bytes.len() {
            assert!(decode("/a", &bytes[..length]).is_err(), "cut to {length} bytes");
        }
    }
}
