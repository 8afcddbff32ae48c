//! The node's TPM: an attestation key, quotes, and a counter against rollback.
//!
//! ```text
//! attest, statements, rollback ─► queue (8) ─► thread `tpm` ─► /dev/tpmrm0
//!                     ◄── answer, or after 5 s: none
//! ```
//!
//! Invariants: one thread speaks to the TPM, and it has no descriptor of the daemon's; nobody waits for it longer than
//! [`ANSWER`], but for an administrator's [`ACTIVATION`], and not longer than [`LAST`] after the daemon began to stop; after a command without an answer nobody waits until
//! it ends; a failure is remembered for [`AGAIN`], except that there is no TPM, which is asked each time.
//! No thread of the freeze path uses it. Everything works without a TPM: whoever asks gets the reason as text.

mod device;
mod session;

use crate::platform::apart;
use failsafe_attest::{TpmKey, TpmStatus};
use failsafe_tpm::{Credential, Endorsements, Pcrs, Quote, TpmError};
use session::{Live, Session};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

/// How long an answer is waited for.
pub const ANSWER: Duration = Duration::from_secs(5);
/// How long an activation is waited for: some TPMs make an RSA key for many seconds. Meanwhile nobody else gets an answer.
pub const ACTIVATION: Duration = Duration::from_secs(60);
/// How long an answer is waited for after the daemon began to stop.
pub const LAST: Duration = Duration::from_secs(1);
/// How often whoever waits looks whether the daemon stops.
const LOOK: Duration = Duration::from_millis(50);
/// Requests that wait for the thread.
const QUEUE: usize = 8;
/// How long a failure is remembered: until then nobody tries again.
const AGAIN: Duration = Duration::from_secs(30);
/// How often PCRs are read and quoted at most, if they change in between.
const TRIES: u32 = 4;

/// What is used of the TPM.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The device, or the socket of a software TPM.
    pub device: PathBuf,
    /// The PCRs that are quoted, ascending.
    pub pcrs: Vec<u8>,
    /// It is not used.
    pub disabled: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTpm {
    /// The configuration does not use it.
    #[error("the configuration does not use a TPM (tpm.disabled)")]
    Disabled,
    /// The node has none.
    #[error("the node has no TPM: {} does not exist", .0.display())]
    Absent(PathBuf),
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// It works, but what was asked could not be had this time. The next request is tried.
    #[error("{0}")]
    NotNow(String),
}

impl NoTpm {
    /// As statements have it.
    pub fn status(&self) -> TpmStatus {
        match self {
            NoTpm::Disabled => TpmStatus::Disabled,
            NoTpm::Absent(_) => TpmStatus::Absent,
            NoTpm::Failed(_) | NoTpm::NotNow(_) => TpmStatus::Failed,
        }
    }

    fn not_now(error: TpmError) -> NoTpm {
        NoTpm::NotNow(error.to_string())
    }
}

/// Only a device that fails is a failure of the TPM for everybody: one that has no room for a counter, or whose owner set a password,
/// still quotes.
fn refused_alone<T>(result: Result<T, TpmError>) -> Result<Result<T, TpmError>, TpmError> {
    match result {
        Err(error @ TpmError::Io(_)) => Err(error),
        other => Ok(other),
    }
}

/// What is known of a TPM without a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Manufacturer and firmware.
    pub about: String,
    /// Its attestation key.
    pub key: TpmKey,
    /// The values of the PCRs.
    pub pcrs: Pcrs,
}

/// One request. It is skipped if nobody waits for it any more.
struct Job {
    number: u64,
    given_up: Arc<AtomicBool>,
    work: Box<dyn FnOnce(&mut Session) + Send>,
}

/// The node's TPM.
pub struct NodeTpm {
    settings: Settings,
    /// To the thread, which is started by the first request. The lock is held for a `try_send`, or for the start of the thread.
    queue: Mutex<Option<SyncSender<Job>>>,
    /// The number of the last request.
    asked: AtomicU64,
    /// The request that ended last. They end in the order of their numbers.
    ended: Arc<AtomicU64>,
    /// The last request that nobody waited for to its end.
    late: AtomicU64,
    /// Until when an answer is waited for, once the daemon stops.
    ends: OnceLock<Instant>,
    failed: Mutex<Option<(Instant, NoTpm)>>,
}

