//! Policies with what they include: one text, which is what is checked and sent to the daemon. `policy resolve` prints it.

use crate::{
    commands::file_name,
    exit::{Exit, Fail},
    render::print,
};
use failsafe_core::policy::{
    diagnostic::Diagnostics,
    include::resolve,
    parse::{self, Checked, MAX_BYTES},
};
use std::{
    fs::OpenOptions,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// A policy of a file, with all that it includes.
#[derive(Debug)]
pub(in crate::commands) struct Whole {
    /// The policy's file, for messages.
    pub file: String,
    /// One text without `include`.
    pub text: String,
    /// What it says.
    pub checked: Checked,
}

/// Reads a policy; `-` is stdin. The inner error is what is wrong with it.
pub(in crate::commands) fn read(path: &Path) -> Result<Result<Whole, Diagnostics>, Fail> {
    let failed = |file: &str| {
        let message = format!("cannot read policy {file}");
        move |error: std::io::Error| Fail::because(message, &error)
    };
    let (file, text) = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed("on stdin"))?;
        ("<stdin>".to_owned(), text)
    } else {
        let file = file_name(path);
        let text = std::fs::read_to_string(path).map_err(failed(&file))?;
        (file, text)
    };
    Ok(whole(file, &text))
}

fn whole(file: String, text: &str) -> Result<Whole, Diagnostics> {
    let resolved = resolve(&file, text, &mut load)?;
    match parse::check(&file, &resolved.text) {
        Ok(Checked { policy, warnings }) => {
            let checked = Checked { policy, warnings: resolved.placed(warnings) };
            Ok(Whole { file, text: resolved.text, checked })
        }
        Err(errors) => Err(resolved.placed(errors)),
    }
}

/// An included file: named from the folder of the file that includes it.
fn load(from: &str, name: &str) -> Result<(String, String), String> {
    let path = Path::new(from).parent().unwrap_or(Path::new("")).join(name);
    let failed = |error: std::io::Error| format!("cannot read the included file {}: {error}", path.display());
    // A file has one name here, so that it is found again however it is spelled.
    let whole = path.canonicalize().map_err(failed)?;
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let shown = whole.strip_prefix(&here).unwrap_or(&whole).display().to_string();
    // A pipe would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&whole).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("the included file {shown} is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("the included file {shown} has more than {MAX_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("the included file {shown} is not UTF-8"))?;
    Ok((shown, text))
}

/// Prints the one text of a policy.
pub(in crate::commands) fn resolve_file(path: &Path) -> Result<Exit, Fail> {
    let Whole { text, checked, .. } =
        read(path)?.map_err(|errors| Fail::new(Exit::Error, format!("the policy is not valid\n{errors}")))?;
    if !checked.warnings.list.is_empty() {
        note!("{}", checked.warnings);
    }
    print(&text)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    const RULE: &str = "[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = { event = \"oom\" }\nactions = [\"notify\"]\n";

    fn digest(text: &str) -> String {
        use sha2::{Digest, Sha256};
        hex::encode(Sha256::digest(text.as_bytes()))
    }

    fn policy(name: &str, digest: &str) -> String {
        format!("include = [{{ file = \"{name}\", sha256 = \"{digest}\" }}]\n[policy]\nname = \"p\"\nowner = \"o\"\n")
    }

    #[test]
    fn an_included_file_is_found_from_the_folder_of_the_policy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("common")).unwrap();
        std::fs::write(dir.path().join("common/rules.toml"), RULE).unwrap();
        let main = dir.path().join("p.toml");
        std::fs::write(&main, policy("common/rules.toml", &digest(RULE))).unwrap();
        let whole = read(&main).unwrap().unwrap();
        assert_eq!(whole.checked.policy.rules.len(), 1);
        assert!(whole.text.ends_with(RULE) && !whole.text.contains("include"), "{}", whole.text);
        let again = parse::parse("p", &whole.text).unwrap();
        assert_eq!(again.digest(), whole.checked.policy.digest());
    }

    #[test]
    fn a_file_that_was_changed_or_is_no_file_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rules.toml"), RULE).unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let main = dir.path().join("p.toml");
        for (name, expected) in [
            ("rules.toml", "rules.toml` does not have the SHA-256"),
            ("pipe", "is not a regular file"),
            (".", "is not a regular file"),
            ("missing", "cannot read the included file"),
        ] {
            std::fs::write(&main, policy(name, &digest("other"))).unwrap();
            let wrong = read(&main).unwrap().unwrap_err().to_string();
            assert!(wrong.contains(expected) && wrong.contains("p.toml:1:12: "), "{wrong}");
        }
        assert_eq!(read(&dir.path().join("none.toml")).unwrap_err().exit, Exit::Error);
    }
}
