//! A tcpcopy module for a protocol of lines: lines that begin with a given text are left out, all others are copied.
//!
//! Options: `without=TEXT`.

use std::sync::Arc;

use tcpcopy_module_api::framing::{Lines, messages};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, Module, OptionSpec, Options, Session, SessionInfo, Transport,
};

tcpcopy_module_api::export_module!(TemplateModule);

/// Longest line, in bytes. Whoever sends more does not speak this protocol.
const LONGEST_LINE: usize = 65_536;

/// The module. It is made once; what all sessions share is here.
#[derive(Clone, Debug)]
pub struct TemplateModule {
    /// What lines begin with that are left out; nothing when empty.
    without: Arc<[u8]>,
}

impl Module for TemplateModule {
    fn about() -> About {
        const OPTIONS: &[OptionSpec] =
            &[OptionSpec { name: "without", value: "TEXT", help: "leave out lines that begin with this" }];
        About {
            name: "template",
            summary: "copies lines, and leaves some of them out",
            options: OPTIONS,
            ..About::new(Transport::Tcp, env!("CARGO_PKG_VERSION"))
        }
    }

    fn create(options: &Options) -> Result<Self, String> {
        let without = options.get("without").unwrap_or_default();
        if without.contains('\n') {
            return Err("option `without`: a line begins with no line end; give what stands in one line".to_owned());
        }
        Ok(Self { without: without.as_bytes().into() })
    }

    /// A client connects: with nothing to leave out, tcpcopy copies all of it and never asks again.
    fn on_open(&self, _: &SessionInfo) -> Attachment {
        if self.without.is_empty() {
            return Attachment::Bypass;
        }
        Attachment::watch(TemplateSession { without: Arc::clone(&self.without) })
    }

    /// Nothing was agreed on a connection, so any other is as good.
    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}

/// A client's connection. What has to be remembered of it belongs here.
struct TemplateSession {
    without: Arc<[u8]>,
}

impl Session for TemplateSession {
    /// `data` begins where the last call stopped deciding. Half a line at the end stays undecided, and comes again with
    /// more.
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        for line in messages(&Lines::new(LONGEST_LINE), data) {
            match line {
                Ok(line) if line.bytes.starts_with(&self.without) => {
                    ctx.count("lines left out", 1);
                    ctx.drop(line.len, "begins with the text of the option `without`");
                }
                Ok(line) => ctx.pass(line.len),
                Err(fault) => return ctx.abort(&fault.to_string()),
            }
        }
    }
}
