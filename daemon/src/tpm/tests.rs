//! The worker of the TPM: absence, time limits and errors.

use super::*;
use crate::testing::swtpm;
use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

fn tpm(device: &Path) -> NodeTpm {
    NodeTpm::new(Settings { device: device.to_owned(), pcrs: vec![0, 7], disabled: false })
}

fn failed<T: std::fmt::Debug>(result: Result<T, NoTpm>) -> String {
    match result.unwrap_err() {
        NoTpm::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

/// A device that answers each command with what `answer` makes of it, until `answer` gives nothing: then it hangs.
fn device(folder: &Path, answer: impl Fn(u32) -> Option<Vec<u8>> + Send + 'static) -> PathBuf {
    let path = folder.join("tpm");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let mut held = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut command = [0; 4_096];
            loop {
                match connection.read(&mut command) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
                let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
                match answer(code) {
                    Some(bytes) => drop(connection.write_all(&bytes)),
                    None => break held.push(connection.try_clone().unwrap()),
                }
            }
        }
    });
    path
}

fn refusal(code: u32) -> Vec<u8> {
    [&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat()
}

#[test]
fn a_node_without_a_tpm_is_reported_and_one_that_is_not_used_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tpmrm0");
    assert_eq!(tpm(&path).read().unwrap_err(), NoTpm::Absent(path.clone()));
    let disabled = NodeTpm::new(Settings { device: path, pcrs: vec![0], disabled: true });
    assert_eq!(disabled.key().unwrap_err(), NoTpm::Disabled);
}

#[test]
fn a_tpm_that_appears_is_asked_although_it_was_absent_before() {
    let folder = tempfile::tempdir().unwrap();
    let node = tpm(&folder.path().join("tpm"));
    assert!(matches!(node.read(), Err(NoTpm::Absent(_))));
    assert!(node.absent().is_some());
    device(folder.path(), |_| Some(refusal(0x921)));
    assert_eq!(node.absent(), None);
    let why = failed(node.read());
    assert!(why.contains("locked out"), "{why}");
}

#[test]
fn a_tpm_that_hangs_does_not_delay_the_stop_of_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let node = Arc::new(tpm(&device(folder.path(), |_| None)));
    let waiting = {
        let node = node.clone();
        thread::spawn(move || (failed(node.read()), Instant::now()))
    };
    crate::testing::until("the request waits", || node.asked.load(Ordering::Relaxed) == 1);
    let closed = Instant::now();
    node.close();
    let (why, ended) = waiting.join().unwrap();
    assert!(why.contains("before the daemon stopped"), "{why}");
    assert!(ended - closed < ANSWER, "it waited for {:?}", ended - closed);
    // The time in which the last requests are still answered has to pass.
    thread::sleep(LAST.saturating_sub(closed.elapsed()));
    assert!(failed(node.read()).contains("the daemon stops"));
}

#[test]
fn what_is_no_tpm_is_refused_and_the_failure_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let node = tpm(&path);
    assert!(failed(node.read()).contains("neither a character device nor a socket"));
    std::fs::remove_file(&path).unwrap();
    assert!(failed(node.read()).contains("neither a character device nor a socket"), "it was tried again at once");
}

#[test]
fn a_tpm_that_is_locked_out_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let node = tpm(&device(folder.path(), |_| Some(refusal(0x921))));
    let why = failed(node.read());
    assert!(why.contains("locked out"), "{why}");
}

#[test]
fn an_answer_that_is_no_answer_is_an_error() {
    for answer in [vec![0xff; 10], [&refusal(0)[..5], &[9, 0, 0, 0, 0]].concat(), refusal(0)] {
        let folder = tempfile::tempdir().unwrap();
        let node = tpm(&device(folder.path(), move |_| Some(answer.clone())));
        let why = failed(node.key());
        assert!(why.contains("the TPM does not answer") || why.contains("cannot be read"), "{why}");
    }
}

#[test]
fn a_tpm_that_hangs_costs_the_first_who_asks_the_deadline_and_others_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (told, commands) = mpsc::channel();
    let node = tpm(&device(folder.path(), move |code| {
        let _nobody_listens = told.send(code);
        None
    }));
    assert!(failed(node.key()).contains("did not answer"));
    for _ in 0..3 {
        let why = failed(node.key());
        assert!(why.contains("does not answer") || why.contains("did not answer"), "{why}");
    }
    assert_eq!(commands.try_iter().count(), 1, "a request after the one that hangs reached the device");
}

/// A software TPM, of which each value of a PCR is read wrong as long as `wrong` is set: as if it changed before the quote.
fn unsteady(folder: &Path, swtpm: &swtpm::Swtpm, wrong: Arc<AtomicBool>) -> PathBuf {
    let (path, behind) = (folder.join("tpm"), swtpm.socket());
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut here, mut there) =
                (connection.unwrap(), std::os::unix::net::UnixStream::connect(&behind).unwrap());
            let (mut command, mut answer) = ([0; 4_096], [0; 4_096]);
            while let Ok(n @ 1..) = here.read(&mut command) {
                there.write_all(&command[..n]).unwrap();
                let length = there.read(&mut answer).unwrap();
                if command[6..10] == [0, 0, 1, 0x7e] && wrong.load(Ordering::SeqCst) {
                    answer[length - 1] ^= 1;
                }
                if here.write_all(&answer[..length]).is_err() {
                    break;
                }
            }
        }
    });
    path
}

#[test]
fn pcrs_that_go_on_changing_fail_one_request_and_no_other() {
    let Some(swtpm) = swtpm::Swtpm::start("pcrs_that_go_on_changing_fail_one_request_and_no_other") else { return };
    let (folder, wrong) = (tempfile::tempdir().unwrap(), Arc::new(AtomicBool::new(true)));
    let node = tpm(&unsteady(folder.path(), &swtpm, wrong.clone()));
    let why = node.quote([1; 32]).unwrap_err();
    assert_eq!(why, NoTpm::NotNow(format!("the PCRs changed {TRIES} times while they were read and quoted")));
    assert_eq!(why.status(), TpmStatus::Failed);
    assert!(node.key().is_ok(), "the failure was remembered for others");
    wrong.store(false, Ordering::SeqCst);
    assert!(node.quote([1; 32]).is_ok());
}
