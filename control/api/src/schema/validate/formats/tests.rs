use super::*;

/// Which of the texts have the format.
fn has(format: &str, text: &str) -> bool {
    check(format).unwrap_or_else(|| panic!("no format {format}"))(text)
}

#[test]
fn formats_are_checked_as_upstream_checks_them() {
    let long = "a".repeat(63);
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["", "507f1f77bcf86cd79943901", "507f1f77bcf86cd79943901x"]),
        (
            "uri",
            &[
                "http://example.com",
                "/path",
                "*",
                "mailto:x",
                "http://a:80/x?%zz",
                "http://[::1]:80/",
                "http://u:p@h",
                "a+b:c",
                "http://",
                "http://[fe80::1%25en0]/",
                "http://%C3%A9/",
                "ldap://a:1:2",
            ],
            &[
                "",
                "x",
                "http://a b",
                "http://a:x",
                "http://[::1",
                "http://[1.2.3.4]",
                "/%zz",
                ":x",
                "http://u[@h",
                "http://%41/",
                "http://a:80:80",
                "a/b:c",
                "x\ny",
                "#f",
                "http://[::1]x",
            ],
        ),
        (
            "email",
            &[
                "a@b",
                "a.b@example.com",
                "Some One <a@b>",
                "\"q s\"@b",
                "a@[127.0.0.1]",
                "a@b (comment)",
                "<a@b>",
                "\"A, B\" <a@b>",
                "g: a@b;",
                " a@b ",
                "ä@ö",
            ],
            &[
                "",
                "a",
                "a@",
                "@b",
                "a b@c",
                "a..b@c",
                ".a@b",
                "a@b.",
                "a@b, c@d",
                "a@[x]",
                "g: a@b, c@d;",
                "g:;",
                "\"\"@b",
                "a@b (",
                "A <a@b",
                "a@b>",
            ],
        ),
        (
            "hostname",
            &["a", "a-b", "example.com", "1.example.com", "a-", "é.example", &long, "☃.net", "a--b.com"],
            &["", "-a", "a_b", "example.c", "example.1", ".com", "a..com", "a-.com", "a-b-c", "example.com.", "a b"],
        ),
        (
            "ipv4",
            &["1.2.3.4", "01.002.3.4", "::ffff:1.2.3.4"],
            &["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "a.b.c.d", "::1", "1.2.3.4/8"],
        ),
        (
            "ipv6",
            &["::1", "::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"],
            &["", "1.2.3.4", "1:2", ":::", "1::2::3", "fe80::1%eth0", "00001::"],
        ),
        (
            "cidr",
            &["1.2.3.4/0", "1.2.3.04/32", "::/128", "a:b::1.2.3.4/008"],
            &["", "1.2.3.4", "1.2.3.4/33", "::/129", "1.2.3.4/-1", "1.2.3.4/", "x/1", "1.2.3.4/1/1", "1::2::3/1"],
        ),
        (
            "mac",
            &["01:23:45:67:89:ab", "01-23-45-67-89-AB", "0123.4567.89ab", "01:23:45:67:89:ab:cd:ef", "0123456789ab"],
            &[
                "",
                "01:23:45:67:89",
                "01:23-45:67:89:ab",
                "0123.4567.89",
                "01:23:45:67:89:ag",
                "0123456789abc",
                "1:2:3:4:5:6",
            ],
        ),
        (
            "uuid",
            &["6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6BA7B8109dad11d180b400c04fd430c8"],
            &[
                "",
                "6ba7b810-9dad-11d1-80b4-00c04fd430c",
                "6ba7b810--9dad-11d1-80b4-00c04fd430c8",
                "6ba7b810-9dad-11d1-80b4-00c04fd430c8x",
            ],
        ),
        ("uuid3", &["6ba7b810-9dad-31d1-00b4-00c04fd430c8"], &["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]),
        (
            "uuid4",
            &["6ba7b810-9dad-41d1-80b4-00c04fd430c8", "6ba7b810-9dad-41d1-B0b4-00c04fd430c8"],
            &["6ba7b810-9dad-41d1-70b4-00c04fd430c8"],
        ),
        ("uuid5", &["6ba7b810-9dad-51d1-a0b4-00c04fd430c8"], &["6ba7b810-9dad-41d1-a0b4-00c04fd430c8"]),
        ("isbn", &["0321751043", "978-0321751041", "043942089X"], &["", "0321751044", "978-0321751042", "X321751043"]),
        ("isbn10", &["0-321-75104-3"], &["978-0321751041"]),
        ("isbn13", &["978 0 321751041"], &["0321751043"]),
        (
            "creditcard",
            &["4111-1111-1111-1111", "5555555555554444", "378282246310005"],
            &["", "4111111111111112", "1234567812345670", "41111111111111"],
        ),
        ("ssn", &["111-11-1111", "111 11 1111", "111-11 1111"], &["", "111111111", "111-111111", "aaa-aa-aaaa"]),
        ("hexcolor", &["#fff", "FFFFFF", "#0aF"], &["", "#", "#ff", "#ffff", "#ggg"]),
        (
            "rgbcolor",
            &["rgb(1,2,3)", "rgb( 0 , 255,10)"],
            &["", "rgb(1,2)", "rgb(1,2,256)", "rgb(01,2,3)", "rgb(1,2,3,4)", "RGB(1,2,3)"],
        ),
        ("byte", &["YQ==", "YWI=", "YWJj", "+/+/"], &["", "YQ", "YQ=", "Y===", "====", "-_-_", "YQ==\n"]),
        ("password", &["", "x"], &[]),
        (
            "date",
            &["2024-02-29", "0000-01-01", "1999-12-31"],
            &["", "2023-02-29", "2024-13-01", "2024-1-01", "2024-04-31", "2024-01-00", "24-01-01", "2024-01-01T"],
        ),
        (
            "date-time",
            &[
                "2014-12-15T19:30:20.000Z",
                "2014-12-15t19:30:20z",
                "2014-12-15T19:30:20+01:00",
                "2014-12-15T19:30:20,5-01:00",
            ],
            &[
                "",
                "2014-12-15",
                "2014-12-15T24:30:20Z",
                "2014-12-15T19:30:60Z",
                "2014-12-15T19:30:20",
                "2014-12-15T19:30:20.Z",
                "2014-12-15 19:30:20Z",
            ],
        ),
        ("datetime", &["2014-12-15T19:30:20Z"], &["x"]),
        (
            "duration",
            &[
                "1h",
                "1h30m",
                "-1.5s",
                "0",
                "+.5h",
                "1µs",
                "22 ns",
                "2 days",
                "1 week",
                "3hr",
                "x 5 minutes",
                "9223372036854775807ns",
                "1..5s",
            ],
            &["", "1", "h", "1x", ".s", "99999999999999999999s", "5 parsecs"],
        ),
        ("k8s-short-name", &["a", "a-b", &long], &["", "a-", "A", "a.b", "a_b"]),
        ("k8s-long-name", &["a", "a.b-c"], &["", "a.-", "A.b", "a..b"]),
    ];
    for (format, good, bad) in cases {
        for text in *good {
            assert!(has(format, text), "{text:?} is a {format}");
        }
        for text in *bad {
            assert!(!has(format, text), "{text:?} is no {format}");
        }
    }
    for unknown in ["", "int32", "binary", "ip", "semver"] {
        assert!(check(unknown).is_none(), "{unknown}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_checked(text in ".{0,40}", mail in "[a(<\\[\"@.:;, \\\\)>\\]]{0,12}", address in "[0-9a-f:./%\\[\\]]{0,16}") {
        for format in ["uri", "email", "hostname", "ipv4", "ipv6", "cidr", "mac", "uuid", "isbn", "creditcard", "ssn", "hexcolor", "rgbcolor", "byte", "date", "date-time", "duration"] {
            for text in [&text, &mail, &address] {
                has(format, text);
            }
        }
    }
}
