//! tcpcopy's engine: sessions, found by flow or by id, driven by packets, responses and time.

pub mod config;
pub mod source;

use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::ResponseHeader;
use tcpcopy_wire::link::LinkType;

use crate::ledger::Ledger;
use crate::outbox::{LinkId, Outbox};
use config::CopierConfig;

/// What happens to a [`Copier`].
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A frame was captured, from a client towards online as far as the capture's filter can tell.
    Frame {
        /// How the frame begins.
        link: LinkType,
        /// What was captured of it.
        bytes: &'a [u8],
        /// Its length on the wire, in bytes.
        wire_len: usize,
    },
    /// An intercept reports a packet of the target.
    Response(ResponseHeader<'a>),
    /// Everything that was readable has been handed over: the caller is about to wait. Ends bursts of responses.
    Drained,
    /// A connection to an intercept works (again): the routes of all live sessions must be added.
    LinkUp(LinkId),
    /// A connection to an intercept is lost.
    LinkDown(LinkId),
    /// The deadline has come.
    Timeout,
    /// Close all sessions towards the target, take no more. [`Copier::is_finished`] tells when that is done.
    Stop,
}

/// tcpcopy's engine.
pub struct Copier {
    ledger: Ledger,
}

impl Copier {
    /// An engine with no sessions.
    pub fn new(config: CopierConfig) -> Self {
        let _ = config;
        Self { ledger: Ledger::default() }
    }

    /// Takes one input and adds to `out` what follows from it. `now` must not run backwards. Never panics, whatever the
    /// bytes.
    pub fn handle(&mut self, now: Timestamp, input: Input<'_>, out: &mut Outbox) {
        let _ = (now, input, out);
        todo!("written next")
    }

    /// When [`Input::Timeout`] is due; `None` while nothing waits.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// The counters.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether, after [`Input::Stop`], nothing is left to do.
    pub fn is_finished(&self) -> bool {
        true
    }
}
