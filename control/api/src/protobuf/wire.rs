//! The protobuf wire format: tags, varints, lengths.

/// The first bytes of every body.
pub(super) const MAGIC: &[u8] = b"k8s\0";

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// The payload after a tag.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
    /// The field is missing: the zero of its type.
    Missing,
}

const EOF: &str = "unexpected EOF";

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let (tag, wire) = (key >> 3, key & 7);
        let tag = u32::try_from(tag).ok().filter(|t| *t != 0 && *t < 1 << 29);
        let Some(tag) = tag else { return Err(format!("proto: illegal tag {} (wire type {wire})", (key >> 3) as i32)) };
        let payload = match wire {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length =
                    usize::try_from(self.varint()?).map_err(|_| "proto: negative length found during unmarshaling")?;
                Payload::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Payload::Fixed32
            }
            3 | 4 => return Err(format!("proto: wiretype end group for non-group (tag {tag})")),
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok(Some((tag, payload)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for (index, byte) in self.rest.iter().enumerate() {
            if index >= 10 || (index == 9 && *byte > 1) {
                return Err("proto: integer overflow".into());
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(EOF.into())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(EOF)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("taken at this length"))
    }
}

impl<'a> Payload<'a> {
    fn wrong<T>(self, tag: u32) -> Result<T, String> {
        let wire = match self {
            Self::Varint(_) | Self::Missing => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32 => 5,
        };
        Err(format!("proto: wrong wireType = {wire} for field {tag}"))
    }

    pub(super) fn varint(self, tag: u32) -> Result<u64, String> {
        match self {
            Self::Varint(value) => Ok(value),
            Self::Missing => Ok(0),
            _ => self.wrong(tag),
        }
    }

    pub(super) fn bytes(self, tag: u32) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Missing => Ok(&[]),
            _ => self.wrong(tag),
        }
    }

    pub(super) fn text(self, tag: u32) -> Result<String, String> {
        let bytes = self.bytes(tag)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("proto: field {tag} contains invalid UTF-8"))
    }

    pub(super) fn double(self, tag: u32) -> Result<f64, String> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Self::Missing => Ok(0.0),
            _ => self.wrong(tag),
        }
    }
}

/// Writes messages from their end to their start.
#[derive(Default)]
pub(super) struct Writer {
    /// Each byte before its predecessor.
    reversed: Vec<u8>,
}

impl Writer {
    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
    }

    fn varint(&mut self, mut value: u64) {
        let (mut bytes, mut length) = ([0; 10], 0);
        loop {
            let more = value >= 0x80;
            bytes[length] = (value & 0x7f) as u8 | if more { 0x80 } else { 0 };
            length += 1;
            value >>= 7;
            if !more {
                break;
            }
        }
        self.bytes(&bytes[..length]);
    }

    fn key(&mut self, tag: u16, wire: u64) {
        self.varint(u64::from(tag) << 3 | wire);
    }

    /// What stands before a payload of this length.
    pub(super) fn length(&mut self, tag: u16, length: usize) {
        self.varint(length as u64);
        self.key(tag, 2);
    }

    pub(super) fn field(&mut self, tag: u16, payload: &[u8]) {
        self.bytes(payload);
        self.length(tag, payload.len());
    }

    pub(super) fn text(&mut self, tag: u16, text: &str) {
        self.field(tag, text.as_bytes());
    }

    pub(super) fn number(&mut self, tag: u16, value: u64) {
        self.varint(value);
        self.key(tag, 0);
    }

    pub(super) fn double(&mut self, tag: u16, value: f64) {
        self.bytes(&value.to_le_bytes());
        self.key(tag, 1);
    }

    pub(super) fn clear(&mut self) {
        self.reversed.clear();
    }

    /// Appends what was written.
    pub(super) fn copy_to(&self, out: &mut Vec<u8>) {
        out.extend(self.reversed.iter().rev());
    }

    /// What was written.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.reversed.reverse();
        self.reversed
    }
}
