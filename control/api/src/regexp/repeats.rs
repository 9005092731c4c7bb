//! How often the parts of an expression are repeated by counts, one within the other. Go bounds the product.

/// Most repetitions that Go takes.
pub(super) const MAX_REPEAT: u32 = 1000;

/// Of the part that was read last, and the largest number in each open group.
pub(super) struct Repeats {
    part: u32,
    open: Vec<u32>,
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self { part: 1, open: vec![1] }
    }

    /// The last part is repeated; false: too often. What is repeated never does not count.
    pub(super) fn again(&mut self, times: Option<u32>) -> bool {
        self.part = if times == Some(0) { 1 } else { self.part * times.unwrap_or(1) };
        self.part <= MAX_REPEAT
    }

    /// Another part begins. Returns how often the last one is repeated.
    pub(super) fn next(&mut self) -> u32 {
        let last = std::mem::replace(&mut self.part, 1);
        if let Some(most) = self.open.last_mut() {
            *most = last.max(*most);
        }
        last
    }

    /// A group opens; or there were only flags, so that the last part is still the last one.
    pub(super) fn open(&mut self, opens: bool, last: u32) {
        match opens {
            true => self.open.push(1),
            false => self.part = last,
        }
    }

    /// A group closes, and is the last part; nothing: none is open.
    pub(super) fn close(&mut self) -> Option<()> {
        self.part = self.open.pop()?;
        (!self.open.is_empty()).then_some(())
    }

    /// How many groups are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len().saturating_sub(1)
    }
}
