//! An open TPM with its loaded key. Only the thread `tpm` has one.

use super::{NoTpm, device::Device};
use failsafe_tpm::{Key, Tpm, TpmError};
use std::{io, path::PathBuf, time::Duration};

/// After how long without a request the device is closed: the key then takes no room in the TPM.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// The device, open while it is used.
pub(super) struct Session {
    device: PathBuf,
    live: Option<Live>,
}

/// An open TPM.
pub(super) struct Live {
    pub tpm: Tpm<Device>,
    about: Option<String>,
    key: Option<Key>,
}

impl Live {
    /// Manufacturer and firmware.
    pub fn about(&mut self) -> Result<String, TpmError> {
        match &self.about {
            Some(about) => Ok(about.clone()),
            None => Ok(self.about.insert(self.tpm.about()?).clone()),
        }
    }

    /// The attestation key. To make it is the slowest command.
    pub fn key(&mut self) -> Result<Key, TpmError> {
        match &self.key {
            Some(key) => Ok(key.clone()),
            None => Ok(self.key.insert(self.tpm.key()?).clone()),
        }
    }
}

impl Session {
    pub fn new(device: PathBuf) -> Session {
        Session { device, live: None }
    }

    /// Does something with the open TPM. `again`: it may be tried once more with a device that was opened anew, because the one
    /// that was open may have been reset.
    pub fn with<T>(&mut self, again: bool, work: impl Fn(&mut Live) -> Result<T, TpmError>) -> Result<T, NoTpm> {
        let reused = self.live.is_some();
        match self.attempt(&work) {
            Err(NoTpm::Failed(_)) if reused && again => self.attempt(&work),
            other => other,
        }
    }

    fn attempt<T>(&mut self, work: &impl Fn(&mut Live) -> Result<T, TpmError>) -> Result<T, NoTpm> {
        let live = match &mut self.live {
            Some(live) => live,
            None => {
                let opened = Device::open(&self.device).map_err(|error| self.not_opened(&error))?;
                self.live.insert(Live { tpm: Tpm::new(opened), about: None, key: None })
            }
        };
        work(live).map_err(|error| {
            match error {
                TpmError::Io(_) => self.live = None,
                _ => self.close(),
            }
            NoTpm::Failed(error.to_string())
        })
    }

    fn not_opened(&self, error: &io::Error) -> NoTpm {
        match error.kind() {
            io::ErrorKind::NotFound => NoTpm::Absent(self.device.clone()),
            _ => NoTpm::Failed(format!("cannot open the TPM {}: {error}", self.device.display())),
        }
    }

    /// Removes the key from the TPM and closes the device.
    pub fn close(&mut self) {
        if let Some(Live { mut tpm, key: Some(key), .. }) = self.live.take() {
            // The kernel's resource manager does this too. A software TPM does not.
            let _gone_with_the_device = tpm.flush(&key);
        }
    }
}
