//! Names of properties as identifiers of CEL, as Kubernetes escapes them.

/// Words that are no identifiers.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a name is a word of the language.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Whether a name can be that of a variable.
pub fn is_identifier(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !is_reserved(name)
}

/// The identifier for a name; nothing for a name that expressions cannot reach.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|letter: char| letter.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let (mut escaped, mut rest) = (String::with_capacity(name.len()), name);
    while let Some(letter) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = behind;
            continue;
        }
        match letter {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            letter if letter.is_ascii_alphanumeric() || letter == '_' => escaped.push(letter),
            _ => return None,
        }
        rest = rest.get(letter.len_utf8()..)?;
    }
    Some(escaped)
}

/// The name that an identifier stands for; nothing if no name is escaped so.
pub fn unescape(escaped: &str) -> Option<String> {
    let (mut name, mut rest) = (String::with_capacity(escaped.len()), escaped);
    while let Some(start) = rest.find("__") {
        let (before, behind) = rest.split_at_checked(start)?;
        let behind = behind.get(2..)?;
        let length = behind.find('_').unwrap_or(behind.len());
        let (code, after) = behind.split_at_checked(length)?;
        let closed = after.strip_prefix("__").filter(|_| !code.is_empty());
        let Some(after) = closed else {
            name.push_str(before);
            name.push('_');
            rest = rest.get(start + 1..)?;
            continue;
        };
        name.push_str(before);
        match code {
            "underscores" => name.push_str("__"),
            "dot" => name.push('.'),
            "dash" => name.push('-'),
            "slash" => name.push('/'),
            code if RESERVED.contains(&code) && escaped.len() == code.len() + 4 => name.push_str(code),
            _ => return None,
        }
        rest = after;
    }
    name.push_str(rest);
    Some(name)
}
