//! The filter of system calls: those that wasmtime, tokio and the file functions of guests make. All others are refused with EPERM.
//!
//! A child has the sockets that the node gives it, and can make no other but pairs. It starts threads and no processes. What Landlock does not
//! cover (owners, modes, extended attributes, mounts, other processes) it cannot call.

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Of everything that is on all architectures.
const ALLOWED: &[i64] = &[
    // memory
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // threads, their priority below the node's, and signals of wasmtime
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getpid,
    libc::SYS_getpriority,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // time, chance and the machine
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_getegid,
    libc::SYS_getgid,
    // descriptors and events
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // sockets that exist
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // files, as far as Landlock allows them
    libc::SYS_copy_file_range,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The older forms of some of them.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// Installs the filter for this thread and those that it starts. It cannot be taken off.
pub(super) fn install() -> anyhow::Result<()> {
    // The flags of clone3 are in memory, where a filter cannot see them. Where it does not exist, clone is called.
    let without_clone3 = program([(libc::SYS_clone3, Vec::new())].into(), SeccompAction::Allow, errno(libc::ENOSYS))?;
    let allowed = program(rules()?, errno(libc::EPERM), SeccompAction::Allow)?;
    for program in [without_clone3, allowed] {
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.cast_unsigned())
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> anyhow::Result<BpfProgram> {
    let architecture =
        TargetArch::try_from(std::env::consts::ARCH).context("there is no filter for this architecture")?;
    Ok(SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()?)
}

fn rules() -> anyhow::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    let equal = |argument, value| SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value);
    let masked = |argument, mask, value| SeccompCondition::new(argument, Dword, SeccompCmpOp::MaskedEq(mask), value);
    let null = |argument| SeccompCondition::new(argument, Qword, SeccompCmpOp::Eq, 0);
    let mut allow = |call, conditions: Vec<Vec<SeccompCondition>>| -> anyhow::Result<()> {
        let all = conditions.into_iter().map(SeccompRule::new).collect::<Result<Vec<_>, _>>()?;
        rules.insert(call, all);
        Ok(())
    };
    // threads, and no processes
    let thread = bits(libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND);
    allow(libc::SYS_clone, vec![vec![masked(0, thread, thread)?]])?;
    // a signal to itself: `abort`
    allow(libc::SYS_tgkill, vec![vec![equal(0, own)?]])?;
    // names of threads and of memory
    let names = [bits(libc::PR_SET_NAME), bits(libc::PR_SET_VMA)];
    allow(libc::SYS_prctl, names.map(|name| Ok(vec![equal(0, name)?])).into_iter().collect::<anyhow::Result<_>>()?)?;
    // below others, itself only
    allow(libc::SYS_setpriority, vec![vec![equal(0, 0)?, equal(1, 0)?]])?;
    // how long its own slices are
    for call in [libc::SYS_sched_getattr, libc::SYS_sched_setattr] {
        allow(call, vec![vec![equal(0, 0)?]])?;
    }
    // no signals to the owner of a descriptor
    let commands = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GET_SEALS,
        libc::F_ADD_SEALS,
    ];
    let commands = commands.map(|command| Ok(vec![equal(1, bits(command))?]));
    allow(libc::SYS_fcntl, commands.into_iter().collect::<anyhow::Result<_>>()?)?;
    // limits are read, not set
    allow(libc::SYS_prlimit64, vec![vec![null(2)?]])?;
    allow(libc::SYS_socketpair, vec![vec![equal(0, bits(libc::AF_UNIX))?]])?;
    // A TCP socket that was closed could connect anew by what it sends: no addresses, and no connecting by sending.
    allow(libc::SYS_sendto, vec![vec![null(4)?]])?;
    allow(libc::SYS_sendmsg, vec![vec![masked(2, bits(libc::MSG_FASTOPEN), 0)?]])?;
    // whether a descriptor blocks, what can be read, whether it is a terminal
    let requests = [libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD, libc::TCGETS];
    let requests = requests.map(|request| Ok(vec![equal(1, request)?]));
    allow(libc::SYS_ioctl, requests.into_iter().collect::<anyhow::Result<_>>()?)?;
    Ok(rules)
}

/// A flag as an argument of a system call.
fn bits(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}
