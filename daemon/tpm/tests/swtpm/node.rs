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
