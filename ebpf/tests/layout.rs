//! The Rust mirror of the ABI against the types of the compiled object: every struct, field, offset and size.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::collections::HashMap;

use failsafe_ebpf::{OBJECT, abi};

/// A struct of the object: its size, and offset and size of each field.
type Struct = (usize, Vec<(String, usize)>);

#[test]
fn the_mirror_has_the_layout_of_the_object() {
    let object = structs(OBJECT);
    let layout = abi::layout();
    assert!(layout.len() >= 16);
    for mirror in layout {
        let (size, fields) = object.get(mirror.name).unwrap_or_else(|| panic!("{} is not in the object", mirror.name));
        assert_eq!(mirror.size, *size, "size of {}", mirror.name);
        let ours: Vec<_> = mirror.fields.iter().map(|(n, o, _)| ((*n).to_owned(), *o)).collect();
        assert_eq!(&ours, fields, "fields of {}", mirror.name);
        // Without padding, each field ends where the next begins: that holds the sizes too.
        let mut end = 0;
        for (name, offset, size) in mirror.fields {
            assert_eq!(offset, end, "padding before {}.{name}", mirror.name);
            end = offset + size;
        }
        assert_eq!(end, mirror.size, "padding at the end of {}", mirror.name);
    }
}

#[test]
fn the_object_is_aligned_and_has_every_struct_of_the_header() {
    assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
    let mirrored: Vec<_> = abi::layout().iter().map(|l| l.name).collect();
    let header = include_str!("../include/abi.h");
    for line in header.lines() {
        if let Some(name) = line.strip_prefix("struct ").and_then(|l| l.strip_suffix(" {")) {
            assert!(mirrored.contains(&name), "{name} has no mirror");
        }
    }
}

