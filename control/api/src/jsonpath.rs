//! JSONPath in Kubernetes' dialect, as printer columns and selectable fields of custom resources use it: `.spec.replicas`,
//! `.status.conditions[?(@.type=="Ready")].status`, `.metadata.annotations['a/b']`, `.metadata.labels.app\.kubernetes\.io/name`,
//! `.spec.containers[*].image`, `[0]`, `[-1]`, `[0:2]`, `..name`. A path that leads nowhere finds nothing.
//!
//! Follows <https://kubernetes.io/docs/reference/kubectl/jsonpath/> and `client-go/util/jsonpath`. RFC 9535, which libraries implement, writes
//! names and escapes in another way.

use serde_json::Value;
use std::cmp::Ordering;

/// The most steps of a path.
const MAX_STEPS: usize = 64;

/// The most values that a step finds; of more, the first ones are taken.
const MAX_FOUND: usize = 10_000;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// The values of an object or list.
    All,
    /// The value itself and all below it.
    Descend,
    /// Elements of a list: from, to (exclusive), step. One index is a range of one.
    Range(Option<i64>, Option<i64>, i64),
    /// One index, which may be negative.
    Index(i64),
    /// Names within one pair of brackets.
    Fields(Vec<String>),
    Filter(Operand, Option<(Compare, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Value(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path, which begins with a dot or a bracket.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0 };
        let path = parser.path()?;
        if parser.at < text.len() {
            return Err(parser.unexpected());
        }
        Ok(path)
    }

    /// All values at the path, in the order of the document.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.apply(value, &mut next);
            }
            found = next;
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        if out.len() >= MAX_FOUND {
            return;
        }
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => out.extend(map.get(name)),
            (Self::Fields(names), Value::Object(map)) => out.extend(names.iter().filter_map(|name| map.get(name))),
            (Self::All, Value::Object(map)) => out.extend(map.values().take(MAX_FOUND - out.len())),
            (Self::All, Value::Array(list)) => out.extend(list.iter().take(MAX_FOUND - out.len())),
            (Self::Descend, _) => descend(value, out),
            (Self::Index(index), Value::Array(list)) => {
                out.extend(place(*index, list.len()).and_then(|at| list.get(at)));
            }
            (Self::Range(from, to, step), Value::Array(list)) => {
                let bound = |index: i64| place(index, list.len()).unwrap_or(if index < 0 { 0 } else { list.len() });
                let (from, to) = (from.map_or(0, bound), to.map_or(list.len(), bound));
                let step = usize::try_from(*step).unwrap_or(1).max(1);
                let picked = list.iter().take(to).skip(from).step_by(step);
                out.extend(picked.take(MAX_FOUND - out.len()));
            }
            (Self::Filter(left, compared), Value::Array(list)) => {
                out.extend(list.iter().filter(|one| holds(left, compared.as_ref(), one)).take(MAX_FOUND - out.len()));
            }
            _ => {}
        }
    }
}

fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let at = if index < 0 { index + length } else { index };
    usize::try_from(at).ok().filter(|_| at <= length)
}

fn descend<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    if out.len() >= MAX_FOUND {
        return;
    }
    out.push(value);
    match value {
        Value::Object(map) => map.values().for_each(|one| descend(one, out)),
        Value::Array(list) => list.iter().for_each(|one| descend(one, out)),
        _ => {}
    }
}

