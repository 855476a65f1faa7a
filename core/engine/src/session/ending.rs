//! How a session ends: by its client, by its target, by the order to stop, or given up.

use super::client::ClientEnd;
use super::queue::{MarkKind, StreamQueue};
use super::watch::Hook;
use super::{Context, LINGER, Phase, RETRY_AFTER, Session};
use crate::ledger::{ByteDrop, SessionEnd};
use crate::outbox::Notice;
use crate::target::Closure;
use tcpcopy_wire::Timestamp;

impl Session {
    /// The client opened a new connection on this one's ports: this one is over, whatever of its end was captured.
    pub(crate) fn presume_end(&mut self, cx: &mut Context<'_>) {
        if self.is_over() || self.closing_for.is_some() {
            return;
        }
        self.client.presume_end();
        if let Some(end) = self.client.take_end(cx.now) {
            self.push_end(cx, end, 0);
            self.pump(cx, false);
        }
    }

    /// Nothing more will be captured of the client: it closes behind what it has said.
    pub(crate) fn end_of_capture(&mut self, cx: &mut Context<'_>) {
        let all_is_said = self.client.end() != ClientEnd::Open && self.client.hole_since == Timestamp::NEVER;
        if self.is_over() || self.closing_for.is_some() || all_is_said {
            return;
        }
        if self.client.hole_since != Timestamp::NEVER {
            return self.end_early(cx, SessionEnd::CaptureHole);
        }
        self.client.presume_end();
        if let Some(end) = self.client.take_end(cx.now) {
            // Not before the target has answered, as far as it does.
            let has_spoken = self.client.handed_on_since(self.isn + 1) > 1;
            self.push_end(cx, end, if has_spoken { u32::MAX } else { 0 });
            self.pump(cx, false);
        }
    }

    /// The connection to the target is gone.
    pub(super) fn on_closure(&mut self, cx: &mut Context<'_>, closure: Closure) {
        match closure {
            Closure::Refused | Closure::Unreachable if self.waits_for_target(cx) => {}
            Closure::Refused => return self.end_early(cx, SessionEnd::TargetRefused),
            Closure::Unreachable => return self.end_early(cx, SessionEnd::TargetUnreachable),
            Closure::GaveUp => return self.end_early(cx, SessionEnd::GaveUp),
            Closure::Reset => {}
        }
        // What the target had closed before it was sent, nobody has read: it can go again on a new connection. What was
        // sent earlier and not acknowledged may or may not have been read, so it must not go again.
        let lost = if self.watch.is_some() {
            self.cut_queue(cx)
        } else {
            let unread = self.target.unacked_before_peer_fin();
            let lost = self.queue.as_deref_mut().map_or(0, |q| q.rewind(unread));
            cx.ledger.pending_bytes -= lost;
            cx.ledger.drop_bytes(ByteDrop::TargetClosed, lost);
            lost
        };
        let ended = self.client.end() != ClientEnd::Open;
        let held = self.watch.as_ref().is_some_and(|watch| watch.holds());
        let waiting = held || self.queue.as_deref().map_or(0, StreamQueue::byte_count) > 0;
        if waiting && self.target.fin_sent() {
            // The FIN that had followed goes again behind them.
            let expected = self.watch.as_ref().map_or(0, |watch| watch.expected());
            self.queue_for(cx).push_end(MarkKind::Fin, 0, expected);
        }
        if ended && !waiting && lost == 0 {
            // Everything had been copied; the target only closed harder than the client.
            self.complete(cx);
        } else if (ended && !waiting) || self.closing_for.is_some() || !self.wants_to_go_on(cx) {
            let closed = self.target.peer_closed();
            self.end_unless_over(cx, if closed { SessionEnd::TargetClosed } else { SessionEnd::TargetReset });
        }
    }