#[test]
fn constants_agree_with_the_header() {
    let header = include_str!("../include/abi.h");
    let define = |name: &str| -> usize {
        let line = header.lines().find(|l| l.starts_with(&format!("#define {name} "))).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    assert_eq!(define("FS_ABI_VERSION"), abi::VERSION as usize);
    assert_eq!(define("FS_MAX_RUNS"), abi::MAX_RUNS as usize);
    assert_eq!(define("FS_MAX_PORTS"), abi::MAX_PORTS);
    assert_eq!(define("FS_PATH_MAX"), abi::PATH_MAX);
    assert_eq!(define("FS_ARGV_MAX"), abi::ARGV_MAX);
    assert_eq!(define("FS_COMM_LEN"), abi::COMM_LEN);
    assert_eq!(define("FS_RULE_PATH"), abi::RULE_PATH);
    assert_eq!(define("FS_MAX_HOSTS"), abi::MAX_HOSTS);
    assert_eq!(define("FS_MAX_BUDGETS"), abi::MAX_BUDGETS);
    assert_eq!(define("FS_UID_UNKNOWN"), abi::UID_UNKNOWN as usize);
    for (i, name) in abi::SYSCALLS.iter().enumerate() {
        let line = format!("FS_SYS_{} = {i},", name.to_uppercase());
        assert!(header.contains(&line), "{line}");
    }
    let flags = [
        ("FS_RUN_ENFORCE", abi::run_flag::ENFORCE),
        ("FS_RUN_OBSERVE", abi::run_flag::OBSERVE),
        ("FS_RUN_NO_REPLIES", abi::run_flag::NO_REPLIES),
        ("FS_RUN_SYN_ONLY", abi::run_flag::SYN_ONLY),
        ("FS_RUN_WATCH_EXEC", abi::run_flag::WATCH_EXEC),
        ("FS_RUN_WATCH_LIFE", abi::run_flag::WATCH_LIFE),
        ("FS_RUN_WATCH_CONNECT", abi::run_flag::WATCH_CONNECT),
        ("FS_RUN_WATCH_SEND", abi::run_flag::WATCH_SEND),
        ("FS_RUN_WATCH_BIND", abi::run_flag::WATCH_BIND),
        ("FS_RUN_NET_DENIED", abi::run_flag::NET_DENIED),
        ("FS_RUN_NET_STOPS", abi::run_flag::NET_STOPS),
        ("FS_RUN_EXEC_WAITS", abi::run_flag::EXEC_WAITS),
        ("FS_RUN_LIFE_WAITS", abi::run_flag::LIFE_WAITS),
        ("FS_RUN_SEEN_EXEC", abi::run_flag::SEEN_EXEC),
        ("FS_RUN_EXEC_ONCE", abi::run_flag::EXEC_ONCE),
        ("FS_RUN_PATHS", abi::run_flag::PATHS),
        ("FS_RUN_INODES", abi::run_flag::INODES),
        ("FS_RUN_PROTECT", abi::run_flag::PROTECT),
        ("FS_RUN_DEAD_EGRESS", abi::run_flag::DEAD_EGRESS),
        ("FS_RUN_DEAD_ALL", abi::run_flag::DEAD_ALL),
        ("FS_RUN_FAMILIES", abi::run_flag::FAMILIES),
        ("FS_RUN_PORTS", abi::run_flag::PORTS),
        ("FS_RUN_BUDGETS", abi::run_flag::BUDGETS),
        ("FS_RUN_DNS", abi::run_flag::DNS),
        ("FS_MODE_ENFORCED", abi::mode::ENFORCED),
        ("FS_MODE_OBSERVED", abi::mode::OBSERVED),
        ("FS_MODE_OBSERVES", abi::mode::OBSERVES),
        ("FS_MODE_UNKNOWN", abi::mode::UNKNOWN),
        ("FS_LATCH_EGRESS", abi::latch::EGRESS),
        ("FS_LATCH_STOP", abi::latch::STOP),
        ("FS_NET_BOUNDS", abi::net_flag::BOUNDS.into()),
        ("FS_NET_DEAD", abi::net_flag::DEAD.into()),
        ("FS_EXEC_PATH_CUT", abi::exec_flag::PATH_CUT),
        ("FS_EXEC_ARGV_CUT", abi::exec_flag::ARGV_CUT),
        ("FS_EXEC_UNLINKED", abi::exec_flag::UNLINKED),
        ("FS_EXEC_SCRIPT", abi::exec_flag::SCRIPT),
        ("FS_EXEC_ARGV_LOST", abi::exec_flag::ARGV_LOST),
        ("FS_NET_MAPPED", abi::net_flag::MAPPED.into()),
        ("FS_NET_LATCHED", abi::net_flag::LATCHED.into()),
        ("FS_NET_FOREIGN", abi::net_flag::FOREIGN.into()),
        ("FS_NET_BAD_HDR", abi::net_flag::BAD_HDR.into()),
        ("FS_MOVE_BY_RUN", abi::move_flag::BY_RUN),
        ("FS_MOVE_BY_CLONE", abi::move_flag::BY_CLONE),
    ];
    for (name, value) in flags {
        let line = format!("{name} = 1 << {},", value.trailing_zeros());
        assert!(header.contains(&line), "{line}");
    }
    let tables = [
        ("FS_TABLE_BIND_DENIED", abi::table::BIND_DENIED),
        ("FS_TABLE_NET_STOPS", abi::table::NET_STOPS),
        ("FS_TABLE_BIND_STOPS", abi::table::BIND_STOPS),
        ("FS_TABLE_NET_DENIED", abi::table::NET_DENIED),
        ("FS_TABLE_LISTEN_TOLD", abi::table::LISTEN_TOLD),
        ("FS_TABLE_LISTEN_DENIED", abi::table::LISTEN_DENIED),
        ("FS_TABLE_LISTEN_STOPS", abi::table::LISTEN_STOPS),
    ];
    for (name, value) in tables {
        let line = format!("{name} = {} << 28,", value >> 28);
        assert!(header.contains(&line), "{line}");
    }
    let numbers = [
        ("FS_HELD_NOT", abi::held::NOT.into()),
        ("FS_HELD_LATCHED", abi::held::LATCHED.into()),
        ("FS_HELD_DEAD", abi::held::DEAD.into()),
        ("FS_EXEC", abi::kind::EXEC),
        ("FS_FORK", abi::kind::FORK),
        ("FS_EXIT", abi::kind::EXIT),
        ("FS_NET", abi::kind::NET),
        ("FS_SYSCALL", abi::kind::SYSCALL),
        ("FS_OOM", abi::kind::OOM),
        ("FS_LEAVE", abi::kind::LEAVE),
        ("FS_JOIN", abi::kind::JOIN),
        ("FS_NET_CONNECT", abi::net_op::CONNECT.into()),
        ("FS_NET_SENDMSG", abi::net_op::SENDMSG.into()),
        ("FS_NET_BIND", abi::net_op::BIND.into()),
        ("FS_NET_PACKET", abi::net_op::PACKET.into()),
        ("FS_NET_SOCKET", abi::net_op::SOCKET.into()),
        ("FS_OP", abi::kind::OP),
        ("FS_EFFECT_NONE", abi::effect::NONE.into()),
        ("FS_EFFECT_OBSERVE", abi::effect::OBSERVE.into()),
        ("FS_EFFECT_DENY", abi::effect::DENY.into()),
        ("FS_EFFECT_STOP", abi::effect::STOP.into()),
        ("FS_KEY_INODE", abi::key_what::INODE),
        ("FS_KEY_DEVICE", abi::key_what::DEVICE),
        ("FS_KEY_FAMILY", abi::key_what::FAMILY),
        ("FS_KEY_HOST", abi::key_what::HOST),
        ("FS_KEY_DNS", abi::key_what::DNS),
        ("FS_POINT_EXEC_MEMFD", abi::point::EXEC_MEMFD),
        ("FS_POINT_EXEC_DELETED", abi::point::EXEC_DELETED),
        ("FS_POINT_EXEC_SCRIPT", abi::point::EXEC_SCRIPT),
        ("FS_POINT_NET", abi::point::NET),
        ("FS_POINT_PRIV_SETUID", abi::point::PRIV_SETUID),
        ("FS_POINT_PRIV_CAPABILITY", abi::point::PRIV_CAPABILITY),
        ("FS_POINT_PRIV_USERNS", abi::point::PRIV_USERNS),
        ("FS_POINT_MEM_ANONYMOUS", abi::point::MEM_ANONYMOUS),
        ("FS_POINT_MEM_MEMFD", abi::point::MEM_MEMFD),
        ("FS_POINT_MEM_WRITE_EXEC", abi::point::MEM_WRITE_EXEC),
        ("FS_POINT_FORK", abi::point::FORK),
        ("FS_VIA_LSM", abi::via::LSM.into()),
        ("FS_VIA_FENTRY", abi::via::FENTRY.into()),
        ("FS_VIA_SYS_ENTER", abi::via::SYS_ENTER.into()),
        ("FS_VIA_TRACEPOINT", abi::via::TRACEPOINT.into()),
        ("FS_VIA_CGROUP", abi::via::CGROUP.into()),
        ("FS_OP_EXEC", abi::op_what::EXEC),
        ("FS_OP_MAP", abi::op_what::MAP),
        ("FS_OP_OPEN", abi::op_what::OPEN),
        ("FS_OP_DEVICE", abi::op_what::DEVICE),
        ("FS_OP_SOCKET", abi::op_what::SOCKET),
        ("FS_OP_LISTEN", abi::op_what::LISTEN),
        ("FS_OP_PRIVILEGE", abi::op_what::PRIVILEGE),
        ("FS_OP_MEMORY", abi::op_what::MEMORY),
        ("FS_OP_FORK", abi::op_what::FORK),
        ("FS_OP_PROTECT", abi::op_what::PROTECT),
        ("FS_OP_BUDGET", abi::op_what::BUDGET),
        ("FS_OP_DNS", abi::op_what::DNS),
        ("FS_ALLOWED", abi::verdict::ALLOWED.into()),
        ("FS_DENIED", abi::verdict::DENIED.into()),
        ("FS_OBSERVED", abi::verdict::OBSERVED.into()),
    ];
    for (name, value) in numbers {
        let line = format!("\t{name} = {value},");
        assert!(header.contains(&line), "{line}");
    }
}

/// All named structs of the object's BTF.
///
/// Format: Documentation/bpf/btf.rst. A header, the types, the strings; a type is three words (name, info, size or
/// type) and a tail that depends on its kind.
fn structs(object: &[u8]) -> HashMap<String, Struct> {
    let btf = aya_obj::Object::parse(object).unwrap().btf.unwrap().to_bytes();
    let word = |at: usize| u32::from_le_bytes(btf[at..at + 4].try_into().unwrap());
    let [header, types, types_len, strings] = [4, 8, 12, 16].map(|at| word(at) as usize);
    let name = |offset: u32| {
        let s = &btf[header + strings + offset as usize..];
        String::from_utf8(s[..s.iter().position(|b| *b == 0).unwrap()].to_vec()).unwrap()
    };
    let mut out = HashMap::new();
    let mut at = header + types;
    while at < header + types + types_len {
        let (info, size) = (word(at + 4), word(at + 8));
        let (kind, n) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        let tail = at + 12;
        if kind == 4 {
            let member = |i: usize| (name(word(tail + 12 * i)), (word(tail + 12 * i + 8) & 0x00ff_ffff) as usize / 8);
            out.insert(name(word(at)), (size as usize, (0..n).map(member).collect()));
        }
        at = tail
            + match kind {
                1 | 14 | 17 => 4,          // int, variable, declaration tag
                3 => 12,                   // array
                4 | 5 | 15 | 19 => 12 * n, // struct, union, section, 64-bit enum
                6 | 13 => 8 * n,           // enum, function prototype
                _ => 0,
            };
    }
    out
}
