//! The queue with the threads of the system. `tests/models` includes `queue.rs`, so its tests are not in it.

use super::queue::channel;
use std::{
    sync::{
        Arc,
        mpsc::{RecvError, RecvTimeoutError, SendError, TrySendError},
    },
    thread,
    time::Duration,
};

#[test]
fn messages_of_many_senders_arrive_once_and_in_the_order_of_each_sender() {
    let (sender, receiver) = channel(8);
    let threads: Vec<_> = (0..4usize)
        .map(|who| {
            let sender = sender.clone();
            thread::spawn(move || (0..5_000usize).for_each(|n| sender.send((who, n)).unwrap()))
        })
        .collect();
    drop(sender);
    let mut next = [0; 4];
    while let Ok((who, n)) = receiver.recv() {
        assert_eq!(n, next[who]);
        next[who] += 1;
    }
    assert_eq!(next, [5_000; 4]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn each_message_wakes_a_receiver_that_waits() {
    let (there, receiver) = channel(1);
    let (back, answers) = channel(1);
    let echo = thread::spawn(move || {
        while let Ok(n) = receiver.recv() {
            back.send(n).unwrap();
        }
    });
    // A wake-up that is lost would make this last an hour.
    for n in 0..20_000u32 {
        there.send(n).unwrap();
        assert_eq!(answers.recv_timeout(Duration::from_secs(60)), Ok(n));
    }
    drop(there);
    echo.join().unwrap();
    assert_eq!(answers.recv(), Err(RecvError));
}

#[test]
fn a_full_queue_and_a_receiver_that_is_gone_give_the_message_back() {
    let (sender, receiver) = channel(1);
    sender.try_send(1).unwrap();
    assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    drop(receiver);
    assert_eq!(sender.try_send(3), Err(TrySendError::Disconnected(3)));
    assert_eq!(sender.send(3), Err(SendError(3)));
}

#[test]
fn a_sender_that_waits_for_room_goes_on_when_the_receiver_leaves_and_no_message_stays() {
    let (sender, receiver) = channel(1);
    let held = Arc::new(());
    sender.send(held.clone()).unwrap();
    let waits = thread::spawn({
        let (sender, held) = (sender.clone(), held.clone());
        move || sender.send(held)
    });
    drop(receiver);
    // Sent or given back: in both cases nobody holds the message any more.
    drop(waits.join().unwrap());
    assert_eq!(Arc::strong_count(&held), 1);
}
