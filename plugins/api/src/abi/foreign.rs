//! A module from a table that somebody else has filled in.

use std::panic::resume_unwind;
use std::ptr::NonNull;
use std::sync::Arc;
use std::{fmt, ptr};

use super::context::{Context, Failure};
use super::convert::transport_of;
use super::{
    ABI_VERSION, AFTER_CLOSE_END, AFTER_CLOSE_RECONNECT, FAILED, ModuleTable, NO_BOUNDARY, RawModule, RawSession,
    RawSessionInfo, RawSetting, Slice,
};
use crate::{
    About, AfterTargetClose, Attachment, Ctx, Module, ModuleHandle, OptionSpec, Options, Session, SessionInfo,
    TargetData, Transport,
};

/// Options that a module may have at most, and bytes of a text that users see of it.
const MAX_OPTIONS: usize = 256;
const MAX_NAME: usize = 64;
const MAX_TEXT: usize = 1_024;

/// Why a table is not that of a module that this program can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// There is none: the function returned a null pointer.
    Null,
    /// It is of another version of the ABI.
    AbiVersion {
        /// The module's.
        found: u32,
    },
    /// Its size is not the one that goes with its version.
    StructSize {
        /// The module's.
        found: u32,
    },
    /// A hook that must be there is not.
    HookMissing {
        /// The hook.
        hook: &'static str,
    },
    /// A text that users see is too long, not UTF-8, more than a line, or not a name.
    Text {
        /// Which one.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its transport protocol is neither TCP nor UDP.
    Transport {
        /// The number that it gives.
        found: u32,
    },
    /// It has more options than any module should, or a null pointer instead of them.
    OptionCount {
        /// How many.
        found: usize,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("it returned no table: it failed before it could say what it is"),
            Self::AbiVersion { found } => {
                write!(f, "it is built for ABI version {found}, and this program has {ABI_VERSION}: build it again")
            }
            Self::StructSize { found } => write!(
                f,
                "its table has {found} bytes, and that of ABI version {ABI_VERSION} has {}: build it again with this \
                 version's tcpcopy_module.h or tcpcopy-module-api",
                size_of::<ModuleTable>()
            ),
            Self::HookMissing { hook } => write!(f, "it lacks the hook `{hook}`, which every module needs"),
            Self::Text { what, why } => write!(f, "its {what} {why}"),
            Self::Transport { found } => {
                write!(
                    f,
                    "its transport is {found}, which is neither TCP ({}) nor UDP ({})",
                    super::TRANSPORT_TCP,
                    super::TRANSPORT_UDP
                )
            }
            Self::OptionCount { found } => {
                write!(f, "it says it takes {found} options, and none are there or too many")
            }
        }
    }
}

impl std::error::Error for TableError {}

/// Why a module could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// It says that it cannot be made so.
    Refused {
        /// In its own words.
        message: String,
    },
    /// It panicked.
    Panicked {
        /// What the panic said.
        message: String,
    },
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { message } => f.write_str(message),
            Self::Panicked { message } => write!(f, "it panicked while it was made: {message}"),
        }
    }
}

impl std::error::Error for CreateError {}

/// A module that can be made, behind a table that was looked at and found right.
#[derive(Clone, Copy, Debug)]
pub struct ForeignModule {
    about: About,
    table: &'static ModuleTable,
}

impl ForeignModule {
    /// Looks at a table. Its texts are copied, and stay for good.
    ///
    /// # Errors
    /// What is wrong with it.
    ///
    /// # Safety
    /// `table` is null, or what a library's [`SYMBOL`](super::SYMBOL) returned: at least eight readable bytes, more when
    /// they say so, that hold for good what `tcpcopy_module.h` asks for. The library is never unloaded.
    pub unsafe fn from_table(table: *const ModuleTable) -> Result<Self, TableError> {
        let Some(table) = NonNull::new(table.cast_mut()) else { return Err(TableError::Null) };
        // SAFETY: these eight bytes are the same in every version. The rest is only looked at when they are right.
        let [abi_version, struct_size] = unsafe { table.cast::<[u32; 2]>().read() };
        if abi_version != ABI_VERSION {
            return Err(TableError::AbiVersion { found: abi_version });
        }
        if struct_size as usize != size_of::<ModuleTable>() {
            return Err(TableError::StructSize { found: struct_size });
        }
        // SAFETY: its version and size are ours, and it is there for good.
        let table: &'static ModuleTable = unsafe { table.as_ref() };
        let required = [
            ("create", table.create.is_some()),
            ("destroy", table.destroy.is_some()),
            ("session_open", table.session_open.is_some()),
            ("session_destroy", table.session_destroy.is_some()),
            ("on_client_data", table.on_client_data.is_some()),
        ];
        if let Some((hook, _)) = required.into_iter().find(|(_, there)| !there) {
            return Err(TableError::HookMissing { hook });
        }
        // SAFETY: the caller's promise about what the table holds.
        let about = unsafe { about(table)? };
        Ok(Self { about, table })
    }

