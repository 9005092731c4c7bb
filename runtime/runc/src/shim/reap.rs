//! The ends of processes. A shim is the parent of its containers' programs, since it takes the children of what ended below it (a child
//! subreaper): no other part of it may wait for a process.

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait},
};
use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    io,
    rc::Rc,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Most ends that are kept for a process whose number is not known yet: that of a container which ended while the OCI runtime still worked.
const MAX_UNCLAIMED: usize = 256;

/// How a process ended, as a shell tells it.
pub(crate) fn code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

#[derive(Default)]
pub(crate) struct Reaper {
    waiting: RefCell<HashMap<Pid, oneshot::Sender<WaitStatus>>>,
    unclaimed: RefCell<VecDeque<(Pid, WaitStatus)>>,
}

impl Reaper {
    /// Starts to wait for all children. Within a local set.
    pub(crate) fn start() -> io::Result<Rc<Self>> {
        let reaper = Rc::new(Self::default());
        let (mut children, own) = (signal(SignalKind::child())?, reaper.clone());
        tokio::task::spawn_local(async move {
            loop {
                own.reap();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    fn reap(&self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(waiting) = self.waiting.borrow_mut().remove(&pid) {
                        let _ = waiting.send(status);
                        continue;
                    }
                    let mut unclaimed = self.unclaimed.borrow_mut();
                    unclaimed.push_back((pid, status));
                    if unclaimed.len() > MAX_UNCLAIMED {
                        unclaimed.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// The end of a process that was just started by this one: an older end of the same number is another's.
    pub(crate) fn started(&self, pid: Pid) -> oneshot::Receiver<WaitStatus> {
        self.unclaimed.borrow_mut().retain(|(other, _)| *other != pid);
        self.claim(pid)
    }

    /// The end of a process that another started for this one, which may have ended already.
    pub(crate) fn claim(&self, pid: Pid) -> oneshot::Receiver<WaitStatus> {
        let (sender, receiver) = oneshot::channel();
        let mut unclaimed = self.unclaimed.borrow_mut();
        match unclaimed.iter().rposition(|(other, _)| *other == pid).and_then(|at| unclaimed.remove(at)) {
            Some((_, status)) => drop(sender.send(status)),
            None => drop(self.waiting.borrow_mut().insert(pid, sender)),
        }
        receiver
    }

    /// Sends a signal to a process that was claimed, unless it has ended: its number is not another's before it is reaped.
    pub(crate) fn signal(&self, pid: Pid, signal: Signal) {
        if self.waiting.borrow().contains_key(&pid) {
            let _ = kill_process(pid, signal);
        }
    }
}
