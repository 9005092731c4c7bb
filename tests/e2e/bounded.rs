//! Programs that end within a bound, or are killed and the test fails with what they printed so far: one that hangs holds up one test, not
//! all of them.

use std::{
    io::{Read, Write},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

/// Far above what a client's command takes, and above the `--timeout` of each that has one.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);

/// Commands with a bound.
pub trait Bounded {
    /// As [`Command::output`], within [`CLIENT_TIMEOUT`].
    fn bounded(&mut self) -> Output {
        self.bounded_with("", CLIENT_TIMEOUT)
    }

    /// Its output, with standard input, within a time.
    fn bounded_with(&mut self, input: &str, limit: Duration) -> Output;
}

impl Bounded for Command {
    fn bounded_with(&mut self, input: &str, limit: Duration) -> Output {
        self.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{:?} {:?}", self.get_program(), self.get_args().collect::<Vec<_>>());
        let mut child = self.spawn().unwrap_or_else(|error| panic!("{what} does not start: {error}"));
        // By a thread of its own: neither pipe holds all of it. A program that reads nothing ends its pipe.
        let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_owned());
        thread::spawn(move || stdin.write_all(input.as_bytes()));
        ended(child, &what, limit)
    }
}

/// What a started program prints where that is piped, and how it ends within a time.
pub fn ended(mut child: Child, what: &str, limit: Duration) -> Output {
    let deadline = Instant::now() + limit;
    let (done, all) = mpsc::channel::<()>();
    let stdout = child.stdout.take().map_or_else(Arc::default, |stream| follow(stream, done.clone()));
    let stderr = child.stderr.take().map_or_else(Arc::default, |stream| follow(stream, done.clone()));
    drop(done);
    let text = |bytes: &Mutex<Vec<u8>>| String::from_utf8_lossy(&bytes.lock().expect("no panic")).into_owned();
    let give_up = |child: &mut Child| -> ! {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{what} does not end within {limit:?}; it printed\n{}\n{}", text(&stdout), text(&stderr));
    };
    // Both readers end, by the last end of the pipe that is closed.
    if all.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        give_up(&mut child);
    }
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > deadline {
            give_up(&mut child);
        }
        thread::sleep(Duration::from_millis(1));
    };
    let bytes = |bytes: &Mutex<Vec<u8>>| std::mem::take(&mut *bytes.lock().expect("no panic"));
    Output { status, stdout: bytes(&stdout), stderr: bytes(&stderr) }
}

/// What a stream brings, as it comes. `done` is dropped at its end.
fn follow(mut stream: impl Read + Send + 'static, done: mpsc::Sender<()>) -> Arc<Mutex<Vec<u8>>> {
    let read: Arc<Mutex<Vec<u8>>> = Arc::default();
    let written = read.clone();
    thread::spawn(move || {
        let (mut buffer, _done) = ([0; 16 << 10], done);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            written.lock().expect("no panic").extend_from_slice(&buffer[..length]);
        }
    });
    read
}

#[test]
fn a_program_that_hangs_fails_its_test_with_what_it_printed() {
    let hangs = || {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; echo to $line; echo more >&2; exec sleep 600"]);
        command.bounded_with("me\n", Duration::from_secs(3))
    };
    let begin = Instant::now();
    let panic = std::panic::catch_unwind(hangs).expect_err("it hangs");
    let text = panic.downcast_ref::<String>().expect("a text");
    assert!(text.contains("does not end within 3s; it printed\nto me\n\nmore\n"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(60));
    let output = Command::new("sh").args(["-c", "cat; exit 3"]).bounded_with("all", CLIENT_TIMEOUT);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"all"[..]));
}
