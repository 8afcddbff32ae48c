//! The audit log against a model, over random histories of appends, commits, faults, power cuts and restarts; and arbitrary
//! bytes into everything that reads.

use std::sync::Arc;

use failsafe_journal::clock::Stamp;
use failsafe_journal::frame::push_frame;
use failsafe_journal::storage::sim::SimStorage;
use failsafe_journal::verify::{Verdict, verify_source};
use failsafe_journal::walk::Ending;
use failsafe_journal::{AuditLog, Draft, LogReader, RecordingReader, kind, parse_frames};
use proptest::prelude::*;
use serde_json::json;

fn clock() -> Stamp {
    Stamp { wall_ns: 1, mono_ns: 2, boot_id: "b".into() }
}

#[derive(Debug, Clone)]
enum Op {
    Append(usize),
    Commit,
    Room(Option<usize>),
    ShortWrites(Option<usize>),
    FailSyncs(u32),
    FailTruncates(u32),
    /// The process ends; what it wrote stays.
    Kill,
    PowerCut {
        keep: usize,
        cut_kept: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..600).prop_map(Op::Append),
        4 => Just(Op::Commit),
        1 => proptest::option::of(0usize..900).prop_map(Op::Room),
        1 => proptest::option::of(1usize..50).prop_map(Op::ShortWrites),
        1 => (1u32..3).prop_map(Op::FailSyncs),
        1 => (1u32..3).prop_map(Op::FailTruncates),
        1 => Just(Op::Kill),
        2 => (0usize..2000, any::<bool>()).prop_map(|(keep, cut_kept)| Op::PowerCut { keep, cut_kept }),
    ]
}

/// What must be in the log, and what may be.
#[derive(Default)]
struct Model {
    durable: Vec<Arc<[u8]>>,
    pending: Vec<Arc<[u8]>>,
}

impl Model {
    /// After a restart: all that was durable, a beginning of what was pending, then at most one `recovered`.
    fn check_restart(&mut self, image: &[u8]) -> Result<(), TestCaseError> {
        let (entries, ending) = parse_frames(image);
        prop_assert!(matches!(ending, Ending::Clean | Ending::Torn { .. }), "{:?}", ending);
        let found: Vec<Arc<[u8]>> = entries.iter().map(|e| e.bytes.clone()).collect();
        let known = self.durable.len() + self.pending.len();
        prop_assert!(found.len() >= self.durable.len(), "a committed entry is gone");
        for (at, (found, expected)) in found.iter().zip(self.durable.iter().chain(&self.pending)).enumerate() {
            if found == expected {
                continue;
            }
            prop_assert!(at >= self.durable.len() && at == entries.len() - 1, "entry {} changed", at);
            prop_assert_eq!(&entries[at].kind, kind::RECOVERED);
        }
        if found.len() > known {
            prop_assert_eq!(found.len(), known + 1, "invented entries");
            prop_assert_eq!(&entries[known].kind, kind::RECOVERED);
        }
        *self = Self { durable: found, pending: Vec::new() };
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn committed_entries_survive_everything(ops in proptest::collection::vec(op(), 1..60)) {
        let mut disk = SimStorage::new();
        let (mut log, _) = AuditLog::open(disk.clone(), &clock()).unwrap();
        let mut model = Model::default();
        let mut n = 0;
        for op in ops {
            match op {
                Op::Append(size) => {
                    n += 1;
                    let sealed = log.append(&Draft::new("run", clock(), json!({"n": n, "x": "x".repeat(size)}))).unwrap();
                    prop_assert_eq!(sealed.index as usize, model.durable.len() + model.pending.len());
                    model.pending.push(sealed.bytes);
                }
                Op::Commit => {
                    if let Ok(written) = log.commit() {
                        prop_assert_eq!(written.len(), model.pending.len());
                        model.durable.append(&mut model.pending);
                    }
                }
                Op::Room(room) => disk.set_capacity(room.map(|room| disk.image().len() + room)),
                Op::ShortWrites(longest) => disk.set_longest_write(longest),
                Op::FailSyncs(n) => disk.fail_syncs(n),
                Op::FailTruncates(n) => disk.fail_truncates(n),
                Op::Kill | Op::PowerCut { .. } => {
                    if let Op::PowerCut { keep, cut_kept } = op {
                        disk = disk.power_cut(keep, cut_kept);
                    } else {
                        disk = SimStorage::holding(&disk.image());
                    }
                    let (reopened, recovery) = AuditLog::open(disk.clone(), &clock()).unwrap();
                    prop_assert_eq!(recovery.written.len(), usize::from(recovery.dropped.is_some()));
                    log = reopened;
                    model.check_restart(&disk.image())?;
                    prop_assert!(matches!(verify_source(&disk.image()[..]).unwrap().verdict, Verdict::Ok | Verdict::Empty));
                }
            }
        }
        disk.set_capacity(None);
        disk.fail_syncs(0);
        disk.fail_truncates(0);
        log.commit().unwrap();
        model.durable.append(&mut model.pending);
        let (entries, ending) = parse_frames(&disk.image());
        prop_assert_eq!(ending, Ending::Clean);
        let found: Vec<Arc<[u8]>> = entries.into_iter().map(|e| e.bytes).collect();
        prop_assert_eq!(found, model.durable);
    }

    /// Nothing that is read from outside makes a reader panic or loop, and reader and verifier agree.
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600), dress in 0u8..4) {
        let image = match dress {
            0 => bytes,
            1 => [&failsafe_journal::frame::header()[..], &bytes].concat(),
            2 => {
                let mut image = failsafe_journal::frame::header().to_vec();
                push_frame(&mut image, &bytes);
                image
            }
            _ => [&failsafe_journal::recorder::MAGIC[..], &bytes].concat(),
        };
        let (entries, _) = parse_frames(&image);
        let report = verify_source(&image[..]).unwrap();
        prop_assert_eq!(report.entries, entries.len() as u64);
        prop_assert!(LogReader::new(&image[..]).count() <= entries.len() + 1);
        if let Ok(reader) = RecordingReader::new(&image[..]) {
            reader.for_each(drop);
        }
    }

    /// Damage to a real log: never accepted as another log.
    #[test]
    fn damaged_logs(n in 1usize..6, cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let disk = SimStorage::new();
        let (mut log, _) = AuditLog::open(disk.clone(), &clock()).unwrap();
        for at in 0..n {
            log.append(&Draft::new("run", clock(), json!({"at": at}))).unwrap();
        }
        log.commit().unwrap();
        let good = disk.image();
        let (whole, _) = parse_frames(&good);
        let mut bad = good.clone();
        for (at, byte) in cuts {
            bad[at.index(good.len())] = byte;
        }
        let (entries, ending) = parse_frames(&bad);
        prop_assert_eq!(&entries[..], &whole[..entries.len()]);
        prop_assert_eq!(ending == Ending::Clean, bad == good);
    }
}
