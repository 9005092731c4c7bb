use super::*;
use std::sync::atomic::{AtomicU64, Ordering};

fn fixed(nanos: Arc<AtomicU64>) -> Clock {
    Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.load(Ordering::SeqCst)))
}

/// 2026-01-02T15:04:05Z.
const START: u64 = 1_767_366_245_000_000_000;

struct Room {
    folder: tempfile::TempDir,
    time: Arc<AtomicU64>,
    log: Log,
}

fn room(options: Options) -> Room {
    let folder = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicU64::new(START));
    let log = Log::new(folder.path().join("pod/main/0.log"), options, fixed(time.clone()), &Disk::new());
    Room { folder, time, log }
}

impl Room {
    fn path(&self) -> PathBuf {
        self.folder.path().join("pod/main/0.log")
    }

    async fn text(&self) -> String {
        self.log.flush().await;
        fs::read_to_string(self.path()).unwrap()
    }
}

#[test]
fn timestamps_are_rfc3339_with_nanoseconds() {
    for (seconds, nanos, expected) in [
        (0, 0, "1970-01-01T00:00:00.000000000Z"),
        (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
        (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
        (1_767_366_245, 123_456_789, "2026-01-02T15:04:05.123456789Z"),
        (4_102_444_799, 999_999_999, "2099-12-31T23:59:59.999999999Z"),
    ] {
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)), expected);
    }
}

#[tokio::test]
async fn lines_are_tagged_with_their_stream() {
    let room = room(Options::default());
    assert!(!room.path().exists(), "nothing is made before the first byte");
    let mut out = room.log.writer(Source::Stdout);
    let mut err = room.log.writer(Source::Stderr);
    out.write(b"hel");
    err.write(b"oops\n");
    out.write(b"lo\n\nunfinished");
    drop(out);
    assert_eq!(
        room.text().await,
        "2026-01-02T15:04:05.000000000Z stderr F oops\n\
         2026-01-02T15:04:05.000000000Z stdout F hello\n\
         2026-01-02T15:04:05.000000000Z stdout F \n\
         2026-01-02T15:04:05.000000000Z stdout P unfinished\n"
    );
}

#[tokio::test]
async fn long_lines_are_cut_into_partial_ones() {
    // The split of the input does not change the lines.
    for chunk in [1, 2, 3, 7, 100] {
        let room = room(Options { max_line: 4, ..Options::default() });
        let mut out = room.log.writer(Source::Stdout);
        for bytes in b"abcdefghij\nabcd\nxy\nlonger\n".chunks(chunk) {
            out.write(bytes);
        }
        let text = room.text().await;
        let tags: Vec<&str> =
            text.lines().map(|line| &line["2026-01-02T15:04:05.000000000Z stdout ".len()..]).collect();
        assert_eq!(tags, ["P abcd", "P efgh", "F ij", "F abcd", "F xy", "P long", "F er"], "in chunks of {chunk}");
    }
}

#[tokio::test]
async fn full_files_are_rotated_and_the_oldest_removed() {
    let room = room(Options { max_size: 200, max_files: 3, ..Options::default() });
    let mut out = room.log.writer(Source::Stdout);
    for number in 0..20 {
        out.write(format!("line {number}\n").as_bytes());
        room.log.flush().await;
        room.time.fetch_add(1_000_000_000, Ordering::SeqCst);
    }
    let rotated = rotated(&room.path()).unwrap();
    assert_eq!(rotated.len(), 2);
    assert!(rotated[0].to_string_lossy().contains("0.log.20260102-1504"), "{rotated:?}");
    let mut all = String::new();
    for path in rotated.iter().chain([&room.path()]) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.len() <= 200);
        all += &text;
    }
    let numbers: Vec<u32> = all.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a gap: {numbers:?}");
    assert_eq!(numbers.last(), Some(&19));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_too_fast_waits_and_loses_nothing() {
    let room = room(Options { rate: 1000, burst: 10_000, ..Options::default() });
    let mut out = room.log.writer(Source::Stdout);
    let begin = Instant::now();
    for number in 0..1000 {
        room.log.writable().await;
        assert!(room.log.free() > 0);
        out.write(format!("{number:010}\n").as_bytes());
    }
    // 49 bytes each; the burst allows the first 10,000.
    let took = begin.elapsed().as_secs();
    assert!((38..=41).contains(&took), "{took} s");
    tokio::time::resume();
    let text = room.text().await;
    let numbers: Vec<u32> = text.lines().map(|line| line[41..].parse().unwrap()).collect();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
#[allow(clippy::await_holding_lock)] // the lock simulates a disk that does not respond
async fn a_disk_that_hangs_stops_no_writer_for_ever() {
    let room = room(Options { buffer: 100, ..Options::default() });
    let mut out = room.log.writer(Source::Stdout);
    out.write(b"before\n");
    room.log.flush().await;
    tokio::time::pause();
    // Simulates a disk that does not respond: the disk's thread blocks in its write.
    let hanging = room.log.0.file.lock();
    out.write(b"kept for the disk\n");
    // The paused clock advances while the thread does not: wait until the thread blocks.
    while room.log.0.pending.lock().queued {
        std::thread::yield_now();
    }
    for _ in 0..9 {
        out.write(b"kept for the disk\n");
    }
    let begin = Instant::now();
    while room.log.0.pending.lock().lost == Lost::default() {
        room.log.writable().await;
        out.write(b"0123456789\n");
    }
    assert!(begin.elapsed() >= STALL_TIMEOUT, "{:?}", begin.elapsed());
    for _ in 0..1000 {
        room.log.writable().await;
        out.write(b"0123456789\n");
    }
    assert!(begin.elapsed() < 2 * STALL_TIMEOUT, "it waits once, not for each line");
    drop(hanging);
    tokio::time::resume();
    room.log.flush().await;
    out.write(b"after\n");
    let text = room.text().await;
    assert!(text.contains("kept for the disk\n") && text.ends_with("stdout F after\n"), "{text}");
    assert!(text.lines().all(|line| line.contains("stdout")), "only what the guest wrote: {text}");
    assert_eq!(room.log.0.pending.lock().lost, Lost::default(), "it was told");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_never_blocks_its_writer() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let clock = fixed(Arc::new(AtomicU64::new(START)));
    let log = Log::new(
        folder.path().join("file/below/0.log"),
        Options { buffer: 100, ..Options::default() },
        clock,
        &Disk::new(),
    );
    let mut out = log.writer(Source::Stdout);
    for _ in 0..100 {
        log.writable().await;
        out.write(b"0123456789\n");
    }
    log.flush().await;
}
