//! The connection to the target: greeting, login, what a new connection has to be told, and answers to commands.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use tcpcopy_module_api::{Ctx, LogLevel};

use super::{Asked, MySqlSession};
use crate::auth::{AuthError, Exchange, Step};
use crate::command::{Answer, STMT_PREPARE};
use crate::log::Entry;
use crate::response::{Event, Follower};
use crate::statement::{Key, OnTarget};
use crate::wire::{Capabilities, Greeting, Login, Packets, write_packet};

/// ER_UNSUPPORTED_PS: the statement cannot be prepared.
const UNSUPPORTED_TO_PREPARE: u16 = 1295;

#[derive(Debug)]
enum State {
    /// The target has not greeted, or the client has not said who it is.
    Greeting,
    LoggingIn(Exchange),
    /// A new connection is told what the old one knew; the statement that is being prepared.
    Restoring(Option<Key>),
    Ready,
    /// The client changes its user, and so do we.
    ChangingUser(Exchange),
}

#[derive(Debug)]
pub(super) struct TargetSide {
    state: State,
    packets: Packets,
    greeting: Option<(Greeting, u8)>,
    /// What was agreed.
    pub(super) capabilities: Capabilities,
    follower: Follower,
    /// Payloads that a new connection is to be told.
    to_say: VecDeque<(Vec<u8>, Option<Key>)>,
    /// It is not the first connection.
    again: bool,
}

impl TargetSide {
    pub(super) fn new() -> Self {
        Self {
            state: State::Greeting,
            packets: Packets::new(),
            greeting: None,
            capabilities: Capabilities::default(),
            follower: Follower::new(Capabilities::default()),
            to_say: VecDeque::new(),
            again: false,
        }
    }

    pub(super) fn begin_again(&mut self) {
        *self = Self { again: true, ..Self::new() };
    }

    /// Whether the login is done, on the first connection.
    pub(super) fn has_let_in(&self) -> bool {
        self.again || !matches!(self.state, State::Greeting | State::LoggingIn(_))
    }

    /// Whether commands may go.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 4);
    write_packet(sequence, payload, &mut bytes);
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned()
}

impl MySqlSession {
    pub(super) fn take_target_data(&mut self, ctx: &mut Ctx<'_>, mut data: &[u8]) {
        loop {
            if let State::Ready | State::Restoring(_) = self.target.state {
                let mut events = Vec::new();
                let fed = self.target.follower.feed(data, |event| events.push(event));
                for event in events {
                    self.on_event(ctx, event);
                }
                if let Err(malformed) = fed {
                    ctx.abort(&format!("the target's answer: {malformed}"));
                }
                return;
            }
            let Some(payload) = self.target.packets.next(&mut data) else { return };
            let (bytes, sequence) = (payload.bytes.to_vec(), payload.sequence);
            if self.on_login_packet(ctx, &bytes, sequence).is_none() {
                return;
            }
        }
    }

    /// A packet of the target before commands may go. `None`: the session is given up.
    fn on_login_packet(&mut self, ctx: &mut Ctx<'_>, payload: &[u8], sequence: u8) -> Option<()> {
        let step = match &mut self.target.state {
            State::Greeting => {
                match Greeting::parse(payload) {
                    Ok(Ok(greeting)) => self.target.greeting = Some((greeting, sequence)),
                    Ok(Err(error)) => {
                        ctx.count("connections that the target refused", 1);
                        let text = format!("the target refuses connections: {} {}", error.code, error.text);
                        ctx.log(LogLevel::Warn, &text);
                        ctx.abort("a connection that the target refused");
                        return None;
                    }
                    Err(malformed) => {
                        ctx.abort(&format!("the target's greeting: {malformed}"));
                        return None;
                    }
                }
                return self.log_in(ctx);
            }
            State::LoggingIn(exchange) | State::ChangingUser(exchange) => {
                exchange.on_packet(payload).map_err(|error| (error, exchange.plugin()))
            }
            State::Restoring(_) | State::Ready => return Some(()),
        };
        match step {
            Ok(Step::Send(answer)) => ctx.send(&packet(sequence.wrapping_add(1), &answer)),
            Ok(Step::Wait) => {}
            Ok(Step::Done) => self.on_logged_in(ctx),
            Err((error, plugin)) => {
                let user = text(&self.client.user());
                let name = self.shared.name_for_counters(&self.client.user());
                ctx.count(&format!("logins failed: {name} ({})", plugin.name()), 1);
                let hint = match &error {
                    AuthError::Refused(refused) if refused.code == 1045 => {
                        "; its password on the target is given with -u"
                    }
                    _ => "",
                };
                ctx.log(LogLevel::Warn, &format!("login of `{user}`: {error}{hint}"));
                ctx.abort("a login that the target did not take");
                return None;
            }
        }
        Some(())
    }

