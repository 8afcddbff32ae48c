//! What users hold of the limits that are not the control socket's own: live runs, tables of the kernel, the audit log.

use super::{
    Context,
    limits::{Quota, Usage},
};
use crate::{
    guard::kernel::MAX_RUNS,
    runs::start::{LIMIT, MAX_RUNS_OF_USER},
};
use std::collections::BTreeMap;

/// The name of the budgets of the audit log.
pub(super) const AUDIT_LOG: &str = "audit-log";
const MIB: u64 = 1 << 20;

/// All of them.
pub(super) fn of(context: &Context) -> Vec<Usage> {
    let mut all = vec![live_runs(context), audit_log(context)];
    all.extend(tables(context));
    all
}

fn live_runs(context: &Context) -> Usage {
    let (live, guarded) = context.registry.live_and_guarded();
    let mut users: BTreeMap<u32, usize> = BTreeMap::new();
    for run in live.iter().map(|run| &run.run).chain(guarded.iter().map(|run| &run.run)) {
        *users.entry(run.owner_uid).or_default() += 1;
    }
    let quota = Quota { per_user: MAX_RUNS_OF_USER, total: size(u64::from(MAX_RUNS)), reserve: 0 };
    Usage {
        used: users.values().sum(),
        refused: context.registry.refused_too_many(),
        bounded: (true, false),
        ..Usage::of(LIMIT, "runs", quota).by(users)
    }
}

fn audit_log(context: &Context) -> Usage {
    let spent = context.log.used();
    let quota =
        Quota { per_user: size(spent.budget.per_user / MIB), total: size(spent.budget.total / MIB), reserve: 0 };
    let users = spent.users.into_iter().map(|(uid, bytes)| (uid, size(bytes.div_ceil(MIB)))).collect();
    Usage {
        used: size(spent.all / MIB),
        refused: spent.summed,
        bounded: (true, false),
        ..Usage::of(AUDIT_LOG, "MiB per day", quota).by(users)
    }
}

fn tables(context: &Context) -> Vec<Usage> {
    let one = |(table, refused): (crate::guard::kernel_quota::Usage, u64)| {
        let users = table.total.saturating_sub(table.reserve);
        let quota = Quota { per_user: size(table.per_user), total: size(users), reserve: size(table.reserve) };
        let beside = table.used.saturating_sub(table.used_by_users);
        Usage {
            used: size(table.used_by_users),
            reserve_used: size(beside),
            refused,
            bounded: (true, true),
            ..Usage::of(table.resource.limit(), "entries", quota).by(table
                .users
                .into_iter()
                .map(|(uid, held)| (uid, size(held)))
                .collect())
        }
    };
    context.registry.kernel().table_usage().into_iter().map(one).collect()
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
