//! A software TPM for one test. Tests of other crates use this file too.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A running swtpm. It ends with the value.
pub struct Swtpm {
    child: Child,
    folder: tempfile::TempDir,
}

impl Swtpm {
    /// `None`: it is not installed, or tpm2-tools are not, and the test is skipped.
    pub fn start(test: &str) -> Option<Swtpm> {
        if Command::new("tpm2_checkquote").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED {test}: tpm2-tools are not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        match Swtpm::in_folder(folder.path()) {
            Ok(child) => Some(Swtpm { child, folder }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED {test}: swtpm is not installed");
                None
            }
            Err(error) => panic!("swtpm: {error}"),
        }
    }

    /// One with certificates of its endorsement keys, by a CA of the test's own, as a manufacturer leaves them. `None`: the test is
    /// skipped.
    pub fn manufactured(test: &str) -> Option<Swtpm> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let (key, issuer, serial) = (path("ca/signkey.pem"), path("ca/issuercert.pem"), path("ca/certserial"));
        let ca =
            format!("statedir = {}\nsigningkey = {key}\nissuercert = {issuer}\ncertserial = {serial}\n", path("ca"));
        write("ca.conf", ca);
        write("ca.options", "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n".into());
        let made_by = |name| format!("create_certs_tool{name}");
        let lines = [
            (made_by(""), "/usr/bin/swtpm_localca".to_owned()),
            (made_by("_config"), path("ca.conf")),
            (made_by("_options"), path("ca.options")),
            ("active_pcr_banks".to_owned(), "sha256".to_owned()),
        ];
        write("setup.conf", lines.map(|(name, value)| format!("{name} = {value}\n")).concat());
        let state = format!("dir://{}", path("state"));
        let setup = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--tpmstate", &state, "--config", &path("setup.conf")])
            .output();
        match setup {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                eprintln!(
                    "SKIPPED {test}: swtpm_setup makes no certificates: {}",
                    why.lines().last().unwrap_or_default()
                );
                return None;
            }
            Err(error) => {
                eprintln!("SKIPPED {test}: swtpm_setup: {error}");
                return None;
            }
        }
        let child = Swtpm::in_folder(folder.path()).unwrap();
        Some(Swtpm { child, folder })
    }

    fn in_folder(folder: &Path) -> io::Result<Child> {
        let (state, server) = (folder.join("state"), folder.join("server"));
        std::fs::create_dir_all(&state)?;
        let control = folder.join("server.ctrl");
        for earlier in [&server, &control] {
            let _none = std::fs::remove_file(earlier);
        }
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", state.display())])
            .args(["--server", &format!("type=unixio,path={}", server.display())])
            .args(["--ctrl", &format!("type=unixio,path={}.ctrl", server.display())])
            .stdout(Stdio::null())
            .spawn()?;
        let by = Instant::now() + Duration::from_secs(60);
        // A socket is there before somebody listens on it.
        while UnixStream::connect(&control).and_then(|_| UnixStream::connect(&server)).is_err() {
            assert!(Instant::now() < by, "swtpm does not listen on {} after 60 s", server.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(child)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    /// A folder for files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection. There is one at a time.
    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    /// Ends it and starts it again with the same state, as a reboot of the node does.
    pub fn reboot(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Swtpm::in_folder(self.folder.path()).unwrap();
    }

    /// A program of tpm2-tools on this TPM: whether it succeeded, and what it printed.
    pub fn tool(&self, program: &str, args: &[&str]) -> (bool, String) {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.folder())
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.socket().display()))
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
