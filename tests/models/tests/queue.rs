//! The pipeline's queue (`daemon/src/pipeline/queue.rs`, ADR 23) in every order of its threads' steps.
//!
//! The receiver is never a thread that joins others: loom takes the wake-up of a thread that waits in `join` for the end of the wait.

use loom::{model::Builder, thread};
use models::queue::{Receiver, Sender, channel};
use std::{
    sync::{Arc, mpsc::RecvTimeoutError},
    time::Duration,
};

/// Runs a model. loom follows each thread through all switches that the steps allow, with at most two that nothing forces.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(run);
}

/// A thread that receives until the senders are gone.
fn receives(receiver: Receiver<u32>) -> thread::JoinHandle<(Vec<u32>, RecvTimeoutError)> {
    thread::spawn(move || {
        let mut got = Vec::new();
        loop {
            match receiver.recv_timeout(Duration::from_secs(1)) {
                Ok(message) => got.push(message),
                Err(end) => return (got, end),
            }
        }
    })
}

fn sends(sender: Sender<u32>, message: u32) -> thread::JoinHandle<()> {
    thread::spawn(move || assert!(sender.send(message).is_ok()))
}

#[test]
fn a_message_wakes_the_receiver_whenever_it_goes_to_sleep() {
    model(|| {
        let (sender, receiver) = channel(1);
        let receiving = thread::spawn(move || receiver.recv());
        sender.send(7).unwrap();
        // The sender stays: its end is no second wake-up.
        assert_eq!(receiving.join().unwrap(), Ok(7));
        drop(sender);
    });
}

#[test]
fn the_end_of_the_last_sender_wakes_the_receiver_after_all_messages() {
    model(|| {
        let (sender, receiver) = channel(2);
        let receiving = receives(receiver);
        let sending = sends(sender.clone(), 1);
        sender.send(2).unwrap();
        drop(sender);
        sending.join().unwrap();
        let (mut got, end) = receiving.join().unwrap();
        got.sort_unstable();
        assert_eq!((got, end), (vec![1, 2], RecvTimeoutError::Disconnected));
    });
}

#[test]
fn a_sender_without_room_goes_on_when_there_is_room() {
    model(|| {
        let (sender, receiver) = channel(1);
        sender.send(1).unwrap();
        let receiving = receives(receiver);
        sender.send(2).unwrap();
        drop(sender);
        assert_eq!(receiving.join().unwrap(), (vec![1, 2], RecvTimeoutError::Disconnected));
    });
}

#[test]
fn nothing_stays_in_the_queue_of_a_receiver_that_left() {
    model(|| {
        let (sender, receiver) = channel(1);
        let message = Arc::new(7);
        let sending = {
            let (sender, message) = (sender.clone(), message.clone());
            thread::spawn(move || sender.try_send(message).is_ok())
        };
        drop(receiver);
        let _sent_or_given_back = sending.join().unwrap();
        // Whoever waits for an answer to the message learns that there will be none.
        assert_eq!(Arc::strong_count(&message), 1);
        assert!(sender.send(message).is_err());
    });
}
