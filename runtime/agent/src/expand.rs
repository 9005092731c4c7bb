//! Expands `$(VAR)` in commands, arguments, environment and `subPathExpr`. Pure.
//!
//! Follows <https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>.

/// Replaces `$(NAME)` by the value of `lookup`. Unknown references stay unchanged, and `$$` becomes `$`. Returns `None` if the result
/// exceeds `most` bytes: nested references could otherwise grow exponentially and exhaust the memory.
pub fn expand<'a>(text: &str, most: usize, mut lookup: impl FnMut(&str) -> Option<&'a str>) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) if value.len() > most.saturating_sub(out.len()) => return None,
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    (out.len() <= most).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_once_and_unknown_ones_stay() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "B" => Some("$(A)"),
            "E" => Some(""),
            _ => None,
        };
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$(E)", ""),
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("a$$b", "a$b"),
        ] {
            assert_eq!(expand(text, 8, lookup).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(expand("$(A)$(B)", 5, lookup).as_deref(), Some("1$(A)"));
        for text in ["$(A)$(B)", "$(B)$(A)", "x$(B)$(E)", "12345"] {
            assert_eq!(expand(text, 4, lookup), None, "{text}");
        }
    }
}