    /// What users see of it.
    pub fn about(&self) -> About {
        self.about
    }

    /// Makes the module.
    ///
    /// # Errors
    /// What the module says, or that it panicked.
    pub fn create(&self, options: &Options) -> Result<ModuleHandle, CreateError> {
        let settings: Vec<RawSetting> = options
            .iter()
            .map(|(name, value)| RawSetting { name: Slice::of(name.as_bytes()), value: Slice::of(value.as_bytes()) })
            .collect();
        let mut module = ptr::null_mut::<RawModule>();
        let hook = self.table.create.expect("looked at in from_table");
        // SAFETY: a hook of a table that was found right, with what the header says it gets.
        let made = Context::new(None)
            .call(|host, cx| unsafe { hook(host, cx, settings.as_ptr(), settings.len(), &raw mut module) });
        made.map_err(|Failure { status, text }| match status {
            FAILED => CreateError::Refused { message: text },
            _ => CreateError::Panicked { message: text },
        })?;
        let made = Arc::new(Made { table: self.table, module });
        Ok(ModuleHandle { about: self.about, module: Arc::new(MadeModule(made)) })
    }
}

/// What users see of the module.
///
/// # Safety
/// As [`ForeignModule::from_table`].
unsafe fn about(table: &ModuleTable) -> Result<About, TableError> {
    // SAFETY: the caller's promise, for this and the following texts.
    let name = unsafe { text("name", table.name, MAX_NAME)? };
    if !is_module_name(name) {
        let why = format!("`{name}` is not one: lower-case letters, digits, `-` and `_`, a letter first");
        return Err(TableError::Text { what: "name".to_owned(), why });
    }
    let transport = transport_of(table.transport).ok_or(TableError::Transport { found: table.transport })?;
    let count = table.option_count;
    if count > MAX_OPTIONS || (count > 0 && table.options.is_null()) {
        return Err(TableError::OptionCount { found: count });
    }
    let mut options = Vec::with_capacity(count);
    for i in 0..count {
        // SAFETY: there are as many as the table says.
        let raw = unsafe { table.options.add(i).read() };
        // SAFETY: as above.
        let option = unsafe { text("option's name", raw.name, MAX_NAME)? };
        if !is_option_name(option) {
            let why = format!("`{option}` is not one: letters, digits, `-` and `_`");
            return Err(TableError::Text { what: "option's name".to_owned(), why });
        }
        // SAFETY: as above.
        let (value, help) = unsafe {
            (
                text(&format!("option `{option}`'s value"), raw.value, MAX_TEXT)?,
                text(&format!("option `{option}`'s help"), raw.help, MAX_TEXT)?,
            )
        };
        options.push(OptionSpec { name: keep(option), value: keep(value), help: keep(help) });
    }
    // SAFETY: as above.
    let (version, summary) =
        unsafe { (text("version", table.version, MAX_NAME)?, text("summary", table.summary, MAX_TEXT)?) };
    Ok(About {
        name: keep(name),
        version: keep(version),
        summary: keep(summary),
        transport,
        options: options.leak(),
        sees_online: table.sees_online != 0,
    })
}

/// A library is there for good, and so are the texts that it came with.
fn keep(text: &str) -> &'static str {
    text.to_owned().leak()
}

/// A text of the table, of one line.
///
/// # Safety
/// Its bytes must be there while `'a` lasts.
unsafe fn text<'a>(what: &str, slice: Slice, max: usize) -> Result<&'a str, TableError> {
    let wrong = |why: String| TableError::Text { what: what.to_owned(), why };
    // The length is looked at before the bytes are.
    if slice.len > max {
        return Err(wrong(format!("has {} bytes, and more than {max} are too many", slice.len)));
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { slice.bytes() }.ok_or_else(|| wrong("is a null pointer".to_owned()))?;
    let text = std::str::from_utf8(bytes).map_err(|e| wrong(format!("is not UTF-8: {e}")))?;
    if text.chars().any(char::is_control) {
        return Err(wrong(format!("has control characters: {text:?}")));
    }
    Ok(text)
}

/// Whether `name` can be that of a module: lower-case letters, digits, `-` and `_`, a letter first.
pub fn is_module_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

fn is_option_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A hook's failure goes on as the panic that it was, or would have been. The library has said so on the terminal, if it
/// wished to.
fn go_on(result: Result<(), Failure>) {
    if let Err(failure) = result {
        resume_unwind(Box::new(failure.text));
    }
}

/// What a library has made.
struct Made {
    table: &'static ModuleTable,
    module: *mut RawModule,
}

// SAFETY: the header asks that a module's hooks may be called on any thread, and on several at a time.
unsafe impl Send for Made {}
// SAFETY: as above.
unsafe impl Sync for Made {}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(hook) = self.table.destroy {
            // SAFETY: made by `create` of the same table, ended once, and each of its sessions has ended: they have this, too.
            unsafe { hook(self.module) }
        }
    }
}

