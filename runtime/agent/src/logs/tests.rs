use super::*;

fn line(second: u32, stream: &str, tag: &str, text: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.000000000Z {stream} {tag} {text}\n")
}

fn read(path: &Path, wanted: Wanted) -> String {
    let mut reader = Reader::open(path, wanted).unwrap();
    let mut out = Vec::new();
    while let Some(piece) = reader.read().unwrap() {
        out.extend_from_slice(&piece);
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn lines_are_chosen_and_printed_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    // a rotated file comes first
    std::fs::write(dir.path().join("0.log.20260101-000000"), line(1, "stdout", "F", "one")).unwrap();
    let text = [
        line(2, "stderr", "F", "two"),
        line(3, "stdout", "P", "thr"),
        line(3, "stdout", "F", "ee"),
        "broken\n".into(),
        line(4, "stdout", "F", ""),
        line(5, "stdout", "F", "five words are here"),
    ];
    std::fs::write(&path, text.concat() + "2026-01-01T00:00:06Z stdout F half").unwrap();
    let all = Wanted::default();
    let since = |s: &str| Some(s.parse().unwrap());
    for (wanted, expected) in [
        (all.clone(), "one\ntwo\nthree\n\nfive words are here\n"),
        (Wanted { tail: Some(2), ..all.clone() }, "\nfive words are here\n"),
        (Wanted { tail: Some(3), ..all.clone() }, "three\n\nfive words are here\n"),
        (Wanted { tail: Some(9), ..all.clone() }, "one\ntwo\nthree\n\nfive words are here\n"),
        (Wanted { tail: Some(0), ..all.clone() }, ""),
        (Wanted { since: since("2026-01-01T00:00:03Z"), ..all.clone() }, "three\n\nfive words are here\n"),
        (Wanted { since: since("2026-01-01T00:00:03Z"), tail: Some(1), ..all.clone() }, "five words are here\n"),
        (Wanted { limit: Some(6), ..all.clone() }, "one\ntw"),
        (Wanted { stream: Some(Stream::Stderr), ..all.clone() }, "two\n"),
        (
            Wanted { timestamps: true, tail: Some(3), limit: Some(77), ..all.clone() },
            "2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.000000000Z \n2026-01-",
        ),
    ] {
        assert_eq!(read(&path, wanted.clone()), expected, "{wanted:?}");
    }
}

#[test]
fn a_reader_follows_growth_and_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut reader = Reader::open(&path, Wanted { tail: Some(10), ..Wanted::default() }).unwrap();
    assert_eq!(reader.read().unwrap(), None, "no file yet");
    std::fs::write(&path, line(1, "stdout", "F", "one")).unwrap();
    reader.again();
    assert_eq!(reader.read().unwrap().unwrap(), "one\n");
    assert_eq!(reader.read().unwrap(), None);
    std::fs::rename(&path, dir.path().join("0.log.20260101-000000")).unwrap();
    std::fs::write(&path, line(2, "stdout", "F", "two")).unwrap();
    assert_eq!(reader.read().unwrap().unwrap(), "two\n");
}

#[test]
fn half_a_line_waits_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let whole = line(1, "stdout", "F", "one");
    std::fs::write(&path, &whole[..20]).unwrap();
    let mut reader = Reader::open(&path, Wanted::default()).unwrap();
    assert_eq!(reader.read().unwrap(), None);
    use std::io::Write;
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&whole.as_bytes()[20..]).unwrap();
    assert_eq!(reader.read().unwrap().unwrap(), "one\n");
}

#[test]
fn last_words_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let text: String = (0..500).map(|i| line(1, "stdout", "F", &format!("line {i}"))).collect();
    std::fs::write(&path, text).unwrap();
    let words = last_words(&path);
    assert!(words.ends_with("line 499\n") && words.lines().count() <= 80 && words.len() <= 2048, "{words}");
    assert_eq!(last_words(&dir.path().join("none")), "");
}
