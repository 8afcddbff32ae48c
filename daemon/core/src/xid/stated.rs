//! What the text of an XID's record states beside its number: the process, the error of an NVLink unit, the recovery action.
//!
//! The driver prints the name of the process, which a user chooses, before its own text. A name has at most 15 bytes
//! (`TASK_COMM_LEN`), and each text that is looked for is longer, so no name passes for one.

use super::nvlink::NvLinkError;

/// The longest name of a process, bytes.
const COMM: usize = 15;
/// How the text of XID 154 begins.
const RECOVERY: &str = "GPU recovery action changed from 0x";

/// What a record states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stated<'a> {
    /// The process that it is of.
    pub pid: Option<u32>,
    /// The error of an NVLink unit.
    pub nvlink: Option<NvLinkError<'a>>,
    /// What the driver asks for now.
    pub recovery_action: Option<i64>,
}

impl<'a> Stated<'a> {
    /// Reads what follows the XID's number.
    pub fn parse(text: &'a str) -> Stated<'a> {
        let text = text.trim_start_matches([',', ' ']);
        let Some(rest) = text.strip_prefix("pid=") else { return Stated::of(None, text).unwrap_or_default() };
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let pid = rest[..digits].parse().ok();
        let (_, own) = rest.split_once(", ").unwrap_or_default();
        let named = own.strip_prefix("name=").map(|named| {
            let ends = named.char_indices().map(|(at, _)| at).take_while(|at| *at <= COMM);
            ends.filter_map(|at| named[at..].strip_prefix(", ")).find_map(|own| Stated::of(pid, own))
        });
        named.unwrap_or_else(|| Stated::of(pid, own)).unwrap_or(Stated { pid, ..Stated::default() })
    }

    /// Of the driver's own text; `None` where it states nothing.
    fn of(pid: Option<u32>, own: &'a str) -> Option<Stated<'a>> {
        let stated = Stated { pid, nvlink: NvLinkError::parse(own), recovery_action: recovery_action(own) };
        (stated.nvlink.is_some() || stated.recovery_action.is_some()).then_some(stated)
    }
}

/// The new action of `GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)`.
fn recovery_action(own: &str) -> Option<i64> {
    let (_, to) = own.strip_prefix(RECOVERY)?.split_once(") to 0x")?;
    let (value, _) = to.split_once(' ')?;
    u32::from_str_radix(value, 16).ok().map(i64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_and_the_drivers_text_are_read_in_each_form() {
        let error = NvLinkError { unit: "RLW_SRC_TRACK", fatal: true, intrinfo: 7, status: 1 };
        let own =
            "RLW_SRC_TRACK Fatal XC0 i0 Link 00 (0x00000007 0x00000001 0x00000000 0x00000000 0x00000000 0x00000000)";
        for (before, pid) in [
            (" ", None),
            (" pid=77, ", Some(77)),
            (" pid=77, name=python3, ", Some(77)),
            (" pid='<unknown>', name=<unknown>, ", None),
            (" pid=77, name=a, b (c) Fatal, ", Some(77)),
            (" pid=77, name=, SAW_MVB Fatal, ", Some(77)),
        ] {
            let text = format!("{before}{own}");
            let expected = Stated { pid, nvlink: Some(error.clone()), recovery_action: None };
            assert_eq!(Stated::parse(&text), expected, "{text}");
        }
        let text = " pid=1, name=x, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)";
        assert_eq!(Stated::parse(text), Stated { pid: Some(1), nvlink: None, recovery_action: Some(2) });
        for text in
            ["", " pid=", " pid=x, name=", " GPU recovery action changed from 0x0 (None) to 0x", " A Fatal (0x1"]
        {
            assert_eq!(Stated::parse(text), Stated::default(), "{text}");
        }
    }

    proptest::proptest! {
        /// A process chooses its name, of 15 bytes at most, and states nothing with it.
        #[test]
        fn no_name_of_a_process_states_anything(
            name in "(, )?(SAW_MVB Fatal \\(0x1 0x2|TREX Fatal\\(0x1 0x1|GPU recovery action|\\PC{0,15})",
        ) {
            let name: String = name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= COMM).map(|(_, c)| c).collect();
            let text = format!(" pid=7, name={name}, Ch 00000010, intr 00000000");
            proptest::prop_assert_eq!(Stated::parse(&text), Stated { pid: Some(7), ..Stated::default() });
        }
    }
}
