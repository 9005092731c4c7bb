//! The filter of system calls of `RuntimeDefault`.
//!
//! It lets through what a program does with its own files, memory, processes and sockets. What changes the machine, looks into other processes or
//! opens the seldom-tried parts of the kernel is refused with EPERM, unless the container has the capability that the kernel itself asks for. Names
//! are of all architectures; the runtime ignores those that its own does not have.

use super::capabilities::has;
use serde_json::{Value, json};

/// Files, folders, and what is in them.
const FILES: &str = "access cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 \
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock \
    fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr \
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat \
    llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat oldfstat oldlstat oldstat \
    open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv removexattr removexattrat \
    rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync \
    sync_file_range sync_file_range2 syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write \
    writev";
/// Memory of the process.
const MEMORY: &str = "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal \
    msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages";
/// Processes, threads, and who they are.
const PROCESSES: &str = "alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv \
    futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid \
    getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get \
    ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self modify_ldt pause pidfd_open pidfd_send_signal prctl prlimit64 \
    ptrace restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 ugetrlimit \
    vfork wait4 waitid waitpid";
/// Signals, timers and clocks that are only read.
const TIME: &str = "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 gettimeofday nanosleep rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn \
    sigsuspend tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill";
/// Waiting, sockets, and talking to other processes.
const TALK: &str = "accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
    eventfd eventfd2 getpeername getsockname getsockopt io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ipc \
    listen mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv \
    msgsnd _newselect pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 recv recvfrom recvmmsg recvmmsg_time64 recvmsg select semctl \
    semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair";
/// Questions to the kernel.
const QUESTIONS: &str = "getrandom lsm_get_self_attr lsm_list_modules lsm_set_self_attr sysinfo uname";
/// Of single architectures: ARM, PowerPC, s390.
const MACHINES: &str = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush riscv_flush_icache riscv_hwprobe s390_pci_mmio_read \
    s390_pci_mmio_write s390_runtime_instr set_tls switch_endian swapcontext sync_file_range2 uretprobe";

/// What a capability opens.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr move_mount open_tree \
         open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns statmount syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind move_pages migrate_pages set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// The flags of `clone` that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// The only personalities: Linux, its 32-bit and no-randomisation forms, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// `AF_VSOCK`: it reaches the host of a virtual machine by no network.
const VSOCK: u64 = 40;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The profile for a container with these capabilities.
pub(crate) fn default_profile(capabilities: u64) -> Value {
    let mut allowed: Vec<&str> = [FILES, MEMORY, PROCESSES, TIME, TALK, QUESTIONS, MACHINES]
        .iter()
        .flat_map(|it| it.split_whitespace())
        .collect();
    for (_, calls) in BY_CAPABILITY.iter().filter(|(name, _)| has(capabilities, name)) {
        allowed.extend(calls.split_whitespace());
    }
    allowed.sort_unstable();
    allowed.dedup();
    let allow = |names: &[&str], args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    for value in PERSONALITIES {
        rules.push(allow(&["personality"], json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}])));
    }
    rules.push(allow(&["socket"], json!([{"index": 0, "value": VSOCK, "op": "SCMP_CMP_NE"}])));
    if !has(capabilities, "CAP_SYS_ADMIN") {
        // the flags are the second argument on s390
        let index = u32::from(cfg!(target_arch = "s390x"));
        let masked = json!([{"index": index, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
        rules.push(allow(&["clone"], masked));
        // its flags are in memory, where no filter sees them: programs fall back to `clone`
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

/// The machine's own and what it runs besides.
fn architectures() -> Vec<&'static str> {
    if cfg!(target_arch = "x86_64") {
        vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else if cfg!(target_arch = "aarch64") {
        vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::capabilities::{ALL, bits};

    /// The calls that are let through whatever their arguments are.
    fn free(capabilities: u64) -> Vec<String> {
        serde_json::from_value(default_profile(capabilities)["syscalls"][0]["names"].clone()).unwrap()
    }

    #[test]
    fn what_changes_the_machine_needs_its_capability() {
        let default = free(bits(&Default::default(), false, ALL).unwrap());
        let all = free(ALL);
        for (capability, calls) in BY_CAPABILITY {
            for call in calls.split_whitespace().filter(|_| *capability != "CAP_SYS_CHROOT") {
                assert!(!default.iter().any(|name| name == call), "{call} needs {capability}");
                assert!(all.iter().any(|name| name == call), "{call} comes by {capability}");
            }
        }
        assert!(default.iter().any(|name| name == "chroot"), "by the default capabilities");
        let never = "add_key request_key keyctl kexec_load kexec_file_load io_uring_setup io_uring_enter io_uring_register userfaultfd swapon \
            swapoff pivot_root nfsservctl uselib ustat sysfs _sysctl vm86 vm86old create_module";
        for call in never.split_whitespace() {
            assert!(!all.iter().any(|name| name == call), "{call}");
        }
    }

    #[test]
    fn new_namespaces_need_the_administrator() {
        let rules = |capabilities| default_profile(capabilities)["syscalls"].as_array().unwrap().clone();
        let of = |rules: Vec<Value>, name: &str| -> Vec<Value> {
            rules.into_iter().skip(1).filter(|rule| rule["names"][0] == name).collect()
        };
        let clone = of(rules(0), "clone");
        assert_eq!(clone[0]["args"][0]["value"], 2_114_060_288_u64);
        assert_eq!(of(rules(0), "clone3")[0]["errnoRet"], 38);
        assert!(of(rules(ALL), "clone").is_empty() && of(rules(ALL), "clone3").is_empty());
        assert_eq!(of(rules(0), "personality").len(), 5);
    }
}
