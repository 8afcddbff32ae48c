//! Our structs against NVIDIA's published `nvml.h`, as the C compiler lays them out,
//! and our symbols against the built library.

use std::env;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

/// The header: where `FAILSAFE_NVML_HEADER` says, or where setup puts it.
fn header() -> Option<PathBuf> {
    if let Some(path) = env::var_os("FAILSAFE_NVML_HEADER") {
        return Some(PathBuf::from(path));
    }
    let target = env::current_exe().ok()?.ancestors().nth(3)?.join("nvml-header/nvml.h");
    target.is_file().then_some(target)
}

#[test]
fn structs_are_laid_out_as_in_the_header() {
    let Some(header) = header() else {
        crate::skip::skip(
            "no nvml.h (PyPI nvidia-nvml-dev-cu12): set FAILSAFE_NVML_HEADER or put it at \
             target/nvml-header/nvml.h; the pinned sizes were still tested",
        );
        return;
    };
    let mut source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"{}\"\nint main(void) {{\n",
        header.canonicalize().unwrap().display()
    );
    let mut expected = String::new();
    for layout in nvidia_ml::layouts() {
        let name = layout.name;
        writeln!(source, "printf(\"{name} %zu\\n\", sizeof({name}));").unwrap();
        writeln!(expected, "{name} {}", layout.size).unwrap();
        for (field, offset) in layout.fields {
            writeln!(source, "printf(\"{name}.{field} %zu\\n\", offsetof({name}, {field}));").unwrap();
            writeln!(expected, "{name}.{field} {offset}").unwrap();
        }
    }
    source.push_str("return 0; }\n");

    let folder = tempfile::tempdir().unwrap();
    let (file, program) = (folder.path().join("layout.c"), folder.path().join("layout"));
    fs::write(&file, source).unwrap();
    let compiled = Command::new("cc").arg("-o").arg(&program).arg(&file).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let printed = Command::new(&program).output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), expected);
}

#[test]
fn every_function_is_declared_in_the_header() {
    let Some(header) = header() else {
        crate::skip::skip("no nvml.h, see the test of the structs");
        return;
    };
    let text = fs::read_to_string(header).unwrap();
    for name in nvidia_ml::exported() {
        assert!(text.contains(&format!("{name}(")), "{name} is not in the header");
    }
}

#[test]
fn every_function_is_exported_and_nothing_else() {
    let path = nvidia_ml::library_path().unwrap();
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a NUL-terminated path of a library whose initialisers do nothing.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!library.is_null());
    let resolves = |symbol: &str| {
        let symbol = CString::new(symbol).unwrap();
        // SAFETY: `library` is open and the name is NUL-terminated.
        !unsafe { libc::dlsym(library, symbol.as_ptr()) }.is_null()
    };
    let missing: Vec<_> = nvidia_ml::exported().filter(|name| !resolves(name)).collect();
    assert_eq!(missing, [""; 0]);
    assert!(resolves("nvmlErrorString"));
    assert!(!resolves("nvmlDeviceSetPowerManagementLimit"), "what is not simulated is absent");
    assert!(nvidia_ml::exported().count() > 100);
}
