//! The control lane: operators' commands and the actuators' outcomes, which the pipeline takes before anything in its queue.
//!
//! ```text
//! API: command, order ─┐
//! actuators: outcome  ─┴─► lane ─► pipeline, before each input
//!                            └─ Message::Urgent, when nothing waited ─► queue (skipped where the queue is full)
//! ```
//! Invariants: entering the lane never waits; a full queue needs no wake-up, because the pipeline looks at the lane before each
//! message that it takes. A command is begun, withdrawn or refused, one of these and once: see [`Ticket`].

use super::{Message, Sender, containment::Answer};
use crate::interpreter::ActuatorReport;
use failsafe_core::{
    RunId,
    health::{Order, OrderRefused},
    input::Control,
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc::TrySendError,
    },
    time::Instant,
};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

/// Commands of users without a reserve that may wait.
pub const ROOM: usize = 256;
/// Commands that may wait in all: the rest is for root and the administrators' group.
pub const ROOM_IN_ALL: usize = 512;

/// What the pipeline takes out of the lane.
pub enum Urgent {
    /// A command of somebody who waits.
    Command(Command),
    /// From an actuator.
    Report(ActuatorReport),
}

/// An authorised command.
pub enum Command {
    /// To freeze, thaw or kill a run.
    Control {
        /// The command.
        control: Control,
        /// Who waits for its outcomes.
        tell: UnboundedSender<Answer>,
        /// Whether it is still wanted.
        ticket: Ticket,
    },
    /// To cordon, uncordon or reset the health of a part of the node.
    Order {
        /// The order.
        order: Order,
        /// Who waits for its record.
        done: oneshot::Sender<Result<(), OrderRefused>>,
        /// Whether it is still wanted.
        ticket: Ticket,
    },
}

impl Command {
    fn ticket(&self) -> &Ticket {
        match self {
            Command::Control { ticket, .. } | Command::Order { ticket, .. } => ticket,
        }
    }

    /// The run that it is about, if any.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Command::Control { control, .. } => Some(control.run),
            Command::Order { .. } => None,
        }
    }

    /// Claims the command for carrying out; false where it is no longer wanted.
    pub fn begin(&self) -> bool {
        let begun = self.ticket().begin(Instant::now());
        if !begun {
            tracing::warn!(run = ?self.run(), "a command was not begun: its deadline passed, or its caller left");
        }
        begun
    }

    /// Refuses the command: its caller has no authority for it now. Nothing is done, and nothing is recorded.
    pub fn refuse(&self) {
        self.ticket().turn(REFUSED);
    }

    /// Whether nobody wants it any more.
    pub fn is_withdrawn(&self) -> bool {
        self.ticket().is_withdrawn()
    }
}

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const WITHDRAWN: u8 = 2;
const REFUSED: u8 = 3;

/// Decides between the pipeline, which begins a command, and its caller, who gives it up.
#[derive(Debug, Clone)]
pub struct Ticket {
    state: Arc<AtomicU8>,
    until: Option<Instant>,
}

impl Ticket {
    /// Of a command that may begin until then.
    pub fn new(until: Option<Instant>) -> Ticket {
        Ticket { state: Arc::new(AtomicU8::new(WAITING)), until }
    }

    fn turn(&self, to: u8) -> bool {
        self.state.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn begin(&self, now: Instant) -> bool {
        if self.until.is_some_and(|until| now >= until) {
            self.turn(WITHDRAWN);
            return false;
        }
        self.turn(BEGUN)
    }

    /// Whether it was given up before it was begun.
    pub fn is_withdrawn(&self) -> bool {
        self.state.load(Ordering::Acquire) == WITHDRAWN
    }

    /// Whether the pipeline refused it instead of beginning it.
    pub fn is_refused(&self) -> bool {
        self.state.load(Ordering::Acquire) == REFUSED
    }

    /// Gives the command up; true where it was not begun, and now never will be.
    pub fn withdraw(&self) -> bool {
        self.turn(WITHDRAWN) || self.is_withdrawn()
    }
}

/// Withdraws a command when its caller goes away.
#[derive(Debug)]
pub struct Caller(pub Ticket);

impl Drop for Caller {
    fn drop(&mut self) {
        let _begun = self.0.withdraw();
    }
}

/// Why a command did not enter the lane.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait.
    #[error("limit `commands`: {0} commands wait for the pipeline already")]
    Full(usize),
    /// The pipeline has ended.
    #[error("the daemon is stopping")]
    Stopping,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<LaneQueues>,
    /// Whether anything waits: the pipeline asks before each input, and mostly finds nothing.
    any: AtomicBool,
}

#[derive(Default)]
struct LaneQueues {
    commands: VecDeque<Command>,
    reports: VecDeque<ActuatorReport>,
    refused: u64,
}

