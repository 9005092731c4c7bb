//! Reads a redb file page by page without redb, which cannot open a damaged file.
//!
//! Follows redb's `docs/design.md` for file format 3: a header page with two commit slots, each with the root of the table of tables; leaf
//! pages with keys and values, and branch pages with children and separating keys. The content is not trusted: whatever exceeds its page is
//! `None`, and values must have their own checksum.

use std::ops::Range;

const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// The offset of the byte whose lowest bit selects the current commit slot.
const PRIMARY: usize = 9;
/// The offset of the commit slots, and their length.
const SLOTS: usize = 64;
const SLOT: usize = 128;
/// The size of the smallest page, which the header contains too.
pub(super) const PAGE: usize = 4096;
/// A page has at most 2²⁰ times the smallest size.
const LARGEST_ORDER: u64 = 20;

/// The bytes of a file and the layout of its pages.
pub(super) struct Pages<'a> {
    file: &'a [u8],
    /// The layout of the header page and each region: pages before the data, and all pages.
    region_header: usize,
    region: usize,
}

/// A page number, as redb encodes it.
pub(super) type Number = u64;

/// The content of a page.
pub(super) enum Page<'a> {
    Leaf(Leaf<'a>),
    Branch(Branch<'a>),
}

/// Keys and values.
pub(super) struct Leaf<'a> {
    page: &'a [u8],
    count: usize,
}

/// Children and the keys between them. Each key is at or above all keys of the child before it, and below all keys of the child after it.
pub(super) struct Branch<'a> {
    page: &'a [u8],
    keys: usize,
}

impl<'a> Pages<'a> {
    /// `None` if the header does not describe the layout.
    pub(super) fn new(file: &'a [u8]) -> Option<Self> {
        let page = small(file, 12)?;
        let (header, data) = (small(file, 16)?, small(file, 20)?);
        let sound = file.starts_with(MAGIC) && page == PAGE && data > 0;
        let (region_header, region) = (header.checked_mul(PAGE)?, header.checked_add(data)?.checked_mul(PAGE)?);
        sound.then_some(Self { file, region_header, region })
    }

    /// The roots of the tables of tables, the newest first.
    pub(super) fn roots(&self) -> impl Iterator<Item = Number> {
        let primary = usize::from(self.file.get(PRIMARY).is_some_and(|byte| byte & 1 == 1));
        [primary, 1 - primary].into_iter().filter_map(|slot| {
            let slot = self.file.get(SLOTS + SLOT * slot..)?;
            (*slot.get(1)? == 1).then(|| number(slot, 8))?
        })
    }

    /// The page with a number.
    pub(super) fn page(&self, number: Number) -> Option<Page<'a>> {
        let order = number >> 59;
        if order > LARGEST_ORDER {
            return None;
        }
        let (region, index) = (number >> 20 & 0xf_ffff, number & (0xf_ffff >> order));
        let length = PAGE << order;
        let start = usize::try_from(region).ok()?.checked_mul(self.region)?;
        let start = start.checked_add(PAGE + self.region_header + usize::try_from(index).ok()? * length)?;
        Page::read(self.file.get(start..start.checked_add(length)?)?)
    }
}

impl<'a> Page<'a> {
    /// Parses a page. `bytes` may be longer than the page.
    pub(super) fn read(page: &'a [u8]) -> Option<Self> {
        let count = usize::from(u16::from_le_bytes(page.get(2..4)?.try_into().ok()?));
        match page[0] {
            1 => Some(Page::Leaf(Leaf { page, count })),
            2 => Some(Page::Branch(Branch { page, keys: count })),
            _ => None,
        }
    }
}

impl<'a> Leaf<'a> {
    /// The keys and values. `None` for one that exceeds the page.
    pub(super) fn entries(&self) -> impl Iterator<Item = Option<(&'a [u8], &'a [u8])>> {
        (0..self.count).map(|n| Some((self.get(self.key(n, 2)?)?, self.get(self.value(n)?)?)))
    }

    /// The same for a table with values of eight bytes.
    pub(super) fn numbers(&self) -> impl Iterator<Item = Option<(&'a [u8], u64)>> {
        let values = self.count.checked_sub(1).and_then(|last| Some(self.key(last, 1)?.end));
        (0..self.count).map(move |n| Some((self.get(self.key(n, 1)?)?, number(self.page, values? + 8 * n)?)))
    }

    /// The range of a key. `ends` is 2 if the ends of values follow those of keys, otherwise 1.
    fn key(&self, n: usize, ends: usize) -> Option<Range<usize>> {
        let start = n.checked_sub(1).map_or(Some(4 + 4 * ends * self.count), |before| small(self.page, 4 + 4 * before));
        Some(start?..small(self.page, 4 + 4 * n)?)
    }

    fn value(&self, n: usize) -> Option<Range<usize>> {
        let first = 4 + 4 * self.count;
        let start = n.checked_sub(1).map_or_else(
            || Some(self.key(self.count.checked_sub(1)?, 2)?.end),
            |before| small(self.page, first + 4 * before),
        );
        Some(start?..small(self.page, first + 4 * n)?)
    }

    fn get(&self, place: Range<usize>) -> Option<&'a [u8]> {
        self.page.get(place)
    }
}

impl<'a> Branch<'a> {
    /// Each child with the key after it, which the last child does not have. `None` for one that exceeds the page.
    pub(super) fn children(&self) -> impl Iterator<Item = Option<(Number, Option<&'a [u8]>)>> {
        let (numbers, ends) = (8 + 16 * (self.keys + 1), 8 + 24 * (self.keys + 1));
        let key = move |n: usize| {
            let start =
                n.checked_sub(1).map_or(Some(ends + 4 * self.keys), |before| small(self.page, ends + 4 * before));
            self.page.get(start?..small(self.page, ends + 4 * n)?)
        };
        (0..=self.keys).map(move |n| {
            let child = number(self.page, numbers + 8 * n)?;
            if n == self.keys { Some((child, None)) } else { Some((child, Some(key(n)?))) }
        })
    }
}

/// The root of a table, from its entry in the table of tables. Empty tables have none.
pub(super) fn table_root(entry: &[u8]) -> Option<Option<Number>> {
    let root = number(entry, 10)?;
    Some((entry[9] == 1).then_some(root))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn small(bytes: &[u8], at: usize) -> Option<usize> {
    let number = u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?);
    usize::try_from(number).ok()
}
