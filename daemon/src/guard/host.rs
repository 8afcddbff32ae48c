//! Attaching programs to the whole host, and their pins.

use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError};

use super::error::chain;
use super::object::Object;

/// The owner, borrowed to attach programs to the whole host.
pub(super) struct Host<'a> {
    pub object: &'a mut Object,
    /// Whether runs are guarded: then pins of the object stay, whatever else cannot be pinned.
    pub guards_runs: bool,
}

impl Host<'_> {
    /// Attaches a program to the whole host. Its link is pinned, so that life goes on being followed, and rules in force,
    /// without a daemon.
    pub fn attach(&mut self, name: &str) -> Result<FdLink, ProgramError> {
        let link = self.link_host(name)?;
        let Ok(pins) = self.object.pins() else { return Ok(link) };
        match link.pin(pins.host_link(name)) {
            Ok(pinned) => Ok(pinned.into()),
            // Guards of runs are held by their pins.
            Err(e) if self.guards_runs => {
                let why = chain(&e);
                tracing::warn!(why, program = name, "a program of the host is not pinned: it ends with this daemon");
                self.link_host(name)
            }
            Err(e) => {
                let why = format!("link of {name}: {}", chain(&e));
                tracing::warn!(why, "a program of the host is not pinned, and none is");
                self.object.give_up_pins(why);
                // The link that could not be pinned is gone.
                self.link_host(name)
            }
        }
    }

    /// Takes a program off the whole host, its pin included.
    pub fn detach(&mut self, name: &str, link: FdLink) {
        if let Ok(pins) = self.object.pins()
            && let Err(error) = std::fs::remove_file(pins.host_link(name))
        {
            tracing::warn!(%error, program = name, "a pin of a program that nothing needs stays");
        }
        // Without its pin the link ends with the descriptor.
        drop(link);
    }

    fn link_host(&mut self, name: &str) -> Result<FdLink, ProgramError> {
        match self.object.program_mut(name) {
            Some(Program::BtfTracePoint(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            Some(Program::Lsm(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            Some(Program::FExit(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            Some(Program::FEntry(p)) => {
                let id = p.attach()?;
                Ok(p.take_link(id)?.into())
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }
}
