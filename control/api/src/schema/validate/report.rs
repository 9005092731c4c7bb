//! Collects the causes of one validation, bounds how many there are, and counts the work that is done.

use crate::{
    Cause, CauseKind, FieldPath,
    regexp::{Meter, UNCOUNTED},
    show,
};
use serde_json::{Number, Value};
use std::{collections::HashSet, fmt};

/// Most causes of one validation. An answer shows a hundred.
const MAX_CAUSES: usize = 1000;
/// Most bytes of causes, because the path of each may be as long as the longest key of the body.
const MAX_BYTES: usize = 512 << 10;
/// Most steps of one validation: a few seconds in the worst case. A step is a value before a part of the schema, so that a large body alone
/// takes some hundred thousand; a schema of many alternatives multiplies them.
pub(super) const MAX_STEPS: usize = 30_000_000;

/// What is found on a walk along a value.
pub(super) struct Report<'a> {
    at: &'a FieldPath,
    /// The value's name in texts: `spec.list[0].name`, with a dot in front below the first key that only `additionalProperties` covers.
    path: String,
    /// Greater than zero in alternatives, of which only one is reported in the end.
    quiet: usize,
    causes: Vec<Cause>,
    bytes: usize,
    steps: usize,
    /// What is left for searches that are not counted.
    uncounted: usize,
    /// Whether a pattern took the last steps.
    matching: bool,
}

/// There are no more steps to spend.
pub(super) struct Spent;

