//! A tcpcopy module for memcached: what clients read is copied, what they write is left out.
//!
//! A test server can so be given production's reads without its contents being changed by production's writes, which it
//! may get by another way, such as replication. Only the text protocol is understood; a session of the binary one is
//! given up.
//!
//! Options: `commands=gat,touch` copies these commands, too.

mod request;
mod response;

use std::sync::Arc;

use request::{Answer, Command, Kind, Requests};
use response::Answers;
use tcpcopy_module_api::framing::{find_boundary, messages};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, LogLevel, Module, OptionSpec, Options, Payload, Session, SessionInfo,
    TargetData, Transport,
};

tcpcopy_module_api::export_module!(MemcachedReads);

/// The module.
#[derive(Clone, Debug)]
pub struct MemcachedReads {
    /// Commands to copy besides those that only read.
    commands: Arc<[&'static Command]>,
}

impl Module for MemcachedReads {
    fn about() -> About {
        const OPTIONS: &[OptionSpec] = &[OptionSpec {
            name: "commands",
            value: "COMMAND[,COMMAND...]",
            help: "commands to copy besides those that only read",
        }];
        About {
            name: "memcached_reads",
            summary: "copies what memcached's clients read, and not what they write",
            options: OPTIONS,
            ..About::new(Transport::Tcp, env!("CARGO_PKG_VERSION"))
        }
    }

    fn create(options: &Options) -> Result<Self, String> {
        let names = options.get("commands").unwrap_or_default();
        let commands = names.split(',').filter(|_| !names.is_empty()).map(|name| {
            Command::named(name.trim().as_bytes())
                .ok_or_else(|| format!("option `commands`: memcached has no command `{name}`; `gat,touch` would do"))
        });
        Ok(Self { commands: commands.collect::<Result<_, _>>()? })
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(Reads { commands: Arc::clone(&self.commands), answers: Some(Answers::new()) })
    }

    /// Two commands in a row, each known and with its data block where it should be, are no coincidence.
    fn join_at(&self, data: &[u8]) -> Option<usize> {
        find_boundary(&Requests { strict: true }, data, 2)
    }

    /// Nothing was agreed on a connection, so any other is as good.
    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}

/// A client's connection.
struct Reads {
    commands: Arc<[&'static Command]>,
    /// Which commands were answered, as long as that can be followed.
    answers: Option<Answers>,
}

impl Session for Reads {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::Full);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        for message in messages(&Requests { strict: false }, data) {
            match message {
                Ok(message) => self.decide(ctx, message.bytes, message.len),
                Err(fault) => ctx.abort(&fault.to_string()),
            }
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        let Some(answers) = &mut self.answers else { return };
        match answers.come(data.bytes) {
            Ok(answered) => (0..answered).for_each(|_| ctx.response_complete()),
            Err(fault) => {
                ctx.log(LogLevel::Warn, &format!("the target's answers are not memcached's: {fault}"));
                self.follow_no_more(ctx);
            }
        }
    }

    /// What was asked on the old connection is not answered on the new one; what waits for it will be.
    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        let missing = usize::try_from(ctx.missing_responses()).unwrap_or(usize::MAX);
        self.answers = self.answers.take().map(|answers| answers.on_new_connection(missing));
        ctx.ready();
    }
}

impl Reads {
    /// Decides about a command, of which at least the line has come.
    fn decide(&mut self, ctx: &mut Ctx<'_>, message: &[u8], len: usize) {
        let line = message.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let Some(command) = Command::of(line) else {
            ctx.count("unknown", 1);
            ctx.drop(len, "unknown command");
            return;
        };
        ctx.count(command.name, 1);
        if command.kind != Kind::Read && !self.commands.contains(&command) {
            ctx.drop(len, if command.kind == Kind::Write { "write" } else { "administration" });
            return;
        }
        ctx.pass(len);
        let answer = command.answer_to(line);
        if answer == Answer::None {
            return;
        }
        if let Some(answers) = &mut self.answers {
            if answers.expect(answer) {
                ctx.expect_response();
            } else {
                self.follow_no_more(ctx);
            }
        }
    }

    /// What the target answers can no longer be told; the client's next turn must not wait for it.
    fn follow_no_more(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(answers) = self.answers.take() {
            (0..answers.missing()).for_each(|_| ctx.response_complete());
            ctx.want_payload(Payload::Headers);
        }
    }
}