fn holds(left: &Operand, compared: Option<&(Compare, Operand)>, value: &Value) -> bool {
    let first = |operand: &Operand| match operand {
        Operand::Path(path) => path.find(value).first().map(|found| (*found).clone()),
        Operand::Value(value) => Some(value.clone()),
    };
    let (Some(left), Some((how, right))) = (first(left), compared) else {
        // `[?(@.name)]`: it exists.
        return compared.is_none() && first(left).is_some();
    };
    let Some(right) = first(right) else { return false };
    let order = match (&left, &right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (a, b) if a == b => Some(Ordering::Equal),
        _ => None,
    };
    match (how, order) {
        (Compare::NotEqual, order) => order != Some(Ordering::Equal),
        (_, None) => false,
        (Compare::Equal, Some(order)) => order.is_eq(),
        (Compare::Less, Some(order)) => order.is_lt(),
        (Compare::LessOrEqual, Some(order)) => order.is_le(),
        (Compare::Greater, Some(order)) => order.is_gt(),
        (Compare::GreaterOrEqual, Some(order)) => order.is_ge(),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// In bytes, at the boundary of a character.
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn spaces(&mut self) {
        while self.take(" ") {}
    }

    fn unexpected(&self) -> String {
        match self.peek() {
            Some(c) => format!("unexpected {c:?} at {}", self.at),
            None => "unexpected end".to_owned(),
        }
    }

    /// Steps, until something that cannot be one.
    fn path(&mut self) -> Result<JsonPath, String> {
        let mut steps = Vec::new();
        self.take("$");
        loop {
            if steps.len() >= MAX_STEPS {
                return Err(format!("more than {MAX_STEPS} steps"));
            }
            if self.take("..") {
                steps.push(Step::Descend);
                if self.peek() != Some('[') {
                    steps.push(self.field()?);
                }
            } else if self.take(".") {
                // `.` alone is the whole object.
                match self.peek() {
                    None | Some('[' | ')' | ' ' | '=' | '!' | '<' | '>') => {}
                    Some(_) => steps.push(self.field()?),
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(JsonPath(steps));
            }
        }
    }

    /// A name; a backslash takes the next character as it is.
    fn field(&mut self) -> Result<Step, String> {
        if self.take("*") {
            return Ok(Step::All);
        }
        let mut name = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    let escaped = self.peek().ok_or_else(|| self.unexpected())?;
                    name.push(escaped);
                    self.at += escaped.len_utf8();
                    continue;
                }
                '.' | '[' | ']' | '(' | ')' | ' ' | '=' | '!' | '<' | '>' | ',' | '{' | '}' => break,
                _ => name.push(c),
            }
            self.at += c.len_utf8();
        }
        if name.is_empty() { Err(self.unexpected()) } else { Ok(Step::Field(name)) }
    }

    /// What is between brackets, and the closing one.
    fn bracket(&mut self) -> Result<Step, String> {
        self.spaces();
        let step = if self.take("*") {
            Step::All
        } else if self.take("?(") {
            let filter = self.filter()?;
            self.spaces();
            if !self.take(")") {
                return Err(self.unexpected());
            }
            filter
        } else if matches!(self.peek(), Some('\'' | '"')) {
            let mut names = vec![self.quoted()?];
            self.spaces();
            while self.take(",") {
                self.spaces();
                names.push(self.quoted()?);
                self.spaces();
            }
            if names.len() == 1 { Step::Field(names.remove(0)) } else { Step::Fields(names) }
        } else {
            self.range()?
        };
        self.spaces();
        if self.take("]") { Ok(step) } else { Err(self.unexpected()) }
    }

    fn range(&mut self) -> Result<Step, String> {
        let from = self.integer()?;
        if !self.take(":") {
            return from.map(Step::Index).ok_or_else(|| self.unexpected());
        }
        let to = self.integer()?;
        let step = if self.take(":") { self.integer()?.unwrap_or(1) } else { 1 };
        if step < 1 {
            return Err("step must be > 0".to_owned());
        }
        Ok(Step::Range(from, to, step))
    }

    fn integer(&mut self) -> Result<Option<i64>, String> {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(rest.len());
        if length == 0 {
            return Ok(None);
        }
        let number = rest[..length].parse().map_err(|_| format!("{:?} is no index", &rest[..length]))?;
        self.at += length;
        Ok(Some(number))
    }

    fn quoted(&mut self) -> Result<String, String> {
        let quote = self.peek().filter(|c| matches!(c, '\'' | '"')).ok_or_else(|| self.unexpected())?;
        self.at += 1;
        let mut text = String::new();
        loop {
            let c = self.peek().ok_or("unterminated quoted string")?;
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(text),
                '\\' => {
                    let escaped = self.peek().ok_or("unterminated quoted string")?;
                    self.at += escaped.len_utf8();
                    text.push(escaped);
                }
                c => text.push(c),
            }
        }
    }

    fn filter(&mut self) -> Result<Step, String> {
        let left = self.operand()?;
        self.spaces();
        let compares = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        let how = compares.into_iter().find(|(text, _)| self.take(text)).map(|(_, how)| how);
        let right = how.map(|how| self.operand().map(|right| (how, right))).transpose()?;
        Ok(Step::Filter(left, right))
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.spaces();
        if self.take("@") {
            return self.path().map(Operand::Path);
        }
        if matches!(self.peek(), Some('\'' | '"')) {
            return self.quoted().map(|text| Operand::Value(text.into()));
        }
        let rest = self.rest();
        let length = rest.find([')', ' ', '=', '!', '<', '>']).unwrap_or(rest.len());
        let word = &rest[..length];
        let value = serde_json::from_str(word).map_err(|_| format!("unrecognized value {word:?}"))?;
        self.at += length;
        Ok(Operand::Value(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(path: &str) -> String {
        let value = json!({
            "metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "web"}},
            "spec": {"replicas": 3, "list": [1, 2, 3, 4], "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"}]},
        });
        match JsonPath::parse(path) {
            Ok(path) => json!(path.find(&value)).to_string(),
            Err(error) => error,
        }
    }

    #[test]
    fn paths_find_what_kubectl_finds() {
        for (path, expected) in [
            (".spec.replicas", "[3]"),
            (".spec.none.deeper", "[]"),
            (".metadata.labels.app\\.kubernetes\\.io/name", "[\"web\"]"),
            (".metadata.labels['app.kubernetes.io/name']", "[\"web\"]"),
            (".status.conditions[?(@.type==\"Ready\")].status", "[\"True\"]"),
            (".status.conditions[?(@.type == 'Synced')].status", "[\"False\"]"),
            (".status.conditions[?(@.type!='Synced')].status", "[\"True\"]"),
            (".status.conditions[?(@.message)].status", "[]"),
            (".status.conditions[?(@.status)].type", "[\"Ready\",\"Synced\"]"),
            (".spec.ports[?(@.port>=80)].name", "[\"http\"]"),
            (".spec.ports[?(@.port<80)].name", "[\"dns\"]"),
            (".spec.ports[*].name", "[\"http\",\"dns\"]"),
            (".spec.ports[0].name", "[\"http\"]"),
            (".spec.ports[-1].name", "[\"dns\"]"),
            (".spec.ports[7].name", "[]"),
            (".spec.list[1:3]", "[2,3]"),
            (".spec.list[::2]", "[1,3]"),
            (".spec.list[-2:]", "[3,4]"),
            ("..port", "[80,53]"),
            (".metadata['name','labels']", "[\"a\",{\"app.kubernetes.io/name\":\"web\"}]"),
            ("$.metadata.name", "[\"a\"]"),
            (".spec.list[x]", "unexpected 'x' at 11"),
            (".spec.list[0", "unexpected end"),
            (".spec.a[?(@.b==)]", "unrecognized value \"\""),
            ("spec", "unexpected 's' at 0"),
            (".a['b", "unterminated quoted string"),
        ] {
            assert_eq!(found(path), expected, "{path}");
        }
    }

    #[test]
    fn a_hostile_path_ends() {
        let wide = json!({"a": vec![json!({"a": [1, 2, 3]}); 1_000]});
        let path = JsonPath::parse(&"..a".repeat(20)).expect("a path");
        assert!(path.find(&wide).len() <= MAX_FOUND + 1);
        assert!(JsonPath::parse(&".a".repeat(100)).is_err());
        for text in ["[", "[?(", "[?(@", ".\\", "..", "[?(@.a==\"b\")", "[0:0:0]", "[--1]", "é", ".é[é]"] {
            let _ = JsonPath::parse(text);
        }
    }
}
