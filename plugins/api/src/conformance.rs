//! What any module must keep to, as a suite that runs against one: [`check`] with samples of its protocol, and
//! [`check_options`].
//!
//! ```
//! use tcpcopy_module_api::conformance::{Sample, Samples, check};
//! # use tcpcopy_module_api::{About, Attachment, Ctx, Module, ModuleHandle, Options, Session, SessionInfo, Transport};
//! # use tcpcopy_module_api::framing::{Lines, messages};
//! # struct NoMinus;
//! # impl Module for NoMinus {
//! #     fn about() -> About {
//! #         About { name: "nominus", summary: "lines without a minus", ..About::new(Transport::Tcp, "1") }
//! #     }
//! #     fn create(_: &Options) -> Result<Self, String> { Ok(Self) }
//! #     fn on_open(&self, _: &SessionInfo) -> Attachment { Attachment::watch(LineSession) }
//! # }
//! # struct LineSession;
//! # impl Session for LineSession {
//! #     fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
//! #         for line in messages(&Lines::new(1_000), data) {
//! #             match line {
//! #                 Ok(line) if line.bytes[0] == b'-' => ctx.drop(line.len, "begins with a minus"),
//! #                 Ok(line) => ctx.pass(line.len),
//! #                 Err(fault) => ctx.abort(&fault.to_string()),
//! #             }
//! #         }
//! #     }
//! # }
//! let samples = Samples::new(vec![
//!     Sample::of("lines").client(b"one\n-two\n").client(b"three\n").reaches_target(b"one\nthree\n"),
//! ]);
//! if let Err(failure) = check(&ModuleHandle::new(NoMinus), &samples) {
//!     panic!("{failure}");
//! }
//! ```
//!
//! The suite needs no engine: it runs on [`Conversation`](crate::testing::Conversation)s. A module that passes it may still copy the wrong things; its
//! own tests say what the right ones are.

mod rules;
mod samples;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use samples::{Sample, Samples, Step};

use crate::{About, ModuleHandle, Options};

/// A rule that every module keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// What users see of it is complete: a name that `--proto` takes, a version, a summary of a line.
    About,
    /// A sample comes to what its author says.
    Sample,
    /// The same calls come to the same.
    Determinism,
    /// It makes no difference how a stream is cut into segments: messages, counters and reasons are the same.
    Segmentation,
    /// Whatever comes, from whom it may, no hook panics.
    NoPanic,
    /// What is held has a bound.
    HeldBound,
    /// A client or a target may close anywhere.
    Close,
    /// [`Module::join_at`](crate::Module::join_at) gives an offset within what it was shown, and a session joined between
    /// two messages goes on with whole messages.
    Join,
    /// After a reconnect, at any message, a session goes on with whole messages or waits for something that it has asked
    /// the target. Where a sample's server speaks first, it may wait for that.
    Reconnect,
    /// Values that cannot be used are refused, with the option's name in what is said.
    Options,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::About => "what users see is complete",
            Self::Sample => "a sample comes to what its author says",
            Self::Determinism => "the same calls come to the same",
            Self::Segmentation => "it makes no difference how a stream is cut into segments",
            Self::NoPanic => "no hook panics",
            Self::HeldBound => "what is held has a bound",
            Self::Close => "either side may close anywhere",
            Self::Join => "a session joined mid-stream begins with a whole message",
            Self::Reconnect => "a reconnected session goes on, or has asked the target for something",
            Self::Options => "values that cannot be used are refused by name",
        })
    }
}

/// A rule that a module breaks, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The rule.
    pub rule: Rule,
    /// The module's name.
    pub module: String,
    /// The input, and what came of it.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "module `{}` breaks the rule that {}: {}", self.module, self.rule, self.what)
    }
}

impl std::error::Error for Failure {}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Conversations held.
    pub conversations: u64,
    /// Client's bytes shown in them.
    pub bytes: u64,
}

/// Runs the suite with these samples: thousands of conversations, cut, garbled and broken off in every place.
///
/// # Errors
/// The first rule that the module breaks.
pub fn check(module: &ModuleHandle, samples: &Samples) -> Result<Report, Failure> {
    let mut suite = Suite { module, samples, report: Report::default() };
    suite.about()?;
    for sample in &samples.samples {
        suite.sample(sample)?;
        suite.determinism(sample)?;
        suite.segmentation(sample)?;
        suite.closes(sample)?;
        suite.joins(sample)?;
        suite.reconnects(sample)?;
        suite.garbled(sample)?;
    }
    suite.garbage()?;
    suite.floods()?;
    Ok(suite.report)
}

/// Runs the part of the suite that is about options: the module can be made without any, and refuses each of `refused`, an
/// option's name and a value that cannot be used.
///
/// # Errors
/// The first of them that breaks the rule.
pub fn check_options(
    about: &About,
    create: impl Fn(&Options) -> Result<ModuleHandle, String>,
    refused: &[(&str, &str)],
) -> Result<(), Failure> {
    let fail = |what: String| Err(Failure { rule: Rule::Options, module: about.name.to_owned(), what });
    if let Err(error) = create(&Options::default()) {
        return fail(format!("without any option it cannot be made: {error}"));
    }
    for spec in about.options {
        if spec.name.is_empty() || spec.value.is_empty() || spec.help.is_empty() {
            return fail(format!("option `{}` has no name, no word for its value, or no help", spec.name));
        }
    }
    for (name, value) in refused {
        if !about.options.iter().any(|spec| spec.name == *name) {
            return fail(format!("`{name}` is not among the options that it says it takes"));
        }
        match create(&Options::new(vec![((*name).to_owned(), (*value).to_owned())])) {
            Ok(_) => return fail(format!("option `{name}` takes `{value}`")),
            Err(error) if !error.contains(name) => {
                return fail(format!("option `{name}`, `{value}`: the error does not name it: {error}"));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// A run of the suite. The rules are in [`rules`].
struct Suite<'a> {
    module: &'a ModuleHandle,
    samples: &'a Samples,
    report: Report,
}

impl Suite<'_> {
    fn fail<T>(&self, rule: Rule, what: impl Into<String>) -> Result<T, Failure> {
        Err(Failure { rule, module: self.module.about.name.to_owned(), what: what.into() })
    }

    /// Holds a conversation; `what` says which, should it fail.
    fn converse<T>(
        &mut self,
        what: impl Fn() -> String,
        conversation: impl FnOnce(&ModuleHandle) -> T,
    ) -> Result<T, Failure> {
        self.report.conversations += 1;
        match catch_unwind(AssertUnwindSafe(|| conversation(self.module))) {
            Ok(outcome) => Ok(outcome),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
                self.fail(Rule::NoPanic, format!("{}: {text}", what()))
            }
        }
    }

    /// What is held stays within the bound.
    fn check_held(&self, held: usize, what: impl Fn() -> String) -> Result<(), Failure> {
        let most = self.samples.most_held;
        if held > most {
            return self.fail(Rule::HeldBound, format!("{}: {held} bytes are held, where {most} is the most", what()));
        }
        Ok(())
    }
}