/// A module that a library has made.
struct MadeModule(Arc<Made>);

impl Module for MadeModule {
    // What is in a table is not known to a type: `ForeignModule` has both of these.
    fn about() -> About {
        About::new(Transport::Tcp, "")
    }

    fn create(_: &Options) -> Result<Self, String> {
        Err("a module of a library is made through its table".to_owned())
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        let Some(hook) = self.0.table.session_open else { return Attachment::Bypass };
        let info = RawSessionInfo::from(info);
        let mut session = ptr::null_mut::<RawSession>();
        // SAFETY: a hook of a table that was found right, with what the header says it gets.
        go_on(
            Context::new(None)
                .call(|host, cx| unsafe { hook(self.0.module, host, cx, &raw const info, &raw mut session) }),
        );
        match NonNull::new(session) {
            Some(session) => Attachment::watch(MadeSession { made: Arc::clone(&self.0), session }),
            None => Attachment::Bypass,
        }
    }

    fn join_at(&self, data: &[u8]) -> Option<usize> {
        let Some(hook) = self.0.table.join_at else { return Some(0) };
        let mut offset = NO_BOUNDARY;
        // SAFETY: as above.
        go_on(
            Context::new(None)
                .call(|host, cx| unsafe { hook(self.0.module, host, cx, Slice::of(data), &raw mut offset) }),
        );
        (offset != NO_BOUNDARY).then_some(offset)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        let Some(hook) = self.0.table.after_target_close else { return AfterTargetClose::End };
        let mut answer = AFTER_CLOSE_END;
        // SAFETY: as above.
        go_on(Context::new(None).call(|host, cx| unsafe { hook(self.0.module, host, cx, &raw mut answer) }));
        if answer == AFTER_CLOSE_RECONNECT { AfterTargetClose::Reconnect } else { AfterTargetClose::End }
    }
}

/// A session that a library has opened.
struct MadeSession {
    made: Arc<Made>,
    session: NonNull<RawSession>,
}

// SAFETY: the header asks that a session's hooks may be called on any thread, one after another.
unsafe impl Send for MadeSession {}

impl Drop for MadeSession {
    fn drop(&mut self) {
        if let Some(hook) = self.made.table.session_destroy {
            // SAFETY: opened by `session_open` of the same table, and ended once.
            unsafe { hook(self.session.as_ptr()) }
        }
    }
}

/// Calls a hook of a session, when it is there; says whether it is.
macro_rules! hook {
    ($self:ident.$hook:ident($ctx:ident $(, $arg:expr)*)) => {
        match $self.made.table.$hook {
            Some(hook) => {
                let session = $self.session.as_ptr();
                // SAFETY: a hook of a table that was found right, with a session of its own, and what the header says
                // it gets.
                go_on(Context::new(Some($ctx)).call(|host, cx| unsafe { hook(session, host, cx $(, $arg)*) }));
                true
            }
            None => false,
        }
    };
}

impl Session for MadeSession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        hook!(self.on_open(ctx));
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        hook!(self.on_client_data(ctx, Slice::of(data)));
    }

    fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
        if !hook!(self.on_client_close(ctx, Slice::of(held))) {
            Absent.on_client_close(ctx, held);
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        hook!(self.on_target_data(ctx, Slice::of(data.bytes), data.hidden));
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        hook!(self.on_online_data(ctx, Slice::of(data), lost));
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        if !hook!(self.on_resume(ctx)) {
            Absent.on_resume(ctx);
        }
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, reason: Option<&str>) {
        hook!(self.on_close(ctx, reason.map_or(Slice::NULL, |reason| Slice::of(reason.as_bytes()))));
    }
}

/// What a hook does that is not there: the trait's own default.
struct Absent;

impl Session for Absent {
    fn on_client_data(&mut self, _: &mut Ctx<'_>, _: &[u8]) {}
}
