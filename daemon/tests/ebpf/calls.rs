//! Watched system calls, each made for real: refused where a rule says so, by whatever ABI.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};

use failsafe_ebpf::abi;
use failsafe_matchers::calls::ALL_CALLS;
use failsafe_matchers::calls::WatchedCall;
use failsafe_matchers::rules::Rules;
use failsafed::sensors::ebpf::{Way, What};

use super::agent::Agent;
use super::bench::{OPEN_NET, ready, soon};

/// Calls of the 32-bit ABI with other numbers and other functions than the 64-bit one: x86.
const COMPAT: [(u32, &str); 7] = [
    (22, "umount2"),
    (25, "settimeofday"),
    (124, "adjtimex"),
    (264, "clock_settime"),
    (343, "clock_adjtime"),
    (404, "clock_settime"),
    (405, "clock_adjtime"),
];

/// What of the agent's is kept between calls.
#[derive(Default)]
pub struct Ready {
    mount: bool,
    child: Option<Child>,
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A call takes numbers and addresses alike.
fn call<const N: usize>(number: libc::c_long, args: [usize; N]) -> io::Result<usize> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    let [a, b, c, d, e, f] = all;
    // SAFETY: every address below is of memory that lives as long as the call, as large as the call wants it.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

fn descriptor(of: io::Result<usize>) -> io::Result<OwnedFd> {
    let fd = i32::try_from(of?).map_err(io::Error::other)?;
    // SAFETY: a call has just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: &impl AsRawFd) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap()
}

fn text(of: &CStr) -> usize {
    of.as_ptr() as usize
}

/// In the agent: what calls need that may be forbidden later.
pub fn prepare(ready: &mut Ready) -> io::Result<()> {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("none"), "/mnt", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    ready.mount = true;
    ready.child = Some(Command::new("sleep").arg("600").spawn()?);
    Ok(())
}

/// In the agent: makes the call such that it comes to what it is for, without doing harm where it is let through.
pub fn make(ready: &Ready, name: &str) -> io::Result<()> {
    const HERE: usize = libc::AT_FDCWD as usize;
    const PROCESS_KEYRING: usize = -2_isize as usize;
    let zeros = [0_u64; 64];
    let nothing = zeros.as_ptr() as usize;
    let mut tick = [0_u64; 64];
    tick[0] = 0x4000; // ADJ_TICK, of 0 microseconds, which is out of bounds
    let local = [nothing, 8];
    let remote = [0_usize, 8];
    let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
    let child = ready.child.as_ref().map_or(0, |c| c.id() as usize);
    let own = || File::open("/proc/self/exe");
    assert!(ready.mount, "prepare first");
    let done = match name {
        "ptrace" => call(libc::SYS_ptrace, [0x4206, child]), // PTRACE_SEIZE
        "mount" => call(libc::SYS_mount, [text(c"none"), text(c"/"), text(c"nosuchfs")]),
        "unshare" => call(libc::SYS_unshare, [libc::CLONE_NEWUTS as usize]),
        "clone" => {
            let child = call(libc::SYS_clone, [(libc::CLONE_NEWUTS | libc::SIGCHLD) as usize])?;
            if child == 0 {
                // SAFETY: ends the child, which shares nothing with the parent.
                unsafe { libc::_exit(0) };
            }
            Ok(child)
        }
        "setns" => call(libc::SYS_setns, [number(&File::open("/proc/self/ns/uts")?)]),
        "bpf" => call(libc::SYS_bpf, [99, nothing, 8]),
        "init_module" => call(libc::SYS_init_module, [nothing, 64, text(c"")]),
        "finit_module" => call(libc::SYS_finit_module, [number(&own()?), text(c"")]),
        "kexec_load" => call(libc::SYS_kexec_load, [0]),
        "kexec_file_load" => {
            call(libc::SYS_kexec_file_load, [number(&File::open("/etc/hostname")?), 0, 1, text(c""), 4])
        }
        // No ring can be made of which the others could be asked anything.
        "io_uring_setup" | "io_uring_enter" | "io_uring_register" => {
            descriptor(call(libc::SYS_io_uring_setup, [1, zeros.as_ptr() as usize])).map(|_| 0)
        }
        "memfd_create" => descriptor(call(libc::SYS_memfd_create, [text(c"x")])).map(|_| 0),
        "process_vm_writev" => call(libc::SYS_process_vm_writev, [child, local, 1, remote, 1]),
        "process_vm_readv" => call(libc::SYS_process_vm_readv, [child, local, 1, remote, 1]),
        "userfaultfd" => descriptor(call(libc::SYS_userfaultfd, [1])).map(|_| 0),
        "keyctl" => call(libc::SYS_keyctl, [0, PROCESS_KEYRING, 1]),
        "add_key" => call(libc::SYS_add_key, [text(c"user"), text(c"failsafe"), text(c"x"), 1, PROCESS_KEYRING]),
        "request_key" => call(libc::SYS_request_key, [text(c"user"), text(c"failsafe:none"), text(c"")]),
        "reboot" => call(libc::SYS_reboot, [0]),
        "move_mount" => call(libc::SYS_move_mount, [HERE, text(c"/"), HERE, text(c"/proc"), 0]),
        "umount2" => call(libc::SYS_umount2, [text(c"/mnt")]),
        "pivot_root" => call(libc::SYS_pivot_root, [text(c"/"), text(c"/")]),
        "fsopen" => call(libc::SYS_fsopen, [text(c"nosuchfs")]),
        "fspick" => call(libc::SYS_fspick, [HERE, text(c"/nowhere")]),
        "open_tree" => descriptor(call(libc::SYS_open_tree, [HERE, text(c"/etc"), 1])).map(|_| 0),
        "open_tree_attr" => descriptor(call(467, [HERE, text(c"/etc"), 1, nothing, 32])).map(|_| 0),
        "mount_setattr" => call(libc::SYS_mount_setattr, [HERE, text(c"/"), 0, nothing, 32]),
        "delete_module" => call(libc::SYS_delete_module, [text(c"failsafe_none")]),
        "settimeofday" => call(libc::SYS_settimeofday, [0]),
        "clock_settime" => {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)?;
            call(libc::SYS_clock_settime, [0, std::ptr::from_ref(now.as_ref()) as usize])
        }
        "clock_adjtime" => call(libc::SYS_clock_adjtime, [0, tick.as_ptr() as usize]),
        "adjtimex" => call(libc::SYS_adjtimex, [tick.as_ptr() as usize]),
        #[cfg(target_arch = "x86_64")]
        "iopl" => call(libc::SYS_iopl, [3]),
        #[cfg(target_arch = "x86_64")]
        "ioperm" => call(libc::SYS_ioperm, [0x80, 1, 1]),
        "pidfd_getfd" => {
            let pidfd = descriptor(call(libc::SYS_pidfd_open, [child]))?;
            descriptor(call(libc::SYS_pidfd_getfd, [number(&pidfd)])).map(|_| 0)
        }
        "perf_event_open" => {
            let attr = [1 | 64 << 32, 0_u64, 0, 0, 0, 0, 0, 0]; // PERF_TYPE_SOFTWARE
            let none = usize::MAX;
            descriptor(call(libc::SYS_perf_event_open, [attr.as_ptr() as usize, 0, none, none])).map(|_| 0)
        }
        "open_by_handle_at" => call(libc::SYS_open_by_handle_at, [HERE]),
        "chroot" => call(libc::SYS_chroot, [text(c"/")]),
        "swapon" => call(libc::SYS_swapon, [text(c"")]),
        "acct" => call(libc::SYS_acct, [text(c"/nowhere")]),
        "quotactl" => call(libc::SYS_quotactl, [0x80_0001 << 8]), // Q_SYNC of all
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    done.map(drop)
}

/// In a process of its own: a call of the 32-bit table with zeros, where it wants addresses. Returns its errno.
pub fn make_compat(number: u32) -> i32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the call gets null pointers and fails with EFAULT; rbx, which the compiler keeps for itself, is put back.
    unsafe {
        let mut answer = number;
        std::arch::asm!(
            "xchg rbx, {zero}",
            "int 0x80",
            "xchg rbx, {zero}",
            zero = inout(reg) 0_u64 => _,
            inout("eax") answer,
            in("ecx") 0, in("edx") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        -answer.cast_signed()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = number;
        libc::ENOSYS
    }
}

fn every(bit: impl Fn(usize) -> bool) -> u64 {
    (0..abi::SYSCALLS.len()).filter(|at| bit(*at)).fold(0, |mask, at| mask | 1 << at)
}

#[test]
fn each_call_is_refused_only_where_a_rule_denies_it() {
    let Some(mut bench) = ready("calls") else { return };
    if !bench.has_lsm("capable") {
        return;
    }
    let refusable = bench.ebpf.refusable_calls();
    assert_eq!(refusable, ALL_CALLS, "calls that no loaded program refuses: {:#x}", ALL_CALLS & !refusable);
    // Who makes them is there before the rules.
    let parts = [every(|at| at % 2 == 0), every(|at| at % 2 == 1)].map(|deny| {
        let cgroup = bench.cgroup(if deny & 1 == 1 { "even" } else { "odd" });
        let mut agent = Agent::start(&cgroup);
        assert_eq!(agent.ask("prepare"), "ok");
        let run = bench.adopt_ruled(cgroup, OPEN_NET, &Rules { deny, ..Rules::default() });
        (deny, run, agent)
    });
    bench.ebpf.require_refusals(ALL_CALLS).unwrap();
    let pin = bench.ebpf.pin_dir().unwrap().join("link_host_fs_lsm_capable");
    assert!(pin.exists(), "what refuses outlives the daemon");
    for (deny, run, mut agent) in parts {
        let mut refused = Vec::new();
        for (at, name) in abi::SYSCALLS.iter().enumerate() {
            let answer = agent.ask(&format!("call {name}"));
            if answer == "ENOSYS" {
                println!("not looked at: this kernel has no {name}");
            } else if deny >> at & 1 == 1 {
                // What a lack of capabilities is to this one.
                assert_eq!(answer, if *name == "perf_event_open" { "EACCES" } else { "EPERM" }, "{name}");
                refused.push(*name);
            } else if name.starts_with("io_uring") {
                assert_eq!(answer, "EPERM", "without one of them there is no ring: {name}");
            } else {
                assert!(answer != "EPERM" && answer != "EACCES", "{name}: {answer}");
            }
        }
        let clone = agent.ask("call clone");
        assert_eq!(clone, if refused.contains(&"unshare") { "EPERM" } else { "ok" }, "namespaces by clone");
        let events = bench.drain();
        for name in refused {
            let told = events.iter().any(|e| {
                let What::Syscall { call, denied: true, via: Way::Lsm, .. } = &e.what else { return false };
                // Of those that are refused together the first is told.
                let same = call.name() == name || (name.starts_with("io_uring") && call.name().starts_with("io_uring"));
                e.slot == run.slot && same
            });
            assert!(told, "{name}: {events:#?}");
        }
    }
    bench.ebpf.require_refusals(0).unwrap();
    assert!(!pin.exists(), "nothing needs it any more");
}

#[test]
fn what_no_run_needs_is_attached_to_nothing() {
    let Some(mut bench) = ready("oncall") else { return };
    if !bench.has_lsm("file_alloc_security") {
        return;
    }
    let memfd = WatchedCall::from_name("memfd_create").unwrap().mask();
    let cgroup = bench.cgroup("a");
    let mut agent = Agent::start(&cgroup);
    assert_eq!(agent.ask("prepare"), "ok");
    let _run = bench.adopt_ruled(cgroup, OPEN_NET, &Rules { deny: ALL_CALLS, ..Rules::default() });
    // The rule alone refuses nothing: its program is not there yet.
    assert_eq!(agent.ask("call memfd_create"), "ok");
    bench.ebpf.require_refusals(memfd).unwrap();
    assert_eq!(agent.ask("call memfd_create"), "EPERM");
    assert_ne!(agent.ask("call swapon"), "EPERM", "another program's");
    bench.ebpf.require_refusals(ALL_CALLS).unwrap();
    assert_eq!(agent.ask("call swapon"), "EPERM");
    bench.ebpf.require_refusals(0).unwrap();
    // The kernel lets go of it in its own time.
    soon("the end of it", || agent.ask("call memfd_create") == "ok");
}

#[test]
fn a_call_is_the_same_by_the_32_bit_abi() {
    let Some(mut bench) = ready("compat") else { return };
    let cgroup = bench.cgroup("a");
    let mut agent = Agent::start(&cgroup);
    let watch = COMPAT.iter().fold(0, |mask, (_, name)| mask | WatchedCall::from_name(name).unwrap().mask());
    let _run = bench.adopt_ruled(cgroup, OPEN_NET, &Rules { watch, ..Rules::default() });
    bench.ebpf.require_syscalls(watch, false).unwrap();
    for (number, name) in COMPAT {
        let answer = agent.ask(&format!("call32 {number}"));
        if answer == "ENOSYS" {
            println!("not looked at: this kernel has no call {number} of the 32-bit ABI");
            continue;
        }
        assert_eq!(answer, "EFAULT", "{number}");
        bench.until(|e| matches!(&e.what, What::Syscall { call, compat: true, .. } if call.name() == name));
    }
    bench.ebpf.require_syscalls(0, false).unwrap();
}
