//! Completion indexes as a spec or status writes them: `1,3-5`, ascending and below `completions`.

/// The number of indexes.
///
/// # Errors
/// What is wrong with the text, in upstream's words.
pub(super) fn total(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut previous) = (0, None);
    for part in parts(text) {
        let (first, last) = interval(part, completions)?;
        if let Some(previous) = previous.filter(|previous| *previous >= first) {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        total += last - first + 1;
        previous = Some(last);
    }
    Ok(total)
}

/// The first index that both texts name; intervals that cannot be read are skipped.
pub(super) fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text| parts(text).filter_map(|part| interval(part, completions).ok());
    let (mut completed, mut failed) = (read(completed).peekable(), read(failed).peekable());
    while let (Some(done), Some(lost)) = (completed.peek(), failed.peek()) {
        if done.0 <= lost.1 && lost.0 <= done.1 {
            return Some(done.0.max(lost.0));
        }
        let behind = if done.0 <= lost.0 { &mut completed } else { &mut failed };
        behind.next();
    }
    None
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|_| !text.is_empty())
}

/// Reads `7` or `7-9`.
fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let mut ends = text.split('-');
    let (first, last) = (ends.next().unwrap_or_default(), ends.next());
    if ends.next().is_some() {
        return Err(format!(
            "the fragment \"{text}\" violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let number = |text: &str| {
        let number: i64 =
            text.parse().map_err(|_| format!("cannot convert string to integer for index: \"{text}\""))?;
        if number < completions { Ok(number) } else { Err(format!("too large index: \"{text}\"")) }
    };
    let first = number(first)?;
    let Some(last) = last else { return Ok((first, first)) };
    let last = number(last)?;
    if first < last {
        Ok((first, last))
    } else {
        Err(format!("non-increasing order, previous: {first}, current: {last}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_and_ordered() {
        for (text, completions, expected) in [
            ("", 5, Ok(0)),
            ("0,2-4", 5, Ok(4)),
            ("3,2", 5, Err("non-increasing order, previous: 3, current: 2")),
            ("1-3,3", 5, Err("non-increasing order, previous: 3, current: 3")),
            ("3-3", 5, Err("non-increasing order, previous: 3, current: 3")),
            ("0-5", 5, Err("too large index: \"5\"")),
            ("7-a", 5, Err("too large index: \"7\"")),
            ("a", 5, Err("cannot convert string to integer for index: \"a\"")),
            ("1,,2", 5, Err("cannot convert string to integer for index: \"\"")),
            (
                "1-2-3",
                5,
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ] {
            assert_eq!(total(text, completions), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn an_index_that_both_name_is_found() {
        for (completed, failed, expected) in [
            ("", "1", None),
            ("0,2,4", "1,3", None),
            ("0-4", "3-9", Some(3)),
            ("x,5", "1,4-6", Some(5)),
            ("9", "0-8,9", Some(9)),
        ] {
            assert_eq!(overlap(completed, failed, 10), expected, "{completed} {failed}");
        }
    }
}
