//! The helper process, which holds the node's network namespace. It has one thread, waits for nothing but its sockets and `nft`, and does
//! what it is asked in order.
//!
//! It ends when the process that it serves is gone and no process is in a pod's namespace. While there is one, it waits for another process to
//! serve, at its socket in the folder: pods that outlive the node keep their network.

mod enter;
mod links;
mod netlink;
mod nft;
mod pods;

use crate::{
    packet::{self, Packet},
    protocol::{Answer, Ask, Hello, Numbered, VERSION},
};
use anyhow::{Context, bail};
use enter::Namespaces;
use nft::Applying;
use pods::Pods;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt},
};
use std::{
    env, fs,
    io::{self, stdin},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::ExitCode,
    time::Duration,
};

/// The name of the socket in the folder.
pub(crate) const SOCKET: &str = "netns.sock";

/// How often a helper that serves nobody looks whether its pods are still in use.
const LOOK: Duration = Duration::from_secs(1);

/// How long the process that is served may take to receive an answer, before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// The main function of the helper, for a hidden subcommand. Its standard input is the socket to the node. It must be called first in `main`,
/// while the process has one thread.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the helper of the node's network has ended: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    if !enter::is_alone()? {
        bail!("the helper of the network must have one thread");
    }
    let served = stdin().as_fd().try_clone_to_owned()?;
    sockopt::set_socket_timeout(&served, sockopt::Timeout::Send, Some(SEND_TIMEOUT))?;
    let Some(packet) = packet::receive(&served)? else { bail!("nobody is there") };
    let first: Numbered<Ask> = serde_json::from_slice(&packet.bytes)?;
    let Ask::Hello(hello) = first.body else { bail!("a connection begins with Hello") };
    let made = begin(&hello, packet.descriptors);
    let (pods, listener) = match made {
        Ok(made) => made,
        Err(error) => {
            let unsupported = error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::Unsupported);
            let of: fn(String) -> Answer = if unsupported { Answer::Unsupported } else { Answer::Failed };
            answer(&served, first.call, of(format!("{error:#}")), &[]);
            return Ok(());
        }
    };
    let mut helper = Helper { pods, listener, served: None, applying: None };
    helper.welcome(&served, first.call);
    helper.served = Some(served);
    while helper.step()? {}
    Ok(())
}

/// Makes or enters the namespaces, and listens.
fn begin(hello: &Hello, descriptors: Vec<OwnedFd>) -> anyhow::Result<(Pods, Option<OwnedFd>)> {
    if hello.version != VERSION {
        bail!("this helper speaks version {VERSION}, not {}", hello.version);
    }
    let mut descriptors = descriptors.into_iter();
    let namespaces: Namespaces = match (hello.enter, descriptors.next()) {
        (true, Some(net)) => enter::again(net, descriptors.next()).context("cannot enter the node's namespaces")?,
        (true, None) => bail!("there is no namespace to enter"),
        (false, _) => enter::make()?,
    };
    let pods = Pods::new(namespaces, hello.layout).context("cannot set up the node's network namespace")?;
    let listener = hello.folder.as_deref().map(at_socket).transpose().context("cannot listen in the folder")?;
    Ok((pods, listener))
}

/// Listens at the socket in a folder. The name of a socket is short, and that of the folder need not be.
fn at_socket(folder: &Path) -> io::Result<OwnedFd> {
    env::set_current_dir(folder)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let part = format!("{SOCKET}.{}", std::process::id());
    let _ = fs::remove_file(&part);
    bind(&socket, &SocketAddrUnix::new(&*part)?)?;
    listen(&socket, 1)?;
    fs::rename(&part, SOCKET)?;
    env::set_current_dir("/")?;
    Ok(socket)
}

