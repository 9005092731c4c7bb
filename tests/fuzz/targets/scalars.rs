//! Quantities, times, lengths of time, schedules, and names.
#![no_main]

use api::{cron, csr, names, quantity::Quantity, time};
use jiff::{SignedDuration, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = csr::Request::parse(data);
    let _ = csr::check_certificates(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    quantity(text);
    times(text);
    if let Ok(schedule) = cron::Schedule::parse(text) {
        let mut last = Timestamp::UNIX_EPOCH;
        for _ in 0..3 {
            let Some(next) = schedule.next(last) else { break };
            assert!(next > last, "{next} is not after {last}");
            last = next;
        }
    }
    let label = names::dns1123_label(text).is_empty();
    assert!(!label || names::dns1123_subdomain(text).is_empty(), "a label is a subdomain");
    names::qualified_name(text);
    names::path_segment(text);
});

fn quantity(text: &str) {
    let (read, canonical) = (Quantity::parse(text), Quantity::canonical(text));
    assert_eq!(read.is_ok(), canonical.is_ok());
    let (Ok(quantity), Ok(canonical)) = (read, canonical) else { return };
    for shown in [canonical.clone(), quantity.to_string()] {
        let again = Quantity::parse(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(again, quantity, "{shown}");
        assert_eq!(Quantity::canonical(&shown).as_ref(), Ok(&shown));
    }
    assert_eq!(quantity.is_zero(), quantity.signum() == 0);
    assert!(quantity.rounded_up(0).value() == quantity.value());
    assert_eq!((quantity - quantity).signum(), 0);
    let _ = (quantity + quantity, quantity.milli_value(), quantity.scaled_value(9));
}

fn times(text: &str) {
    for found in [time::parse(text), time::parse_micro(text)].into_iter().flatten() {
        if time::is_writable(found) {
            let whole = time::rfc3339(found);
            assert_eq!(time::parse(&whole).map(time::rfc3339).as_ref(), Ok(&whole));
            let micro = time::rfc3339_micro(found);
            assert_eq!(time::parse_micro(&micro).map(time::rfc3339_micro).as_ref(), Ok(&micro));
        }
        time::age(found, Timestamp::UNIX_EPOCH);
    }
    if let Some(nanos) = cel::parse_duration(text) {
        let shown = time::go_duration(SignedDuration::from_nanos(nanos));
        assert_eq!(cel::parse_duration(&shown), Some(nanos), "{shown}");
        time::human_duration(SignedDuration::from_nanos(nanos));
    }
    if let Some(stamp) = cel::parse_timestamp(text) {
        assert!((0..1_000_000_000).contains(&stamp.nanos()));
    }
}