impl NodeTpm {
    /// Nothing is opened yet.
    pub fn new(settings: Settings) -> NodeTpm {
        NodeTpm {
            settings,
            queue: Mutex::default(),
            asked: AtomicU64::new(0),
            ended: Arc::default(),
            late: AtomicU64::new(0),
            ends: OnceLock::new(),
            failed: Mutex::default(),
        }
    }

    /// The key and the values of the PCRs. Blocks for [`ANSWER`] at most.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn read(&self) -> Result<Reading, NoTpm> {
        let pcrs = self.settings.pcrs.clone();
        self.ask(move |live| {
            let (about, key) = (live.about()?, live.key()?);
            Ok((about, key.public, live.tpm.pcrs(&pcrs)?))
        })
        .and_then(|(about, public, pcrs)| {
            let key = TpmKey::of(public).map_err(|error| NoTpm::Failed(error.to_string()))?;
            Ok(Reading { about, key, pcrs })
        })
    }

    /// The attestation key alone.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn key(&self) -> Result<TpmKey, NoTpm> {
        let public = self.ask(|live| live.key().map(|key| key.public))?;
        TpmKey::of(public).map_err(|error| NoTpm::Failed(error.to_string()))
    }

    /// The certificates of its endorsement keys, as its manufacturer left them.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn endorsements(&self) -> Result<Endorsements, NoTpm> {
        self.ask(|live| refused_alone(live.tpm.endorsements()))?.map_err(NoTpm::not_now)
    }

    /// Decrypts a secret that a verifier encrypted for the attestation key and for an endorsement key of this TPM.
    ///
    /// # Errors
    /// Why there is no answer, or the secret is not for both.
    pub fn activate(&self, credential: Credential) -> Result<Vec<u8>, NoTpm> {
        let work = move |live: &mut Live| {
            let key = live.key()?;
            live.tpm.transport().set_patience(ACTIVATION);
            let secret = live.tpm.activate(&key, &credential);
            live.tpm.transport().set_patience(ANSWER);
            refused_alone(secret)
        };
        self.request(ACTIVATION, move |session| session.with(true, work))?.map_err(NoTpm::not_now)
    }

    /// A quote that is bound to these bytes, and the values of the PCRs that it covers.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn quote(&self, qualifying: [u8; 32]) -> Result<(Quote, Pcrs), NoTpm> {
        let pcrs = self.settings.pcrs.clone();
        let quoted = self.ask(move |live| {
            let key = live.key()?;
            for _ in 0..TRIES {
                // A PCR may change in between: PCR 10 does so with each file that IMA measures.
                let (values, quote) = (live.tpm.pcrs(&pcrs)?, live.tpm.quote(&key, &pcrs, &qualifying)?);
                if quote.quoted.digest == values.digest() {
                    return Ok(Ok((quote, values)));
                }
            }
            Ok(Err(TpmError::Unsteady(TRIES)))
        })?;
        quoted.map_err(NoTpm::not_now)
    }

    /// The value of the counter; `None`: it was never counted.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn counter(&self) -> Result<Option<u64>, NoTpm> {
        self.ask(|live| refused_alone(live.tpm.counter()))?.map_err(NoTpm::not_now)
    }

    /// Counts up by one. Each call wears out the TPM's memory.
    ///
    /// # Errors
    /// Why there is no answer. The counter may have counted nevertheless.
    pub fn count(&self) -> Result<u64, NoTpm> {
        self.ask_once(|live| refused_alone(live.tpm.count()))?.map_err(NoTpm::not_now)
    }

    /// Why there is none, if its device does not exist now. Asks only the file system.
    pub fn absent(&self) -> Option<NoTpm> {
        let Settings { device, disabled, .. } = &self.settings;
        (!disabled && matches!(device.try_exists(), Ok(false))).then(|| NoTpm::Absent(device.clone()))
    }

    /// The daemon stops: from now on nobody waits longer than [`LAST`].
    pub fn close(&self) {
        let _closed_before = self.ends.set(Instant::now() + LAST);
    }

    /// Something that may be done twice: where an open device failed, it is opened anew.
    fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Live) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, NoTpm> {
        self.request(ANSWER, move |session| session.with(true, work))
    }

    fn ask_once<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Live) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, NoTpm> {
        self.request(ANSWER, move |session| session.with(false, work))
    }

    fn request<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut Session) -> Result<T, NoTpm> + Send + 'static,
    ) -> Result<T, NoTpm> {
        if self.settings.disabled {
            return Err(NoTpm::Disabled);
        }
        if self.ends.get().is_some_and(|ends| Instant::now() >= *ends) {
            return Err(NoTpm::Failed("the TPM is not asked: the daemon stops".to_owned()));
        }
        if let Some((at, why)) = &*self.failed.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < AGAIN
            && !matches!(why, NoTpm::Absent(_))
        {
            return Err(why.clone());
        }
        if self.late.load(Ordering::Relaxed) > self.ended.load(Ordering::Relaxed) {
            return Err(NoTpm::Failed("the TPM does not answer: an earlier command has not ended".to_owned()));
        }
        let (give, answer) = mpsc::sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let work = Box::new(move |session: &mut Session| drop(give.send(work(session))));
        let number = self.send(given_up.clone(), work)?;
        let result = match self.receive(&answer, patience) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                given_up.store(true, Ordering::Relaxed);
                self.late.fetch_max(number, Ordering::Relaxed);
                return Err(NoTpm::Failed(match self.ends.get() {
                    Some(_) => "the TPM did not answer before the daemon stopped".to_owned(),
                    None => format!("the TPM did not answer within {} s", patience.as_secs()),
                }));
            }
            Err(RecvTimeoutError::Disconnected) => Err(NoTpm::Failed("the thread of the TPM ended".to_owned())),
        };
        if let Err(why) = &result {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why.clone()));
        }
        result
    }

    fn receive<T>(&self, answer: &Receiver<T>, patience: Duration) -> Result<T, RecvTimeoutError> {
        let asked = Instant::now();
        loop {
            let by = asked + patience;
            let by = self.ends.get().map_or(by, |ends| by.min(*ends));
            let left = by.saturating_duration_since(Instant::now());
            match answer.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if left > LOOK => {}
                other => return other,
            }
        }
    }

    fn send(&self, given_up: Arc<AtomicBool>, work: Box<dyn FnOnce(&mut Session) + Send>) -> Result<u64, NoTpm> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match &*queue {
            Some(sender) => sender,
            None => queue.insert(self.start()?),
        };
        // Under the lock: numbers are in the order of the queue.
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        match sender.try_send(Job { number, given_up, work }) {
            Ok(()) => Ok(number),
            Err(TrySendError::Full(_)) => Err(NoTpm::Failed(format!("the TPM is busy: {QUEUE} requests wait for it"))),
            Err(TrySendError::Disconnected(_)) => {
                *queue = None;
                Err(NoTpm::Failed("the thread of the TPM ended".to_owned()))
            }
        }
    }

    fn start(&self) -> Result<SyncSender<Job>, NoTpm> {
        let (sender, jobs) = mpsc::sync_channel::<Job>(QUEUE);
        let (device, ended) = (self.settings.device.clone(), self.ended.clone());
        let work = move || {
            let mut session = Session::new(device);
            loop {
                match jobs.recv_timeout(session::IDLE) {
                    Ok(job) => {
                        if !job.given_up.load(Ordering::Relaxed) {
                            (job.work)(&mut session);
                        }
                        ended.store(job.number, Ordering::Relaxed);
                    }
                    Err(RecvTimeoutError::Timeout) => session.close(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        apart::spawn("tpm", work).map_err(|error| NoTpm::Failed(format!("no thread for the TPM: {error}")))?;
        Ok(sender)
    }
}

#[cfg(test)]
mod tests;
