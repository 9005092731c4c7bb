//! The text that a string or bytes literal stands for.

/// A literal with its quotes and prefixes. In bytes, `\x` and octal escapes are bytes and not letters.
pub(crate) fn unescape(literal: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    const UNABLE: &str = "unable to unescape string";
    let text = literal.replace("\r\n", "\n").replace('\r', "\n");
    let body = text.strip_prefix(['r', 'R']);
    let raw = body.is_some();
    let body = body.unwrap_or(&text);
    let quoted =
        |quote: &str| (body.len() >= 2 * quote.len()).then(|| body.strip_prefix(quote)?.strip_suffix(quote)).flatten();
    let inner = quoted("\"\"\"").or_else(|| quoted("'''")).or_else(|| quoted("\"")).or_else(|| quoted("'"));
    let inner = inner.ok_or(UNABLE)?;
    if raw || !inner.contains('\\') {
        return Ok(inner.as_bytes().to_vec());
    }
    let (mut found, mut letters) = (Vec::with_capacity(inner.len()), inner.chars());
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            push(&mut found, letter);
            continue;
        }
        let code = letters.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let simple = match code {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => u8::try_from(code).ok(),
            _ => None,
        };
        if let Some(simple) = simple {
            found.push(simple);
            continue;
        }
        let (digits, radix, first) = match code {
            'x' | 'X' => (2, 16, 0),
            'u' if !is_bytes => (4, 16, 0),
            'U' if !is_bytes => (8, 16, 0),
            '0'..='3' => (2, 8, code.to_digit(8).unwrap_or(0)),
            _ => return Err(UNABLE),
        };
        let missing = if radix == 8 { "unable to unescape octal sequence in string" } else { UNABLE };
        let mut value = first;
        for _ in 0..digits {
            let digit = letters.next().and_then(|letter| letter.to_digit(radix)).ok_or(missing)?;
            value = value.checked_mul(radix).and_then(|value| value.checked_add(digit)).ok_or(missing)?;
        }
        if is_bytes {
            found.push(u8::try_from(value).map_err(|_| missing)?);
        } else {
            push(&mut found, char::from_u32(value).ok_or("invalid unicode code point")?);
        }
    }
    Ok(found)
}

fn push(found: &mut Vec<u8>, letter: char) {
    found.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}
