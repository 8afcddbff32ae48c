//! A test that cannot run on this machine says so: on stderr, and in the file that `cargo xtask test` counts and prints.
//! Included by path where it is needed, so that no crate depends on another for it.

/// Says that the calling test does not run here, and why. The test then returns.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = std::env::var("NEXTEST_TEST_NAME").unwrap_or_else(|_| thread.name().unwrap_or("a test").to_owned());
    eprintln!("SKIPPED {test}: {why}");
    if let Some(log) = std::env::var_os("FAILSAFE_SKIP_LOG") {
        let line = format!("SKIP {test}: {why}\n");
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&log);
        if let Err(error) = file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes())) {
            eprintln!("the skip could not be written to {}: {error}", log.display());
        }
    }
}