/// Sends an answer. One that cannot be sent is of somebody who is gone: then the end of the connection follows.
fn answer(to: &OwnedFd, call: u64, body: Answer, descriptors: &[BorrowedFd<'_>]) {
    let bytes = serde_json::to_vec(&Numbered { call, body }).unwrap_or_default();
    if let Err(error) = packet::send(to, &bytes, descriptors) {
        tracing::debug!(%error, "an answer cannot be sent");
    }
}

struct Helper {
    pods: Pods,
    /// Where another process may begin to be served, when this one is gone.
    listener: Option<OwnedFd>,
    served: Option<OwnedFd>,
    applying: Option<Applying>,
}

/// What there is to do.
enum Event {
    Ask,
    Connection,
    Rules,
    Time,
}

impl Helper {
    /// Does the next thing. Returns false at the end.
    fn step(&mut self) -> anyhow::Result<bool> {
        match self.next_event()? {
            Event::Ask => return Ok(self.receive()),
            Event::Connection => self.accept(),
            Event::Rules => {
                let outcome = self.applying.as_mut().and_then(Applying::go_on);
                self.applied(outcome);
            }
            Event::Time => {
                let outcome = self.applying.as_mut().and_then(Applying::stop_if_late);
                self.applied(outcome);
            }
        }
        Ok(self.served.is_some() || self.listener.is_some() && self.pods.are_in_use())
    }

    /// Waits for something to do.
    fn next_event(&self) -> io::Result<Event> {
        let first = match (&self.served, &self.listener) {
            (Some(served), _) => Some((served, Event::Ask)),
            (None, Some(listener)) => Some((listener, Event::Connection)),
            (None, None) => None,
        };
        let mut waiting: Vec<PollFd<'_>> =
            first.iter().map(|(descriptor, _)| PollFd::new(*descriptor, PollFlags::IN)).collect();
        if let Some(applying) = &self.applying {
            waiting.push(PollFd::from_borrowed_fd(applying.readiness(), PollFlags::IN));
        }
        let timed = self.applying.is_some() || self.served.is_none();
        let limit = timed.then(|| Timespec { tv_sec: LOOK.as_secs().cast_signed(), tv_nsec: 0 });
        match poll(&mut waiting, limit.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Event::Time),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: usize| waiting.get(at).is_some_and(|one| !one.revents().is_empty());
        Ok(match first {
            Some((_, event)) if is_ready(0) => event,
            first if self.applying.is_some() && is_ready(usize::from(first.is_some())) => Event::Rules,
            _ => Event::Time,
        })
    }

    fn applied(&mut self, outcome: Option<nft::Outcome>) {
        if let (Some(outcome), Some(applying)) = (outcome, &self.applying) {
            if let Some(served) = &self.served {
                answer(served, applying.call, outcome.map_or_else(Answer::Failed, |()| Answer::Done), &[]);
            }
            self.applying = None;
        }
    }

    /// Serves another process of the same user.
    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC) else { return };
        let _ = sockopt::set_socket_timeout(&connection, sockopt::Timeout::Send, Some(SEND_TIMEOUT));
        let same = sockopt::socket_peercred(&connection).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
        if same {
            self.served = Some(connection);
        }
    }

    fn welcome(&self, to: &OwnedFd, call: u64) {
        let namespaces = &self.pods.namespaces;
        let descriptors: Vec<BorrowedFd<'_>> =
            [Some(&namespaces.net), namespaces.user.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        answer(to, call, Answer::Welcome { version: VERSION, layout: self.pods.layout }, &descriptors);
    }

    /// Does what is asked. Returns false at the end.
    fn receive(&mut self) -> bool {
        let Some(served) = self.served.take() else { return false };
        let packet = packet::receive(&served);
        let Ok(Some(Packet { bytes, descriptors })) = packet else {
            self.applying = self.applying.take().filter(|_| self.listener.is_some());
            return self.listener.is_some() && self.pods.are_in_use();
        };
        let Ok(Numbered { call, body }) = serde_json::from_slice::<Numbered<Ask>>(&bytes) else {
            return self.listener.is_some() && self.pods.are_in_use();
        };
        let descriptor = descriptors.into_iter().next();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::Unsupported => Answer::Unsupported(error.to_string()),
            _ => Answer::Failed(error.to_string()),
        };
        match body {
            Ask::End => return false,
            Ask::Hello(_) => self.welcome(&served, call),
            Ask::Attach { pod, address } => match self.pods.attach(pod, address, descriptor) {
                Ok(namespace) => answer(&served, call, Answer::Done, &[namespace.as_fd()]),
                Err(error) => answer(&served, call, failed(error), &[]),
            },
            Ask::Detach { pod } => {
                let done = self.pods.detach(&pod);
                answer(&served, call, done.map_or_else(failed, |()| Answer::Done), &[]);
            }
            Ask::Sockets { of, kind, count } => match self.pods.sockets(of.as_deref(), kind, count) {
                Ok(sockets) => {
                    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
                    answer(&served, call, Answer::Done, &sockets);
                }
                Err(error) => answer(&served, call, failed(error), &[]),
            },
            Ask::Pods { after } => answer(&served, call, Answer::Pods(self.pods.page(after)), &[]),
            Ask::Rules => {
                if let Some(refusal) = self.start_rules(call, descriptor) {
                    answer(&served, call, refusal, &[]);
                }
            }
        }
        self.served = Some(served);
        true
    }

    /// Starts a transaction; returns why it cannot.
    fn start_rules(&mut self, call: u64, rules: Option<OwnedFd>) -> Option<Answer> {
        if self.applying.is_some() {
            return Some(Answer::Failed("the rules before are not applied yet".into()));
        }
        let Some(rules) = rules else { return Some(Answer::Failed("there are no rules".into())) };
        match Applying::start(call, rules) {
            Ok(applying) => {
                self.applying = Some(applying);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some(Answer::Unsupported("the program nft is not installed: install the package nftables".into()))
            }
            Err(error) => Some(Answer::Failed(format!("nft cannot be started: {error}"))),
        }
    }
}
