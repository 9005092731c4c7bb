//! Reads an expression: precedence climbing, with bounds on its size and depth.

use crate::{
    ast::{Ast, Entry, Expr, Field, Kind, Literal, operators},
    builder::Builder,
    issues::Issues,
    lexer::{Tok, Token, tokens},
    macros::{Expansion, expand},
    unescape::unescape,
};

/// How deep an expression may be, as upstream.
const MAX_DEPTH: usize = 250;

/// How many letters an expression may have, as upstream.
const MAX_LENGTH: usize = 100_000;

/// Names that no variable may have.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// What can begin an expression, as the messages list it.
const BEGINNINGS: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Parsing cannot go on; the issue is noted.
struct Stop;

type Parsed<T> = Result<T, Stop>;

struct Parser<'s> {
    text: &'s str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    builder: Builder,
    issues: Issues,
}

/// Parses an expression and expands its macros.
///
/// # Errors
/// What is wrong with its syntax.
pub(crate) fn parse(text: &str) -> Result<Ast, Issues> {
    let mut issues = Issues::new(text);
    let length = text.chars().count();
    if length > MAX_LENGTH {
        issues.add(None, format!("expression code point size exceeds limit: size: {length}, limit {MAX_LENGTH}"));
        return Err(issues);
    }
    let tokens = tokens(text, &mut issues);
    let mut parser = Parser { text, tokens, at: 0, depth: 0, builder: Builder::default(), issues };
    let root = parser.whole();
    match root {
        Ok(root) if parser.issues.is_empty() => Ok(Ast { root, offsets: parser.builder.offsets }),
        _ => Err(parser.issues),
    }
}

