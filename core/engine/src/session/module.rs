//! What the module decides, carried out.
//!
//! # A connection that is rebuilt
//!
//! ```text
//! connection gone, or reconnect():   queue: what was sent, and the rest of a message begun, is cut off
//! something to send, or reconnect(): queue -> parked;   SYN;   on_resume
//!    until ready():                  send() -> queue, goes at once;   pass() -> behind what is parked
//! ready():                           parked -> behind queue
//! ```
//!
//! A new connection that is lost before it was made ready has moved nothing on, so that may happen only a few times in a
//! row.

use std::time::Duration;

use tcpcopy_module_api::{AfterTargetClose, TargetData};
use tcpcopy_wire::control::{ResponseHeader, RouteChange};
use tcpcopy_wire::{TcpSegment, Timestamp};

use super::online::OnlineHalf;
use super::queue::MarkKind;
use super::watch::{Hook, Stage, Verdict, guarded};
use super::{Context, Phase, Session};
use crate::copier::config::Gate;
use crate::ledger::{ByteDrop, PacketDrop, SessionEnd};
use crate::outbox::Notice;
use crate::target::{Closure, Heard, State};

/// Connections in a row that may be lost before the module has called them ready.
const MAX_REBUILDS: u8 = 3;
/// How long a session waits after the target has refused a new connection. Each time twice as long, up to 5 times.
const REFUSED_WAIT: Duration = Duration::from_millis(100);
/// Between two connections that are made for bytes that are held.
const HELD_WAIT: Duration = Duration::from_secs(1);

impl Session {
    /// The session begins.
    pub(crate) fn open_module(&mut self, cx: &mut Context<'_>) {
        if self.watch.is_some() {
            self.consult(cx, Hook::Open);
        }
    }

