//! A part that the cluster cannot be without has ended: the process ends, with the reason and a code that a supervisor sees.

use crate::harness::{Machine, skipped, tool};
use std::process::Command;

/// Takes the listening sockets of a process with a port, and shuts them down, as `ss --kill` and security tools do. Exits with 3 where it may not.
const SHUT_DOWN: &str = "
import ctypes, os, socket, sys
pid, port = int(sys.argv[1]), int(sys.argv[2])
process = os.pidfd_open(pid)
libc, shut = ctypes.CDLL(None, use_errno=True), 0
for name in os.listdir(f'/proc/{pid}/fd'):
    if not os.readlink(f'/proc/{pid}/fd/{name}').startswith('socket:'):
        continue
    fd = libc.syscall(438, process, int(name), 0)  # pidfd_getfd
    if fd < 0:
        sys.exit(3)
    taken = socket.socket(fileno=fd)
    if taken.family == socket.AF_INET and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and taken.getsockname()[1] == port:
        taken.shutdown(socket.SHUT_RDWR)
        shut += 1
sys.exit(0 if shut else 4)
";

#[test]
fn an_api_that_listens_no_more_ends_the_process_with_a_reason() {
    let Some(python) = tool("PYTHON", "python3") else { return };
    let machine = Machine::new();
    let mut cluster = machine.up(&[]);
    let port = cluster.endpoint.rsplit(':').next().expect("a port").to_owned();
    let status = Command::new(python).args(["-c", SHUT_DOWN, &cluster.pid().to_string(), &port]).status();
    match status.expect("python3 runs").code() {
        Some(0) => {}
        Some(3) => return skipped("a socket of another process may not be taken"),
        other => panic!("no socket was shut down: {other:?}"),
    }
    assert!(cluster.wait_for_error("error: the API server ended").contains("the API server ended"));
    assert_eq!(cluster.ended(), 1);
}
