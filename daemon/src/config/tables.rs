//! `[kernel_tables]`: how users share the room in the tables of the kernel.

use serde::Deserialize;

/// How the room in each table is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableShares {
    /// Most that the runs of one user may hold, in percent of a table.
    pub per_user_percent: u32,
    /// What only root and the administrators' group may use, in percent of a table.
    pub reserve_percent: u32,
}

impl Default for TableShares {
    fn default() -> Self {
        Self { per_user_percent: 25, reserve_percent: 12 }
    }
}

impl TableShares {
    /// What is wrong with them; `None`: nothing. With these bounds no user alone can keep another from starting a run.
    #[must_use]
    pub fn wrong(self) -> Option<String> {
        let TableShares { per_user_percent, reserve_percent } = self;
        let fits = (1..=50).contains(&per_user_percent) && (1..=50).contains(&reserve_percent);
        if fits && 2 * per_user_percent + reserve_percent <= 100 {
            return None;
        }
        Some(format!(
            "expected per_user_percent and reserve_percent of 1 to 50, and twice per_user_percent with reserve_percent at most \
             100, not {per_user_percent} and {reserve_percent}"
        ))
    }
}
