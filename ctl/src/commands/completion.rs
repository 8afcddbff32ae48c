//! `completion`: a script for the shell. `man`: the manual pages, which `cargo xtask dist` puts into the package.

use crate::{
    args::Args,
    exit::{Exit, Fail},
    render::print,
};
use clap::CommandFactory;
use std::path::Path;

pub(super) fn completion(shell: clap_complete::Shell) -> Result<Exit, Fail> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "failsafectl", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// `failsafectl.1`, and a page for each command.
pub(super) fn man(folder: &Path) -> Result<Exit, Fail> {
    clap_mangen::generate_to(Args::command(), folder)
        .map_err(|error| Fail::because(format!("cannot write manual pages into {}", folder.display()), &error))?;
    Ok(Exit::Done)
}