    fn stage<'a>(&'a mut self, cx: &'a mut Context<'_>) -> Stage<'a> {
        if self.queue.is_none() {
            self.stalled_since = cx.now;
        }
        Stage {
            now: cx.now,
            module: cx.config.about(self.map).name,
            ungated: cx.config.gate == Gate::Off,
            ledger: cx.ledger,
            notices: &mut cx.out.notices,
            counters: cx.counters,
            queue: self.queue.get_or_insert_with(|| cx.pool.take()),
            parked: None,
            completed: self.gate.completed(),
        }
    }

    /// Asks the module, and does what it says.
    pub(super) fn consult(&mut self, cx: &mut Context<'_>, hook: Hook<'_>) {
        let Some(mut watch) = self.watch.take() else { return };
        let verdict = watch.call(hook, &mut self.stage(cx));
        self.watch = Some(watch);
        self.put_back_empty_queue(cx);
        self.carry_out(cx, hook, verdict);
    }

    fn carry_out(&mut self, cx: &mut Context<'_>, hook: Hook<'_>, verdict: Verdict) {
        if let Some(message) = verdict.panicked {
            return self.on_panic(cx, message);
        }
        if matches!(hook, Hook::Close(_)) {
            return;
        }
        if verdict.counted {
            self.gate.count_responses();
        }
        for _ in 0..verdict.completes {
            self.gate.complete_response();
        }
        if let Some(payload) = verdict.payload {
            self.target.want_payload(payload);
            if self.is_connected() {
                let change = RouteChange::Payload { id: self.id, payload };
                cx.out.routes.extend(self.links(cx.config).map(|link| (link, change)));
            }
        }
        if let Some(reason) = verdict.aborted {
            let module = cx.config.about(self.map).name;
            cx.counters.add(module, &reason, 1);
            cx.out.notices.push(Notice::ModuleAborted { module, flow: self.flow, reason });
            return self.end_unless_over(cx, SessionEnd::Module);
        }
        if verdict.ready {
            self.unpark();
        }
        let may_reconnect = matches!(self.target.state, State::Open | State::Closed) && !self.target.fin_sent();
        if verdict.reconnect && may_reconnect && self.closing_for.is_none() && !matches!(hook, Hook::Resume) {
            self.reconnect(cx);
        }
        let holds = self.watch.as_ref().is_some_and(|watch| watch.holds());
        if verdict.ask_again && holds && !matches!(hook, Hook::ClientData) {
            self.consult(cx, Hook::ClientData);
            let closes = self.watch.as_ref().is_some_and(|watch| watch.closing.is_some() && watch.holds());
            if closes && !matches!(hook, Hook::ClientClose) {
                self.consult(cx, Hook::ClientClose);
            }
        }
        self.close_behind_module();
        if self.watch.as_ref().is_some_and(|watch| watch.is_done() && !cx.config.about(self.map).sees_online) {
            self.watch = None;
            self.gate.stop_counting();
        }
    }

    fn on_panic(&mut self, cx: &mut Context<'_>, message: String) {
        let module = cx.config.about(self.map).name;
        cx.out.notices.push(Notice::ModulePanicked { module, flow: self.flow, message });
        // A module that failed is not asked any more, not even about the end of the session.
        self.forget_module(cx);
        self.end_unless_over(cx, SessionEnd::ModulePanicked);
    }

    /// Whether the module goes on after the target has closed. One that panics about it has its session ended.
    pub(super) fn wants_to_go_on(&mut self, cx: &mut Context<'_>) -> bool {
        match guarded(|| cx.config.module(self.map).after_target_close()) {
            Ok(answer) => answer == AfterTargetClose::Reconnect,
            Err(message) => {
                self.on_panic(cx, message);
                false
            }
        }
    }

    pub(super) fn end_unless_over(&mut self, cx: &mut Context<'_>, reason: SessionEnd) {
        if !self.is_over() {
            self.end_early(cx, reason);
        }
    }

    /// Lets the module go, with what it holds.
    fn forget_module(&mut self, cx: &mut Context<'_>) {
        if let Some(watch) = self.watch.take() {
            cx.ledger.pending_bytes -= watch.waiting();
            cx.ledger.drop_bytes(ByteDrop::SessionEnded, watch.waiting());
        }
    }

    /// Bytes of the client, in order.
    pub(super) fn show_client_data(&mut self, cx: &mut Context<'_>, data: &[u8], need: u32, push: bool) {
        let Some(mut watch) = self.watch.take() else { return };
        let stage = &mut self.stage(cx);
        let shown = watch.take_client_data(data, need, push, stage);
        let verdict = shown.then(|| watch.call(Hook::ClientData, stage));
        self.watch = Some(watch);
        self.put_back_empty_queue(cx);
        if let Some(verdict) = verdict {
            self.carry_out(cx, Hook::ClientData, verdict);
        }
    }

    /// The client closed.
    pub(super) fn show_client_close(&mut self, cx: &mut Context<'_>, kind: MarkKind, need: u32) {
        let Some(watch) = &mut self.watch else { return };
        watch.closing = Some((kind, need));
        if watch.holds() {
            self.consult(cx, Hook::ClientClose);
        } else {
            if self.queue.is_none() {
                self.stalled_since = cx.now;
            }
            let queue = self.queue.take().unwrap_or_else(|| cx.pool.take());
            self.queue = Some(queue);
            self.close_behind_module();
        }
    }

    /// The client's close goes on when nothing in front of it waits for the module.
    fn close_behind_module(&mut self) {
        let Some(watch) = self.watch.as_mut().filter(|watch| !watch.holds()) else { return };
        let Some((kind, need)) = watch.closing.take() else { return };
        let (need, expected) = (watch.need_of_close(need), watch.expected());
        let tail = watch.parked.as_mut().unwrap_or_else(|| self.queue.get_or_insert_default());
        tail.push_end(kind, need, expected);
    }

    /// Bytes of the target.
    pub(super) fn show_target_data(&mut self, cx: &mut Context<'_>, header: &ResponseHeader<'_>, heard: &Heard) {
        if heard.fresh_len > 0 {
            let bytes = header.payload.get(heard.fresh_at as usize..).unwrap_or(&[]);
            let bytes = &bytes[..bytes.len().min(heard.fresh_len as usize)];
            let hidden = heard.fresh_len - bytes.len() as u32;
            self.consult(cx, Hook::TargetData(TargetData { bytes, hidden }));
        }
        while self.phase == Phase::Live
            && let Some((bytes, hidden)) = self.target.take_arrived()
        {
            self.consult(cx, Hook::TargetData(TargetData { bytes: &bytes, hidden }));
        }
    }

    /// A segment of online was captured.
    pub(crate) fn on_online_segment(&mut self, cx: &mut Context<'_>, segment: &TcpSegment<'_>) {
        let Some(online) = self.online.as_mut() else { return cx.ledger.drop_packet(PacketDrop::NoSession) };
        let answer = online.time.as_mut().map(|time| time.on_segment(cx.captured_at, segment));
        if let Some(time) = answer.and_then(|answer| answer.began_after) {
            cx.ledger.online_response_time.record(time);
        }
        let Some(half) = online.half.as_mut().filter(|_| !segment.is_cut()) else {
            match answer {
                None => cx.ledger.drop_packet(PacketDrop::NoSession),
                Some(answer) if answer.is_new => {
                    cx.ledger.packets_used += 1;
                    cx.ledger.online_packets += 1;
                }
                Some(_) => cx.ledger.drop_packet(PacketDrop::Duplicate),
            }
            return;
        };
        let (bytes, is_new) = half.on_segment(segment);
        if is_new {
            cx.ledger.packets_used += 1;
            cx.ledger.online_packets += 1;
        } else {
            cx.ledger.drop_packet(PacketDrop::Duplicate);
        }
        if !bytes.is_empty() {
            self.show_online_data(cx, bytes, 0);
        }
        self.show_waiting_online_data(cx);
        self.pump(cx, false);
    }

    /// What online sent and was captured ahead of its turn, as far as the client has acknowledged it.
    pub(super) fn show_waiting_online_data(&mut self, cx: &mut Context<'_>) {
        let acknowledged = self.client.acknowledged();
        while let Some((bytes, lost)) = self.online_half().and_then(|half| half.take_piece(acknowledged)) {
            self.show_online_data(cx, &bytes, lost);
        }
    }

    fn online_half(&mut self) -> Option<&mut OnlineHalf> {
        self.online.as_mut()?.half.as_mut()
    }

    fn show_online_data(&mut self, cx: &mut Context<'_>, bytes: &[u8], lost: u64) {
        cx.ledger.online_bytes += bytes.len() as u64;
        cx.ledger.online_bytes_lost += lost;
        self.consult(cx, Hook::OnlineData(bytes, lost));
    }

    /// The target closed its direction: for a module that wants to go on, that is the end of this connection.
    pub(super) fn is_left_at_fin(&mut self, cx: &mut Context<'_>) -> bool {
        self.watch.is_some()
            && self.closing_for.is_none()
            && self.client.end() == super::ClientEnd::Open
            && self.wants_to_go_on(cx)
    }

    /// Gives the connection up, with what was sent on it.
    pub(super) fn leave_connection(&mut self, cx: &mut Context<'_>) {
        let (target, _, mut wire) = self.halves(cx);
        target.reset(&mut wire);
        self.on_closure(cx, Closure::Reset);
    }

    /// The target has refused a connection, or not answered. Where the module has been told of a new connection before, it
    /// is still to come: the session waits for it, as long as its client's data may wait for a response.
    pub(super) fn waits_for_target(&mut self, cx: &Context<'_>) -> bool {
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.rebuilds > 0) else { return false };
        watch.retry_at = cx.now + REFUSED_WAIT * (1 << watch.refusals);
        watch.refusals = (watch.refusals + 1).min(5);
        // That connection was no loss to the module.
        watch.rebuilds -= 1;
        true
    }

    /// Connects again, unless the target has refused that a moment ago.
    pub(super) fn reopen_in_time(&mut self, cx: &mut Context<'_>) {
        if self.watch.as_ref().is_none_or(|watch| cx.now >= watch.retry_at) {
            self.reopen(cx);
        }
    }

    /// Connects again for bytes that the module holds, perhaps for something that only the target can say. A target that
    /// closes at once, again and again, has its peace for a while each time.
    pub(super) fn reopen_for_held(&mut self, cx: &mut Context<'_>) {
        let Some(watch) = self.watch.as_mut().filter(|watch| cx.now >= watch.retry_at) else { return };
        watch.retry_at = cx.now + HELD_WAIT;
        self.reopen(cx);
    }

    /// When a session that waits for the target connects again.
    #[inline]
    pub(super) fn retry_deadline(&self) -> Timestamp {
        match &self.watch {
            Some(watch) if self.target.state == State::Closed && (watch.holds() || self.queue.is_some()) => {
                watch.retry_at
            }
            _ => Timestamp::NEVER,
        }
    }

    fn reconnect(&mut self, cx: &mut Context<'_>) {
        let (target, _, mut wire) = self.halves(cx);
        target.reset(&mut wire);
        self.cut_queue(cx);
        self.reopen(cx);
    }

    /// The connection of a watched session is gone: forgets what was sent on it. Returns how many bytes that were.
    pub(super) fn cut_queue(&mut self, cx: &mut Context<'_>) -> u64 {
        let Some(watch) = &mut self.watch else { return 0 };
        let mut lost = 0;
        if let Some(parked) = watch.parked.take() {
            // Not made ready yet: what was sent to that end was for this connection only.
            if let Some(queue) = self.queue.replace(parked) {
                lost += queue.byte_count() as u64;
                cx.pool.put(queue);
            }
        } else if let Some(queue) = &mut self.queue {
            let (here, to_come) = queue.cut_at_unit();
            lost += here;
            if to_come > 0 {
                watch.drop_the_rest();
            }
        }
        cx.ledger.pending_bytes -= lost;
        cx.ledger.drop_bytes(ByteDrop::TargetClosed, lost);
        lost
    }

    /// Connects again after the target closed, for what the client still sends.
    pub(super) fn reopen(&mut self, cx: &mut Context<'_>) {
        cx.ledger.reconnects += 1;
        let mut completed = 0;
        if let Some(watch) = &mut self.watch {
            watch.rebuilds += 1;
            if watch.rebuilds > MAX_REBUILDS {
                return self.end_early(cx, SessionEnd::TargetClosed);
            }
            let parked = self.queue.take().unwrap_or_else(|| cx.pool.take());
            completed = parked.responses_before().unwrap_or_else(|| watch.expected());
            watch.parked = Some(parked);
        }
        self.gate.restart(completed);
        let offer = self.offer;
        let (target, _, mut wire) = self.halves(cx);
        let iss = target.next_iss();
        target.open(&mut wire, iss, offer);
        self.consult(cx, Hook::Resume);
    }

    /// The new connection is ready for what the client sent.
    fn unpark(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let Some(parked) = watch.parked.take() else { return };
        watch.rebuilds = 0;
        watch.refusals = 0;
        let queue = self.queue.get_or_insert_default();
        // What the module has just sent is to be answered first.
        let need = u32::from(!queue.is_empty());
        if need > 0 {
            self.gate.await_answer();
        }
        queue.append(*parked, need, watch.expected());
    }
}
