//! What is going to happen, in its order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tcpcopy_engine::LinkId;
use tcpcopy_wire::Timestamp;

use crate::conditions::Place;

/// Something that happens at a time.
pub(crate) enum Event {
    /// A packet reaches a host.
    Arrival(Place, Vec<u8>),
    /// A host's TCP or an application wanted to be woken.
    Wake(Place),
    /// A client is due to connect.
    Connect(usize),
    /// A packet passes the capture.
    Captured(Vec<u8>),
    /// Merged segments have waited long enough.
    MergeEnds,
    /// A packet of the target reaches intercept.
    AtIntercept(Vec<u8>),
    /// Bytes of a control connection reach intercept. They die with the connections of their time.
    ControlToIntercept(u32, LinkId, Vec<u8>),
    /// Bytes of a control connection reach tcpcopy.
    ControlToCopier(u32, LinkId, Vec<u8>),
    /// Intercept's deadline.
    InterceptDeadline,
    /// Intercept is killed.
    InterceptGone,
    /// Intercept is there again, and tcpcopy has connected to it.
    InterceptBack,
    /// The target's server is killed.
    TargetGone,
    /// The target's server is there again.
    TargetBack,
    /// The engine's deadline.
    EngineDeadline,
}

/// Events to come. Those of one time happen in the order in which they were added.
#[derive(Default)]
pub(crate) struct Events {
    order: BinaryHeap<Reverse<(Timestamp, u64)>>,
    bodies: HashMap<u64, Event>,
    count: u64,
}

impl Events {
    pub(crate) fn add(&mut self, at: Timestamp, event: Event) {
        self.count += 1;
        self.order.push(Reverse((at, self.count)));
        self.bodies.insert(self.count, event);
    }

    /// When the next event happens.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.order.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next event out.
    pub(crate) fn take(&mut self) -> Option<Event> {
        let Reverse((_, number)) = self.order.pop()?;
        self.bodies.remove(&number)
    }

    /// Whether nothing is on its way any more: all that is to come are somebody's own wakes.
    pub(crate) fn only_wakes(&self) -> bool {
        self.bodies
            .values()
            .all(|event| matches!(event, Event::Wake(_) | Event::EngineDeadline | Event::InterceptDeadline))
    }
}
