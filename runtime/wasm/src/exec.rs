//! Commands of `kubectl exec`: a new instance of the container's guest with other arguments, another function that the guest exports, or one
//! of the built-in [`tools`]. Each command has its own streams, and the volumes, environment, network, memory and CPU of its container.

use crate::{
    attach::pump,
    command,
    exit::End,
    guest::{Io, Shared},
    image::Image,
    pool::Pool,
    quota::Throttled,
    stdio::Output,
    terminal::{Effects, LineDiscipline},
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

/// Most concurrent commands in one container.
pub(crate) const MAX_COMMANDS: usize = 8;

/// Most queued chunks of output. The command waits when the queue is full.
const OUTPUT_QUEUE: usize = 16;

/// Most bytes of input that the command has not read. The client waits when the buffer is full.
const STDIN_BUFFER: usize = 8 << 10;

/// Exit code after the interrupt character: 128 + SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Runs a command until it has exited and its output is written. Returns its exit code.
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
    let permit = shared.commands.clone().try_acquire_owned();
    let permit =
        permit.map_err(|_| Error::Exhausted(format!("this container runs {MAX_COMMANDS} commands already")))?;
    let Streams { stdin, stdout, stderr, resize } = streams;
    // WASI has no call for the size of a terminal
    drop(resize);
    let (out, out_chunks) = mpsc::channel(OUTPUT_QUEUE);
    let (err, err_chunks) = mpsc::channel(OUTPUT_QUEUE);
    // a terminal has a single output stream
    let err = Some(err).filter(|_| !tty).unwrap_or_else(|| out.clone());
    let (read, write) = duplex(STDIN_BUFFER);
    let (input, stdin_writer) = if stdin.is_some() { (Some(read), Some(write)) } else { (None, None) };
    let io = Io {
        function: command::function_name(&command),
        args: command.clone(),
        stdin: input.map(|from| (from, tty)),
        stdout: Output::pipe(out.clone(), tty),
        stderr: Output::pipe(err, tty),
    };
    // the task runs on the guests' threads; dropping the handle aborts it
    let mut task = AbortOnDropHandle::new(match tools::find(first) {
        Some(tool) => tools::start(pool, shared, tool, io),
        None => start(pool, shared, image, io),
    });
    let program = async move {
        let feed = feed(stdin, stdin_writer, tty.then_some(out));
        tokio::select! {
            biased;
            code = &mut task => code.unwrap_or_else(|error| Err(Error::Other(error.into()))),
            () = feed => Ok(EXIT_INTERRUPTED),
        }
    };
    let (code, (), ()) = tokio::join!(program, pump(out_chunks, stdout), pump(err_chunks, stderr));
    drop(permit);
    code
}

/// Starts a new instance of the container's guest.
fn start(pool: &Arc<Pool>, shared: &Arc<Shared>, image: &Arc<Image>, io: Io) -> JoinHandle<Result<i32>> {
    let (node, shared, image) = (pool.clone(), shared.clone(), image.clone());
    pool.handle().spawn(async move {
        let (errors, name) = (io.stderr.clone(), io.args.first().cloned().unwrap_or_default());
        let run = command::run(&node, &shared, &image, io);
        let result = Throttled::new(run, shared.quota.clone(), node.ticker.clone()).await;
        let End { code, reason, message } = command::end(result, &shared).await;
        if reason == ExitReason::ContainerCannotRun {
            return Err(Error::Invalid(format!("exec: \"{name}\": {message}")));
        }
        if !message.is_empty() {
            errors.write_all(format!("sampan: {name} failed: {}\n", message.trim_end()).as_bytes()).await;
        }
        Ok(code)
    })
}

/// Copies the client's input to the command. Returns only when the interrupt character was typed.
async fn feed(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    mut to: Option<DuplexStream>,
    echo: Option<mpsc::Sender<Bytes>>,
) {
    let (mut buffer, mut terminal) = (vec![0; STDIN_BUFFER], LineDiscipline::default());
    if let Some(mut from) = from {
        while let (Ok(count @ 1..), Some(input)) = (from.read(&mut buffer).await, &mut to) {
            let Some(echo) = &echo else {
                if input.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
                continue;
            };
            let Effects { echo: echoed, line, eof, interrupt } = terminal.input(&buffer[..count]);
            // a client that does not read its output gets no echo, so that input never waits for output
            let _ = echo.try_send(echoed.into());
            if interrupt {
                return;
            }
            if input.write_all(&line).await.is_err() {
                break;
            }
            if eof {
                to = None;
            }
        }
    }
    drop((to, echo));
    std::future::pending::<()>().await;
}
