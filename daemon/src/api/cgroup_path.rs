//! The cgroup that a request names, in the forms in which people and programs have it.
//!
//! | Form | From |
//! |---|---|
//! | `/sys/fs/cgroup/a/b` | a shell |
//! | `/a/b`, `a/b` | the cgroup v2 path, as systemd and Slurm print it |
//! | `0::/a/b` | `/proc/PID/cgroup`, also the whole file |
//!
//! Invariant: pure. Whether there is such a cgroup, and whether the path leaves the mount, is checked when it is opened.

use std::path::{Path, PathBuf};

/// The path below the cgroup2 mount `mount`, or with it.
///
/// # Errors
/// It is a line of `/proc/PID/cgroup` of a cgroup v1 hierarchy, or of none.
pub fn of_text(text: &str, mount: &Path) -> Result<PathBuf, String> {
    let text = text.trim();
    let unified = text.lines().find_map(|line| line.trim().strip_prefix("0::"));
    let path = match unified {
        Some(path) => path,
        None if text.is_empty() => return Err(format!("the cgroup has no path; {}", expected(mount))),
        None if text.split_once(':').is_some_and(|(number, _)| number.parse::<u32>().is_ok()) => {
            return Err(format!("`{text}` is of a cgroup v1 hierarchy; {}", expected(mount)));
        }
        None => text,
    };
    let path = Path::new(path);
    if path.starts_with(mount) {
        return Ok(path.to_owned());
    }
    Ok(path.strip_prefix("/").unwrap_or(path).to_owned())
}

/// What a request may name.
pub fn expected(mount: &Path) -> String {
    format!(
        "expected a folder below {}, a cgroup v2 path such as /a/b, or a line of /proc/PID/cgroup such as 0::/a/b",
        mount.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_named_as_a_folder_a_v2_path_or_a_line_of_proc() {
        let mount = Path::new("/sys/fs/cgroup");
        let below = |text| of_text(text, mount).unwrap();
        assert_eq!(below("/sys/fs/cgroup/slurm/job_17"), Path::new("/sys/fs/cgroup/slurm/job_17"));
        for text in ["/slurm/job_17", "slurm/job_17", "0::/slurm/job_17", "0::/slurm/job_17\n", " 0::/slurm/job_17 "] {
            assert_eq!(below(text), Path::new("slurm/job_17"), "{text:?}");
        }
        assert_eq!(below("12:cpu:/a\n1:name=systemd:/b\n0::/c\n"), Path::new("c"), "the whole file");
        assert_eq!(below("a:b"), Path::new("a:b"), "a name may have a colon");
        assert_eq!(below("/../x"), Path::new("../x"), "refused when it is opened");
    }

    #[test]
    fn what_is_no_cgroup_of_v2_is_refused_with_what_was_expected() {
        let mount = Path::new("/sys/fs/cgroup");
        for text in ["4:memory:/job", "", "\n"] {
            let why = of_text(text, mount).unwrap_err();
            assert!(why.contains("expected a folder below /sys/fs/cgroup, a cgroup v2 path such as /a/b"), "{why}");
        }
    }
}
