//! How a conversation goes on: which hook is due, and what becomes of what it says.

use super::recorder::{Call, Recorder};
use super::{Conversation, Due, Message, Order, State, reasons};
use crate::{AfterTargetClose, Ctx, Payload, Transport};

impl Conversation {
    /// Carries out what can be, and calls the hooks that are due, until all that is left waits for something to happen.
    pub(super) fn settle(&mut self) {
        loop {
            if self.state == State::Open {
                self.carry_out();
            }
            let decides = !self.bypass && self.orders.is_empty();
            if self.state != State::Open {
                self.close_session();
                return;
            } else if self.due.resume {
                self.hook(|session, ctx| session.on_resume(ctx));
                // A connection that is new already is not given up in its favour.
                self.due.resume = false;
            } else if decides && self.due.client_data {
                self.due.client_data = false;
                let asked_by_close = std::mem::take(&mut self.due.asked_by_close);
                if !self.held.is_empty() {
                    let held = self.held.clone();
                    self.hook(|session, ctx| session.on_client_data(ctx, &held));
                    self.due.client_data = false;
                    self.due.client_close = self.client_closed && !asked_by_close;
                }
            } else if decides && self.due.client_close {
                self.due.client_close = false;
                if !self.held.is_empty() {
                    let held = self.held.clone();
                    self.hook(|session, ctx| session.on_client_close(ctx, &held));
                    self.due.asked_by_close = self.due.client_data;
                }
            } else if self.client_closed && self.target_closed && !self.due.client_close {
                self.state = State::Done;
            } else if self.waits_for_new_connection() {
                self.connect();
            } else {
                let watches = self.sees_online || self.payload != Payload::Headers || !self.ready;
                if self.bypass && !watches && self.orders.is_empty() {
                    self.session = None;
                }
                self.check();
                return;
            }
        }
    }

    pub(super) fn take_effect(&mut self, call: Call) {
        match call {
            Call::Pass(n) => {
                self.decide(n);
                self.orders.push_back(Order::Pass(n));
            }
            Call::Drop(n, reason) => {
                self.decide(n);
                self.orders.push_back(Order::Drop(n, reason));
            }
            // In front of what waits: there, and only there, the session's own bytes do not keep to their place.
            Call::Send(bytes) if bytes.is_empty() => {}
            Call::Send(bytes) if !self.ready => {
                self.connection().push(Message { bytes, missing: 0, own: true });
            }
            Call::Send(bytes) => self.orders.push_back(Order::Send(bytes)),
            Call::Bypass => self.orders.push_back(Order::Bypass),
            Call::Watch => self.orders.push_back(Order::Watch),
            Call::AskAgain => self.due.client_data = true,
            Call::Abort(reason) => self.state = State::Ended(reason),
            Call::ExpectResponse => self.expected += 1,
            Call::ResponseComplete => self.completed = (self.completed + 1).min(self.expected),
            Call::ForgetWaiting(_) if self.ready => {}
            Call::ForgetWaiting(reason) => {
                let waiting = std::mem::take(&mut self.waiting);
                let clients = waiting.iter().filter(|message| !message.own).map(|message| message.bytes.len());
                self.count_dropped(clients.sum(), &reason);
                if std::mem::take(&mut self.within)
                    && let Some(Order::Pass(n)) = self.orders.front()
                {
                    self.orders[0] = Order::Drop(*n, reason);
                }
                self.completed = self.expected;
                self.expected_before_waiting = self.expected;
            }
            Call::Reconnect if self.due.resume => {}
            Call::Reconnect => {
                self.cut_off();
                self.connect();
            }
            Call::Ready => {
                self.ready = true;
                let waiting = std::mem::take(&mut self.waiting);
                self.connection().extend(waiting);
            }
            Call::WantPayload(Payload::First(0)) => self.payload = Payload::Headers,
            Call::WantPayload(payload) => self.payload = payload,
            Call::Log(level, text) => self.log.push((level, text)),
            Call::Count(name, n) => *self.counters.entry(name).or_default() += n,
        }
    }

    /// Takes note of where a decision about `n` bytes begins.
    fn decide(&mut self, n: usize) {
        if n > 0 {
            self.boundaries.push(self.undecided_from);
            self.undecided_from = self.undecided_from.saturating_add(n as u64);
        }
    }

