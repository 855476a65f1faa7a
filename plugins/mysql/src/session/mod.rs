//! One client's session.

mod client;
mod online;
mod target;

use std::sync::Arc;

use tcpcopy_module_api::framing::{Fault, Frame, Framer, find_boundary};
use tcpcopy_module_api::{Ctx, Payload, Session, TargetData, Timestamp};

use crate::Shared;
use crate::command::{Answer, Command};
use crate::statement::{Key, Statements};
use crate::wire::packet::{FRAMER, KEPT};
use crate::wire::{Capabilities, Header, Login};
use client::ClientSide;
use online::OnlineSide;
use target::TargetSide;

/// What a client may send before the target has let it in, in bytes.
const MOST_BEFORE_LOGIN: usize = 4 << 20;
/// Settings that are said again on a new connection, at most, and their longest.
const MOST_SETTINGS: usize = 64;
const LONGEST_SETTING: usize = 1_024;

/// A command that the target has not answered yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    command: Command,
    kind: &'static str,
    /// How many commands the client had sent before.
    number: u64,
    at: Timestamp,
    /// The statement that it prepares.
    prepares: Option<Key>,
    error: Option<u16>,
}

/// See the [module's documentation](self).
pub(crate) struct MySqlSession {
    shared: Arc<Shared>,
    client: ClientSide,
    online: OnlineSide,
    target: TargetSide,
    statements: Statements,
    /// Commands that set something for the session, in the target's form.
    settings: Vec<Vec<u8>>,
    asked: Option<Asked>,
    /// The payload of `asked` as the client said it, if it is short enough to be kept.
    payload: Vec<u8>,
    /// The statement's text in `payload`, for the log.
    text: Vec<u8>,
}

impl MySqlSession {
    pub(crate) fn new(shared: Arc<Shared>, joined: bool) -> Self {
        let login = joined.then(|| Login {
            capabilities: Self::JOINED,
            max_packet: 1 << 24,
            charset: 45,
            user: shared.settings.first_user.clone().unwrap_or_default(),
            database: shared.settings.default_db.clone().unwrap_or_default().into_bytes(),
            attributes: Vec::new(),
        });
        Self {
            client: ClientSide::new(login),
            online: OnlineSide::default(),
            target: TargetSide::new(),
            statements: Statements::default(),
            settings: Vec::new(),
            asked: None,
            payload: Vec::new(),
            text: Vec::new(),
            shared,
        }
    }

    /// What is taken for agreed with a client whose login was not seen.
    const JOINED: Capabilities = Capabilities(
        Capabilities::MYSQL.0
            | Capabilities::LONG_FLAG.0
            | Capabilities::LOCAL_FILES.0
            | Capabilities::PROTOCOL_41.0
            | Capabilities::TRANSACTIONS.0
            | Capabilities::SECURE_CONNECTION.0
            | Capabilities::MULTI_STATEMENTS.0
            | Capabilities::MULTI_RESULTS.0
            | Capabilities::PS_MULTI_RESULTS.0
            | Capabilities::CONNECT_ATTRS.0,
    );

    /// Remembers what a command set for the session. `sent` is as it went to the target.
    fn remember_setting(&mut self, sent: &[u8]) {
        if sent.len() > LONGEST_SETTING {
            return;
        }
        // What is set again is set last.
        self.settings.retain(|setting| setting != sent);
        if self.settings.len() == MOST_SETTINGS {
            self.settings.remove(0);
        }
        self.settings.push(sent.to_vec());
    }
}

/// Where the commands of a connection can be joined: a packet with sequence number 0 and the byte of a command, which ends
/// with the segment, or has another such behind it.
pub(crate) fn join_at(data: &[u8]) -> Option<usize> {
    let strict = |data: &[u8]| match (Header::read(data), data.get(4)) {
        (Some(header), _) if header.sequence != 0 || header.len == 0 => {
            Frame::Invalid(Fault::NotThisProtocol("no command"))
        }
        (Some(_), Some(code)) if Command::of(*code).is_none() => Frame::Invalid(Fault::NotThisProtocol("no command")),
        (Some(_), Some(_)) => FRAMER.frame(data),
        (None, _) | (Some(_), None) => Frame::More,
    };
    // Most segments are one command.
    let first = Header::read(data).filter(|_| matches!(strict.frame(data), Frame::Message(_)))?;
    if first.len + 4 == data.len() {
        return Some(0);
    }
    find_boundary(&strict, data, 2)
}

impl Session for MySqlSession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::Full);
        // From here on the gate counts; the commands are held by themselves until the login is done.
        ctx.expect_response();
        ctx.response_complete();
        if ctx.info().joined && self.shared.settings.password(&self.client.user()).is_none() {
            ctx.abort(
                "it was open already, and there is no user to log in as: give -u, or -O to leave such sessions out",
            );
        }
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        self.scan(ctx.now(), data);
        let mut rest = data;
        while let Some(decided) = self.decide(ctx, rest) {
            match rest.get(decided..) {
                Some(behind) => rest = behind,
                None => return,
            }
        }
        if rest.len() > MOST_BEFORE_LOGIN && !self.target.has_let_in() {
            ctx.abort("the client sends on, and the target has not let it in");
        }
    }

    fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
        if self.asked.is_none() && self.target.is_ready() {
            ctx.drop(held.len(), "cut off by the client's close");
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        self.take_target_data(ctx, data.bytes);
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        self.take_online_data(ctx, data, lost);
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        // What waits may mean statements by their old numbers; it is said again in the new ones.
        let waits = ctx.missing_responses() > 0;
        ctx.forget_waiting("said again on a new connection");
        if let Some(asked) = &self.asked
            && !(waits && !self.payload.is_empty() && asked.command.answer != Answer::Login)
        {
            ctx.count("commands lost with a connection", 1);
            self.asked = None;
            self.client.file_is_left_out();
        }
        ctx.count("reconnects", 1);
        self.target.begin_again();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, reason: Option<&str>) {
        if reason.is_some() && self.asked.is_some() {
            ctx.count("commands lost with a session", 1);
        }
    }
}

/// Most of a payload that is waited for where only its beginning matters.
const LOOKED_AT: usize = KEPT;
