//! `policy would`: what a policy does with one call, by the matchers that are tested against the kernel's.

use super::read_valid;
use crate::{
    args::{CallKind, PolicyWouldArgs},
    exit::{Exit, Fail},
    render::{json, policy, print},
};
use failsafe_core::policy::{WATCHABLE, diagnostic::nearest};
use failsafe_matchers::{
    calls::WatchedCall,
    egress::{TCP, UDP},
    would::{Answer, Call, Destination, would as ask},
};
use std::net::IpAddr;

/// Longest path and name that are asked about, in bytes.
const LONGEST: usize = 4_096;

pub(in crate::commands) fn would(args: &PolicyWouldArgs) -> Result<Exit, Fail> {
    let call = call(args).map_err(Fail::usage)?;
    let found = read_valid(&args.file)?;
    let answered = ask(&found, &call);
    print(&if args.output.json() {
        json::text(&policy::answer_json(&call, &answered))
    } else {
        policy::answer(&call, &answered)
    })?;
    Ok(match answered.answer {
        Answer::Allowed | Answer::WouldDeny => Exit::Done,
        Answer::Denied | Answer::Stopped => Exit::CallDenied,
        Answer::Depends(_) => Exit::NodeDecides,
    })
}

fn call(args: &PolicyWouldArgs) -> Result<Call, String> {
    let what = args.what.as_str();
    if args.write && args.call != CallKind::Open {
        return Err("--write is for `open`".to_owned());
    }
    if what.len() > LONGEST {
        return Err(format!("the argument has {} bytes, expected at most {LONGEST}", what.len()));
    }
    match args.call {
        CallKind::Connect => destination(what),
        CallKind::Open => path(what).map(|path| Call::Open { path, write: args.write }),
        CallKind::Exec => path(what).map(Call::Exec),
        CallKind::Syscall => WatchedCall::from_name(what).map(Call::Syscall).ok_or_else(|| {
            let near = nearest(what, WATCHABLE.iter().copied());
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            format!("`{what}` is no system call that a policy can name{near}; docs/policy.md#syscalls-system-calls-to-watch lists them")
        }),
    }
}

fn destination(text: &str) -> Result<Call, String> {
    let expected = || {
        format!(
            "`{text}`, expected ADDRESS:PORT or NAME:PORT with /tcp or /udp, such as 10.0.0.9:443/tcp or [2001:db8::1]:53/udp"
        )
    };
    let (place, protocol) = match text.rsplit_once('/') {
        Some((place, "tcp")) => (place, TCP),
        Some((place, "udp")) => (place, UDP),
        Some(_) => return Err(expected()),
        None => (text, TCP),
    };
    let (host, port) = place.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(expected)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let to = match (bare, host.parse::<IpAddr>()) {
        (Some(v6), _) => Destination::Address(IpAddr::V6(v6.parse().map_err(|_| expected())?)),
        (None, Ok(address @ IpAddr::V4(_))) => Destination::Address(address),
        // Without brackets the end of an IPv6 address cannot be told from a port.
        (None, Ok(IpAddr::V6(_))) => return Err(expected()),
        (None, Err(_)) if is_name(host) => Destination::Name(host.to_owned()),
        (None, Err(_)) => return Err(expected()),
    };
    Ok(Call::Connect { to, port, protocol })
}

fn is_name(host: &str) -> bool {
    let letters = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let named = host.bytes().any(|b| b.is_ascii_alphabetic());
    letters && named && host.trim_end_matches('.').split('.').all(|label| !label.is_empty())
}

fn path(text: &str) -> Result<String, String> {
    let resolved =
        text.starts_with('/') && !text.split('/').any(|part| part == "." || part == "..") && !text.contains("//");
    match resolved {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("`{text}`, expected an absolute path without `.` and `..`: the kernel compares resolved paths"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_or_refused() {
        let to = |text: &str| match destination(text) {
            Ok(Call::Connect { to, port, protocol }) => Some((to, port, protocol)),
            _ => None,
        };
        let address = |text: &str| Destination::Address(text.parse().unwrap());
        assert_eq!(to("10.0.0.9:443/tcp"), Some((address("10.0.0.9"), 443, TCP)));
        assert_eq!(to("10.0.0.9:443"), Some((address("10.0.0.9"), 443, TCP)));
        assert_eq!(to("[2001:db8::1]:53/udp"), Some((address("2001:db8::1"), 53, UDP)));
        assert_eq!(to("a.example.org:443"), Some((Destination::Name("a.example.org".into()), 443, TCP)));
        for bad in [
            "",
            "10.0.0.9",
            "10.0.0.9:0",
            "10.0.0.9:99999",
            "10.0.0.9:443/icmp",
            "10.0.0.300:1",
            "2001:db8::1:53",
            "[x]:1",
            ":1",
            "a..b:1",
            "a b:1",
            "10.0.0.0/8:443",
        ] {
            assert!(destination(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_those_that_the_kernel_compares() {
        assert!(path("/usr/bin/curl").is_ok());
        for bad in ["curl", "./curl", "/usr/../bin/x", "/usr/./x", "//x", ""] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