    /// Begins to close, for this reason: everything unsent is forgotten, and the target gets a FIN.
    pub(crate) fn stop(&mut self, cx: &mut Context<'_>, reason: SessionEnd) {
        match self.phase {
            Phase::Lingering | Phase::Ended => {}
            Phase::Live if self.closing_for.is_some() => {}
            Phase::Live if self.target.is_open() => {
                self.closing_for = Some(reason);
                self.consult(cx, Hook::Close(Some(reason.text())));
                if self.phase != Phase::Live {
                    return;
                }
                let unsent = self.queue_for(cx).drop_unsent();
                let forgotten = unsent + self.client.forget() + self.watch.take().map_or(0, |w| w.waiting());
                cx.ledger.pending_bytes -= forgotten;
                cx.ledger.drop_bytes(ByteDrop::SessionEnded, forgotten);
                if !self.target.fin_sent() {
                    self.queue_for(cx).push_end(MarkKind::Fin, 0, 0);
                }
                self.pump(cx, false);
            }
            // It is not the order that it fails for.
            Phase::Live if self.target.is_unanswered() => self.end_early(cx, SessionEnd::TargetUnreachable),
            Phase::Waiting | Phase::Live => self.end_early(cx, reason),
        }
    }

    /// Ends at once what has not ended by itself after [`stop`](Self::stop).
    pub(crate) fn stop_now(&mut self, cx: &mut Context<'_>) {
        if let Some(reason) = self.closing_for
            && !self.is_over()
        {
            self.end_early(cx, reason);
        }
    }

    /// Copied to its end.
    pub(super) fn complete(&mut self, cx: &mut Context<'_>) {
        match self.closing_for {
            Some(reason) => self.count_end(cx, reason),
            None => cx.ledger.sessions_completed += 1,
        }
        cx.ledger.time_wait += u64::from(self.target.closed_first());
        let reason = self.closing_for.map(SessionEnd::text);
        self.leave(cx, Phase::Lingering, reason);
        self.forget_at = cx.now + LINGER;
    }

    /// Given up.
    pub(crate) fn end_early(&mut self, cx: &mut Context<'_>, reason: SessionEnd) {
        self.count_end(cx, reason);
        cx.out.notices.push(Notice::SessionEnded { flow: self.flow, reason });
        let (target, _, mut wire) = self.halves(cx);
        target.reset(&mut wire);
        self.leave(cx, Phase::Ended, Some(reason.text()));
        let for_good = matches!(
            reason,
            SessionEnd::Module | SessionEnd::ModulePanicked | SessionEnd::OverRate | SessionEnd::Throttled
        );
        let wait = if for_good { cx.config.idle_timeout } else { RETRY_AFTER };
        self.forget_at = cx.now + wait;
    }

    fn count_end(&self, cx: &mut Context<'_>, reason: SessionEnd) {
        cx.ledger.end_session(reason);
        cx.ledger.of_map(self.map, |of_map| of_map.sessions_ended[reason as usize] += 1);
    }

    /// Not copied at all, though it stays known until its client is done, so that it is not joined later.
    pub(crate) fn leave_out(&mut self, cx: &mut Context<'_>, reason: SessionEnd) {
        self.watch = None;
        self.end_early(cx, reason);
    }

    /// Gives back everything that only a session under way needs.
    pub(super) fn leave(&mut self, cx: &mut Context<'_>, phase: Phase, reason: Option<&str>) {
        // The phase first: a hook that panics must not end the session once more.
        self.enter(phase);
        self.consult(cx, Hook::Close(reason));
        // Its answer may come after the target's, and is measured all the same.
        if let Some(online) = &mut self.online {
            online.half = None;
        }
        if let Some(delay) = self.delay.take() {
            cx.ledger.responses_delayed -= delay.len() as u64;
        }
        let mut bytes = self.client.forget() + self.watch.take().map_or(0, |w| w.waiting());
        if let Some(queue) = self.queue.take() {
            bytes += queue.byte_count() as u64;
            cx.pool.put(queue);
        }
        cx.ledger.pending_bytes -= bytes;
        cx.ledger.drop_bytes(ByteDrop::SessionEnded, bytes);
        cx.ledger.sessions_alive -= 1;
        cx.ledger.of_map(self.map, |of_map| of_map.sessions_alive -= 1);
    }
}
