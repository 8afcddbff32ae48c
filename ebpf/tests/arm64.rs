//! The programs compile for arm64 as well, whatever this machine is: no x86 register or call name has slipped in. What an arm64
//! kernel takes of them `cargo xtask vm --kernel 6.12-arm64` finds out.

#[path = "../clang.rs"]
mod clang;

use std::collections::BTreeSet;
use std::path::Path;

use aya_obj::Object;

#[test]
fn the_object_compiles_for_arm64_and_has_the_same_programs() {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("arm64.bpf.o");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    clang::compile("aarch64", &here.join("src/failsafe.bpf.c"), &[&here.join("include")], &object).unwrap();

    let programs = |bytes: &[u8]| Object::parse(bytes).unwrap().programs.into_keys().collect::<BTreeSet<_>>();
    assert_eq!(programs(&std::fs::read(&object).unwrap()), programs(failsafe_ebpf::OBJECT));
}
