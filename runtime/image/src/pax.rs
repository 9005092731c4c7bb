//! Extended headers of tar: the names of GNU, and the records of pax (POSIX.1-2017, `pax`), which belong to the next entry.
//!
//! A record is `LENGTH KEY=VALUE\n`, and its length counts: values may hold line feeds, as extended attributes do.

use crate::error::Fault;
use tar::EntryType;

/// Longest name of an entry, bytes.
const MAX_NAME: u64 = 64 << 10;
/// Longest extended header, bytes.
const MAX_HEADER: u64 = 1 << 20;
/// What the keys of extended attributes begin with.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// What extended headers say of the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extended {
    /// By GNU; before those of pax, as other unpackers have it.
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Records,
}

/// The records of the last pax header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(crate) modified: Option<(i64, u32)>,
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The content is a map of a file with holes.
    pub(crate) sparse: bool,
}

impl Extended {
    /// How many bytes of content an entry may have, if it is an extended header.
    pub(crate) fn limit(kind: EntryType) -> Option<u64> {
        match kind {
            EntryType::GNULongName | EntryType::GNULongLink => Some(MAX_NAME),
            EntryType::XHeader | EntryType::XGlobalHeader => Some(MAX_HEADER),
            _ => None,
        }
    }

    /// Takes in the content of an extended header. A global one says nothing here, as in other unpackers of images.
    pub(crate) fn take(&mut self, kind: EntryType, content: &[u8]) -> Result<(), Fault> {
        let name = || content.strip_suffix(b"\0").unwrap_or(content).to_owned();
        match kind {
            EntryType::GNULongName => self.long_path = Some(name()),
            EntryType::GNULongLink => self.long_link = Some(name()),
            EntryType::XHeader => {
                self.pax =
                    records(content).ok_or_else(|| Fault::content("the archive has a damaged extended header"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The path, the target of a link, and the other records.
    pub(crate) fn into_parts(self) -> (Option<Vec<u8>>, Option<Vec<u8>>, Records) {
        let mut pax = self.pax;
        (self.long_path.or(pax.path.take()), self.long_link.or(pax.link.take()), pax)
    }
}

fn records(mut content: &[u8]) -> Option<Records> {
    let mut found = Records::default();
    while !content.is_empty() {
        let blank = content.iter().take(10).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&content[..blank]).ok()?.parse().ok()?;
        let record = content.get(blank + 1..length)?.strip_suffix(b"\n")?;
        content = &content[length..];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let number = || std::str::from_utf8(value).ok()?.parse().ok();
        match key {
            // An empty value takes the record back.
            b"path" => found.path = Some(value.to_owned()).filter(|path| !path.is_empty()),
            b"linkpath" => found.link = Some(value.to_owned()).filter(|link| !link.is_empty()),
            b"size" => found.size = Some(number()?),
            b"uid" => found.uid = Some(number()?),
            b"gid" => found.gid = Some(number()?),
            b"mtime" => found.modified = Some(time(value)?),
            _ if key.starts_with(b"GNU.sparse.") => found.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                    found.attributes.retain(|(known, _)| known != name);
                    found.attributes.push((name.to_owned(), value.to_owned()));
                }
            }
        }
    }
    Some(found)
}

/// Seconds since 1970 with a fraction: `-1.5`.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanos): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
    match whole.starts_with('-') && nanos > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        false => Some((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length = (1..).find(|length: &usize| length.to_string().len() + rest == *length).unwrap();
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn values_are_as_long_as_they_say() {
        let header = [
            record("path", "a/ä".as_bytes()),
            record("SCHILY.xattr.user.a", b"1\n27 path=elsewhere"),
            record("SCHILY.xattr.user.a", b"two\n\0="),
            record("uid", b"4294967296"),
            record("mtime", b"-1.25"),
            record("comment", b""),
        ];
        let mut extended = Extended::default();
        extended.take(EntryType::XHeader, &header.concat()).unwrap();
        let (path, link, rest) = extended.into_parts();
        assert_eq!((path.as_deref(), link), (Some("a/ä".as_bytes()), None));
        assert_eq!(rest.attributes, [(b"user.a".to_vec(), b"two\n\0=".to_vec())]);
        assert_eq!((rest.uid, rest.modified), (Some(1 << 32), Some((-2, 750_000_000))));
        assert!(!rest.sparse);
    }

    #[test]
    fn the_last_header_of_a_kind_counts_and_the_names_of_gnu_are_first() {
        let mut extended = Extended::default();
        for (kind, content) in [
            (EntryType::XHeader, record("GNU.sparse.major", b"1")),
            (EntryType::XHeader, record("path", b"pax")),
            (EntryType::XGlobalHeader, record("path", b"global")),
            (EntryType::GNULongLink, b"link\0".to_vec()),
        ] {
            extended.take(kind, &content).unwrap();
        }
        let taken = std::mem::take(&mut extended).into_parts();
        assert_eq!(taken, (Some(b"pax".to_vec()), Some(b"link".to_vec()), Records::default()));
        extended.take(EntryType::GNULongName, b"gnu").unwrap();
        extended.take(EntryType::XHeader, &record("path", b"pax")).unwrap();
        assert_eq!(extended.into_parts().0, Some(b"gnu".to_vec()));
    }

    #[test]
    fn damaged_records_are_refused() {
        let far = format!("{} a=b\n", usize::MAX);
        for bad in [
            "a",
            "6 a=b",
            "7 a=b\n",
            "5 a=b\n",
            "0 a=b\n",
            "-6 a=b\n",
            "5 ab\n",
            "1 \n",
            " a=b\n",
            &far,
            "10 size=x\n",
            "11 mtime=-\n",
            "13 mtime=1.x\n",
            "999999999999999999999 a=b\n",
        ] {
            let refused = Extended::default().take(EntryType::XHeader, bad.as_bytes()).unwrap_err();
            assert_eq!(refused, Fault::content("the archive has a damaged extended header"), "{bad}");
        }
    }
}
