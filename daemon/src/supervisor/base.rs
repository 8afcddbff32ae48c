//! What the daemon opens before anything is watched: state folder, log, kernel side, registry, keys and TPM.

use super::prepare::{load, see_ebpf};
use crate::{
    causes::chain,
    config::{Config, NodeMode},
    guard::pin_folder,
    log::LogOwner,
    node::NodeView,
    platform::{CgroupRoot, clock},
    runs::{
        Registry,
        canaries::Canaries,
        modes::{Modes, Moment},
        state_files::StateFiles,
        store::Store,
    },
    sensors::ebpf::EventReader,
    signing::SigningKeys,
    tpm::NodeTpm,
    watchers::rollback::{self, Rollback},
};
use anyhow::Context as _;
use failsafe_core::Mode;
use failsafe_journal::{StateLock, instance};
use std::sync::{Arc, Mutex};

/// What is opened before anything is watched.
pub(super) struct Base {
    pub(super) _lock: StateLock,
    pub(super) log_owner: LogOwner,
    /// What was found wrong with the log, for the record of the start.
    pub(super) findings: Vec<String>,
    /// In what the state folder differs from the log.
    pub(super) changed: Vec<String>,
    /// The files of the state folder, until a thread follows them.
    pub(super) state_files: Option<StateFiles>,
    pub(super) registry: Arc<Registry>,
    /// The reader of the kernel's events, until its thread takes it.
    pub(super) reader: Option<EventReader>,
    pub(super) node: Arc<Mutex<NodeView>>,
    pub(super) boot_id: String,
    pub(super) keys: Arc<SigningKeys>,
    pub(super) tpm: Arc<NodeTpm>,
    pub(super) counter: Arc<rollback::Shared>,
    /// Compares the log with the counter of the TPM, unless the configuration does not use it.
    pub(super) rollback: Option<Rollback>,
}

impl Base {
    pub(super) fn open(config: &Config) -> anyhow::Result<Base> {
        let state_dir = &config.state_dir;
        std::fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
        let lock = StateLock::acquire(state_dir)?;
        let state_files = StateFiles::open(state_dir);
        let boot_id = clock::boot_id(std::path::Path::new("/proc")).context("no boot id")?.to_string();
        let store = Store::open(state_dir)?;
        let keys = Arc::new(SigningKeys::open(state_dir, clock::wall_ns()));
        if let Err(error) = keys.signer() {
            tracing::error!(error = chain(&error), "nothing can be signed");
        }
        // Outside the state folder: whoever swaps that one does not reach this. It lives as long as the boot.
        let second_head = config.socket.with_file_name(format!("audit-head-{}.json", instance::name(state_dir)));
        if let Some(folder) = second_head.parent() {
            let _reported_with_the_head = std::fs::create_dir_all(folder);
        }
        let vouch = Some(config.audit_log.vouch(&keys));
        let (log_owner, findings) = LogOwner::open(state_dir, &second_head, &boot_id, config.audit_log.bounds(), vouch)
            .context("cannot open the audit log")?;
        let root = CgroupRoot::find().context("failsafed needs a cgroup2 mount")?;
        config.bpffs().map_or(Ok(()), pin_folder::prepare)?;
        let (kernel, reader) = load(config);
        let kernel = kernel.with_redactor(config.redact.clone());
        let node = Arc::new(Mutex::new(NodeView::default()));
        let node_mode = match config.mode {
            NodeMode::Enforce => Mode::Enforce,
            NodeMode::Observe => Mode::Observe,
        };
        let now = Moment::now(&boot_id);
        let (modes, wrong) = Modes::open(node_mode, &config.discover.0, state_dir, &now);
        let logged = log_owner.log().logged_orders();
        let (modes, differs) = modes.borne_out_by(&logged, &now);
        let canaries = Canaries::open(state_dir);
        let (of_canaries, corrections) = canaries.borne_out_by(&logged);
        let lacks = state_files.lacks(logged.orders.files());
        let changed: Vec<String> = lacks.into_iter().chain(differs).chain(of_canaries).collect();
        let findings: Vec<String> = findings.into_iter().chain(wrong).chain(changed.iter().cloned()).collect();
        let registry = Arc::new(Registry::new(root, kernel, store).with_modes(modes).with_canaries(canaries));
        see_ebpf(&registry, &node);
        let tpm = Arc::new(NodeTpm::new(config.tpm.settings()));
        let counter = Arc::new(rollback::Shared::of(&config.tpm));
        let with_counter = config.tpm.counter && !config.tpm.disabled;
        let rollback = with_counter.then(|| Rollback::new(log_owner.log(), tpm.clone(), &boot_id, counter.clone()));
        let log = log_owner.log();
        corrections.iter().for_each(|record| log.record(record, None, None));
        Ok(Base {
            _lock: lock,
            log_owner,
            findings,
            changed,
            state_files: Some(state_files),
            registry,
            reader,
            node,
            boot_id,
            keys,
            tpm,
            counter,
            rollback,
        })
    }
}
