//! `cgroup.events`: is anybody there, and is everybody frozen.

/// `cgroup.events` of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// Whether it or a descendant has a live process.
    pub populated: bool,
    /// Whether it and every descendant are frozen. An empty cgroup that was told to freeze reads true.
    pub frozen: bool,
}

pub(super) fn parse(bytes: &[u8]) -> Option<Events> {
    let flag = |name: &[u8]| {
        bytes.split(|b| *b == b'\n').find_map(|l| match l.strip_prefix(name)? {
            b" 0" => Some(false),
            b" 1" => Some(true),
            _ => None,
        })
    };
    Some(Events { populated: flag(b"populated")?, frozen: flag(b"frozen")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_need_both_flags() {
        assert_eq!(parse(b"populated 1\nfrozen 0\nnew 3\n"), Some(Events { populated: true, frozen: false }));
        assert_eq!(parse(b"populated 1\n"), None);
        assert_eq!(parse(b"populated 2\nfrozen 0\n"), None);
        assert_eq!(parse(b""), None);
    }
}
