//! The system calls that the child may make. A child that reads a file needs only memory and its pipes: it has a list of
//! what is allowed. One that fetches needs whatever a C library does to look up a name: it has a list of what is not.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// Conditions on arguments that must all hold: the place of an argument, how it is compared, and with what.
type Conditions = Vec<(u8, SeccompCmpOp, u64)>;

/// System calls, each with the cases in which it is meant; in all, if there are none.
type Calls = BTreeMap<i64, Vec<Conditions>>;

/// Calls of a child that computes: memory, time, its own signals, and descriptors that it has.
const COMPUTING: [c_long; 40] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_set_robust_list,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrlimit,
];

/// Calls that a child that fetches never needs: other programs and processes, the kernel, devices, mounts, users, keys,
/// changes to files, servers.
const FORBIDDEN: [c_long; 104] = [
    libc::SYS_bpf,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_setpriority,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_ioprio_set,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_openat2,
    libc::SYS_memfd_create,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_setrlimit,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_vhangup,
];

/// Older names of the same, which not every architecture has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_OLD: [c_long; 17] = [
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_creat,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utimes,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_OLD: [c_long; 0] = [];

/// For a child that reads a file. Everything else is refused.
pub fn of_computing(pid: u32) -> Result<BpfProgram, seccompiler::Error> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let mut allowed: Calls = COMPUTING.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    allowed.insert(libc::SYS_poll, Vec::new());
    // Ends the process where memory is at an end.
    allowed.insert(libc::SYS_tgkill, vec![vec![(0, Eq, pid.into())]]);
    // No memory from which bytes that were read could run.
    let not_executable = || vec![vec![(2, MaskedEq(libc::PROT_EXEC.unsigned_abs().into()), 0)]];
    allowed.insert(libc::SYS_mmap, not_executable());
    allowed.insert(libc::SYS_mprotect, not_executable());
    // To look whether the jail is closed.
    let asks =
        [libc::PR_GET_NO_NEW_PRIVS, libc::PR_GET_SECCOMP, libc::PR_GET_DUMPABLE, libc::PR_CAPBSET_READ];
    allowed
        .insert(libc::SYS_prctl, asks.iter().map(|ask| vec![(0, Eq, ask.unsigned_abs().into())]).collect());
    compile(allowed, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)
}

/// For a child that fetches. Everything else is allowed.
pub fn of_fetching(pid: u32) -> Result<BpfProgram, seccompiler::Error> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut denied: Calls = FORBIDDEN.iter().chain(&FORBIDDEN_OLD).map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        denied.insert(call, vec![vec![(0, Ne, pid.into())]]);
    }
    denied.insert(libc::SYS_prlimit64, vec![vec![(0, Ne, 0), (0, Ne, pid.into())]]);
    denied.insert(libc::SYS_prctl, vec![vec![(0, Eq, libc::PR_SET_DUMPABLE.unsigned_abs().into())]]);
    // The resolver asks the kernel for addresses of this host (NETLINK_ROUTE), and local services for names.
    let domain = |domain: i32| (0, Ne, u64::from(domain.unsigned_abs()));
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let netlink = vec![
        (0, Eq, libc::AF_NETLINK.unsigned_abs().into()),
        (2, Ne, libc::NETLINK_ROUTE.unsigned_abs().into()),
    ];
    denied.insert(libc::SYS_socket, vec![families.map(domain).to_vec(), netlink]);
    let writing = |place| {
        let flag = |mask: i32, value: i32| {
            vec![(place, MaskedEq(mask.unsigned_abs().into()), u64::from(value.unsigned_abs()))]
        };
        vec![
            flag(libc::O_ACCMODE, libc::O_WRONLY),
            flag(libc::O_ACCMODE, libc::O_RDWR),
            flag(libc::O_CREAT, libc::O_CREAT),
            flag(libc::O_TRUNC, libc::O_TRUNC),
        ]
    };
    denied.insert(libc::SYS_openat, writing(2));
    #[cfg(target_arch = "x86_64")]
    denied.insert(libc::SYS_open, writing(1));
    compile(denied, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()))
}

/// Refuses the x32 calls, by which a list of what is forbidden would be got around: the same calls with another number
/// (`__X32_SYSCALL_BIT`). None elsewhere.
pub fn foreign() -> Option<BpfProgram> {
    /// Of `asm/unistd.h`.
    const X32_BIT: u32 = 0x4000_0000;
    let (load, jump, end) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JGE, libc::BPF_RET);
    let instruction = |code: u32, jt, jf, k| Some(sock_filter { code: u16::try_from(code).ok()?, jt, jf, k });
    let program = [
        // The number of the call is at the start of `struct seccomp_data`.
        instruction(load, 0, 0, 0),
        instruction(jump | libc::BPF_K, 0, 1, X32_BIT),
        instruction(end, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        instruction(end, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    cfg!(target_arch = "x86_64").then(|| program.into_iter().collect::<Option<_>>()).flatten()
}

fn compile(
    calls: Calls,
    other: SeccompAction,
    named: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    let rule = |conditions: Conditions| {
        // All of these arguments are `int` or `unsigned long` of small values.
        let condition =
            |(place, how, value)| SeccompCondition::new(place, SeccompCmpArgLen::Dword, how, value);
        SeccompRule::new(conditions.into_iter().map(condition).collect::<Result<_, _>>()?)
    };
    let rules = calls.into_iter().map(|(call, cases)| {
        Ok((call, cases.into_iter().map(rule).collect::<Result<_, seccompiler::BackendError>>()?))
    });
    let rules = rules.collect::<Result<_, seccompiler::BackendError>>()?;
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, other, named, arch)?.try_into()?)
}
