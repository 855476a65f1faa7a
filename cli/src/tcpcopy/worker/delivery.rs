//! What the engine wants, carried out: routes, packets, and lines in the log.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_engine::{LinkId, Notice, Outbox};
use tcpcopy_io::control::{ControlLinks, SendError};
use tcpcopy_io::transmit::Transmitter;
use tcpcopy_module_api::LogLevel;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{LinkStats, RouteChange};

use crate::logging::one_line;

/// A notice that concerns no single session is repeated no sooner than this.
const NOTICE_EVERY: Duration = Duration::from_secs(30);

/// Where the engine's wishes go.
pub(super) struct Delivery {
    pub(super) outbox: Outbox,
    pub(super) transmitter: Transmitter,
    pub(super) routes_unsent: u64,
    /// The intercept of each link, and what it last said of itself.
    pub(super) relays: Vec<(SocketAddr, LinkStats)>,
    pub(super) named_ends: HashSet<(SessionEnd, &'static str)>,
    pub(super) next_source_notice: Timestamp,
    pub(super) module_lines: ModuleLines,
    pub(super) told_not_supported: bool,
}

/// Lines of modules in the log, so many in a second at most: a module speaks for each session if it likes.
#[derive(Default)]
pub(super) struct ModuleLines {
    pub(super) second: u64,
    pub(super) written: u32,
    pub(super) left_out: u64,
}

impl ModuleLines {
    /// Lines in a second.
    const LIMIT: u32 = 20;

    fn log(&mut self, now: Timestamp, level: LogLevel, text: std::fmt::Arguments<'_>) {
        let level = match level {
            LogLevel::Error => log::Level::Error,
            LogLevel::Warn => log::Level::Warn,
            LogLevel::Info => log::Level::Info,
            LogLevel::Debug => log::Level::Debug,
        };
        if !log::log_enabled!(level) {
            return;
        }
        let second = now.as_millis() / 1000;
        if second != self.second {
            if self.left_out > 0 {
                log::warn!("{} lines of modules were left out: more than {} in a second", self.left_out, Self::LIMIT);
            }
            *self = Self { second, ..Self::default() };
        }
        if self.written == Self::LIMIT {
            self.left_out += 1;
            return;
        }
        self.written += 1;
        log::log!(level, "{}", one_line(&text.to_string()));
    }
}

impl Delivery {
    /// Where a link leads.
    pub(super) fn address(&self, link: LinkId) -> SocketAddr {
        self.relays[usize::from(link.0)].0
    }

    /// Carries out what the engine wants: routes first, then packets.
    #[inline]
    pub(super) fn deliver(&mut self, now: Timestamp, links: &mut ControlLinks) {
        if self.outbox.is_empty() {
            return;
        }
        let mut has_new_route = false;
        for (link, change) in self.outbox.routes.drain(..) {
            has_new_route |= matches!(change, RouteChange::Add { .. });
            match links.send(link, &change) {
                Ok(()) => {}
                // All live routes are added when the link is up again.
                Err(SendError::Down | SendError::Full) => self.routes_unsent += 1,
                Err(SendError::NotSupported) => {
                    self.routes_unsent += 1;
                    if std::mem::replace(&mut self.told_not_supported, true) {
                        continue;
                    }
                    let address = self.relays[usize::from(link.0)].0;
                    log::error!(
                        "intercept {address} is of a release that reports neither the target's payload, which a module \
                         wants, nor UDP: sessions that need it wait in vain; use one of this release, and without \
                         --intercept-protocol"
                    );
                }
            }
        }
        // The end of a route can wait for the end of the round; its beginning must be there before the packets.
        if has_new_route {
            links.flush(now);
        }
        if self.outbox.packet_count() > 0 {
            self.transmitter.send(self.outbox.packets());
        }
        if !self.outbox.notices.is_empty() {
            self.log_notices(now);
        }
        self.outbox.clear();
    }

    #[cold]
    fn log_notices(&mut self, now: Timestamp) {
        for notice in &self.outbox.notices {
            match notice {
                Notice::SessionEnded { flow, reason } => {
                    let expected = matches!(
                        reason,
                        SessionEnd::Idle | SessionEnd::Stopped | SessionEnd::Paused | SessionEnd::Throttled
                    );
                    if !expected && self.named_ends.insert((*reason, "")) {
                        log::warn!("session {flow} ended early: {reason}; further ones are counted in the statistics");
                    } else {
                        log::debug!("session {flow} ended early: {reason}");
                    }
                }
                Notice::ModuleAborted { module, flow, reason } => {
                    if self.named_ends.insert((SessionEnd::Module, module)) {
                        log::warn!(
                            "session {flow} was given up by module `{module}`: {}; further ones are counted",
                            one_line(reason)
                        );
                    } else {
                        log::debug!("session {flow} was given up by module `{module}`: {}", one_line(reason));
                    }
                }
                Notice::ModulePanicked { module, flow, message } => {
                    if self.named_ends.insert((SessionEnd::ModulePanicked, module)) {
                        log::error!(
                            "module `{module}` failed by a mistake in it ({}); session {flow} is given up, and so is \
                             each one that this happens to: further ones are counted",
                            one_line(message)
                        );
                    } else {
                        log::debug!("module `{module}` panicked in session {flow}: {}", one_line(message));
                    }
                }
                Notice::ModuleLog { module, flow, level, text } => {
                    self.module_lines.log(now, *level, format_args!("{module}: session {flow}: {text}"));
                }
                Notice::NoFreeSource { client, target } => {
                    if self.next_source_notice <= now {
                        self.next_source_notice = now + NOTICE_EVERY;
                        log::warn!(
                            "no source address and port is free towards {target} for client {client}: sessions are \
                             left out; give more addresses with -c"
                        );
                    }
                }
                Notice::Shedding { by_count: true, sessions, .. } => {
                    log::warn!("new sessions are left out: there are {sessions}, which is the limit (--max-sessions)");
                }
                Notice::Shedding { sessions, bytes, .. } => log::warn!(
                    "new sessions are left out: {sessions} sessions take {} MB, which is the limit (-m)",
                    bytes >> 20
                ),
            }
        }
    }
}