/// A search by a pattern takes steps.
impl Meter for Report<'_> {
    type Error = Spent;

    fn uncounted(&mut self) -> &mut usize {
        &mut self.uncounted
    }

    fn count(&mut self, steps: usize) -> Result<(), Spent> {
        let before = self.is_spent();
        if self.spend(steps / 2) {
            return Ok(());
        }
        self.matching |= !before;
        Err(Spent)
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(at: &'a FieldPath) -> Self {
        Self {
            at,
            path: String::new(),
            quiet: 0,
            causes: Vec::new(),
            bytes: 0,
            steps: 0,
            uncounted: UNCOUNTED,
            matching: false,
        }
    }

    /// Counts work. Returns false if there is no more to spend, and then nothing is valid any more.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        self.steps = self.steps.saturating_add(steps);
        !self.is_spent()
    }

    /// Whether more steps were wanted than there are.
    pub(super) fn is_spent(&self) -> bool {
        self.steps > MAX_STEPS
    }

    /// Whether a new cause would be listed; the text of another need not be made.
    pub(super) fn listens(&self) -> bool {
        self.quiet == 0 && self.causes.len() < MAX_CAUSES && self.bytes < MAX_BYTES
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet > 0
    }

    /// From now on nothing is listed, until [`Report::speak`].
    pub(super) fn hush(&mut self) {
        self.quiet += 1;
    }

    /// Ends the last [`Report::hush`].
    pub(super) fn speak(&mut self) {
        self.quiet = self.quiet.saturating_sub(1);
    }

    pub(super) fn is_at_root(&self) -> bool {
        self.path.is_empty()
    }

    /// Enters a declared field; the result goes to [`Report::leave`].
    pub(super) fn enter_field(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        mark
    }

    /// Enters an entry that `additionalProperties` covers: upstream puts a dot in front of it even at the root.
    pub(super) fn enter_entry(&mut self, key: &str) -> usize {
        let mark = self.path.len();
        self.path.push('.');
        self.path.push_str(key);
        mark
    }

    /// Enters an element of a list.
    pub(super) fn enter_element(&mut self, index: usize) -> usize {
        let mark = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        mark
    }

    /// Back to where the last `enter_…` was called.
    pub(super) fn leave(&mut self, mark: usize) {
        self.path.truncate(mark);
    }

    /// The name of the value in texts.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The field of the value, or what Go prints for none.
    fn field(&self) -> FieldPath {
        let name = self.path.strip_prefix('.').unwrap_or(&self.path);
        match name {
            "" => self.root(),
            name => self.at.child(name),
        }
    }

    fn root(&self) -> FieldPath {
        if *self.at == FieldPath::default() { FieldPath::new("<nil>") } else { self.at.clone() }
    }

    fn push(&mut self, cause: Cause) {
        self.bytes += cause.message.len() + cause.field.to_string().len();
        self.causes.push(cause);
    }

    /// `FIELD: Invalid value: VALUE: PATH in body REST`.
    pub(super) fn wrong(&mut self, kind: CauseKind, value: &Value, rest: fmt::Arguments<'_>) {
        if self.listens() {
            let text = format!("{} in body {rest}", self.path);
            self.push(Cause::shown(kind, &self.field(), &shown(value), &text));
        }
    }

    /// `FIELD: Invalid value: "KEY": PATH.KEY in body is a forbidden property`.
    pub(super) fn forbidden_key(&mut self, key: &str) {
        if self.listens() {
            let text = format!("{}.{key} in body is a forbidden property", self.path);
            self.push(Cause::invalid_shown(&self.field(), &show::quoted(key), &text));
        }
    }

    /// `FIELD: Invalid value: FACTOR: factor MultipleOf declared for PATH must be positive: FACTOR`.
    pub(super) fn not_positive(&mut self, factor: &Number) {
        if self.listens() {
            let factor = show::go_number(factor, false);
            let text = format!("factor MultipleOf declared for {} must be positive: {factor}", self.path);
            self.push(Cause::invalid_shown(&self.field(), &factor, &text));
        }
    }

    /// `FIELD.NAME: Required value`.
    pub(super) fn missing(&mut self, name: &str) {
        if self.listens() {
            let mark = self.enter_entry(name);
            self.push(Cause::required(&self.field(), ""));
            self.leave(mark);
        }
    }

    /// `FIELD: Too long: …`.
    pub(super) fn too_long(&mut self, most: i64) {
        if self.listens() {
            self.push(Cause::too_long(&self.field(), usize::try_from(most).unwrap_or_default()));
        }
    }

    /// `FIELD: Too many: …`.
    pub(super) fn too_many(&mut self, found: usize, most: i64) {
        if self.listens() {
            self.push(Cause::too_many(&self.field(), found, usize::try_from(most).unwrap_or_default()));
        }
    }

    /// `FIELD: Unsupported value: VALUE: supported values: …`.
    pub(super) fn unsupported(&mut self, value: &Value, choices: &[Value]) {
        if !self.listens() {
            return;
        }
        let mut text = String::from("supported values: ");
        for (index, choice) in choices.iter().enumerate() {
            if text.len() > MAX_BYTES {
                break;
            }
            text.push_str(if index > 0 { ", " } else { "" });
            text.push_str(&match choice {
                Value::String(choice) => show::quoted(choice),
                Value::Number(number) => show::quoted(&show::go_number(number, true)),
                other => show::quoted(&show::json(other)),
            });
        }
        self.push(Cause::shown(CauseKind::NotSupported, &self.field(), &shown(value), &text));
    }

    /// A text of upstream that belongs to no field, although it names one.
    pub(super) fn anywhere(&mut self, text: &str) {
        if self.listens() {
            self.push(Cause::invalid_shown(&self.root(), "\"\"", text));
        }
    }

    /// How many causes there are, for [`Report::forget`].
    pub(super) fn mark(&self) -> usize {
        self.causes.len()
    }

    /// Takes back all causes since a mark.
    pub(super) fn forget(&mut self, mark: usize) {
        for cause in self.causes.drain(mark.min(self.causes.len())..) {
            self.bytes -= cause.message.len() + cause.field.to_string().len();
        }
    }

    /// The causes, each once.
    pub(super) fn into_causes(mut self, valid: bool) -> Vec<Cause> {
        if self.is_spent() {
            let why = match self.matching {
                true => "has patterns that take too long to be matched",
                false => "has too many alternatives to be checked",
            };
            let text = format!("the schema {why} against an object of this size");
            self.push(Cause::invalid_shown(&self.root(), "\"\"", &text));
        } else if valid {
            return Vec::new();
        }
        let mut seen = HashSet::new();
        self.causes.retain(|cause| seen.insert((cause.kind, cause.to_string())));
        self.causes
    }
}

/// A value as upstream's field errors print it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => show::quoted(text),
        Value::Number(number) => show::go_number(number, false),
        other => show::json(other),
    }
}
