use super::super::{Regexp, tests::Steps};

const MOST: usize = 4 << 20;

fn matches(pattern: &str, text: &str) -> bool {
    let regexp = Regexp::new(pattern, MOST).unwrap_or_else(|problem| panic!("{pattern}: {problem}"));
    let [quick, counted] = [usize::MAX, 0].map(|uncounted| {
        let mut steps = Steps { uncounted, left: usize::MAX };
        regexp.is_match(text, &mut steps).expect("enough steps")
    });
    assert_eq!(quick, counted, "{pattern} on {text:?}");
    quick
}

fn problem_of(pattern: &str) -> Option<String> {
    Regexp::new(pattern, MOST).err()
}

#[test]
fn expressions_mean_what_they_mean_in_go() {
    for (pattern, yes, no) in [
        ("^[a-z]+$", "abc", "abC"),
        ("b", "abc", "ac"),
        (r"^\d+$", "123", "١٢٣"),
        (r"^\w+$", "a_1", "é"),
        (r"^\s$", "\t", "\u{b}"),
        (r"^[^\s]$", "\u{b}", " "),
        (r"^[\D]$", "x", "1"),
        (r"\bx\b", "a x", "éxa"),
        (r"^\W\Bb?$", "é", "a"),
        ("^[[:alpha:]]+$", "ab", "a1"),
        ("^[[:^alpha:]]+$", "11", "a1"),
        ("^[a&&b]+$", "a&b", "c"),
        ("^[[]$", "[", "]"),
        ("^[]a]+$", "]a", "b"),
        ("^[a-]$", "-", "b"),
        ("^[+--]$", ",", "."),
        ("^a{2}$", "aa", "a"),
        ("^a{2,3}?$", "aaa", "a"),
        ("^a{b}$", "a{b}", "ab"),
        ("^{,2}$", "{,2}", "a"),
        (r"^\Qa.b\E$", "a.b", "axb"),
        ("^(?P<n>a)(?<m>b)$", "ab", "a"),
        ("(?i)^abc$", "ABC", "abd"),
        ("^(?i:a)b$", "Ab", "AB"),
        ("(?s)^.$", "\n", "ab"),
        ("^.$", "é", "\n"),
        (r"^\pL\p{Greek}\P{L}$", "aα1", "1α1"),
        (r"^\x41\x{42}\103$", "ABC", "ABD"),
        (r"^(a|b|)$", "", "c"),
        (r"^#\ -$", "# -", "#-"),
        (r"(?m)^b$", "a\nb", "ab"),
        ("^a(?i)(?s)*B$", "aab", "AAB"),
        (r"\B", "aa", "aéa"),
    ] {
        assert!(matches(pattern, yes), "{pattern} matches {yes:?}");
        assert!(!matches(pattern, no), "{pattern} does not match {no:?}");
    }
}

#[test]
fn errors_are_gos() {
    for (pattern, problem) in [
        ("+", "missing argument to repetition operator: `+`"),
        ("a|*?", "missing argument to repetition operator: `*?`"),
        (r"\Q\E*", "missing argument to repetition operator: `*`"),
        ("({2})", "missing argument to repetition operator: `{2}`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a+{2}?b", "invalid nested repetition operator: `+{2}?`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{3,2}", "invalid repeat count: `{3,2}`"),
        ("(a{50}){21}", "invalid repeat count: `{21}`"),
        ("a{50}(?i){21}", "invalid repeat count: `{21}`"),
        ("((a|b{10,20}){0,10}c){6,}", "invalid repeat count: `{6,}`"),
        ("(?:a{1000}b?){2}?", "invalid repeat count: `{2}`"),
        ("a{99999999999}", "invalid repeat count: `{99999999999}`"),
        ("[abc", "missing closing ]: `[abc`"),
        ("x[]", "missing closing ]: `[]`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
        ("(abc", "missing closing ): `(abc`"),
        ("abc)", "unexpected ): `abc)`"),
        (r"a\", "trailing backslash at end of expression: ``"),
        (r"a\yb", r"invalid escape sequence: `\y`"),
        (r"(a)\1", r"invalid escape sequence: `\1`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
        (r"\C", r"invalid escape sequence: `\C`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?i-)a", "invalid or unsupported Perl syntax: `(?i-)`"),
        ("(?<n", "invalid named capture: `(?<n`"),
        ("(?P<a-b>x)", "invalid named capture: `(?P<a-b>`"),
    ] {
        assert_eq!(problem_of(pattern), Some(format!("error parsing regexp: {problem}")), "{pattern}");
    }
}

#[test]
fn expressions_are_bounded() {
    for pattern in ["(".repeat(100_000), format!("{}{}", "(".repeat(300), ")".repeat(300))] {
        assert!(problem_of(&pattern).is_some());
    }
    for pattern in ["(a{50}b{20}){20}", "((a{1000}){0}){1000}", "((a{1000})*){0,1}", "(a{40}){25}(a{1000})"] {
        assert_eq!(problem_of(pattern), None, "{pattern}");
    }
    let large = r"(\pL{10}){100}".repeat(10);
    let problem = problem_of(&large).expect("too large");
    assert!(problem.starts_with("error parsing regexp: expression too large"), "{problem}");
    for pattern in [
        r"\p{Zs}".repeat(101),
        "a".repeat(200 << 10),
        "(?i)".to_owned() + &"[!-🐀]".repeat(60),
        "(?si:[^a-🐀])".repeat(60),
    ] {
        let problem = problem_of(&pattern).expect("too large");
        assert!(problem.starts_with("error parsing regexp: expression too large"), "{problem}");
    }
    for pattern in
        [r"\p{Zs}".repeat(100), "[!-🐀]".repeat(60), "(?i)[!-🐀][a-zà-ý]+i".to_owned(), "(?-i)[!-🐀]".repeat(60)]
    {
        assert_eq!(problem_of(&pattern), None, "{pattern}");
    }
    assert!(matches("(a*)*b|.", &"a".repeat(1 << 20)), "linear");
}
