//! What would take long only to be read and compiled, told before that. What is larger than a megabyte of states is told by the library.

/// Most bytes of an expression: to read them takes a tenth of a second, and no longer one could be compiled but of empty parts.
const MAX_LENGTH: usize = 128 << 10;
/// Most named classes of letters. Each has hundreds of ranges, and a thousand times these take seconds.
const MAX_NAMES: usize = 100;
/// Most letters in ranges whose upper and lower case are looked for, one letter after the other, in a third of a second.
pub(super) const MAX_FOLDED: usize = 4 << 20;

/// Whether an expression as the user wrote it is too large.
pub(super) fn is_too_large(text: &str) -> bool {
    let names = text.matches(r"\p").count() + text.matches(r"\P").count();
    text.len() > MAX_LENGTH || names > MAX_NAMES
}

/// How many letters an expression, translated, has in ranges, if any of it is not to tell upper from lower case.
pub(super) fn folded(translated: &str) -> usize {
    let flags = |rest: &str| rest.bytes().take_while(u8::is_ascii_alphabetic).any(|flag| flag == b'i');
    if !translated.split("(?").skip(1).any(flags) {
        return 0;
    }
    let code = |text: Option<&str>| text.and_then(|text| usize::from_str_radix(text, 16).ok()).unwrap_or_default();
    let mut folded = 0_usize;
    let mut parts = translated.split(r"}-\x{").peekable();
    while let (Some(before), Some(after)) = (parts.next(), parts.peek()) {
        let low = code(before.rsplit('{').next());
        folded += code(after.split('}').next()).saturating_sub(low);
    }
    folded
}
