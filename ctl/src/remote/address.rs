//! Addresses of nodes: one, and lists of them.

use crate::exit::Fail;
use std::{fmt, path::Path};
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codegen::http::uri::Authority;

/// The port of a gateway, as `docs/remote-access.md` shows it.
pub const DEFAULT_PORT: u16 = 7443;
/// Nodes of one list.
const MOST: usize = 16_384;

/// Name or IP address of a node, and the port of its gateway if it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: Option<u16>,
}

impl Address {
    /// Reads `NAME`, `NAME:PORT`, `IPV4`, `IPV4:PORT`, `IPV6`, `[IPV6]` or `[IPV6]:PORT`.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(text: &str) -> Result<Address, String> {
        let wrong = || format!("`{text}` is not NAME, NAME:PORT, an IPv4 address or [IPV6]:PORT");
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Ok(Address { host: text.to_owned(), port: None });
        }
        let authority: Authority = text.parse().map_err(|_| wrong())?;
        if text.contains('@') {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match text[authority.host().len()..].strip_prefix(':') {
            None => None,
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        };
        ServerName::try_from(host.as_str()).map_err(|_| wrong())?;
        Ok(Address { host, port })
    }

    /// The same with this port, where it has none.
    #[must_use]
    pub fn or_port(mut self, port: u16) -> Address {
        self.port.get_or_insert(port);
        self
    }

    /// Name or IP address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// What the node's certificate must be valid for.
    ///
    /// # Errors
    /// None of an address that was parsed.
    pub fn server_name(&self) -> Result<ServerName<'static>, Fail> {
        let wrong = |_| Fail::usage(format!("`{self}` is no name of a host"));
        ServerName::try_from(self.host.clone()).map_err(wrong)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (Some(port), true) => write!(f, "[{}]:{port}", self.host),
            (Some(port), false) => write!(f, "{}:{port}", self.host),
            (None, _) => write!(f, "{}", self.host),
        }
    }
}