impl Parser<'_> {
    fn token(&self) -> Token {
        self.ahead(0)
    }

    fn ahead(&self, count: usize) -> Token {
        let end = Token { tok: Tok::End, start: self.text.len(), end: self.text.len() };
        self.tokens.get(self.at + count).copied().unwrap_or(end)
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.token().tok, Tok::Sign(found) if found == sign)
    }

    /// Takes the next token.
    fn take(&mut self) -> Token {
        let token = self.token();
        self.at += 1;
        token
    }

    /// Takes a sign if it is next.
    fn accept(&mut self, sign: &str) -> Option<u32> {
        self.is(sign).then(|| start(self.take()))
    }

    fn text(&self, token: Token) -> &str {
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    fn fault(&mut self, offset: u32, message: impl Into<String>) {
        self.issues.add(Some(offset), message);
    }

    fn unexpected<T>(&mut self, expected: &str) -> Parsed<T> {
        let token = self.token();
        let shown = if token.tok == Tok::End { "<EOF>".to_owned() } else { self.text(token).to_owned() };
        let extraneous = expected == "<EOF>" && self.ahead(1).tok == Tok::End;
        let word = if extraneous { "extraneous" } else { "mismatched" };
        self.fault(start(token), format!("Syntax error: {word} input '{shown}' expecting {expected}"));
        Err(Stop)
    }

    fn expect(&mut self, sign: &str) -> Parsed<u32> {
        match self.accept(sign) {
            Some(offset) => Ok(offset),
            None => self.unexpected(&format!("'{sign}'")),
        }
    }

    fn deeper(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.issues.add(None, format!("expression recursion limit exceeded: {MAX_DEPTH}"));
            return Err(Stop);
        }
        Ok(())
    }

    fn whole(&mut self) -> Parsed<Expr> {
        let root = self.expr()?;
        if self.token().tok == Tok::End { Ok(root) } else { self.unexpected("<EOF>") }
    }

    fn expr(&mut self) -> Parsed<Expr> {
        self.deeper()?;
        let mut result = self.junction()?;
        if let Some(at) = self.accept("?") {
            let yes = self.junction()?;
            self.expect(":")?;
            let no = self.expr()?;
            result = self.builder.call(at, operators::CONDITIONAL, vec![result, yes, no]);
        }
        self.depth -= 1;
        Ok(result)
    }

    /// Terms joined by `||`, whose terms are joined by `&&`. They become balanced trees, so that many terms are not deep.
    fn junction(&mut self) -> Parsed<Expr> {
        let first = self.binary(0)?;
        if !self.is("&&") && !self.is("||") {
            return Ok(first);
        }
        let (mut either, mut either_signs) = (Vec::new(), Vec::new());
        let (mut both, mut both_signs) = (vec![Some(first)], Vec::new());
        loop {
            if let Some(at) = self.accept("&&") {
                both_signs.push(at);
            } else {
                either.push(Some(self.joined(operators::AND, &mut both, &both_signs)));
                both.clear();
                both_signs.clear();
                let Some(at) = self.accept("||") else { break };
                either_signs.push(at);
            }
            both.push(Some(self.binary(0)?));
        }
        Ok(self.joined(operators::OR, &mut either, &either_signs))
    }

    fn joined(&mut self, function: &str, terms: &mut [Option<Expr>], signs: &[u32]) -> Expr {
        match signs.len().checked_sub(1) {
            Some(last) => self.balanced(function, terms, signs, 0, last),
            None => terms.first_mut().and_then(Option::take).unwrap_or_else(|| self.builder.literal(0, Literal::Null)),
        }
    }

    fn balanced(&mut self, function: &str, terms: &mut [Option<Expr>], signs: &[u32], low: usize, high: usize) -> Expr {
        let middle = (low + high).div_ceil(2);
        let mut term = |parser: &mut Self, index: usize| {
            let term = terms.get_mut(index).and_then(Option::take);
            term.unwrap_or_else(|| parser.builder.literal(0, Literal::Null))
        };
        let left = if middle == low { Some(term(self, middle)) } else { None };
        let right = if middle == high { Some(term(self, middle + 1)) } else { None };
        let left = left.unwrap_or_else(|| self.balanced(function, terms, signs, low, middle - 1));
        let right = right.unwrap_or_else(|| self.balanced(function, terms, signs, middle + 1, high));
        let at = signs.get(middle).copied().unwrap_or(0);
        self.builder.call(at, function, vec![left, right])
    }

    /// How tightly the next operator binds, and its function: comparisons, sums, products.
    fn operator(&self) -> Option<(usize, &'static str)> {
        Some(match self.token().tok {
            Tok::In => (0, operators::IN),
            Tok::Sign("<") => (0, operators::LESS),
            Tok::Sign("<=") => (0, operators::LESS_EQUALS),
            Tok::Sign(">") => (0, operators::GREATER),
            Tok::Sign(">=") => (0, operators::GREATER_EQUALS),
            Tok::Sign("==") => (0, operators::EQUALS),
            Tok::Sign("!=") => (0, operators::NOT_EQUALS),
            Tok::Sign("+") => (1, operators::ADD),
            Tok::Sign("-") => (1, operators::SUBTRACT),
            Tok::Sign("*") => (2, operators::MULTIPLY),
            Tok::Sign("/") => (2, operators::DIVIDE),
            Tok::Sign("%") => (2, operators::MODULO),
            _ => return None,
        })
    }

    /// Operators that bind at least so tightly. They bind to the left.
    fn binary(&mut self, least: usize) -> Parsed<Expr> {
        let depth = self.depth;
        let mut left = self.unary()?;
        while let Some((level, function)) = self.operator().filter(|(level, _)| *level >= least) {
            self.deeper()?;
            let at = start(self.take());
            let right = self.binary(level + 1)?;
            left = self.builder.call(at, function, vec![left, right]);
        }
        self.depth = depth;
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let first = self.token();
        let (sign, function) = match first.tok {
            Tok::Sign("!") => ("!", operators::NOT),
            Tok::Sign("-") if !matches!(self.ahead(1).tok, Tok::Int | Tok::Double) => ("-", operators::NEGATE),
            _ => return self.member(),
        };
        let mut count = 0;
        while self.accept(sign).is_some() {
            count += 1;
        }
        let operand = self.member()?;
        Ok(if count % 2 == 0 { operand } else { self.builder.call(start(first), function, vec![operand]) })
    }

    fn member(&mut self) -> Parsed<Expr> {
        let depth = self.depth;
        let mut target = self.primary()?;
        loop {
            if let Some(at) = self.accept(".") {
                self.deeper()?;
                target = self.field(at, target)?;
            } else if let Some(at) = self.accept("[") {
                self.deeper()?;
                let function = if self.accept("?").is_some() { operators::OPT_INDEX } else { operators::INDEX };
                let index = self.expr()?;
                self.expect("]")?;
                target = self.builder.call(at, function, vec![target, index]);
            } else {
                self.depth = depth;
                return Ok(target);
            }
        }
    }

    /// What follows a dot.
    fn field(&mut self, dot: u32, target: Expr) -> Parsed<Expr> {
        let optional = self.accept("?").is_some();
        let token = self.token();
        match token.tok {
            Tok::Ident => {}
            Tok::Escaped => self.fault(start(token), "unsupported syntax: '`'"),
            _ => return self.unexpected("IDENTIFIER"),
        }
        self.take();
        let name = self.text(token).to_owned();
        if optional {
            let name = self.builder.literal(start(token), Literal::String(name.into()));
            return Ok(self.builder.call(dot, operators::OPT_SELECT, vec![target, name]));
        }
        if let Some(open) = self.accept("(") {
            let args = self.arguments()?;
            return Ok(self.call(open, Some(Box::new(target)), &name, args));
        }
        Ok(self.builder.expr(dot, Kind::Select { operand: Box::new(target), field: name.into(), test: false }))
    }

    /// A call, or what the macro of this name makes of it.
    fn call(&mut self, at: u32, target: Option<Box<Expr>>, name: &str, args: Vec<Expr>) -> Expr {
        match expand(&mut self.builder, at, target, name, args) {
            Expansion::Done(expr) => expr,
            Expansion::Fault(offset, message) => {
                self.fault(offset, message);
                self.builder.literal(at, Literal::Null)
            }
            Expansion::NotAMacro(target, args) => {
                self.builder.expr(at, Kind::Call { target, function: name.into(), args })
            }
        }
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        let mut args = Vec::new();
        if self.accept(")").is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.accept(",").is_none() {
                self.expect(")")?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let token = self.token();
        let at = start(token);
        match token.tok {
            Tok::Sign("(") => {
                self.take();
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Tok::Sign("[") => self.list(),
            Tok::Sign("{") => self.map(),
            Tok::Sign(".") | Tok::Ident => self.name(),
            Tok::Sign("-") if matches!(self.ahead(1).tok, Tok::Int | Tok::Double) => {
                self.take();
                let number = self.take();
                Ok(self.number(at, number, "-"))
            }
            Tok::Int | Tok::Uint | Tok::Double => {
                self.take();
                Ok(self.number(at, token, ""))
            }
            Tok::String | Tok::Bytes => {
                self.take();
                Ok(self.text_literal(at, token))
            }
            Tok::True | Tok::False => {
                self.take();
                Ok(self.builder.literal(at, Literal::Bool(token.tok == Tok::True)))
            }
            Tok::Null => {
                self.take();
                Ok(self.builder.literal(at, Literal::Null))
            }
            _ => self.unexpected(BEGINNINGS),
        }
    }

    /// A name, a call of a function, or the making of an object.
    fn name(&mut self) -> Parsed<Expr> {
        let first = start(self.token());
        let dot = if self.accept(".").is_some() { "." } else { "" };
        let token = self.token();
        if token.tok != Tok::Ident {
            return self.unexpected("IDENTIFIER");
        }
        if let Some(count) = self.object_name() {
            let parts: Vec<&str> = (0..=count).step_by(2).map(|part| self.text(self.ahead(part))).collect();
            let name = format!("{dot}{}", parts.join("."));
            self.at += count + 1;
            return self.object(&name);
        }
        self.take();
        let name = self.text(token).to_owned();
        if RESERVED.contains(&name.as_str()) {
            self.fault(first, format!("reserved identifier: {name}"));
        }
        let name = format!("{dot}{name}");
        if let Some(open) = self.accept("(") {
            let args = self.arguments()?;
            return Ok(self.call(open, None, &name, args));
        }
        Ok(self.builder.ident(start(token), &name))
    }

    /// How many tokens behind the next one belong to the name of an object that is made here.
    fn object_name(&self) -> Option<usize> {
        let mut count = 0;
        while self.ahead(count + 1).tok == Tok::Sign(".") && self.ahead(count + 2).tok == Tok::Ident {
            count += 2;
        }
        (self.ahead(count + 1).tok == Tok::Sign("{")).then_some(count)
    }

    fn object(&mut self, name: &str) -> Parsed<Expr> {
        let at = self.expect("{")?;
        let mut fields = Vec::new();
        while !self.is_end("}", fields.is_empty()) {
            let optional = self.accept("?").is_some();
            let token = self.token();
            match token.tok {
                Tok::Ident => {}
                Tok::Escaped => self.fault(at, "unsupported syntax: '`'"),
                _ => return self.unexpected("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}"),
            }
            self.take();
            let name = self.text(token).into();
            let colon = self.expect(":")?;
            let id = self.builder.id(colon);
            fields.push(Field { id, name, value: self.expr()?, optional });
            if self.accept(",").is_none() {
                break;
            }
        }
        if fields.is_empty() {
            self.accept(",");
        }
        self.expect("}")?;
        Ok(self.builder.expr(at, Kind::Struct { name: name.into(), fields }))
    }

    /// Whether a list ends here, perhaps with a comma and nothing before it.
    fn is_end(&self, close: &str, is_empty: bool) -> bool {
        self.is(close) || is_empty && self.is(",")
    }

    fn list(&mut self) -> Parsed<Expr> {
        let at = self.expect("[")?;
        let mut elements = Vec::new();
        while !self.is_end("]", elements.is_empty()) {
            let optional = self.accept("?").is_some();
            elements.push((self.expr()?, optional));
            if self.accept(",").is_none() {
                break;
            }
        }
        if elements.is_empty() {
            self.accept(",");
        }
        self.expect("]")?;
        Ok(self.builder.expr(at, Kind::List(elements)))
    }

    fn map(&mut self) -> Parsed<Expr> {
        let at = self.expect("{")?;
        let mut entries = Vec::new();
        while !self.is_end("}", entries.is_empty()) {
            let optional = self.accept("?").is_some();
            let key = self.expr()?;
            self.expect(":")?;
            entries.push(Entry { key, value: self.expr()?, optional });
            if self.accept(",").is_none() {
                break;
            }
        }
        if entries.is_empty() {
            self.accept(",");
        }
        self.expect("}")?;
        Ok(self.builder.expr(at, Kind::Map(entries)))
    }

    fn number(&mut self, at: u32, token: Token, sign: &str) -> Expr {
        let text = self.text(token).to_owned();
        let digits = text.strip_suffix(['u', 'U']).filter(|_| token.tok == Tok::Uint).unwrap_or(&text);
        let (radix, digits) = digits.strip_prefix("0x").map_or((10, digits), |digits| (16, digits));
        let (literal, kind) = match token.tok {
            Tok::Int => (i64::from_str_radix(&format!("{sign}{digits}"), radix).ok().map(Literal::Int), "int"),
            Tok::Uint => (u64::from_str_radix(digits, radix).ok().map(Literal::Uint), "uint"),
            _ => {
                let double = format!("{sign}{text}").parse().ok().filter(|double: &f64| double.is_finite());
                (double.map(Literal::Double), "double")
            }
        };
        if literal.is_none() {
            self.fault(at, format!("invalid {kind} literal"));
        }
        self.builder.literal(at, literal.unwrap_or(Literal::Null))
    }

    fn text_literal(&mut self, at: u32, token: Token) -> Expr {
        let is_bytes = token.tok == Tok::Bytes;
        let text = self.text(token);
        let text = if is_bytes { text.get(1..).unwrap_or_default() } else { text };
        let literal = match unescape(text, is_bytes) {
            Ok(bytes) if is_bytes => Literal::Bytes(bytes.into()),
            Ok(bytes) => Literal::String(String::from_utf8_lossy(&bytes).into()),
            Err(message) => {
                self.fault(at, message);
                Literal::Null
            }
        };
        self.builder.literal(at, literal)
    }
}

/// Where a token begins. Offsets fit, since the length of expressions is bounded.
fn start(token: Token) -> u32 {
    u32::try_from(token.start).unwrap_or(u32::MAX)
}
