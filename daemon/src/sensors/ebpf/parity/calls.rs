//! Which call a number is, and what rules on calls and groups come to.

use failsafe_core::policy::{groups, parse::parse};
use failsafe_ebpf::abi::{self, effect};
use proptest::prelude::*;

use super::super::{ALL_CALLS, WatchedCall};
use super::{Asked, Kernel, RUN, answer, at, check, put, run_of};
use crate::runs::compile;

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

#[cfg(target_arch = "x86_64")]
#[test]
fn every_number_is_the_call_that_the_c_library_has_for_it() {
    let Some(mut kernel) = Kernel::load(&["parity_call"]) else { return };
    for number in 0..1024 {
        let known = NUMBERS.iter().chain(&NEWER).find(|(_, n)| *n == number);
        let bit = known.map(|(name, _)| abi::SYSCALLS.iter().position(|call| name.strip_prefix("SYS_") == Some(call)));
        let mut asked: Asked = [0; at::END];
        put(&mut asked, at::NUMBER, &number.to_ne_bytes());
        let found = i32::from_ne_bytes(std::array::from_fn(|i| kernel.ask("parity_call", &asked)[at::ANSWER + i]));
        assert_eq!(usize::try_from(found).ok(), bit.map(Option::unwrap), "{number}: {known:?}");
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
        let masks = compile::rules(&policy, ALL_CALLS);
        let cfg = abi::RunCfg { watch: masks.watch, deny: masks.deny | masks.stop, stop: masks.stop, ..run_of(RUN) };
        kernel.ebpf.write_run(cfg).unwrap();
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
