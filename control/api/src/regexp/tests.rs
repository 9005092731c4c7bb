use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// So many steps.
pub(super) struct Steps {
    pub(super) uncounted: usize,
    pub(super) left: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spent;

impl Meter for Steps {
    type Error = Spent;

    fn uncounted(&mut self) -> &mut usize {
        &mut self.uncounted
    }

    fn count(&mut self, steps: usize) -> Result<(), Spent> {
        self.left = self.left.checked_sub(steps).ok_or(Spent)?;
        Ok(())
    }
}

fn regexp(pattern: &str) -> Regexp {
    Regexp::new(pattern, 4 << 20).unwrap_or_else(|problem| panic!("{problem}"))
}

/// All that is found without the uncounted engine.
fn counted(regexp: &Regexp, text: &str) -> (bool, Vec<Range<usize>>) {
    let mut steps = Steps { uncounted: 0, left: usize::MAX };
    let mut all = Vec::new();
    let found = regexp.find_each(text, &mut steps, |found, _| {
        let start = found.as_ptr() as usize - text.as_ptr() as usize;
        all.push(start..start + found.len());
        Ok(true)
    });
    assert_eq!(found, Ok(()));
    (regexp.is_match(text, &mut steps).expect("enough steps"), all)
}

fn agree(pattern: &str, text: &str) {
    let Ok(regexp) = Regexp::new(pattern, 1 << 20) else { return };
    let quick = &regexp.0.quick;
    let all: Vec<Range<usize>> = quick.find_iter(text).map(|found| found.range()).collect();
    assert_eq!(counted(&regexp, text), (quick.is_match(text), all), "{pattern} on {text:?}");
    // Both engines in turn.
    let mut steps = Steps { uncounted: 3 * regexp.0.machine.size() * (text.len() + 1), left: usize::MAX };
    let (mut mixed, mut wanted) = (Vec::new(), quick.find_iter(text).take(5));
    let found = regexp.find_each(text, &mut steps, |found, _| {
        mixed.push(found.to_owned());
        Ok(mixed.len() < 5)
    });
    assert_eq!(found, Ok(()));
    assert!(
        mixed.iter().all(|found| wanted.next().is_some_and(|wanted| wanted.as_str() == found)),
        "{pattern} on {text:?}"
    );
    assert!(wanted.next().is_none(), "{pattern} on {text:?}");
}

#[test]
fn both_engines_find_the_same() {
    for pattern in [
        "",
        "a",
        "a*",
        "a*?",
        "a+?b",
        "^",
        "$",
        "^$",
        "(?m)^",
        "(?m)$",
        "(?m)^a*$",
        r"\b",
        r"\B",
        r"\Ba",
        r"a\B",
        r"\ba\b",
        ".",
        ".*",
        ".?",
        "(?s).",
        "(?s).*?b",
        "a|ab",
        "ab|a",
        "(a|ab)(c|bcd)",
        "(a*)*",
        "(a*)+",
        "(a|b)*?c",
        "é",
        "[é-ü]+",
        r"\pL+",
        r"\PL",
        "(?i)É",
        "a{2,3}",
        "a{2,3}?",
        "(a{0,2}b){2}",
        "[^a]",
        "[^é]*",
        "a$|b",
        "^a|b",
        "()|a",
        "a|()",
        r"\z",
        r"\A",
        r"\Aa|b\z",
        "(?U)a*",
        "(?:a*b|c)?",
        "x*|b",
        "(^|a)b",
        "(b|$)",
        r"[\s\S]{1,3}",
    ] {
        for text in [
            "",
            "a",
            "ab",
            "aab",
            "abcd",
            "éaé",
            "aéa",
            "a\nb\n",
            "\n\n",
            "ÉéÜ",
            "bbb",
            "caabab",
            "a b",
            "€x€",
            "😀a😀",
        ] {
            agree(pattern, text);
        }
    }
}

/// Expressions of a few letters, which match often.
fn pattern() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a", "b", "é", "€", ".", "[ab]", "[^a]", "[é-€]", r"\pL", r"\PL", "^", "$", r"\b", r"\B", r"\A", r"\z", "",
        "(?s).", "(?m)^", "(?m)$", r"\w", r"\W", "(?i)É", "ab", "\n",
    ]);
    leaf.prop_map(|leaf| format!("(?:{leaf})")).prop_recursive(4, 24, 3, |inner| {
        let repeat = prop::sample::select(vec!["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| all.concat()),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join("|"))),
            (inner, repeat).prop_map(|(one, repeat)| format!("({one}){repeat}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_engines_find_the_same_of_anything(pattern in pattern(), text in "[abé€😀É \n]{0,12}") {
        agree(&pattern, &text);
    }
}

#[allow(clippy::disallowed_methods, reason = "real time is measured")]
fn time<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = what();
    (done, start.elapsed())
}

/// Those of which upstream's engine is in very many states at once.
#[test]
fn steps_bound_any_search() {
    const LEFT: usize = 1_000_000;
    let texts = ["a", "é", "a b"].map(|part| part.repeat((1 << 19) / part.len()));
    for (pattern, spent) in [
        ("(.?a){1000}y", true),
        ("((.?a){30}){30}y", true),
        ("(a?){1000}a{1000}y", true),
        (r"(\pL?a){20}y", true),
        ("[ab]{1000}y", true),
        ("(a|b|ab|ba|aa){300}y", true),
        (r"(\b|\B|^|$|a){500}y", true),
        ("(|||||||||a)*y", false),
        ("^(.*a){100}$", true),
        ("^b(.?a){1000}y", false),
        ("^a{1000}y", false),
    ] {
        let regexp = regexp(pattern);
        for text in &texts {
            let mut steps = Steps { uncounted: UNCOUNTED, left: LEFT };
            let (outcome, took) = time(|| regexp.is_match(text, &mut steps));
            assert!(took < Duration::from_secs(20), "{pattern}: {took:?}");
            // All that was taken was told, but for the last time.
            assert_eq!(outcome.is_err(), steps.left < 200_000, "{pattern}: {} left", steps.left);
        }
        let mut steps = Steps { uncounted: UNCOUNTED, left: LEFT };
        assert_eq!(regexp.is_match(&texts[0], &mut steps).is_err(), spent, "{pattern}");
    }
    // One after the other, each from where the last one ended.
    let mut steps = Steps { uncounted: UNCOUNTED, left: LEFT };
    assert_eq!(regexp("a.*y|a").find_each(&texts[0], &mut steps, |_, _| Ok(true)), Err(Spent));
}

/// What is asked for in real definitions takes few steps, however long the texts.
#[test]
fn usual_expressions_take_few_steps() {
    let text = "a-b.c0 ".repeat(1 << 17);
    for pattern in [
        "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        "(?i)password|secret|token",
        r"^[\s\S]{0,1000}$",
        "[0-9]+$",
        r"^(.|\s)*$",
        "z",
    ] {
        let mut steps = Steps { uncounted: 0, left: usize::MAX };
        let regexp = regexp(pattern);
        assert_eq!(regexp.is_match(&text, &mut steps), Ok(regexp.0.quick.is_match(&text)));
        let each = (usize::MAX - steps.left) / text.len();
        assert!(each <= 12, "{pattern}: {each} steps for each byte");
    }
}

/// Run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "figures, of a release build"]
fn engines_take() {
    let name = "my-application-0123";
    for (pattern, text) in [
        ("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", name.to_owned()),
        (r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$", "a.example.com".to_owned()),
        ("^.{0,1000}$", "x".repeat(500)),
        (r"^\pL+$", "héllo".to_owned()),
        ("(?i)password|secret|token", "some text. ".repeat(10_000)),
    ] {
        let (_, compiled) = time(|| (0..100).for_each(|_| drop(regexp(pattern))));
        let (_, before) = time(|| {
            let translated = syntax::translate(pattern).expect("right");
            (0..100).for_each(|_| drop(RegexBuilder::new(&translated).size_limit(4 << 20).build()));
        });
        let regexp = regexp(pattern);
        let times = (1_000_000 / text.len()).max(3);
        let each = |took: Duration| took.as_secs_f64() * 1e9 / times as f64;
        let (_, alone) = time(|| (0..times).for_each(|_| _ = std::hint::black_box(regexp.0.quick.is_match(&text))));
        let mut steps = Steps { uncounted: usize::MAX, left: usize::MAX };
        let (_, quick) = time(|| (0..times).for_each(|_| assert!(regexp.is_match(&text, &mut steps).is_ok())));
        let mut steps = Steps { uncounted: 0, left: usize::MAX };
        let (_, counted) = time(|| (0..times).for_each(|_| assert!(regexp.is_match(&text, &mut steps).is_ok())));
        let counts = usize::MAX - steps.left;
        println!(
            "{pattern}: compiled in {:?}, before {:?}; alone {:.0} ns, quick {:.0} ns, counted {:.0} ns ({:.2} ns a step); {} states",
            compiled / 100,
            before / 100,
            each(alone),
            each(quick),
            each(counted),
            counted.as_secs_f64() * 1e9 / counts as f64,
            regexp.0.machine.size(),
        );
    }
}
