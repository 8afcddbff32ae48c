//! The oldest glibc that the programs run with, read from the versions of the symbols that they import.

use super::programs::{NAMES, Programs};
use crate::shell;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// A release runs with this glibc: RHEL 8 has it, and so has everything newer.
pub const OLDEST: (u32, u32) = (2, 28);

/// The newest glibc that one of the programs needs. A release must not need a newer one than [`OLDEST`].
///
/// # Errors
/// It does, or a program cannot be read.
pub fn check(programs: &Programs) -> Result<String> {
    let mut newest = (0, 0);
    for name in NAMES {
        let path = programs.path(name);
        let table = shell::read(Command::new("objdump").arg("-T").arg(&path))?;
        let (version, symbol) =
            needed(&table).with_context(|| format!("{} imports nothing from glibc", path.display()))?;
        if !programs.debug && version > OLDEST {
            let ((major, minor), (most, least)) = (version, OLDEST);
            bail!("{name} needs glibc {major}.{minor} for `{symbol}`, expected at most {most}.{least}");
        }
        newest = newest.max(version);
    }
    Ok(format!("{}.{}", newest.0, newest.1))
}

/// The newest version in the table of dynamic symbols, with a symbol that has it.
fn needed(table: &str) -> Option<((u32, u32), &str)> {
    let of_line = |line: &'_ str| -> Option<(u32, u32)> {
        let (_, rest) = line.split_once("GLIBC_")?;
        let number = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = number.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let symbols = table.lines().filter_map(|line| Some((of_line(line)?, line.split_whitespace().last()?)));
    symbols.max_by_key(|(version, _)| *version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_found_by_number_and_not_by_text() {
        let table = "\
            0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.9)  pipe2\n\
            0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.2.5) memcpy\n\
            0000000000000000      DF *UND*  0000000000000000  GLIBC_2.34  __libc_start_main\n\
            0000000000000000  w   DF *UND*  0000000000000000 (GCC_3.3)    _Unwind_Backtrace\n";
        assert_eq!(needed(table), Some(((2, 34), "__libc_start_main")));
        assert_eq!(needed(&table.replace("GLIBC_2.34", "GLIBC_2.4")), Some(((2, 9), "pipe2")));
        assert_eq!(needed("no symbols\n"), None);
    }
}
