//! The programs compile for arm64 as well, whatever this machine is: no x86 register or call name has slipped in. Loading
//! them takes an arm64 kernel.

use std::path::Path;
use std::process::Command;

use aya_obj::Object;

#[test]
fn the_object_compiles_for_arm64_and_has_the_same_programs() {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("arm64.bpf.o");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // As build.rs does for the machine's own architecture.
    let clang = std::env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let mut command = Command::new(clang);
    command.current_dir(here).args([
        "-target",
        "bpf",
        "-O2",
        "-g",
        "-mcpu=v3",
        "-Wall",
        "-Werror",
        "-D__TARGET_ARCH_arm64",
    ]);
    command.args(["-I", "include"]);
    for triplet in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        let headers = Path::new("/usr/include").join(triplet);
        if headers.is_dir() {
            command.arg("-idirafter").arg(headers);
        }
    }
    let out = command.args(["-c", "src/failsafe.bpf.c", "-o"]).arg(&object).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let programs =
        |bytes: &[u8]| Object::parse(bytes).unwrap().programs.into_keys().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(programs(&std::fs::read(&object).unwrap()), programs(failsafe_ebpf::OBJECT));
}
