//! Making a policy's tables, on a thread of its own: a file system that its rules name may hang. The thread has no descriptor of
//! the daemon's, so that it cannot keep the next daemon from starting.

use super::{Kernel, KernelError, names::argv_patterns};
use crate::{
    causes::chain,
    counted::Counted,
    guard::{
        kernel_quota::{Need, need},
        resolver,
        tables::tables_of,
    },
    platform::apart,
};
use failsafe_core::{Policy, policy::Pattern};
use failsafe_matchers::{compile, egress::EgressPolicy, rules::Rules, tables::Tables, watch::Watch};
use std::{net::IpAddr, sync::mpsc, time::Duration};

/// Looking at a policy's files may take this long; then whoever waits is told.
const COMPILE: Duration = Duration::from_secs(10);
/// Compilations that may hang (on a dead network file system, say) before no other is begun.
const MAX_COMPILING: usize = 16;

/// A policy in the form that the kernel takes, made before any lock is held.
#[derive(Clone)]
pub struct Compiled {
    pub(super) egress: EgressPolicy,
    pub(super) rules: Rules,
    pub(super) watch: Watch,
    pub(super) budgets: Vec<String>,
    pub(super) argv: Vec<Pattern>,
    pub(super) tables: Tables,
    /// Addresses that hosts of the list have from the first instant, by the hosts' bits.
    pub(super) learnt: Vec<(IpAddr, u64)>,
    /// Room that the run gets besides, so that other tables can follow these.
    pub(super) reserve: Need,
}

impl Compiled {
    /// The same for a run that is only observed: the policy must be one that refuses nothing.
    #[must_use]
    pub fn observing(mut self) -> Compiled {
        self.rules.observing = true;
        self
    }

    /// The same for a run whose open connections are kept: these addresses count as those of hosts of its list.
    #[must_use]
    pub fn with_learnt(mut self, learnt: Vec<(IpAddr, u64)>) -> Compiled {
        self.learnt = learnt;
        self
    }

    /// Sets room aside for the tables that are to follow these.
    pub fn reserve_for(&mut self, next: &Compiled) {
        self.reserve = need(&next.tables);
    }
}

impl Kernel {
    /// Makes a policy's tables: looks at the files that it names, on a thread of its own and within limits, for a file
    /// system may hang.
    ///
    /// # Errors
    /// [`KernelError::Compile`], with the limit.
    pub fn compile(&self, policy: &Policy) -> Result<Compiled, KernelError> {
        #[cfg(test)]
        if self.compiles_not.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(KernelError::Compile("a test has it fail".into()));
        }
        let refusable = self.lock().map_or(0, |ebpf| ebpf.refusable_calls());
        let resolver = resolver::of_node();
        let (egress, rules) = (compile::egress(policy, &resolver), compile::rules(policy, refusable, &resolver));
        let (watch, budgets) =
            (compile::watch(policy), policy.egress.iter().flat_map(|e| &e.budgets).map(|b| b.name.clone()).collect());
        let argv = argv_patterns(policy);
        if self.ebpf.is_err() {
            return Ok(Compiled {
                egress,
                rules,
                watch,
                budgets,
                argv,
                tables: Tables::default(),
                learnt: Vec::new(),
                reserve: Need::new(),
            });
        }
        let (hanging, compiling) = Counted::one_of(&self.compiling);
        if hanging >= MAX_COMPILING {
            return Err(KernelError::Compile(format!(
                "{hanging} policies are being compiled already (limit {MAX_COMPILING}): a file system that their rules name \
                 may hang"
            )));
        }
        let (done, wait) = mpsc::sync_channel(1);
        let work = move || {
            let _compiling = compiling;
            let made = tables_of(&egress, &rules).map_err(|error| KernelError::Compile(chain(&error)));
            let _late = done.send(made.map(|tables| Compiled {
                egress,
                rules,
                watch,
                budgets,
                argv,
                tables,
                learnt: Vec::new(),
                reserve: Need::new(),
            }));
        };
        let thread = apart::spawn("compile", work);
        thread.map_err(|error| KernelError::Compile(format!("no thread to compile the policy on: {error}")))?;
        wait.recv_timeout(COMPILE).unwrap_or_else(|_| {
            Err(KernelError::Compile(format!(
                "the files that the policy's rules name could not be looked at within {} s: a file system may hang",
                COMPILE.as_secs()
            )))
        })
    }
}
