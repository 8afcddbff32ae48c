//! The machine, from its firmware's tables (DMI) in sysfs.

use super::{files, shown};
use failsafe_attest::Fact;
use std::path::Path;

const FACTS: [(&str, &str); 7] = [
    ("node/dmi/vendor", "sys_vendor"),
    ("node/dmi/product", "product_name"),
    ("node/dmi/board", "board_name"),
    ("node/dmi/bios-version", "bios_version"),
    ("node/dmi/bios-date", "bios_date"),
    ("node/dmi/serial", "product_serial"),
    ("node/dmi/uuid", "product_uuid"),
];

pub(super) fn read(sys: &Path) -> Vec<Fact> {
    let file = |name| sys.join("class/dmi/id").join(name);
    FACTS.map(|(path, name)| Fact::measured(path, shown(&file(name)), files::text(&file(name)))).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::files::{fixture, value};
    use failsafe_attest::Json;

    #[test]
    fn a_machine_without_tables_has_facts_that_are_absent() {
        let dir = fixture(&[("class/dmi/id/product_name", "DGX H100\n")]);
        let facts = read(dir.path());
        assert_eq!(value(&facts, "node/dmi/product"), Ok(Json::from("DGX H100")));
        assert_eq!(value(&facts, "node/dmi/serial"), Ok(Json::Null));
        assert_eq!(facts.len(), FACTS.len());
    }
}
