//! What the next start reads for the tree.

use super::*;

#[test]
fn a_log_of_an_earlier_version_gets_a_tree_and_the_second_start_reads_no_sealed_segment() {
    let state = State::new();
    {
        let layout = Layout { checkpoint: None, ..state.layout(Retention::default()) };
        let mut log = AuditLog::open(LogFolder::open(&state.dir(), layout).unwrap(), &stamp(0)).unwrap().0;
        write_unsigned(&mut log, 120);
    }
    for path in fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "tree") {
            fs::remove_file(path).unwrap();
        }
    }
    let before: Vec<Vec<u8>> =
        sealed(&state.dir()).iter().map(|at| fs::read(segment_path(&state.dir(), *at)).unwrap()).collect();
    state.write(120, 121);
    assert_eq!(state.signed().root, naive(&state.dir(), state.entries()));
    assert_eq!(state.verdict(), Verdict::Ok);
    for (at, bytes) in sealed(&state.dir()).into_iter().zip(before) {
        assert_eq!(fs::read(segment_path(&state.dir(), at)).unwrap(), bytes, "not a byte of an entry is rewritten");
        // Of the same size, so that the summary still fits: who reads it finds zeros.
        fs::write(segment_path(&state.dir(), at), vec![0; bytes.len()]).unwrap();
    }
    assert_eq!(state.findings(), [""; 0]);
    let mut log = state.open().0;
    assert!(!log.is_building_tree() && log.sign(&signer(), false).is_ok());
}

/// Bytes that this thread has read from files.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn the_second_start_of_a_log_with_100000_entries_reads_the_last_file_only() {
    let state = State::new();
    let layout = |checkpoint| Layout { reserve_bytes: 0, checkpoint, ..Layout::default() };
    let open = |checkpoint| {
        let before = bytes_read();
        let folder = LogFolder::open(&state.dir(), layout(checkpoint)).unwrap();
        let log = AuditLog::open(folder, &stamp(0)).unwrap().0;
        (log, bytes_read() - before)
    };
    let mut log = open(None).0;
    for n in 0..100_000 {
        log.append(&Draft::new("run", stamp(n), json!({ "n": n, "text": "x".repeat(100) }))).unwrap();
        if n % 500 == 499 {
            log.commit().unwrap();
            if log.seal_if_due(stamp(n)) {
                log.commit().unwrap();
            }
        }
    }
    drop(log);
    // As a version without a tree left it.
    for path in fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "tree") {
            fs::remove_file(path).unwrap();
        }
    }
    let all: u64 = fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let last = fs::metadata(state.dir().join(LOG_FILE)).unwrap().len();
    let signed = || Some((state.latest(), keys()));
    let (mut log, first) = open(signed());
    assert!(log.is_building_tree() && first < 22 << 20, "the first start reads {first} of {all} bytes");
    let mut steps = 0;
    while log.is_building_tree() {
        let before = bytes_read();
        log.build_tree(stamp(1));
        steps += 1;
        assert!(bytes_read() - before < 6 << 20, "step {steps}");
    }
    assert!(log.sign(&signer(), false).unwrap());
    drop(log);
    let (mut log, second) = open(signed());
    assert!(
        second < last + (1 << 20) && last < 5 << 20,
        "the second start reads {second} of {all} bytes; the last file has {last}"
    );
    assert!(!log.is_building_tree() && !log.sign(&signer(), false).unwrap());
}