    /// Logs in, once the target has greeted and the client has said who it is. `None`: the session is given up.
    pub(super) fn log_in(&mut self, ctx: &mut Ctx<'_>) -> Option<()> {
        let (Some((greeting, sequence)), State::Greeting) = (&self.target.greeting, &self.target.state) else {
            return Some(());
        };
        let Some(login) = &self.client.login else { return Some(()) };
        let Some(password) = self.shared.settings.password(&login.user) else {
            let user = text(&login.user);
            ctx.count(&format!("users without a password here: {}", self.shared.name_for_counters(&login.user)), 1);
            let advice = "give it with -u, or --mysql-unknown-user empty";
            ctx.log(LogLevel::Warn, &format!("no password for user `{user}` on the target: {advice}"));
            ctx.abort("a user without a password here");
            return None;
        };
        let mut exchange = Exchange::new(password, greeting.auth_plugin.as_bytes(), greeting.salt);
        let capabilities = login.capabilities_for(greeting.capabilities);
        let mut payload = Vec::new();
        let proof = exchange.first_proof();
        login.write(capabilities, &proof, exchange.plugin().name(), &mut payload);
        ctx.send(&packet(sequence.wrapping_add(1), &payload));
        self.target.capabilities = capabilities & greeting.capabilities;
        self.target.follower = Follower::new(self.target.capabilities);
        self.target.state = State::LoggingIn(exchange);
        Some(())
    }

    fn on_logged_in(&mut self, ctx: &mut Ctx<'_>) {
        let (State::LoggingIn(exchange) | State::ChangingUser(exchange)) = &self.target.state else { return };
        let name = self.shared.name_for_counters(&self.client.user());
        ctx.count(&format!("logins: {name} ({})", exchange.plugin().name()), 1);
        if matches!(self.target.state, State::ChangingUser(_)) {
            self.target.state = State::Ready;
            return self.on_answered(ctx);
        }
        if self.target.again {
            let settings = self.settings.iter().cloned().map(|payload| (payload, None));
            self.target.to_say = settings.collect();
            for key in self.statements.forget_target() {
                if let Some(statement) = self.statements.get(key) {
                    let payload = [&[STMT_PREPARE], &statement.text[..]].concat();
                    self.target.to_say.push_back((payload, Some(key)));
                }
            }
        }
        self.say_next(ctx);
    }

    /// Says the next thing that a new connection has to be told; when there is none, what the client wants.
    fn say_next(&mut self, ctx: &mut Ctx<'_>) {
        if let Some((payload, key)) = self.target.to_say.pop_front() {
            ctx.send(&packet(0, &payload));
            self.target.state = State::Restoring(key);
            let answer = if key.is_some() { Answer::Prepared } else { Answer::Results };
            let answer = if payload.first() == Some(&crate::command::INIT_DB) { Answer::Done } else { answer };
            // The queue of a follower that has just begun is not full.
            let _ = self.target.follower.expect(answer);
            return;
        }
        self.target.state = State::Ready;
        if let Some(asked) = self.asked.take() {
            self.ask_once_more(ctx, asked);
        }
        ctx.ready();
        ctx.ask_again();
    }

    /// The command that waited for the new connection goes there.
    fn ask_once_more(&mut self, ctx: &mut Ctx<'_>, asked: Asked) {
        let payload = std::mem::take(&mut self.payload);
        match self.in_targets_words(asked.command, &payload) {
            Ok(sent) => {
                ctx.send(&packet(0, &sent));
                ctx.expect_response();
                let _ = self.target.follower.expect(asked.command.answer);
                self.asked = Some(Asked { at: ctx.now(), ..asked });
                self.payload = payload;
            }
            Err(reason) => {
                ctx.count(reason, 1);
                self.payload = payload;
            }
        }
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>, event: Event) {
        if let State::Restoring(key) = self.target.state {
            match event {
                Event::Prepared { id, parameters } => {
                    if let Some(statement) = key.and_then(|key| self.statements.get(key)) {
                        (statement.target, statement.parameters) = (OnTarget::Prepared(id), parameters);
                        ctx.count("statements prepared again", 1);
                    }
                }
                Event::Error(_) => {
                    ctx.count("settings and statements refused on a new connection", 1);
                    if let Some(statement) = key.and_then(|key| self.statements.get(key)) {
                        statement.target = OnTarget::Refused;
                    }
                }
                Event::Complete => self.say_next(ctx),
                Event::WantsFile | Event::Unasked(_) => {}
            }
            return;
        }
        match event {
            Event::Prepared { id, parameters } => {
                if let Some(statement) =
                    self.asked.as_ref().and_then(|a| a.prepares).and_then(|k| self.statements.get(k))
                {
                    (statement.target, statement.parameters) = (OnTarget::Prepared(id), parameters);
                }
            }
            Event::Error(error) => {
                ctx.count(&format!("errors of the target: {}", error.code), 1);
                if let Some(asked) = &mut self.asked {
                    asked.error = Some(error.code);
                    if let Some(statement) = asked.prepares.and_then(|key| self.statements.get(key)) {
                        let as_query = error.code == UNSUPPORTED_TO_PREPARE && !statement.text.contains(&b'?');
                        statement.target = if as_query { OnTarget::AsQuery } else { OnTarget::Refused };
                    }
                }
            }
            Event::WantsFile => {
                self.client.file_is_wanted();
                // For the gate that is the answer; the file has one of its own.
                ctx.response_complete();
                ctx.ask_again();
            }
            Event::Complete => self.on_answered(ctx),
            Event::Unasked(error) => ctx.count(&format!("closed by the target: {}", error.code), 1),
        }
    }

