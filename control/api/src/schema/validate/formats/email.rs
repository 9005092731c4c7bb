//! Addresses of mail, as Go's `mail.ParseAddress` takes them: `user@example.com`, `"A. User" <user@example.com>`, comments and groups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn is_address(text: &str) -> bool {
    let mut parser = Parser { rest: text };
    matches!(parser.address(true), Some(1)) && parser.skip_comments().is_some() && parser.rest.is_empty()
}

struct Parser<'a> {
    rest: &'a str,
}

fn is_visible(c: char) -> bool {
    ('!'..='~').contains(&c) || !c.is_ascii()
}

fn is_atom(c: char) -> bool {
    is_visible(c) && !"()<>[]:;@\\,\"".contains(c)
}

/// Nothing is an error everywhere here.
impl Parser<'_> {
    fn take(&mut self, c: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(c)?;
        Some(())
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// How many addresses there are.
    fn address(&mut self, groups: bool) -> Option<usize> {
        self.skip_space();
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest;
        if self.spec().is_some() {
            self.skip_space();
            if self.take('(').is_some() {
                self.comment()?;
            }
            return Some(1);
        }
        self.rest = start;
        if !self.rest.starts_with('<') {
            self.phrase()?;
        }
        self.skip_space();
        if groups && self.take(':').is_some() {
            return self.group();
        }
        self.take('<')?;
        self.spec()?;
        self.take('>')?;
        Some(1)
    }

    fn group(&mut self) -> Option<usize> {
        self.skip_space();
        let mut count = 0;
        if self.take(';').is_some() {
            self.skip_comments()?;
            return Some(count);
        }
        loop {
            self.skip_space();
            count += self.address(false)?;
            self.skip_comments()?;
            if self.take(';').is_some() {
                self.skip_comments()?;
                return Some(count);
            }
            self.take(',')?;
        }
    }

    /// `local@domain`.
    fn spec(&mut self) -> Option<()> {
        self.skip_space();
        if self.rest.starts_with('"') {
            (self.quoted()? > 0).then_some(())?;
        } else {
            self.dotted(true)?;
        }
        self.take('@')?;
        self.skip_space();
        if self.rest.starts_with('[') { self.literal() } else { self.dotted(true) }
    }

    /// An atom with dots, which are neither at an end nor two in a row if it is strict.
    fn dotted(&mut self, strict: bool) -> Option<()> {
        let end = self.rest.find(|c: char| !is_atom(c)).unwrap_or(self.rest.len());
        let (atom, next) = self.rest.split_at(end);
        self.rest = next;
        let wrong = strict && (atom.starts_with('.') || atom.ends_with('.') || atom.contains(".."));
        (!atom.is_empty() && !wrong).then_some(())
    }

    /// `"…"`: how many characters there are.
    fn quoted(&mut self) -> Option<usize> {
        self.take('"')?;
        let (mut count, mut escaped) = (0, false);
        for (at, c) in self.rest.char_indices() {
            match c {
                '"' if !escaped => {
                    self.rest = self.rest.get(at + 1..)?;
                    return Some(count);
                }
                '\\' if !escaped => escaped = true,
                c if is_visible(c) || c == ' ' || c == '\t' => {
                    count += 1;
                    escaped = false;
                }
                _ => return None,
            }
        }
        None
    }

    /// `[127.0.0.1]` or `[IPv6:::1]`.
    fn literal(&mut self) -> Option<()> {
        self.take('[')?;
        let (inner, next) = self.rest.split_once(']')?;
        self.rest = next;
        let right = match inner.strip_prefix("IPv6:") {
            Some(address) => address.parse::<IpAddr>().is_ok(),
            None => {
                inner.parse::<Ipv4Addr>().is_ok()
                    || inner.parse::<Ipv6Addr>().is_ok_and(|address| address.to_ipv4_mapped().is_some())
            }
        };
        right.then_some(())
    }

    /// Words; a wrong one ends them, unless it is the first.
    fn phrase(&mut self) -> Option<()> {
        let mut any = false;
        loop {
            if any {
                self.skip_comments()?;
            }
            self.skip_space();
            if self.rest.is_empty() {
                return Some(());
            }
            let start = self.rest;
            let word = if self.rest.starts_with('"') { self.quoted().map(|_| ()) } else { self.dotted(false) };
            if word.is_none() {
                self.rest = start;
                return any.then_some(());
            }
            any = true;
        }
    }

    fn skip_comments(&mut self) -> Option<()> {
        self.skip_space();
        while self.take('(').is_some() {
            self.comment()?;
            self.skip_space();
        }
        Some(())
    }

    /// The rest of a comment, which may have others in it.
    fn comment(&mut self) -> Option<()> {
        let (mut depth, mut escaped) = (1_usize, false);
        for (at, c) in self.rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.rest = self.rest.get(at + 1..)?;
                return Some(());
            }
        }
        None
    }
}
