//! The program's side of a call: what is behind the pointer that a hook is given, and the callbacks that take it.
//!
//! The callbacks run below the library's frames. What panics in them, in the engine that is, is kept and goes on when
//! the hook has returned.

use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

use super::convert::{level_of, payload_of};
use super::{ABI_VERSION, HostTable, OK, RawContext, RawSessionInfo, Slice};
use crate::Ctx;

/// The callbacks of this program.
pub(super) static HOST: HostTable = HostTable {
    abi_version: ABI_VERSION,
    struct_size: size_of::<HostTable>() as u32,
    fail: Some(fail),
    info: Some(info),
    now: Some(now),
    pass: Some(pass),
    drop: Some(drop_bytes),
    send: Some(send),
    ask_again: Some(ask_again),
    abort: Some(abort),
    bypass: Some(bypass),
    watch: Some(watch),
    expect_response: Some(expect_response),
    response_complete: Some(response_complete),
    reconnect: Some(reconnect),
    missing_responses: Some(missing_responses),
    forget_waiting: Some(forget_waiting),
    ready: Some(ready),
    want_payload: Some(want_payload),
    log: Some(log),
    count: Some(count),
};

/// How a hook failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What it returned.
    pub(super) status: u32,
    /// What it said.
    pub(super) text: String,
}

/// What is behind a [`RawContext`].
pub(super) struct Context<'a, 'b> {
    /// `None` in a hook of a module.
    ctx: Option<&'a mut Ctx<'b>>,
    /// A box of its own, null until asked for: the library keeps the pointer while later callbacks borrow the rest of this.
    info: *mut RawSessionInfo,
    said: Option<String>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a, 'b> Context<'a, 'b> {
    pub(super) fn new(ctx: Option<&'a mut Ctx<'b>>) -> Self {
        Self { ctx, info: ptr::null_mut(), said: None, panic: None }
    }

    /// Calls a hook.
    ///
    /// # Panics
    /// When the engine panicked in a callback.
    pub(super) fn call(mut self, hook: impl FnOnce(*const HostTable, *mut RawContext) -> u32) -> Result<(), Failure> {
        let status = hook(&raw const HOST, (&raw mut self).cast());
        if let Some(panic) = self.panic.take() {
            resume_unwind(panic);
        }
        match (status, self.said.take()) {
            (OK, None) => Ok(()),
            // It said why it fails, and then forgot to.
            (OK, Some(text)) => Err(Failure { status: super::FAILED, text }),
            (status, said) => Err(Failure {
                status,
                text: said.unwrap_or_else(|| format!("failed with status {status}, and did not say why")),
            }),
        }
    }

    fn misused(&mut self, text: &str) {
        self.said.get_or_insert_with(|| text.to_owned());
    }

    fn bytes(&mut self, slice: Slice) -> Option<&'static [u8]> {
        // SAFETY: the header asks a library for bytes that are there until the callback returns, and nobody keeps them
        // for longer.
        let bytes = unsafe { slice.bytes() };
        if bytes.is_none() {
            self.misused("gave the program a null pointer, or a length beyond all memory");
        }
        bytes
    }

    fn text(&mut self, slice: Slice) -> Option<Cow<'static, str>> {
        self.bytes(slice).map(String::from_utf8_lossy)
    }
}

impl Drop for Context<'_, '_> {
    fn drop(&mut self) {
        if !self.info.is_null() {
            // SAFETY: from `Box::into_raw` in `info`; the hook that could read it has returned.
            drop(unsafe { Box::from_raw(self.info) });
        }
    }
}

/// Runs `act` on the call that `context` is. Nothing unwinds out of it.
///
/// # Safety
/// `context` must be what a hook that is running now was given.
unsafe fn with<T>(context: *mut RawContext, otherwise: T, act: impl FnOnce(&mut Context<'_, '_>) -> T) -> T {
    if context.is_null() {
        return otherwise;
    }
    // SAFETY: a `Context` made by `call`, which does not touch it while the hook runs; hooks and callbacks run on one
    // thread, and a callback never comes within a callback.
    let context = unsafe { &mut *context.cast::<Context<'_, '_>>() };
    if context.panic.is_some() {
        return otherwise;
    }
    match catch_unwind(AssertUnwindSafe(|| act(context))) {
        Ok(value) => value,
        Err(panic) => {
            context.panic = Some(panic);
            otherwise
        }
    }
}

