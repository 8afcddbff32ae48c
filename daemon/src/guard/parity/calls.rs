//! Which call a number is, and what rules on calls and groups come to.

use failsafe_core::policy::{groups, parse::parse};
use failsafe_ebpf::abi::{self, effect};
use proptest::prelude::*;

use super::{Asked, Kernel, RUN, answer, at, check, put, run_of};
use failsafe_matchers::calls::ALL_CALLS;
use failsafe_matchers::calls::WatchedCall;
use failsafe_matchers::compile::{self, Resolver};

/// The watched calls by the C library's numbers, in the order of [`abi::SYSCALLS`].
#[cfg(target_arch = "x86_64")]
macro_rules! numbers {
    ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
}

#[cfg(target_arch = "x86_64")]
const NUMBERS: [(&str, libc::c_long); 41] = numbers!(
    SYS_ptrace SYS_mount SYS_unshare SYS_setns SYS_bpf SYS_init_module SYS_finit_module SYS_kexec_load SYS_io_uring_setup
    SYS_memfd_create SYS_process_vm_writev SYS_userfaultfd SYS_keyctl SYS_reboot SYS_kexec_file_load SYS_move_mount SYS_umount2
    SYS_pivot_root SYS_fsopen SYS_open_tree SYS_mount_setattr SYS_delete_module SYS_add_key SYS_request_key SYS_settimeofday
    SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_io_uring_enter SYS_io_uring_register SYS_iopl SYS_ioperm
    SYS_process_vm_readv SYS_pidfd_getfd SYS_perf_event_open SYS_open_by_handle_at SYS_chroot SYS_swapon SYS_acct SYS_quotactl
    SYS_fspick
);

/// What newer headers call `SYS_open_tree_attr`; and another way to the same as `quotactl`.
#[cfg(target_arch = "x86_64")]
const NEWER: [(&str, libc::c_long); 2] = [("SYS_open_tree_attr", 467), ("SYS_quotactl", libc::SYS_quotactl_fd)];

/// The same of 32-bit programs: `asm/unistd_32.h` (arch/x86/entry/syscalls/syscall_32.tbl), which the C library has not here.
/// `kexec_file_load` has none there.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const IA32: [(&str, libc::c_long); 46] = [
    ("ptrace", 26), ("mount", 21), ("unshare", 310), ("setns", 346), ("bpf", 357), ("init_module", 128),
    ("finit_module", 350), ("kexec_load", 283), ("io_uring_setup", 425), ("memfd_create", 356),
    ("process_vm_writev", 348), ("userfaultfd", 374), ("keyctl", 288), ("reboot", 88), ("move_mount", 429),
    ("umount2", 52), ("pivot_root", 217), ("fsopen", 430), ("open_tree", 428), ("mount_setattr", 442),
    ("delete_module", 129), ("add_key", 286), ("request_key", 287), ("settimeofday", 79), ("clock_settime", 264),
    ("clock_adjtime", 343), ("adjtimex", 124), ("io_uring_enter", 426), ("io_uring_register", 427), ("iopl", 110),
    ("ioperm", 101), ("process_vm_readv", 347), ("pidfd_getfd", 438), ("perf_event_open", 336),
    ("open_by_handle_at", 342), ("chroot", 61), ("swapon", 87), ("acct", 51), ("quotactl", 131), ("fspick", 433),
    // By their 64-bit times, by what came before, and by what came after.
    ("clock_settime", 404), ("clock_adjtime", 405), ("settimeofday", 25), ("umount2", 22), ("quotactl", 443),
    ("open_tree_attr", 467),
];

/// Those that programs of the x32 ABI have of their own: `asm/unistd_x32.h`. All others are the native ones.
#[cfg(target_arch = "x86_64")]
const X32: [(&str, libc::c_long); 4] =
    [("ptrace", 521), ("kexec_load", 528), ("process_vm_writev", 540), ("process_vm_readv", 539)];

/// `__X32_SYSCALL_BIT` of asm/unistd.h.
#[cfg(target_arch = "x86_64")]
const X32_BIT: libc::c_long = 0x4000_0000;