    /// The target has answered.
    fn on_answered(&mut self, ctx: &mut Ctx<'_>) {
        let Some(asked) = self.asked.take() else { return };
        ctx.response_complete();
        self.client.file_is_over();
        let took = ctx.now().since(asked.at);
        if took > self.shared.settings.slow {
            ctx.count("slow on the target", 1);
        }
        if let Some(log) = &self.shared.log {
            let online = self.online.time(asked.number);
            let entry = Entry {
                session: ctx.info(),
                user: &self.client.user(),
                command: asked.command.name,
                kind: asked.kind,
                text: &self.text,
                online,
                target: took,
                error: asked.error,
            };
            if !log.write(&entry) {
                ctx.count("lines that the statement log had no room for", 1);
            }
        }
        ctx.ask_again();
    }

    /// The client becomes another user: so does the target's connection. `Err`: the session is given up, and why.
    pub(super) fn change_user(&mut self, ctx: &mut Ctx<'_>, changed: Login) -> Result<(), String> {
        let Some((greeting, _)) = &self.target.greeting else { return Ok(()) };
        let user = text(&changed.user);
        let Some(password) = self.shared.settings.password(&changed.user) else {
            ctx.count(&format!("users without a password here: {}", self.shared.name_for_counters(&changed.user)), 1);
            ctx.log(LogLevel::Warn, &format!("no password for user `{user}` on the target: give it with -u"));
            return Err("a user without a password here".to_owned());
        };
        // Its salt is that of the greeting, until the target asks for another plugin.
        let mut exchange = Exchange::new(password, greeting.auth_plugin.as_bytes(), greeting.salt);
        let proof = exchange.first_proof();
        let mut payload = Vec::new();
        changed.write_change_user(self.target.capabilities, &proof, exchange.plugin().name(), &mut payload);
        ctx.send(&packet(0, &payload));
        self.client.login = Some(changed);
        self.statements.clear();
        self.settings.clear();
        self.target.packets = Packets::new();
        self.target.state = State::ChangingUser(exchange);
        Ok(())
    }

    /// What the target must not know of: it goes wrong from here on. Told once in the log, with what to do about it.
    pub(super) fn cannot_be_copied(&self, ctx: &mut Ctx<'_>, tls: bool) {
        let (told, name, advice) = if tls {
            (
                &self.shared.told_tls,
                "sessions over TLS",
                "sessions over TLS cannot be copied: capture behind the end of TLS, or let clients of a trusted network \
                 connect without it (ssl-mode=DISABLED)",
            )
        } else {
            (
                &self.shared.told_compression,
                "compressed sessions",
                "sessions with compressed packets cannot be copied: let the clients connect without compression",
            )
        };
        if !told.swap(true, Relaxed) {
            ctx.log(LogLevel::Warn, advice);
        }
        // Which counts it.
        ctx.abort(name);
    }

    /// Begins to wait for the answer to a command that went out.
    pub(super) fn expect(&mut self, ctx: &mut Ctx<'_>, asked: Asked) {
        ctx.expect_response();
        // A change of user is answered to the exchange.
        if asked.command.answer != Answer::Login && self.target.follower.expect(asked.command.answer).is_err() {
            ctx.abort("the target answers nothing");
        }
        self.asked = Some(asked);
    }
}

/// A payload as one packet, or as many as it needs.
pub(super) fn in_packets(payload: &[u8]) -> Vec<u8> {
    packet(0, payload)
}
