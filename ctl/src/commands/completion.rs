//! `completion`: a script for the shell.

use crate::{
    args::Args,
    exit::{Exit, Fail},
    render::print,
};
use clap::CommandFactory;

pub(super) fn completion(shell: clap_complete::Shell) -> Result<Exit, Fail> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "failsafectl", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
