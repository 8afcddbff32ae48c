//! InfiniBand and RoCE adapters, from sysfs.

use super::{files, shown};
use failsafe_attest::{Fact, Json, factor::segment};
use std::path::Path;

/// Most adapters that are listed.
const MOST: usize = 64;
const FACTS: [(&str, &str); 4] =
    [("firmware", "fw_ver"), ("type", "hca_type"), ("board", "board_id"), ("node-guid", "node_guid")];

pub(super) fn read(sys: &Path) -> Vec<Fact> {
    let folder = sys.join("class/infiniband");
    let names = match files::names(&folder) {
        Ok(names) => names.unwrap_or_default(),
        Err(missing) => return vec![Fact::measured("node/infiniband", shown(&folder), Err(missing))],
    };
    let number = Json::Int(i64::try_from(names.len()).unwrap_or(i64::from(u32::MAX)));
    let mut facts = vec![Fact::measured("node/infiniband", shown(&folder), Ok(number))];
    for name in names.iter().take(MOST) {
        for (fact, file) in FACTS {
            let file = folder.join(name).join(file);
            let path = format!("node/infiniband/{}/{fact}", segment(name));
            facts.push(Fact::measured(path, shown(&file), files::text(&file)));
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::files::{fixture, value};

    #[test]
    fn adapters_are_listed_and_none_is_a_known_number() {
        let dir = fixture(&[("class/infiniband/mlx5_0/fw_ver", "28.39.1002\n")]);
        let facts = read(dir.path());
        assert_eq!(value(&facts, "node/infiniband"), Ok(Json::Int(1)));
        assert_eq!(value(&facts, "node/infiniband/mlx5_0/firmware"), Ok(Json::from("28.39.1002")));
        assert_eq!(value(&read(fixture(&[]).path()), "node/infiniband"), Ok(Json::Int(0)));
    }
}
