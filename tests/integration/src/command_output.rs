//! The output of a command, and how it ended.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

/// The output of a command, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its exit code; 128 and the signal where one ended it.
    pub code: i32,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
}

impl CommandOutput {
    /// Runs a command.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn of(command: &mut Command) -> Result<CommandOutput> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
        let code = output.status.code().or_else(|| output.status.signal().map(|s| 128 + s)).unwrap_or(-1);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(CommandOutput { code, out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// That it ended with this code.
    ///
    /// # Errors
    /// It did not; all of its output is in the error.
    pub fn expect(self, code: i32) -> Result<CommandOutput> {
        if self.code == code { Ok(self) } else { bail!("expected exit code {code}, got {self:?}") }
    }

    /// Its stdout as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self:?}"))
    }
}
