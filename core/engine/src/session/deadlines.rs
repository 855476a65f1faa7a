//! When a session has to be looked at though nothing comes for it, and what happens then.

use std::time::Duration;

use tcpcopy_wire::Timestamp;

use super::{Context, Phase, Session};
use crate::copier::config::CopierConfig;
use crate::ledger::SessionEnd;

/// How long a session waits, each in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    hole: u64,
    response: u64,
    idle: u64,
}

impl Patience {
    pub(crate) fn new(config: &CopierConfig) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            hole: nanos(config.hole_timeout),
            response: nanos(config.response_timeout),
            idle: nanos(config.idle_timeout),
        }
    }
}

impl Session {
    /// The deadline has come. Returns whether the session can be forgotten.
    pub(crate) fn on_timeout(&mut self, cx: &mut Context<'_>) -> bool {
        if self.phase != Phase::Live {
            if cx.now >= self.forget_at {
                return true;
            }
            if self.phase == Phase::Lingering && cx.now >= self.target.ack_at {
                let (target, _, mut wire) = self.halves(cx);
                target.transmit(&mut wire, None);
            }
            return false;
        }
        self.take_delayed_responses(cx);
        if self.phase != Phase::Live {
            return false;
        }
        if cx.now >= self.target.retransmit_at {
            let (target, queue, mut wire) = self.halves(cx);
            if let Some(closure) = target.on_timeout(&mut wire, queue) {
                self.on_closure(cx, closure);
                return false;
            }
        }
        let patience = &Patience::new(cx.config);
        if cx.now >= self.hole_deadline(patience) {
            self.end_early(cx, SessionEnd::CaptureHole);
        } else if cx.now >= self.response_deadline(patience) {
            self.end_early(cx, SessionEnd::TargetSilent);
        } else if cx.now >= self.last_activity.after_nanos(patience.idle) {
            if self.target.fin_acked() {
                // The target has everything and keeps its direction open for nobody.
                let (target, _, mut wire) = self.halves(cx);
                target.reset(&mut wire);
                self.complete(cx);
            } else {
                self.end_early(cx, SessionEnd::Idle);
            }
        } else {
            self.pump(cx, false);
        }
        false
    }

    #[inline]
    fn hole_deadline(&self, patience: &Patience) -> Timestamp {
        self.client.hole_since.after_nanos(patience.hole)
    }

    #[inline]
    fn response_deadline(&self, patience: &Patience) -> Timestamp {
        if self.queue.is_none() {
            return Timestamp::NEVER;
        }
        self.target.heard_at.max(self.stalled_since).after_nanos(patience.response)
    }

    /// When [`on_timeout`](Self::on_timeout) is due.
    #[inline]
    pub(crate) fn deadline(&self, patience: &Patience) -> Timestamp {
        match self.phase {
            Phase::Waiting => Timestamp::NEVER,
            Phase::Lingering => self.forget_at.min(self.target.ack_at),
            Phase::Ended => self.forget_at,
            Phase::Live => self
                .target
                .retransmit_at
                .min(self.target.ack_at)
                .min(self.gate.quiet_at)
                .min(self.hole_deadline(patience))
                .min(self.response_deadline(patience))
                .min(self.retry_deadline())
                .min(self.delay.as_ref().map_or(Timestamp::NEVER, |delay| delay.next_due()))
                .min(self.last_activity.after_nanos(patience.idle)),
        }
    }
}
