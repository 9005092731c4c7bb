use super::*;
use proptest::prelude::*;

fn q(text: &str) -> Quantity {
    Quantity::parse(text).expect(text)
}

#[test]
fn what_is_nearly_canonical_is_shown_as_it_was_written() {
    for (text, shown) in [
        ("1e+30", "1e+30"),
        ("1E3", "1E3"),
        ("110.", "110."),
        ("+5", "+5"),
        ("0110", "0110"),
        ("010Gi", "010Gi"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("1000", "1k"),
        ("1e2", "100"),
        ("08Gi", "8Gi"),
        ("1024Ki", "1Mi"),
        ("100u", "100u"),
        ("0", "0"),
        ("00", "0"),
    ] {
        assert_eq!(Quantity::canonical(text).as_deref(), Ok(shown), "{text}");
    }
    for (text, scale, rounded) in
        [("100u", -3, "1m"), ("1500u", -3, "2m"), ("-1u", -3, "-1m"), ("1m", -3, "1m"), ("1m", 0, "1")]
    {
        assert_eq!(q(text).rounded_up(scale).to_string(), rounded, "{text}");
    }
}

#[test]
fn what_is_shown_of_the_greatest_amounts_is_read_as_the_same() {
    let many = |zeros: usize| format!("1{}", "0".repeat(zeros));
    for (text, shown) in [
        ("100.0000E9000055".to_owned(), "10e999999".to_owned()),
        (format!("{}e1000000", many(40)), "10e999999".to_owned()),
        ("-5e999999".to_owned(), "-5e999999".to_owned()),
        (many(1000), format!("{}E", many(982))),
        (many(2000), "100e1998".to_owned()),
        ("1e-1000000".to_owned(), "1e-9".to_owned()),
    ] {
        let canonical = Quantity::canonical(&text).expect(&text);
        assert_eq!((q(&text).to_string(), q(&canonical)), (shown.clone(), q(&text)), "{text}");
        assert_eq!((q(&shown), Quantity::canonical(&shown)), (q(&text), Ok(shown)), "{text}");
    }
}

#[test]
fn the_canonical_form_is_upstreams() {
    for (text, canonical) in [
        ("0", "0"),
        ("0m", "0"),
        ("-0", "0"),
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("100m", "100m"),
        ("0.1", "100m"),
        ("1500m", "1500m"),
        ("2000m", "2"),
        ("1000", "1k"),
        ("1024", "1024"),
        ("100k", "100k"),
        ("1000k", "1M"),
        ("1Ki", "1Ki"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("0.5Ki", "512"),
        ("128974848", "128974848"),
        ("129e6", "129e6"),
        ("129M", "129M"),
        ("123Mi", "123Mi"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("12e-1", "1200e-3"),
        ("1e0", "1"),
        ("10e0", "10"),
        ("1E", "1E"),
        ("1000E", "1000E"),
        ("1Ei", "1Ei"),
        ("16Ei", "9223372036854775807"),
        ("0.1n", "1n"),
        ("1.0000000001", "1000000001n"),
        ("-1.5Gi", "-1536Mi"),
        ("-100m", "-100m"),
        ("+5", "5"),
        ("1.G", "1G"),
        (".5", "500m"),
        ("0.000001Ki", "1024u"),
        ("1e1000000000", "10e999999"),
        ("10000000000000000000000", "10000E"),
        ("5.0", "5"),
        ("0.3Mi", "314572800m"),
    ] {
        assert_eq!(q(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn what_is_no_quantity_is_refused_with_upstreams_text() {
    for (text, error) in [
        ("", ParseError::Format),
        ("true", ParseError::Format),
        ("1 Gi", ParseError::Format),
        ("1,5", ParseError::Format),
        ("1.2.3", ParseError::Format),
        ("one", ParseError::Format),
        ("1GiB", ParseError::Format),
        ("1K", ParseError::Suffix),
        ("1ki", ParseError::Suffix),
        ("1mi", ParseError::Suffix),
        ("1e", ParseError::Suffix),
        ("1e+", ParseError::Suffix),
        ("1Ki5", ParseError::Suffix),
    ] {
        assert_eq!(Quantity::parse(text), Err(error), "{text}");
    }
    assert_eq!(ParseError::Suffix.to_string(), "unable to parse quantity's suffix");
}

#[test]
fn values_round_up_and_saturate() {
    for (text, value, milli) in [
        ("100m", 1, 100),
        ("1.5", 2, 1500),
        ("-1.5", -2, -1500),
        ("1Ki", 1024, 1_024_000),
        ("1n", 1, 1),
        ("9223372036854775807", i64::MAX, i64::MAX),
        ("1e100", i64::MAX, i64::MAX),
        ("-1e100", i64::MIN, i64::MIN),
        ("1Ei", 1 << 60, i64::MAX),
    ] {
        assert_eq!((q(text).value(), q(text).milli_value()), (value, milli), "{text}");
    }
}

#[test]
fn sums_keep_the_left_format_unless_it_is_zero() {
    assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
    assert_eq!((q("1") - q("250m")).to_string(), "750m");
    assert_eq!((q("0") + q("64Mi")).to_string(), "64Mi");
    assert_eq!((q("1k") + q("1Ki")).to_string(), "2024");
    assert_eq!(["100m", "200m", "1"].map(q).into_iter().sum::<Quantity>().to_string(), "1300m");
    assert_eq!(q("1e500") + q("1"), q("1e500") + q("1"));
}

#[test]
fn order_is_by_amount() {
    for (less, more) in
        [("1", "1001m"), ("-1", "0"), ("-2", "-1"), ("1000Ki", "1Mi"), ("1n", "1u"), ("1", "1e999"), ("1e998", "1e999")]
    {
        assert!(q(less) < q(more), "{less} {more}");
    }
    assert_eq!(q("1000m"), q("1"));
    assert_eq!(q("1Ki"), q("1024"));
}

proptest! {
    #[test]
    fn any_text_is_refused_or_has_a_stable_canonical_form(text in "[+-]?[0-9.]{0,45}([eE][+-]?[0-9]{0,12}|[numkMGTPE]|[KMGTPE]i)?") {
        if let Ok(value) = Quantity::parse(&text) {
            let canonical = value.to_string();
            let again = q(&canonical);
            prop_assert_eq!(&again.to_string(), &canonical);
            prop_assert_eq!(again, value);
        }
    }

    #[test]
    fn arithmetic_is_exact(a in -1_000_000_000_000_i64..1_000_000_000_000, b in -1_000_000_000_000_i64..1_000_000_000_000) {
        let (x, y) = (Quantity::from_milli(a, Format::DecimalSi), Quantity::from_milli(b, Format::BinarySi));
        prop_assert_eq!((x + y).milli_value(), a + b);
        prop_assert_eq!((x - y).milli_value(), a - b);
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
    }

    #[test]
    fn nothing_panics(text in ".{0,40}", other in "[0-9]{1,40}e-?[0-9]{1,6}") {
        let _ = Quantity::parse(&text);
        if let (Ok(a), Ok(b)) = (Quantity::parse(&text), Quantity::parse(&other)) {
            let _ = ((a + b).to_string(), (a - b).value(), a.cmp(&b), (-a).milli_value());
        }
    }
}