/// Which watched call a number is, as the kernel tells it.
#[cfg(target_arch = "x86_64")]
fn call_by_kernel(kernel: &mut Kernel, number: libc::c_long, compat: bool) -> Option<&'static str> {
    let mut asked: Asked = [0; at::END];
    put(&mut asked, at::NUMBER, &number.to_ne_bytes());
    put(&mut asked, at::OP, &[u8::from(compat)]);
    let answer = kernel.ask("parity_call", &asked);
    let bit = i32::from_ne_bytes(std::array::from_fn(|i| answer[at::ANSWER + i]));
    usize::try_from(bit).ok().map(|bit| abi::SYSCALLS[bit])
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_number_is_the_call_that_its_abi_has_for_it() {
    let Some(mut kernel) = Kernel::load(&["parity_call"]) else { return };
    let native = || NUMBERS.iter().chain(&NEWER).map(|(name, n)| (name.strip_prefix("SYS_").unwrap(), *n));
    let of = |number: libc::c_long| move |(_, n): &(&str, libc::c_long)| *n == number;
    let name = |(name, _): (&'static str, libc::c_long)| name;
    for number in 0..1024 {
        let known = native().find(of(number)).map(name);
        assert_eq!(call_by_kernel(&mut kernel, number, false), known, "{number}");
        assert_eq!(
            call_by_kernel(&mut kernel, number, true),
            IA32.into_iter().find(of(number)).map(name),
            "ia32 {number}"
        );
        let x32 = X32.into_iter().find(of(number)).map(name).or(known);
        assert_eq!(call_by_kernel(&mut kernel, number | X32_BIT, false), x32, "x32 {number}");
    }
}

/// Rules on calls: what they name, and their effect.
fn any_rules() -> impl Strategy<Value = Vec<(Vec<&'static str>, u8)>> {
    let name = prop::sample::select(groups::names().collect::<Vec<_>>());
    prop::collection::vec((prop::collection::vec(name, 1..4), effect::OBSERVE..=effect::STOP), 0..5)
}

#[test]
fn a_call_meets_the_strictest_of_the_rules_that_name_it_or_its_group() {
    let Some(kernel) = Kernel::load(&["parity_effect"]) else { return };
    check(kernel, 300, &any_rules(), |kernel, rules| {
        let mut text = String::from("[policy]\nname = \"t\"\nowner = \"o\"\n");
        for (n, (names, effect)) in rules.iter().enumerate() {
            let effect = ["", "observe", "deny", "stop"][usize::from(*effect)];
            let when = format!("event = \"syscall\", name = {names:?}");
            text += &format!(
                "[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\neffect = \"{effect}\"\nwhen = {{ {when} }}\nactions = [\"notify\"]\n"
            );
        }
        let Ok(policy) = parse("t.toml", &text) else { return Err(TestCaseError::reject("a name twice in one rule")) };
        let masks = compile::rules(&policy, ALL_CALLS, &Resolver::default());
        let cfg = abi::RunCfg { watch: masks.watch, deny: masks.deny | masks.stop, stop: masks.stop, ..run_of(RUN) };
        kernel.object.write_run(cfg).unwrap();
        for (bit, name) in abi::SYSCALLS.iter().enumerate() {
            let naming = rules.iter().filter(|(names, _)| {
                names.iter().any(|n| n == name || groups::expand(n).is_some_and(|calls| calls.contains(name)))
            });
            let strictest = naming.map(|(_, effect)| *effect).max().unwrap_or(effect::NONE);
            let mut asked: Asked = [0; at::END];
            put(&mut asked, at::RUN, &RUN.to_ne_bytes());
            put(&mut asked, at::NUMBER, &(bit as u64).to_ne_bytes());
            prop_assert_eq!(answer(&kernel.ask("parity_effect", &asked)), u64::from(strictest), "{}", name);
            prop_assert_eq!(WatchedCall::from_name(name).map(WatchedCall::mask), Some(1 << bit));
        }
        Ok(())
    });
}