/// The nodes of a list: names with ranges (`login1,n[01-16]`), or `@FILE` with such names on each line. A line may also be one
/// name with a port. Each node is in it once, in the order of the list.
///
/// # Errors
/// The file cannot be read, a part of the list is no name of a node, or the list is empty or too long.
pub fn list(text: &str) -> Result<Vec<Address>, Fail> {
    let mut nodes: Vec<Address> = Vec::new();
    match text.strip_prefix('@') {
        None => nodes.extend(expand(text).map_err(|why| Fail::usage(format!("--hosts: {why}")))?),
        Some(path) => {
            for (at, line) in text_of(Path::new(path))?.lines().enumerate() {
                let line = line.split('#').next().unwrap_or_default().trim();
                if line.is_empty() {
                    continue;
                }
                let found = if line.contains(':') { Address::parse(line).map(|node| vec![node]) } else { expand(line) };
                nodes.extend(found.map_err(|why| Fail::usage(format!("{path}:{}: {why}", at + 1)))?);
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    nodes.retain(|node| seen.insert(node.to_string()));
    match nodes.len() {
        0 => Err(Fail::usage(format!("--hosts {text} names no node"))),
        n if n > MOST => {
            Err(Fail::usage(format!("--hosts {text} names {n} nodes; at most {MOST} can be asked at once")))
        }
        _ => Ok(nodes),
    }
}

/// The names of `login1,n[01-16],r[1-2]n[1,3]`. Numbers keep their leading zeros.
fn expand(text: &str) -> Result<Vec<Address>, String> {
    let mut names = Vec::new();
    for part in parts(text) {
        // The part is expanded from left to right: each range multiplies what is there.
        let mut some = vec![String::new()];
        let mut rest = part;
        while let Some((before, after)) = rest.split_once('[') {
            let (ranges, after) = after.split_once(']').ok_or_else(|| format!("`{part}`: `]` is missing"))?;
            let mut numbers = Vec::new();
            for range in ranges.split(',') {
                numbers.extend(numbers_of(range, MOST).ok_or_else(|| {
                    format!(
                        "`{part}`: expected a number or a range such as 01-16 of at most {MOST} numbers, not `{range}`"
                    )
                })?);
            }
            if some.len().saturating_mul(numbers.len()) > MOST {
                return Err(format!("`{part}` names more than {MOST} nodes"));
            }
            some = some.iter().flat_map(|name| numbers.iter().map(move |n| format!("{name}{before}{n}"))).collect();
            rest = after;
        }
        for name in &some {
            let name = format!("{name}{rest}");
            let address = Address::parse(&name).ok().filter(|address| address.port.is_none());
            names.push(address.ok_or_else(|| {
                format!("`{name}` is no name of a node; a port is given with --gateway-port, or in a file of nodes")
            })?);
        }
        if names.len() > MOST {
            return Err(format!("the list names more than {MOST} nodes"));
        }
    }
    Ok(names)
}

/// The parts between commas that are not in brackets.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |c| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

/// The numbers of `7` or `08-11`, at most `most` of them.
fn numbers_of(range: &str, most: usize) -> Option<Vec<String>> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (from, to, width) = (number(first)?, number(last)?, first.len());
    let fits = from <= to && to - from < most as u64;
    fits.then(|| (from..=to).map(|n| format!("{n:0width$}")).collect())
}

fn text_of(path: &Path) -> Result<String, Fail> {
    let text = String::from_utf8(super::read("--hosts", path)?);
    text.map_err(|_| Fail::usage(format!("--hosts: {} is not UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        list(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_has_a_name_or_an_ip_address_and_perhaps_a_port() {
        for (text, host, port) in [
            ("n1", "n1", 7443),
            ("n1.example.org:8000", "n1.example.org", 8000),
            ("10.0.0.1", "10.0.0.1", 7443),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("::1", "::1", 7443),
            ("[::1]", "::1", 7443),
            ("[fe80::2]:9", "fe80::2", 9),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.host(), address.port()), (host, port), "{text}");
        }
        for wrong in ["", "n1:", "n1:0", "n1:70000", "user@n1", "https://n1", "n1/path", "n 1", "[::1", "n1:80:90"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_keep_their_leading_zeros_and_a_node_is_listed_once() {
        assert_eq!(shown("login1,n[08-11]"), ["login1", "n08", "n09", "n10", "n11"]);
        assert_eq!(shown("r[1-2]n[1,3]"), ["r1n1", "r1n3", "r2n1", "r2n3"]);
        assert_eq!(shown("n1,n[1-2],n2"), ["n1", "n2"]);
        assert_eq!(shown("n[9-11]x"), ["n9x", "n10x", "n11x"]);
        assert_eq!(shown("10.0.0.[1-2]"), ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn a_mistake_in_a_list_is_refused() {
        for wrong in [
            "",
            "n[1",
            "n1]",
            "a b",
            "n[]",
            "n[-1]",
            "n[+1]",
            "n[3-1]",
            "n[1-99999]",
            "n[1-2]x[1-9999]",
            "n1:80",
            "a,,b",
            "n[1-9999],m[1-9999]",
            "n[1-184467440737095516160]",
        ] {
            let fail = list(wrong).expect_err(wrong);
            assert_eq!(fail.exit, crate::exit::Exit::Usage, "{wrong}: {fail}");
        }
    }

    #[test]
    fn a_file_has_names_ranges_ports_and_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes");
        std::fs::write(&path, "# rack 1\nn[1-2]\n\nhead:9000 # another port\n[::1]:7\n").unwrap();
        let named = format!("@{}", path.display());
        assert_eq!(shown(&named), ["n1", "n2", "head:9000", "[::1]:7"]);
        std::fs::write(&path, "n1\nn[2\n").unwrap();
        let fail = list(&named).unwrap_err();
        assert!(fail.message.starts_with(&format!("{}:2: ", path.display())), "{fail}");
        assert!(list("@/nowhere").unwrap_err().message.contains("cannot read /nowhere"));
    }
}
