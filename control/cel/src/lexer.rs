//! Cuts an expression into tokens.

use crate::issues::Issues;

/// What a token is. Its text is the part of the source that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tok {
    End,
    Ident,
    /// A name in backquotes.
    Escaped,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    True,
    False,
    Null,
    In,
    /// An operator or bracket.
    Sign(&'static str),
}

/// A token and where it stands in the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) tok: Tok,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Signs, longer ones first.
const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%",
];

struct Lexer<'s> {
    text: &'s str,
    at: usize,
}

/// All tokens, with one [`Tok::End`] at the end.
pub(crate) fn tokens(text: &str, issues: &mut Issues) -> Vec<Token> {
    let (mut lexer, mut found) = (Lexer { text, at: 0 }, Vec::new());
    loop {
        lexer.skip();
        let start = lexer.at;
        let Some(tok) = lexer.next() else {
            let end = lexer.at.max(start + 1);
            let bad = text.get(start..end).or_else(|| text.get(start..)).unwrap_or_default();
            let shown = bad.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
            issues.add(u32::try_from(start).ok(), format!("Syntax error: token recognition error at: '{shown}'"));
            lexer.at = start + bad.len().max(1);
            if issues.count() > 100 {
                lexer.at = text.len();
            }
            continue;
        };
        found.push(Token { tok, start, end: lexer.at });
        if tok == Tok::End {
            return found;
        }
    }
}

impl Lexer<'_> {
    fn peek(&self) -> Option<u8> {
        self.at_offset(0)
    }

    fn at_offset(&self, offset: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + offset).copied()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Spaces and comments.
    fn skip(&mut self) {
        while let Some(letter) = self.peek() {
            if matches!(letter, b'\t' | b' ' | b'\r' | b'\n' | 0x0c) {
                self.at += 1;
            } else if self.rest().starts_with("//") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else {
                return;
            }
        }
    }

    fn skip_while(&mut self, accepts: impl Fn(u8) -> bool) -> usize {
        let start = self.at;
        while self.peek().is_some_and(&accepts) {
            self.at += 1;
        }
        self.at - start
    }

    /// The next token; nothing, with `at` behind what was read, where there is none.
    fn next(&mut self) -> Option<Tok> {
        let Some(letter) = self.peek() else { return Some(Tok::End) };
        if letter.is_ascii_digit() || letter == b'.' && self.at_offset(1).is_some_and(|next| next.is_ascii_digit()) {
            return Some(self.number());
        }
        if let Some(tok) = self.text_literal() {
            return tok;
        }
        if letter.is_ascii_alphabetic() || letter == b'_' {
            let start = self.at;
            self.skip_while(|letter| letter.is_ascii_alphanumeric() || letter == b'_');
            return Some(match self.text.get(start..self.at) {
                Some("true") => Tok::True,
                Some("false") => Tok::False,
                Some("null") => Tok::Null,
                Some("in") => Tok::In,
                _ => Tok::Ident,
            });
        }
        if letter == b'`' {
            self.at += 1;
            let inner = self.skip_while(|c| c.is_ascii_alphanumeric() || b"_.-/ ".contains(&c));
            let closed = self.peek() == Some(b'`');
            self.at += usize::from(closed);
            return (closed && inner > 0).then_some(Tok::Escaped);
        }
        let sign = SIGNS.iter().find(|sign| self.rest().starts_with(**sign));
        match sign {
            Some(sign) => {
                self.at += sign.len();
                Some(Tok::Sign(sign))
            }
            None => {
                self.at += self.rest().chars().next().map_or(1, char::len_utf8);
                None
            }
        }
    }

    fn number(&mut self) -> Tok {
        if self.rest().starts_with("0x") && self.at_offset(2).is_some_and(|c| c.is_ascii_hexdigit()) {
            self.at += 2;
            self.skip_while(|c| c.is_ascii_hexdigit());
            return self.unsigned_suffix(Tok::Int);
        }
        let mut tok = Tok::Int;
        self.skip_while(|c| c.is_ascii_digit());
        if self.peek() == Some(b'.') && self.at_offset(1).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            self.skip_while(|c| c.is_ascii_digit());
            tok = Tok::Double;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.at_offset(1), Some(b'+' | b'-')));
            if self.at_offset(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
                self.at += 1 + sign;
                self.skip_while(|c| c.is_ascii_digit());
                tok = Tok::Double;
            }
        }
        self.unsigned_suffix(tok)
    }

    fn unsigned_suffix(&mut self, tok: Tok) -> Tok {
        if tok == Tok::Int && matches!(self.peek(), Some(b'u' | b'U')) {
            self.at += 1;
            return Tok::Uint;
        }
        tok
    }

    /// A string or bytes: nothing if there is none here, `Some(None)` if it does not end.
    fn text_literal(&mut self) -> Option<Option<Tok>> {
        let (mut prefix, mut raw, mut bytes) = (0, false, false);
        if matches!(self.at_offset(prefix), Some(b'b' | b'B')) {
            bytes = true;
            prefix += 1;
        }
        if matches!(self.at_offset(prefix), Some(b'r' | b'R')) {
            raw = true;
            prefix += 1;
        }
        let quote = self.at_offset(prefix).filter(|c| matches!(c, b'"' | b'\''))?;
        self.at += prefix;
        let triple = self.at_offset(1) == Some(quote) && self.at_offset(2) == Some(quote);
        let ended = if triple { self.triple(quote, raw) } else { self.single(quote, raw) };
        Some(ended.then_some(if bytes { Tok::Bytes } else { Tok::String }))
    }

    fn single(&mut self, quote: u8, raw: bool) -> bool {
        self.at += 1;
        while let Some(letter) = self.peek() {
            self.at += 1;
            match letter {
                b'\n' | b'\r' => return false,
                b'\\' if !raw => self.at += self.rest().chars().next().map_or(0, char::len_utf8),
                letter if letter == quote => return true,
                _ => {}
            }
        }
        false
    }

    fn triple(&mut self, quote: u8, raw: bool) -> bool {
        self.at += 3;
        while let Some(letter) = self.peek() {
            if letter == quote && self.at_offset(1) == Some(quote) && self.at_offset(2) == Some(quote) {
                self.at += 3;
                return true;
            }
            self.at += 1;
            if letter == b'\\' && !raw {
                self.at += self.rest().chars().next().map_or(0, char::len_utf8);
            }
        }
        false
    }
}
