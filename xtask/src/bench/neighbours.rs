//! What others on this machine do that a figure would be taken for: eBPF links on cgroups. Once any cgroup has one of a kind,
//! the kernel does more at every call of that kind, everywhere, and the "no daemon" that is measured against is none.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Links on cgroups now: those that a process holds, and those pinned by a failsafed.
pub fn cgroup_links() -> usize {
    let processes = entries(Path::new("/proc"));
    let infos = processes.iter().flat_map(|process| entries(&process.join("fdinfo")));
    let held = infos.filter(|info| fs::read_to_string(info).is_ok_and(|text| is_cgroup_link(&text))).count();
    held + pinned(Path::new("/sys/fs/bpf"))
}

fn is_cgroup_link(fdinfo: &str) -> bool {
    fdinfo.lines().any(|line| line.strip_prefix("link_type:").is_some_and(|kind| kind.trim() == "cgroup"))
}

fn pinned(folder: &Path) -> usize {
    let count = |path: PathBuf| match path.is_dir() {
        true => pinned(&path),
        false => usize::from(path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("link_"))),
    };
    entries(folder).into_iter().map(count).sum()
}

/// What cannot be listed, because it has ended or is another's, has no entries.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_found_at_any_depth_and_links_by_their_type() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("failsafe/x/g1_v1");
        fs::create_dir_all(&deep).unwrap();
        for name in ["link_0_7_fs_connect4", "link_0_7_fs_egress", "map_runs"] {
            fs::write(deep.join(name), "").unwrap();
        }
        assert_eq!(pinned(folder.path()), 2);
        assert!(is_cgroup_link("pos:\t0\nlink_type:\tcgroup\nlink_id:\t4\n"));
        assert!(!is_cgroup_link("pos:\t0\nlink_type:\traw_tracepoint\n"));
    }
}