/// As [`with`], for what only a session's hooks may ask.
///
/// # Safety
/// As [`with`].
unsafe fn with_ctx(context: *mut RawContext, act: impl FnOnce(&mut Ctx<'_>)) {
    let act = |context: &mut Context<'_, '_>| {
        if let Some(ctx) = &mut context.ctx {
            act(ctx);
        }
    };
    // SAFETY: the caller's promise.
    unsafe { with(context, (), act) }
}

/// As [`with_ctx`], with a text or bytes.
///
/// # Safety
/// As [`with`], and the bytes are there until this returns.
unsafe fn with_bytes(context: *mut RawContext, slice: Slice, act: impl FnOnce(&mut Ctx<'_>, &[u8])) {
    let act = |context: &mut Context<'_, '_>| {
        if let Some(bytes) = context.bytes(slice)
            && let Some(ctx) = &mut context.ctx
        {
            act(ctx, bytes);
        }
    };
    // SAFETY: the caller's promise.
    unsafe { with(context, (), act) }
}

/// As [`with_bytes`], with a text; what is not UTF-8 in it is replaced.
///
/// # Safety
/// As [`with_bytes`].
unsafe fn with_text(context: *mut RawContext, slice: Slice, act: impl FnOnce(&mut Ctx<'_>, &str)) {
    // SAFETY: the caller's promise.
    unsafe { with_bytes(context, slice, |ctx, bytes| act(ctx, &String::from_utf8_lossy(bytes))) }
}

unsafe extern "C" fn fail(context: *mut RawContext, text: Slice) {
    let act = |context: &mut Context<'_, '_>| {
        if let Some(text) = context.text(text) {
            context.said = Some(text.into_owned());
        }
    };
    // SAFETY: a library calls this with what its hook was given.
    unsafe { with(context, (), act) }
}

unsafe extern "C" fn info(context: *mut RawContext) -> *const RawSessionInfo {
    let act = |context: &mut Context<'_, '_>| {
        if let Some(ctx) = &context.ctx
            && context.info.is_null()
        {
            context.info = Box::into_raw(Box::new(ctx.info().into()));
        }
        context.info.cast_const()
    };
    // SAFETY: a library calls this with what its hook was given.
    unsafe { with(context, ptr::null(), act) }
}

unsafe extern "C" fn now(context: *mut RawContext) -> u64 {
    let act = |context: &mut Context<'_, '_>| context.ctx.as_ref().map_or(0, |ctx| ctx.now().as_nanos());
    // SAFETY: a library calls this with what its hook was given.
    unsafe { with(context, 0, act) }
}

unsafe extern "C" fn missing_responses(context: *mut RawContext) -> u64 {
    let act = |context: &mut Context<'_, '_>| context.ctx.as_ref().map_or(0, |ctx| ctx.missing_responses());
    // SAFETY: a library calls this with what its hook was given.
    unsafe { with(context, 0, act) }
}

/// Callbacks that are a call of `Ctx` and nothing else.
macro_rules! callbacks {
    ($($name:ident($($arg:ident: $kind:ty),*) $with:ident($($given:ident),*) |$($bound:ident),*| $call:expr;)*) => {$(
        unsafe extern "C" fn $name(context: *mut RawContext $(, $arg: $kind)*) {
            // SAFETY: a library calls this with what its hook was given, and with bytes that are there.
            unsafe { $with(context $(, $given)*, |$($bound),*| $call) }
        }
    )*};
}

callbacks! {
    pass(n: usize) with_ctx() |ctx| ctx.pass(n);
    drop_bytes(n: usize, reason: Slice) with_text(reason) |ctx, text| ctx.drop(n, text);
    send(bytes: Slice) with_bytes(bytes) |ctx, bytes| ctx.send(bytes);
    ask_again() with_ctx() |ctx| ctx.ask_again();
    abort(reason: Slice) with_text(reason) |ctx, text| ctx.abort(text);
    bypass() with_ctx() |ctx| ctx.bypass();
    watch() with_ctx() |ctx| ctx.watch();
    expect_response() with_ctx() |ctx| ctx.expect_response();
    response_complete() with_ctx() |ctx| ctx.response_complete();
    reconnect() with_ctx() |ctx| ctx.reconnect();
    forget_waiting(reason: Slice) with_text(reason) |ctx, text| ctx.forget_waiting(text);
    ready() with_ctx() |ctx| ctx.ready();
    want_payload(how_much: u32) with_ctx() |ctx| ctx.want_payload(payload_of(how_much));
    log(level: u32, text: Slice) with_text(text) |ctx, text| ctx.log(level_of(level), text);
    count(name: Slice, n: u64) with_text(name) |ctx, name| ctx.count(name, n);
}