/// Both ends of the lane.
#[derive(Clone)]
pub struct Lane {
    shared: Arc<Shared>,
    wake: Sender,
}

impl Lane {
    /// A lane beside the queue that `wake` leads to.
    pub fn new(wake: Sender) -> Lane {
        Lane { shared: Arc::default(), wake }
    }

    fn waiting(&self) -> MutexGuard<'_, LaneQueues> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a command, in the share of ordinary users or with the reserve.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn command(&self, command: Command, reserved: bool) -> Result<(), Refused> {
        {
            let mut waiting = self.waiting();
            let room = if reserved { ROOM_IN_ALL } else { ROOM };
            if waiting.commands.len() >= room {
                waiting.commands.retain(|command| !command.is_withdrawn());
            }
            if waiting.commands.len() >= room {
                waiting.refused += 1;
                return Err(Refused::Full(waiting.commands.len()));
            }
            waiting.commands.push_back(command);
            self.shared.any.store(true, Ordering::Release);
        }
        self.wake()
    }

    /// Enters what an actuator reports. Those are as many as decisions.
    pub fn report(&self, told: ActuatorReport) {
        {
            self.waiting().reports.push_back(told);
            self.shared.any.store(true, Ordering::Release);
        }
        let _stopping = self.wake();
    }

    fn wake(&self) -> Result<(), Refused> {
        match self.wake.try_send(Message::Urgent) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(Refused::Stopping),
        }
    }

    /// What is to be taken in next: outcomes first, which somebody may wait for.
    pub(super) fn next(&self) -> Option<Urgent> {
        if !self.shared.any.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.waiting();
        let report = waiting.reports.pop_front().map(Urgent::Report);
        let next = report.or_else(|| waiting.commands.pop_front().map(Urgent::Command));
        if next.is_none() {
            self.shared.any.store(false, Ordering::Release);
        }
        next
    }

    /// Commands that wait, and how many were refused for want of room.
    pub fn usage(&self) -> (usize, u64) {
        let waiting = self.waiting();
        (waiting.commands.len(), waiting.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::queue;
    use failsafe_core::health::{OrderKind, Target};
    use std::time::Duration;

    fn order(ticket: &Ticket) -> Command {
        let order = Order {
            kind: OrderKind::Cordon,
            target: Target::Node,
            by: "user 0".into(),
            actor: None,
            why: "test".into(),
        };
        Command::Order { order, done: oneshot::channel().0, ticket: ticket.clone() }
    }

    #[test]
    fn entering_the_lane_does_not_wait_for_room_in_the_queue() {
        let (queue, messages) = queue::channel(1);
        queue.send(Message::Stop).unwrap();
        let lane = Lane::new(queue);
        lane.command(order(&Ticket::new(None)), true).unwrap();
        assert!(matches!(lane.next(), Some(Urgent::Command(command)) if command.begin()));
        assert!(lane.next().is_none());
        drop(messages);
        assert_eq!(lane.command(order(&Ticket::new(None)), true), Err(Refused::Stopping));
    }

    #[test]
    fn users_leave_room_for_root_and_withdrawn_commands_take_none() {
        let (queue, _messages) = queue::channel(1);
        let lane = Lane::new(queue);
        let tickets: Vec<Ticket> = (0..ROOM).map(|_| Ticket::new(None)).collect();
        tickets.iter().for_each(|ticket| lane.command(order(ticket), false).unwrap());
        assert_eq!(lane.command(order(&Ticket::new(None)), false), Err(Refused::Full(ROOM)));
        lane.command(order(&Ticket::new(None)), true).unwrap();
        assert!(tickets[3].withdraw() && tickets[4].withdraw());
        lane.command(order(&Ticket::new(None)), false).unwrap();
        assert_eq!(lane.usage(), (ROOM, 1));
    }

    #[test]
    fn a_command_is_begun_or_withdrawn_and_never_begun_after_its_deadline() {
        let ticket = Ticket::new(None);
        assert!(order(&ticket).begin());
        assert!(!ticket.withdraw(), "it is under way");
        let left = Ticket::new(None);
        drop(Caller(left.clone()));
        assert!(!order(&left).begin(), "its caller left");
        let late = Ticket::new(Some(Instant::now() - Duration::from_millis(1)));
        assert!(!order(&late).begin());
        assert!(late.withdraw(), "and so the caller knows");
    }

    #[test]
    fn a_refused_command_is_neither_begun_nor_withdrawn() {
        let ticket = Ticket::new(None);
        order(&ticket).refuse();
        assert!(ticket.is_refused() && !order(&ticket).begin() && !ticket.withdraw());
        let begun = Ticket::new(None);
        assert!(order(&begun).begin());
        order(&begun).refuse();
        assert!(!begun.is_refused(), "it is under way");
    }
}
