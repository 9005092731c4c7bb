//! Commands beside a container's program: the same guest anew with other arguments, another function that it exports, or one of the built-in
//! [`tools`]. Each has streams of its own, and its container's volumes, environment, network, memory and CPU.

use crate::{
    attach::pump,
    command,
    exit::End,
    guest::{Io, Shared},
    image::Image,
    pool::Pool,
    quota::Throttled,
    stdio::Output,
    terminal::{Terminal, Typed},
    tools,
};
use bytes::Bytes;
use container::{Error, Exec, ExitReason, Result, Streams};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;

/// Commands at a time in one container.
pub(crate) const COMMANDS: usize = 8;

/// Pieces of output that nobody has taken.
const OUTPUT: usize = 16;

/// Bytes of input that the command has not read.
const INPUT: usize = 8 << 10;

/// Interrupted at a terminal.
const INTERRUPTED: i32 = 130;

/// Runs a command to its end, and until all its output is written.
pub(crate) async fn run(
    pool: &Arc<Pool>,
    shared: &Arc<Shared>,
    image: &Arc<Image>,
    exec: Exec,
    streams: Streams,
) -> Result<i32> {
    let Exec { command, tty } = exec;
    let Some(first) = command.first() else {
        return Err(Error::Invalid("there is no command".into()));
    };
    let place = shared.commands.clone().try_acquire_owned();
    let place = place.map_err(|_| Error::Exhausted(format!("this container runs {COMMANDS} commands already")))?;
    let Streams { stdin, stdout, stderr, resize } = streams;
    // no program here can ask how large a terminal is
    drop(resize);
    let (out, out_pieces) = mpsc::channel(OUTPUT);
    let (err, err_pieces) = mpsc::channel(OUTPUT);
    // a terminal has one output
    let err = Some(err).filter(|_| !tty).unwrap_or_else(|| out.clone());
    let (read, write) = duplex(INPUT);
    let (input, feed_to) = if stdin.is_some() { (Some(read), Some(write)) } else { (None, None) };
    let io = Io {
        function: command::named(&command),
        args: command.clone(),
        stdin: input.map(|from| (from, tty)),
        stdout: Output::pipe(out.clone(), tty),
        stderr: Output::pipe(err, tty),
    };
    // on other threads, and it ends when this is dropped
    let mut task = AbortOnDropHandle::new(match tools::find(first) {
        Some(tool) => tools::start(pool, shared, tool, io),
        None => start(pool, shared, image, io),
    });
    let program = async move {
        let feed = feed(stdin, feed_to, tty.then_some(out));
        tokio::select! {
            biased;
            code = &mut task => code.unwrap_or_else(|error| Err(Error::Other(error.into()))),
            () = feed => Ok(INTERRUPTED),
        }
    };
    let (code, (), ()) = tokio::join!(program, pump(out_pieces, stdout), pump(err_pieces, stderr));
    drop(place);
    code
}

/// The guest anew.
fn start(pool: &Arc<Pool>, shared: &Arc<Shared>, image: &Arc<Image>, io: Io) -> JoinHandle<Result<i32>> {
    let (node, shared, image) = (pool.clone(), shared.clone(), image.clone());
    pool.handle().spawn(async move {
        let (errors, name) = (io.stderr.clone(), io.args.first().cloned().unwrap_or_default());
        let run = command::run(&node, &shared, &image, io);
        let result = Throttled::new(run, shared.quota.clone(), node.ticker.clone()).await;
        let End { code, reason, message } = command::end(result, &shared);
        if reason == ExitReason::ContainerCannotRun {
            return Err(Error::Invalid(format!("exec: \"{name}\": {message}")));
        }
        if !message.is_empty() {
            errors.say(format!("sampan: {name} failed: {}\n", message.trim_end()).as_bytes()).await;
        }
        Ok(code)
    })
}

/// Copies to the command's input. Returns when somebody at a terminal interrupts it.
async fn feed(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    mut to: Option<DuplexStream>,
    echo: Option<mpsc::Sender<Bytes>>,
) {
    let (mut buffer, mut terminal) = (vec![0; INPUT], Terminal::default());
    if let Some(mut from) = from {
        while let (Ok(count @ 1..), Some(input)) = (from.read(&mut buffer).await, &mut to) {
            let Some(echo) = &echo else {
                if input.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
                continue;
            };
            let Typed { shown, line, end, interrupt } = terminal.take(&buffer[..count]);
            // who types and does not read is not shown it
            let _ = echo.try_send(shown.into());
            if interrupt {
                return;
            }
            if input.write_all(&line).await.is_err() {
                break;
            }
            if end {
                to = None;
            }
        }
    }
    drop((to, echo));
    std::future::pending::<()>().await;
}
