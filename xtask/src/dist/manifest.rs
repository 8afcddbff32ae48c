//! The list of shipped files in `daemon/Cargo.toml`, as it must be. Only tests read it; cargo-deb does otherwise.

use crate::shell;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use toml::Table;

/// One line of the list: source, destination, mode.
struct Asset {
    source: String,
    destination: String,
    mode: String,
}

impl Asset {
    /// Built or made by `cargo xtask dist`: it is there only then.
    fn made(&self) -> Option<&str> {
        self.source.strip_prefix("target/release/")
    }

    /// The files that the source names, in this workspace.
    fn files(&self) -> Vec<PathBuf> {
        let path = shell::root().join("daemon").join(&self.source);
        let (folder, pattern) = (path.parent().unwrap(), path.file_name().unwrap().to_string_lossy());
        let fits = |file: &Path| match pattern.strip_prefix('*') {
            Some(end) => file.is_file() && file.to_string_lossy().ends_with(end),
            None => file == path,
        };
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|file| fits(file)).collect()
    }

    /// Where they are installed.
    fn installed(&self) -> Vec<String> {
        let names = match self.made() {
            Some(name) => vec![PathBuf::from(name)],
            None => self.files(),
        };
        let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        names.iter().map(|file| format!("/{}{}", self.destination, name(file))).collect()
    }
}

fn metadata() -> Table {
    let text = fs::read_to_string(shell::root().join("daemon/Cargo.toml")).unwrap();
    let manifest: Table = text.parse().unwrap();
    manifest["package"]["metadata"]["deb"].as_table().unwrap().clone()
}

fn assets() -> Vec<Asset> {
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    let asset = |line: &toml::Value| {
        let [source, destination, mode] = line.as_array().unwrap().as_slice() else { panic!("expected three: {line}") };
        Asset { source: text(source), destination: text(destination), mode: text(mode) }
    };
    metadata()["assets"].as_array().unwrap().iter().map(asset).collect()
}

fn installed() -> BTreeSet<String> {
    assets().iter().flat_map(Asset::installed).collect()
}

#[test]
fn every_listed_file_exists_or_is_made() {
    let folders: Vec<&str> =
        super::generated::SHELLS.iter().map(|(name, _)| *name).chain(["man1", "man8", "python"]).collect();
    let mut made = BTreeSet::new();
    for asset in assets() {
        match asset.made() {
            Some(name) => {
                let folder = name.strip_prefix("dist/").and_then(|rest| rest.split_once('/')).map(|(folder, _)| folder);
                let known = folder.map_or(super::programs::NAMES.contains(&name), |folder| folders.contains(&folder));
                assert!(known, "nothing makes {name}");
                made.extend(folder.map(str::to_owned));
            }
            None => assert!(!asset.files().is_empty(), "{} names no file", asset.source),
        }
        assert!(asset.destination.ends_with('/'), "{} is no folder", asset.destination);
    }
    assert_eq!(made.len(), folders.len(), "something is made and not shipped: {made:?}");
}

#[test]
fn only_programs_are_executable_and_nobody_but_root_may_write() {
    for asset in assets() {
        for path in asset.installed() {
            let expected = if super::is_executable(&path) { "755" } else { "644" };
            assert_eq!(asset.mode, expected, "{path}");
        }
    }
    let installed = installed();
    assert!(super::SCRIPTS.iter().all(|path| installed.contains(*path)));
}

#[test]
fn whatever_is_in_etc_is_a_conffile_and_nothing_else() {
    let conffiles: BTreeSet<String> =
        metadata()["conf-files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned()).collect();
    let in_etc: BTreeSet<String> = installed().into_iter().filter(|path| path.starts_with("/etc/")).collect();
    assert_eq!(conffiles, in_etc);
}

#[test]
fn units_start_what_is_installed_with_a_configuration_that_is() {
    let installed = installed();
    let unit = |name: &str| fs::read_to_string(shell::root().join("systemd").join(name)).unwrap();
    let unit = unit("failsafed.service") + &unit("failsafe-gateway.service");
    for line in unit.lines().filter(|line| line.starts_with("Exec")) {
        for path in line.split(['=', ' ']).filter(|word| word.starts_with('/') && *word != "/bin/kill") {
            assert!(installed.contains(path), "the unit names {path}, which is not installed");
        }
    }
    for path in ["/usr/lib/sysusers.d/failsafe.conf", "/usr/lib/tmpfiles.d/failsafe.conf"] {
        assert!(installed.contains(path), "{path}");
    }
}

#[test]
fn every_policy_and_playbook_is_shipped() {
    let installed = installed();
    for (folder, to) in
        [("policies", "/usr/share/failsafe/policies"), ("docs/playbooks", "/usr/share/doc/failsafe/docs/playbooks")]
    {
        for entry in fs::read_dir(shell::root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(installed.contains(&format!("{to}/{name}")), "{folder}/{name} is not shipped");
        }
    }
}

#[test]
fn maintainer_scripts_are_shell_and_end_no_process() {
    let folder = shell::root().join("daemon").join(metadata()["maintainer-scripts"].as_str().unwrap());
    for name in ["postinst", "prerm", "postrm"] {
        let script = folder.join(name);
        let checked = Command::new("sh").arg("-n").arg(&script).status().unwrap();
        assert!(checked.success(), "{name}");
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755, "{name}");
        let text = fs::read_to_string(&script).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', 'e'])) {
            assert!(!line.contains("kill"), "{name} ends processes: {line}");
        }
    }
}

#[test]
fn versions_of_the_package_and_of_the_python_client_agree() {
    let text = fs::read_to_string(shell::root().join("clients/python/pyproject.toml")).unwrap();
    let client: Table = text.parse().unwrap();
    assert_eq!(client["project"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
}
