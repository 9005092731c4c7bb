//! The text syntax of label selectors.

use super::requirement::{Operator, Requirement};
use crate::names;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Bad,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

struct Item {
    token: Token,
    text: String,
}

/// Parses a whole selector.
pub(super) fn selector(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { items: scan(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::Identifier | Token::Not => {}
            Token::End => return Ok(requirements),
            _ => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", parser.text())),
        }
        requirements.push(parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
        match parser.next() {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => {
                if !matches!(parser.peek(), Token::Identifier | Token::Not) {
                    return Err(format!("found '{}', expected: identifier after ','", parser.text()));
                }
            }
            (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
        }
    }
}

struct Parser {
    items: Vec<Item>,
    at: usize,
}

impl Parser {
    fn item(&self) -> &Item {
        self.items.get(self.at).or(self.items.last()).expect("the scanner ends with End")
    }

    fn text(&self) -> &str {
        &self.item().text
    }

    /// The next token; where a value is allowed, `in` and `notin` are values.
    fn peek(&self) -> Token {
        match self.item().token {
            Token::In | Token::NotIn => Token::Identifier,
            token => token,
        }
    }

    fn next(&mut self) -> (Token, String) {
        let result = (self.peek(), self.text().to_owned());
        self.at += 1;
        result
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let problems = names::qualified_name(&key);
        if !problems.is_empty() {
            return Err(format!("<nil>: Invalid value: {key:?}: {}", problems.join("; ")));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = match self.item().token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", self.text())),
        };
        self.at += 1;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => BTreeSet::from([self.value()?]),
        };
        Requirement::new(&key, operator, values.into_iter().collect())
    }

    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (token, text) = self.next();
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        match self.peek() {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                self.at += 1; // the closing parenthesis, which `identifiers` saw
                Ok(values)
            }
            Token::Close => {
                self.at += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            _ => Err(format!("found '{}', expected: ',', ')' or identifier", self.text())),
        }
    }

    /// Values up to the closing parenthesis; adjacent commas enclose an empty value.
    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        loop {
            match self.next() {
                (Token::Identifier, text) => {
                    values.insert(text);
                    match self.peek() {
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        _ => return Err(format!("found '{}', expected: ',' or ')'", self.text())),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() || self.peek() == Token::Comma {
                        values.insert(String::new());
                    }
                    if self.peek() == Token::Close {
                        values.insert(String::new());
                        return Ok(values);
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

fn scan(text: &str) -> Vec<Item> {
    let special = |c: char| "=!(),><".contains(c);
    let space = |c: char| " \t\r\n".contains(c);
    let mut items = Vec::new();
    let mut rest = text.trim_start_matches(space);
    while let Some(first) = rest.chars().next().filter(|c| *c != '\0') {
        let (token, length) = if special(first) {
            match rest.get(..2) {
                Some("==") => (Token::DoubleEquals, 2),
                Some("!=") => (Token::NotEquals, 2),
                _ => (symbol(first), 1),
            }
        } else {
            let length = rest.find(|c| special(c) || space(c) || c == '\0').unwrap_or(rest.len());
            let token = match &rest[..length] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            (token, length)
        };
        items.push(Item { token, text: rest[..length].to_owned() });
        rest = rest[length..].trim_start_matches(space);
    }
    items.push(Item { token: Token::End, text: String::new() });
    items
}

fn symbol(c: char) -> Token {
    match c {
        ')' => Token::Close,
        ',' => Token::Comma,
        '!' => Token::Not,
        '=' => Token::Equals,
        '>' => Token::Greater,
        '<' => Token::Less,
        '(' => Token::Open,
        _ => Token::Bad,
    }
}
