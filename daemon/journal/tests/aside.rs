//! A finding that the log is not the one that was signed, on a disk that fails: it is durable before its evidence is moved.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

mod support;

use failsafe_journal::storage::sim::SimStorage;
use failsafe_journal::storage::{ReadAt, Storage};
use failsafe_journal::{AuditLog, AuditWriter, Draft, Options, SignedTree, Signing};
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use support::{signer, stamp};

/// A medium with a checkpoint beside it.
#[derive(Debug, Default, Clone)]
struct Signed {
    sim: SimStorage,
    signed: Option<SignedTree>,
    asides: Arc<AtomicU32>,
    failing_asides: Arc<AtomicU32>,
    kept: Arc<AtomicU32>,
}

impl Signed {
    /// A log of 5 entries.
    fn new(signed: Option<SignedTree>) -> Signed {
        let sim = SimStorage::new();
        let mut log = AuditLog::open(sim.clone(), &stamp(0)).unwrap().0;
        for n in 0..5 {
            log.append(&Draft::new("run", stamp(n), json!({ "n": n }))).unwrap();
        }
        log.commit().unwrap();
        Signed { sim, signed, ..Signed::default() }
    }

    fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.sim.image()).contains(text)
    }
}

impl ReadAt for Signed {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.sim.read_at(offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        self.sim.len()
    }
}

impl Storage for Signed {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sim.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sim.sync()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.sim.truncate(len)
    }

    fn signed(&self) -> Option<&SignedTree> {
        self.signed.as_ref()
    }

    fn keep_checkpoint(&mut self, _note: &[u8], _border: Option<u64>) -> io::Result<()> {
        self.kept.fetch_add(1, SeqCst);
        Ok(())
    }

    fn put_signed_aside(&mut self, _wall_ns: u64) -> io::Result<()> {
        assert!(self.contains("rolled back"), "the evidence is moved before the finding is durable");
        if self.failing_asides.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(io::Error::other("no room"));
        }
        self.signed = None;
        self.asides.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[test]
fn evidence_is_moved_when_the_finding_is_durable_and_nothing_is_signed_before() {
    let tree = SignedTree { origin: "failsafe/log/0000000000000000".into(), first: 0, size: 100, root: [1; 32] };
    let disk = Signed::new(Some(tree));
    disk.sim.fail_syncs(1);
    disk.failing_asides.store(1, SeqCst);
    let (mut log, recovery) = AuditLog::open(disk.clone(), &stamp(9)).unwrap();
    assert!(recovery.findings[0].contains("rolled back") && recovery.deferred.is_some(), "{recovery:?}");
    assert_eq!((disk.asides.load(SeqCst), disk.failing_asides.load(SeqCst)), (0, 1), "nothing was moved");
    assert!(!log.sign(&signer(), false).unwrap() && !log.is_building_tree() && log.tree().is_none());
    log.commit().unwrap();
    assert!(log.aside_problem().unwrap().contains("no room"));
    assert!(!log.sign(&signer(), false).unwrap() && disk.kept.load(SeqCst) == 0, "it would overwrite the evidence");
    log.commit().unwrap();
    assert_eq!((disk.asides.load(SeqCst), log.aside_problem()), (1, None));
    assert!(!log.build_tree(stamp(10)).0 && log.sign(&signer(), false).unwrap());
    assert_eq!((log.signed(), disk.kept.load(SeqCst)), (6, 1));
}

#[test]
fn the_end_of_a_log_that_could_not_be_written_is_not_signed() {
    for (failing, kept) in [(0, 1), (u32::MAX, 0)] {
        let disk = Signed::new(None);
        disk.sim.fail_syncs(failing);
        let options = Options {
            signing: Some(Signing {
                name: "failsafe.test/node".into(),
                signer: Box::new(|_| Ok(Box::new(signer()))),
                every: Duration::from_secs(3600),
            }),
            clock: Box::new(stamp(0)),
            ..Options::default()
        };
        let _lost = AuditWriter::spawn_on(disk.clone(), options).unwrap().shutdown(Duration::from_millis(50));
        assert_eq!(disk.kept.load(SeqCst), kept, "with {failing} failing syncs");
    }
}
