use super::*;

fn line(second: u32, stream: &str, tag: &str, text: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.000000000Z {stream} {tag} {text}\n")
}

fn read(path: &Path, wanted: LogOptions) -> String {
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
    // Rotated files come first.
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
    let all = LogOptions::default();
    let since = |s: &str| Some(s.parse().unwrap());
    for (wanted, expected) in [
        (all.clone(), "one\ntwo\nthree\n\nfive words are here\n"),
        (LogOptions { tail: Some(2), ..all.clone() }, "\nfive words are here\n"),
        (LogOptions { tail: Some(3), ..all.clone() }, "three\n\nfive words are here\n"),
        (LogOptions { tail: Some(9), ..all.clone() }, "one\ntwo\nthree\n\nfive words are here\n"),
        (LogOptions { tail: Some(0), ..all.clone() }, ""),
        (LogOptions { since: since("2026-01-01T00:00:03Z"), ..all.clone() }, "three\n\nfive words are here\n"),
        (LogOptions { since: since("2026-01-01T00:00:03Z"), tail: Some(1), ..all.clone() }, "five words are here\n"),
        (LogOptions { limit: Some(6), ..all.clone() }, "one\ntw"),
        (LogOptions { stream: Some(Stream::Stderr), ..all.clone() }, "two\n"),
        (
            LogOptions { timestamps: true, tail: Some(3), limit: Some(77), ..all.clone() },
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
    let mut reader = Reader::open(&path, LogOptions { tail: Some(10), ..LogOptions::default() }).unwrap();
    assert_eq!(reader.read().unwrap(), None, "no file yet");
    std::fs::write(&path, line(1, "stdout", "F", "one")).unwrap();
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
    let mut reader = Reader::open(&path, LogOptions::default()).unwrap();
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
    let words = termination_message(&path);
    assert!(words.ends_with("line 499\n") && words.lines().count() <= 80 && words.len() <= 2048, "{words}");
    assert_eq!(termination_message(&dir.path().join("none")), "");
}

#[test]
fn a_reader_misses_no_file_however_often_the_log_was_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let rotate = |to: &str| std::fs::rename(&path, dir.path().join(format!("0.log.20260101-{to}"))).unwrap();
    let write = |n: u32| std::fs::write(&path, line(n, "stdout", "F", &n.to_string())).unwrap();
    let all = |reader: &mut Reader| {
        let mut out = Vec::new();
        while let Some(piece) = reader.read().unwrap() {
            out.extend_from_slice(&piece);
        }
        String::from_utf8(out).unwrap()
    };
    write(1);
    let mut reader = Reader::open(&path, LogOptions::default()).unwrap();
    assert_eq!(all(&mut reader), "1\n");
    // Reads the lines that were written just before the rotation, and the files in between.
    use std::io::Write;
    let late = line(2, "stdout", "F", "2");
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(late.as_bytes()).unwrap();
    rotate("000000");
    write(3);
    rotate("000000-001");
    write(4);
    rotate("000001");
    write(5);
    assert_eq!(all(&mut reader), "2\n3\n4\n5\n");
    // The file that was being read was removed: it was the oldest.
    rotate("000002");
    for name in ["000000", "000000-001", "000001", "000002"] {
        std::fs::remove_file(dir.path().join(format!("0.log.20260101-{name}"))).unwrap();
    }
    write(6);
    assert_eq!(all(&mut reader), "6\n");
    // A file that appears at the start of the read is read from the oldest on.
    rotate("000003");
    write(7);
    assert_eq!(all(&mut Reader::open(&path, LogOptions::default()).unwrap()), "6\n7\n");
    assert_eq!(all(&mut Reader::open(&path, LogOptions { tail: Some(2), ..LogOptions::default() }).unwrap()), "6\n7\n");
}

/// A follower sees all of 64 MiB across rotations. No file is removed, because readers have different speeds on different machines.
#[tokio::test(flavor = "multi_thread")]
async fn all_output_is_seen_by_who_follows() {
    use container::log::{Disk, Log, Options, Source};
    const LINES: usize = (64 << 20) / 64;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let clock = container::Clock::new(|| std::time::SystemTime::UNIX_EPOCH);
    let log = Log::new(path.clone(), Options { max_files: 100, ..Options::default() }, clock, &Disk::new());
    let writing = tokio::spawn(async move {
        let mut out = log.writer(Source::Stdout);
        for begin in (0..LINES).step_by(100) {
            let text: String = (begin..LINES.min(begin + 100)).map(|n| format!("{n:063}\n")).collect();
            log.writable().await;
            out.write(text.as_bytes());
        }
        log.flush().await;
    });
    let following = tokio::task::spawn_blocking(move || {
        let mut reader = Reader::open(&path, LogOptions { follow: true, ..LogOptions::default() }).unwrap();
        let (mut seen, mut rest) = (0, Vec::new());
        while seen < LINES {
            let ended = writing.is_finished();
            let Some(piece) = reader.read().unwrap() else {
                assert!(!ended, "{seen} of {LINES} lines");
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            rest.extend_from_slice(&piece);
            let whole = rest.len() / 64 * 64;
            for line in rest[..whole].chunks(64) {
                let number: usize = std::str::from_utf8(&line[..63]).unwrap().parse().unwrap();
                assert_eq!((number, line[63]), (seen, b'\n'), "a gap");
                seen += 1;
            }
            rest.drain(..whole);
        }
    });
    following.await.unwrap();
    assert!(container::log::rotated(&dir.path().join("0.log")).unwrap().len() > 5, "it was rotated");
}
