//! The shipped policies, with what a test's jobs need allowed.

use std::net::Ipv4Addr;

/// What a test's jobs need.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// Name server to ask.
    pub server: Ipv4Addr,
    /// Host name, or `*.` and a name, that they reach over TCP at any port.
    pub host: &'a str,
}

/// A shipped policy whose list of destinations has what the jobs need, and which starts on a node that lacks a sensor. Everything else,
/// its rules above all, is as shipped.
#[must_use]
pub fn for_test(shipped: &str, needs: Needs<'_>) -> String {
    let mut out = String::new();
    for line in shipped.lines() {
        if line.starts_with("on_blind") || line.starts_with("dns_servers") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line == "[policy]" {
            // This node may have neither LSM nor a GPU: then the run starts all the same.
            out.push_str("on_blind = \"continue\"\n");
        }
        if line == "[egress]" {
            out.push_str(&format!("dns_servers = [\"{}\"]\n", needs.server));
        }
        if line == "allow = [" && out.contains("[egress]") {
            out.push_str(&format!("    {{ host = \"{}\", protocol = \"tcp\" }},\n", needs.host));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_destinations_grows_and_the_rules_stay() {
        let shipped = "[policy]\nname = \"p\"\non_blind = \"freeze\"\n[egress]\ndns_servers = [\"10.0.0.53\"]\nallow = [\n    \
                       { cidr = \"127.0.0.1/32\" },\n]\n[[rule]]\nid = \"r\"\n";
        let needs = Needs { server: Ipv4Addr::new(127, 0, 0, 9), host: "*.test" };
        assert_eq!(
            for_test(shipped, needs),
            "[policy]\non_blind = \"continue\"\nname = \"p\"\n[egress]\ndns_servers = [\"127.0.0.9\"]\nallow = [\n    \
             { host = \"*.test\", protocol = \"tcp\" },\n    { cidr = \"127.0.0.1/32\" },\n]\n[[rule]]\nid = \"r\"\n"
        );
    }
}
