//! Validation of names, with upstream's messages. Each check returns all messages that apply; empty means valid.
//!
//! Follows <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/> and
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// The longest DNS label, label key name and label value.
pub const MAX_LABEL: usize = 63;
/// The longest DNS subdomain, object name and ConfigMap key.
pub const MAX_SUBDOMAIN: usize = 253;

/// `metadata.name` of Services' pods, Namespaces, containers: an RFC 1123 label.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = longer(value, MAX_LABEL, "characters");
    if !is_label(value, |b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        if is_subdomain(value) {
            errors.push("must not contain dots".into());
        } else {
            let text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            errors.push(pattern(text, LABEL, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// Names that begin with a letter: an RFC 1035 label.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = longer(value, MAX_LABEL, "characters");
    let letter = value.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if !letter || !is_label(value, |b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        let text = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(pattern(text, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

/// Most objects' `metadata.name`: an RFC 1123 subdomain.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = longer(value, MAX_SUBDOMAIN, "characters");
    if !is_subdomain(value) {
        errors.push(pattern(SUBDOMAIN_TEXT, SUBDOMAIN, &["example.com"]));
    }
    errors
}

/// The host of a rule for all names below a domain: `*.example.com`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut errors = longer(value, MAX_SUBDOMAIN, "characters");
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        let text = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        errors.push(pattern(text, &format!(r"\*\.{SUBDOMAIN}"), &["*.example.com"]));
    }
    errors
}

/// A label or annotation key, a resource or taint name: `name` or `prefix.example.com/name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let (prefix, name) = match value.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            let text = format!("a valid label key {}", pattern(LABEL_KEY_TEXT, LABEL_KEY, &examples));
            return vec![format!("{text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, value),
    };
    let mut errors = Vec::new();
    match prefix {
        Some("") => errors.push("prefix part must be non-empty".into()),
        Some(prefix) => {
            errors.extend(longer(prefix, MAX_SUBDOMAIN, "bytes").into_iter().map(|e| format!("prefix part {e}")));
            if !is_subdomain(prefix) {
                errors.push(format!("prefix part {}", pattern(SUBDOMAIN_TEXT, SUBDOMAIN, &["example.com"])));
            }
        }
        None => {}
    }
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else {
        errors.extend(longer(name, MAX_LABEL, "bytes").into_iter().map(|e| format!("name part {e}")));
    }
    if !is_label_key_name(name) {
        errors.push(format!("name part {}", pattern(LABEL_KEY_TEXT, LABEL_KEY, &examples)));
    }
    errors
}

/// A label's value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = longer(value, MAX_LABEL, "bytes");
    if !value.is_empty() && !is_label_key_name(value) {
        let text = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(pattern(text, &format!("({LABEL_KEY})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// The name of a container or Service port.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = longer(value, 15, "characters");
    let mut check = |bad: bool, text: &str| {
        if bad {
            errors.push(text.to_owned());
        }
    };
    let right = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    check(
        value.is_empty() || !value.bytes().all(right),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    check(!value.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    check(value.contains("--"), "must not contain consecutive hyphens");
    check(value.starts_with('-') || value.ends_with('-'), "must not begin or end with a hyphen");
    errors
}

/// A port number.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) { Vec::new() } else { vec![in_range(1, 65535)] }
}

/// `must be between LOW and HIGH, inclusive`.
pub fn in_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = longer(value, MAX_SUBDOMAIN, "characters");
    let right = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(right) {
        let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(pattern(text, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(leads_up(value));
    errors
}

/// `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![pattern(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// A name that is only limited by its use in a URL path, as for RBAC kinds.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|bad| value.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// The error for a relative path that begins with `..`.
fn leads_up(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ if value.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

/// The alphabet of generated name parts: without vowels and similar characters, so that no words appear.
pub const SAFE_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name for `generateName`: the base, cut to 58 characters, and five of upstream's alphabet. `random(n)` returns a number below `n`.
pub fn generate_name(base: &str, random: &mut dyn FnMut(usize) -> usize) -> String {
    const MAX_BASE: usize = MAX_LABEL - 5;
    let mut end = base.len().min(MAX_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.extend((0..5).map(|_| char::from(SAFE_ALPHABET[random(SAFE_ALPHABET.len()) % SAFE_ALPHABET.len()])));
    name
}

/// Encodes text or a decimal number in the safe alphabet, as pod template hashes are.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(SAFE_ALPHABET[usize::from(b) % SAFE_ALPHABET.len()])).collect()
}

fn longer(value: &str, most: usize, unit: &str) -> Vec<String> {
    if value.len() > most { vec![format!("must be no more than {most} {unit}")] } else { Vec::new() }
}

fn pattern(text: &str, regex: &str, examples: &[&str]) -> String {
    let examples = examples.iter().map(|e| format!("'{e}', ")).collect::<Vec<_>>().join(" or ");
    format!("{text} (e.g. {examples}regex used for validation is '{regex}')")
}

fn is_label(value: &str, right: impl Fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    right(*first) && right(*last) && bytes.iter().all(|b| right(*b) || *b == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(|label| is_label(label, |b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

fn is_label_key_name(value: &str) -> bool {
    let bytes = value.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names_have_no_messages() {
        let long = "a".repeat(63);
        type Check = fn(&str) -> Vec<String>;
        let cases: [(Check, &[&str]); 8] = [
            (dns1123_label, &["a", "my-name", "123-abc", "0", &long]),
            (dns1035_label, &["a", "my-name", "abc-123", &long]),
            (dns1123_subdomain, &["a", "example.com", "1.2.3", "a-b.c"]),
            (qualified_name, &["a", "MyName", "my.name", "123-abc", "example.com/My_Name", "kubernetes.io/a"]),
            (label_value, &["", "a", "My_Value", "12345", "a.b-c"]),
            (port_name, &["http", "a1", "my-port"]),
            (config_map_key, &["a", "key.name", ".hidden", "KEY_NAME"]),
            (percent, &["0%", "150%"]),
        ];
        for (check, values) in cases {
            for value in values {
                assert_eq!(check(value), Vec::<String>::new(), "{value}");
            }
        }
    }

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_label("My_Name"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(
            dns1123_subdomain("Bad_Name"),
            [
                r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            qualified_name("/a b"),
            [
                "prefix part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert_eq!(qualified_name("").len(), 2);
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(
            label_value("a b"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
        assert_eq!(
            port_name("-8--"),
            [
                "must contain at least one letter (a-z)",
                "must not contain consecutive hyphens",
                "must not begin or end with a hyphen"
            ]
        );
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(config_map_key("..a"), ["must not start with '..'"]);
        assert_eq!(path_segment("a/b%"), ["may not contain '/'", "may not contain '%'"]);
        assert!(!dns1123_subdomain("a..b").is_empty());
        assert!(!dns1123_subdomain("").is_empty());
    }

    #[test]
    fn generated_names_fit_a_label() {
        let mut next = 0;
        let mut random = |below: usize| {
            next += 7;
            next % below
        };
        assert_eq!(generate_name("web-", &mut random).len(), 9);
        let long = generate_name(&"é".repeat(60), &mut random);
        assert!(long.len() <= 63, "{long}");
        assert!(generate_name("", &mut |_| 26).ends_with("99999"));
        assert_eq!(safe_encode("05"), "49");
    }
}
