//! A module of lines that uses all of the API, and fails where it is told to.

use tcpcopy_module_api::framing::{Lines, messages};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, LogLevel, Module, OptionSpec, Options, Payload, Session, SessionInfo,
    TargetData, Transport, export_module,
};

struct Sample {
    panic_in: Option<String>,
    prefix: String,
}

const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "prefix", value: "TEXT", help: "what the lines that are left out begin with" },
    OptionSpec { name: "panic-in", value: "HOOK", help: "the hook that panics" },
];

impl Module for Sample {
    fn about() -> About {
        About {
            name: "sample",
            summary: "leaves out lines that begin with a text",
            options: OPTIONS,
            sees_online: true,
            ..About::new(Transport::Tcp, "1.2.3")
        }
    }

    fn create(options: &Options) -> Result<Self, String> {
        let panic_in = options.get("panic-in").map(str::to_owned);
        assert!(panic_in.as_deref() != Some("create"), "told to panic in create");
        let prefix = options.get("prefix").unwrap_or("-").to_owned();
        if prefix.is_empty() {
            return Err("option `prefix`: every line begins with nothing".to_owned());
        }
        Ok(Self { panic_in, prefix })
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        assert!(self.panic_in.as_deref() != Some("open"), "told to panic in open");
        if info.online.server.port.0 == 9 {
            return Attachment::Bypass;
        }
        Attachment::watch(SampleSession {
            panic_in: self.panic_in.clone(),
            prefix: self.prefix.clone(),
            dropped: Dropped(self.panic_in.as_deref() == Some("destroy")),
        })
    }

    fn join_at(&self, data: &[u8]) -> Option<usize> {
        data.iter().position(|byte| *byte == b'\n').map(|end| end + 1)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}

struct SampleSession {
    panic_in: Option<String>,
    prefix: String,
    #[allow(dead_code)]
    dropped: Dropped,
}

/// Panics when it goes, if told to.
struct Dropped(bool);

impl Drop for Dropped {
    fn drop(&mut self) {
        assert!(!self.0, "told to panic in destroy");
    }
}

impl SampleSession {
    fn reached(&self, hook: &str) {
        assert!(self.panic_in.as_deref() != Some(hook), "told to panic in {hook}");
    }
}

impl Session for SampleSession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        self.reached("on_open");
        ctx.want_payload(Payload::First(100));
        let text = format!("{} {} {}", ctx.info().online, ctx.info().target, ctx.info().joined);
        ctx.log(LogLevel::Info, &text);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        self.reached("on_client_data");
        for line in messages(&Lines::new(1_000), data) {
            match line {
                Ok(line) if line.bytes.starts_with(self.prefix.as_bytes()) => {
                    ctx.drop(line.len, "begins with the prefix");
                }
                Ok(line) => {
                    if line.bytes.starts_with(b"panic!") {
                        self.reached("a line that says so");
                    }
                    while line.bytes.starts_with(b"hang!") && self.panic_in.as_deref() == Some("nothing, but hang") {
                        std::thread::park();
                    }
                    ctx.pass(line.len);
                    ctx.expect_response();
                }
                Err(fault) => ctx.abort(&fault.to_string()),
            }
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        self.reached("on_target_data");
        ctx.count("hidden", u64::from(data.hidden));
        for _ in data.bytes.iter().filter(|byte| **byte == b'\n') {
            ctx.response_complete();
        }
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        self.reached("on_online_data");
        ctx.count("lost", lost);
        ctx.count("online", data.len() as u64);
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        self.reached("on_resume");
        ctx.count("resumed", 1);
        ctx.count("missing", ctx.missing_responses());
        ctx.send(b"hello\n");
        ctx.ready();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, reason: Option<&str>) {
        self.reached("on_close");
        ctx.count("closed", 1);
        ctx.log(LogLevel::Debug, reason.unwrap_or("copied to its end"));
    }
}

export_module!(Sample);