    /// Carries out the orders for which there are bytes.
    pub(super) fn carry_out(&mut self) {
        while let Some(order) = self.orders.pop_front() {
            match order {
                Order::Pass(0) | Order::Drop(0, _) => {}
                Order::Pass(_) | Order::Drop(..) if self.held.is_empty() => {
                    self.orders.push_front(order);
                    break;
                }
                Order::Pass(n) => {
                    let now = n.min(self.held.len());
                    let bytes = self.held.drain(..now).collect();
                    let later = if self.transport == Transport::Tcp { n - now } else { 0 };
                    self.orders.push_front(Order::Pass(later));
                    self.write(bytes, later, false);
                }
                Order::Drop(n, reason) => {
                    let now = n.min(self.held.len());
                    self.held.drain(..now);
                    self.count_dropped(now, &reason);
                    let later = if self.transport == Transport::Tcp { n - now } else { 0 };
                    self.orders.push_front(Order::Drop(later, reason));
                }
                Order::Send(bytes) => self.write(bytes, 0, true),
                Order::Bypass => self.bypass = true,
                Order::Watch => self.bypass = false,
            }
        }
        if self.bypass && !self.held.is_empty() && self.orders.is_empty() {
            let bytes = std::mem::take(&mut self.held);
            self.undecided_from = self.undecided_from.saturating_add(bytes.len() as u64);
            // With TCP all of it is one message, however many segments it comes in.
            self.within |= self.bypasses && !self.target_closed;
            self.write(bytes, 0, false);
            self.bypasses = self.transport == Transport::Tcp;
        }
    }

    /// Writes (the next part of) a message to the target, over a new connection if the present one is closed.
    fn write(&mut self, bytes: Vec<u8>, missing: usize, own: bool) {
        if self.target_closed {
            if self.after_target_close == AfterTargetClose::End {
                let lost = if own { 0 } else { bytes.len() };
                self.count_dropped(lost, reasons::TARGET_CLOSED);
                self.state = State::Ended(reasons::TARGET_CLOSED.to_owned());
                return;
            }
            self.connect();
        }
        self.bypasses = false;
        let within = std::mem::replace(&mut self.within, missing > 0);
        let ready = self.ready;
        let messages = if ready { self.connection() } else { &mut self.waiting };
        match messages.last_mut().filter(|_| within) {
            Some(message) => {
                message.bytes.extend_from_slice(&bytes);
                message.missing = missing;
            }
            None => messages.push(Message { bytes, missing, own }),
        }
    }

    /// Leaves out the rest of a message that the target has in part: its connection is no more.
    pub(super) fn cut_off(&mut self) {
        if self.within && self.ready {
            self.within = false;
            if let Some(Order::Pass(n)) = self.orders.front() {
                self.orders[0] = Order::Drop(*n, reasons::TARGET_CLOSED.to_owned());
            }
        }
    }

    /// The target has closed, and the session holds bytes: perhaps for something that only a new connection can say.
    fn waits_for_new_connection(&self) -> bool {
        let goes_on = self.after_target_close == AfterTargetClose::Reconnect;
        self.target_closed && goes_on && self.session.is_some() && !self.bypass && !self.held.is_empty()
    }

    /// Opens a new connection to the target. Only a session that watches has something to say about it.
    fn connect(&mut self) {
        self.bypasses = false;
        self.connections.push(Vec::new());
        self.target_closed = false;
        // What waits will be answered; what went over the old connection will not.
        if self.waiting.is_empty() {
            self.expected_before_waiting = self.expected;
        }
        self.completed = self.expected_before_waiting;
        self.ready = self.session.is_none();
        self.due.resume = self.session.is_some();
    }

    fn close_session(&mut self) {
        let left = std::mem::take(&mut self.held).len();
        self.count_dropped(left, reasons::SESSION_OVER);
        self.orders.clear();
        self.due = Due::default();
        if let Some(mut session) = self.session.take() {
            let mut recorder = Recorder::new(self.info, self.now, self.expected - self.completed);
            let reason = match &self.state {
                State::Ended(reason) => Some(reason.as_str()),
                State::Open | State::Done => None,
            };
            session.on_close(&mut Ctx::new(&mut recorder), reason);
            for call in recorder.calls {
                if matches!(call, Call::Log(..) | Call::Count(..)) {
                    self.take_effect(call);
                }
            }
        }
        self.check();
    }

    fn connection(&mut self) -> &mut Vec<Message> {
        self.connections.last_mut().expect("there is one from the beginning")
    }

    pub(super) fn count_dropped(&mut self, n: usize, reason: &str) {
        if n > 0 {
            *self.dropped.entry(reason.to_owned()).or_default() += n as u64;
        }
    }

    /// Each byte of the client was passed, dropped, or is held.
    fn check(&self) {
        let messages = self.connections.iter().flatten().chain(&self.waiting);
        let passed: usize = messages.filter(|message| !message.own).map(|message| message.bytes.len()).sum();
        let accounted = passed as u64 + self.dropped.values().sum::<u64>() + self.held.len() as u64;
        assert_eq!(accounted, self.came, "the client's bytes do not add up");
    }
}
