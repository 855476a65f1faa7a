//! As whom the process runs, and what it may do: `--user`, capabilities, `no_new_privs`, niceness.
//!
//! # When
//!
//! What needs a privilege is opened first. Then, before threads are started that will need one again, [`reduce`] changes
//! the user and drops what is not needed any more. A thread inherits what its parent has at its start, and the kernel keeps
//! capabilities for each thread by itself: so a thread that is started before needs to call [`renounce`] as its first act.
//! The user, on the other hand, is changed for all threads: the C library sees to that, and ends the process if one of them
//! may not. So threads that renounce keep the right to be changed as long as [`expect_change`] says that they will be; the
//! change takes it from them.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::process::Capability;

/// Whom a process becomes: a user with their groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As it was written.
    pub name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Why privileges could not be reduced.
#[derive(Debug)]
pub enum PrivilegeError {
    /// There is no such user.
    NoUser(String),
    /// There is no such group.
    NoGroup(String),
    /// The process may not become another user.
    NotAllowed {
        /// Whom it was to become.
        name: String,
    },
    /// The system refused a step.
    Refused {
        /// What was to be done.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(name) => {
                write!(f, "there is no user `{name}`; make one: useradd --system --shell /usr/sbin/nologin {name}")
            }
            Self::NoGroup(name) => write!(f, "there is no group `{name}`; make one: groupadd --system {name}"),
            Self::NotAllowed { name } => write!(
                f,
                "only root can become user {name}: start as root, or as that user and without --user, with the \
                 capabilities given by systemd (AmbientCapabilities=) or setcap"
            ),
            Self::Refused { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

fn refused(doing: &'static str) -> impl FnOnce(io::Error) -> PrivilegeError {
    move |source| PrivilegeError::Refused { doing, source }
}

impl Account {
    /// Looks up `USER[:GROUP]`, by names or numbers. Without a group, it is the user's own.
    ///
    /// # Errors
    /// When there is no such user, or no such group.
    pub fn find(text: &str) -> Result<Self, PrivilegeError> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let no_user = || PrivilegeError::NoUser(user.to_owned());
        let c_name = CString::new(user).map_err(|_| no_user())?;
        let (uid, own_gid, login) = look_up_user(&c_name)
            // A number that no user has is taken as it is, as in a container without a list of users.
            .or_else(|| user.parse().ok().map(|uid: u32| (uid, uid, None)))
            .ok_or_else(no_user)?;
        let gid = match group {
            None => own_gid,
            Some(group) => CString::new(group)
                .ok()
                .and_then(|name| look_up_group(&name))
                .or_else(|| group.parse().ok())
                .ok_or_else(|| PrivilegeError::NoGroup(group.to_owned()))?,
        };
        let groups = login.map_or_else(|| vec![gid], |login| groups_of(&login, gid));
        Ok(Self { name: text.to_owned(), uid, gid, groups })
    }

    /// Gives them a file, so that they can write to it later. No link is followed: in a folder of theirs they could have made
    /// one to a file that must never be theirs.
    ///
    /// # Errors
    /// When the system refuses, or the file is a symbolic link.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_symlink() {
            return Err(io::Error::other("it is a symbolic link; name the file itself"));
        }
        lchown(path, Some(self.uid), Some(self.gid))
    }

    /// Whether they may make and remove files in the folder that a file is in, going by its mode.
    pub fn may_replace(&self, path: &Path) -> bool {
        path.parent().and_then(|folder| fs::metadata(folder).ok()).is_some_and(|folder| self.may_write(&folder))
    }

    fn may_write(&self, to: &Metadata) -> bool {
        let bits = if to.uid() == self.uid {
            to.mode() >> 6
        } else if to.gid() == self.gid || self.groups.contains(&to.gid()) {
            to.mode() >> 3
        } else {
            to.mode()
        };
        bits & 2 != 0
    }

    /// The user whom this process runs as.
    fn present() -> Self {
        // SAFETY: these take nothing and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Self { name: uid.to_string(), uid, gid, groups: vec![gid] }
    }
}

/// Room for the strings of an entry of the system's lists.
const ENTRY_BYTES: usize = 64 << 10;

/// User id, group id and login name; the name may also be a number.
fn look_up_user(name: &CStr) -> Option<(u32, u32, Option<CString>)> {
    let mut strings = vec![0; ENTRY_BYTES];
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: entry, buffer and result outlive the call, and the length is the buffer's.
    unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), strings.as_mut_ptr(), strings.len(), &raw mut found) };
    if found.is_null() {
        let uid = name.to_str().ok()?.parse().ok()?;
        // SAFETY: as above.
        unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), strings.as_mut_ptr(), strings.len(), &raw mut found) };
    }
    if found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so that the entry is filled, and its strings are in the buffer, which still lives.
    let (entry, login) = unsafe { (&*found, CStr::from_ptr((*found).pw_name).to_owned()) };
    Some((entry.pw_uid, entry.pw_gid, Some(login)))
}

fn look_up_group(name: &CStr) -> Option<u32> {
    let mut strings = vec![0; ENTRY_BYTES];
    let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: entry, buffer and result outlive the call, and the length is the buffer's.
    unsafe { libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), strings.as_mut_ptr(), strings.len(), &raw mut found) };
    // SAFETY: not null means that the entry is filled.
    (!found.is_null()).then(|| unsafe { (*found).gr_gid })
}

/// All groups of a user, this one among them.
fn groups_of(login: &CStr, gid: u32) -> Vec<u32> {
    /// What Linux allows (`NGROUPS_MAX`).
    const MOST: i32 = 65_536;
    let mut count = 64;
    loop {
        let mut groups = vec![0; count as usize];
        // SAFETY: the array has as many places as `count` says; the name ends with a zero.
        let result = unsafe { libc::getgrouplist(login.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if result >= 0 {
            groups.truncate(count.max(0) as usize);
            return groups;
        }
        if count > MOST || count as usize <= groups.len() {
            return vec![gid];
        }
    }
}

/// What [`reduce`] is told.
#[derive(Clone, Debug, Default)]
pub struct Reduction<'a> {
    /// Whom to become; `None`: whoever it is now.
    pub account: Option<&'a Account>,
    /// The capabilities that will be needed.
    pub keep: &'a [Capability],
    /// The programs that this one starts need them, too.
    pub for_children: bool,
    /// Files that are opened, made or removed later.
    pub files: &'a [PathBuf],
}

/// Becomes the user that is wanted, drops every capability but those to keep, also from the bounding set, and sees to it
/// that no program which this one starts gets more (`no_new_privs`). Returns the capabilities that are left.
///
/// A process that stays root keeps `CAP_DAC_OVERRIDE` where one of its files is in a folder that is not root's.
///
/// # Errors
/// When the user cannot be changed, or the system refuses a step. The process may have less rights then, never more.
pub fn reduce(wanted: &Reduction<'_>) -> Result<Vec<Capability>, PrivilegeError> {
    let before = Sets::read().map_err(refused("read capabilities"))?;
    let mut keep: Vec<Capability> = wanted.keep.to_vec();
    let present = Account::present();
    if present.uid == 0 && wanted.account.is_none_or(|account| account.uid == 0) {
        let is_foreign = |file: &PathBuf| {
            let is_written = fs::metadata(file).is_ok_and(|file| !present.may_write(&file));
            is_written || !present.may_replace(file)
        };
        if wanted.files.iter().any(is_foreign) {
            keep.push(Capability::DacOverride);
        }
    }
    keep.retain(|capability| before.permitted & capability.bit() != 0);
    let kept = keep.iter().fold(0, |set, capability| set | capability.bit());

    drop_bounding(kept);
    if let Some(account) = wanted.account {
        become_account(account, &present)?;
    }
    let after = Sets { effective: kept, permitted: kept, inheritable: if wanted.for_children { kept } else { 0 } };
    after.write().map_err(refused("drop capabilities"))?;
    if wanted.for_children {
        for capability in &keep {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, *capability as u64)
                .map_err(refused("hand capabilities on to iptables"))?;
        }
    }
    forbid_new_privileges().map_err(refused("refuse new privileges"))?;
    Ok(keep)
}

/// The user of the process will be changed.
static CHANGE_EXPECTED: AtomicBool = AtomicBool::new(false);
/// `CAP_SETGID` and `CAP_SETUID`.
const CHANGE_OF_USER: u64 = 1 << 6 | 1 << 7;

/// Says that [`reduce`] will be told to become this user. To be called before threads are started.
pub fn expect_change(account: &Account) {
    // Who stays root is changed in nothing that would take rights away.
    CHANGE_EXPECTED.store(account.uid != 0, Ordering::Relaxed);
}

/// Drops all capabilities of the calling thread, and those that it could get. For threads that need none, as their first act;
/// where the system refuses, the thread goes on as it is.
pub fn renounce() {
    drop_bounding(0);
    let expected = if CHANGE_EXPECTED.load(Ordering::Relaxed) { CHANGE_OF_USER } else { 0 };
    let kept = expected & Sets::read().map_or(0, |sets| sets.permitted);
    let _ = Sets { effective: kept, permitted: kept, inheritable: 0 }.write();
    let _ = forbid_new_privileges();
}

fn become_account(account: &Account, present: &Account) -> Result<(), PrivilegeError> {
    if (account.uid, account.gid) == (present.uid, present.gid) && present.uid != 0 {
        return Ok(());
    }
    let not_allowed = |source: io::Error| match source.raw_os_error() {
        Some(libc::EPERM) => PrivilegeError::NotAllowed { name: account.name.clone() },
        _ => PrivilegeError::Refused { doing: "become another user", source },
    };
    // Whoever wanted this process to end with its parent still does; the kernel forgets that with the change.
    let mut end_with_parent: libc::c_int = 0;
    // SAFETY: the kernel writes a number into a number.
    check(unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut end_with_parent) })
        .map_err(refused("ask what ends this process"))?;
    // Without this the change of the user would clear all capabilities of this thread.
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(refused("keep capabilities"))?;
    // The groups first: afterwards there is no right to change them.
    // SAFETY: the array has as many elements as are told.
    check(unsafe { libc::setgroups(account.groups.len(), account.groups.as_ptr()) }).map_err(not_allowed)?;
    // SAFETY: takes three numbers; the C library does it for all threads. So for the next one.
    check(unsafe { libc::setresgid(account.gid, account.gid, account.gid) }).map_err(not_allowed)?;
    check(unsafe { libc::setresuid(account.uid, account.uid, account.uid) }).map_err(not_allowed)?;
    prctl(libc::PR_SET_KEEPCAPS, 0, 0).map_err(refused("forget the former user"))?;
    prctl(libc::PR_SET_PDEATHSIG, end_with_parent as u64, 0)
        .map_err(refused("end with the process that started this one"))
}

/// Sets how nicely the calling thread, and those that it will start, yield the processor to others: -20 to 19, the nicest.
///
/// # Errors
/// When it is to be less nice than it is, and may not.
pub fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: takes numbers only; 0 means the calling thread on Linux.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) })
}

// ---------------------------------------------------------------------------------------------------------------------
// System calls

/// The capability sets of the calling thread, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: two words a set.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One half of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Sets {
    fn read() -> io::Result<Self> {
        let mut header = Header { version: VERSION_3, pid: 0 };
        let mut halves = [Half::default(); 2];
        // SAFETY: version 3 writes two halves, for which there is room.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
        check(result as i32)?;
        let join = |part: fn(&Half) -> u32| u64::from(part(&halves[1])) << 32 | u64::from(part(&halves[0]));
        Ok(Self {
            effective: join(|half| half.effective),
            permitted: join(|half| half.permitted),
            inheritable: join(|half| half.inheritable),
        })
    }

    fn write(self) -> io::Result<()> {
        let mut header = Header { version: VERSION_3, pid: 0 };
        let half = |shift: u32| Half {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        };
        let halves = [half(0), half(32)];
        // SAFETY: version 3 reads two halves.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
        check(result as i32)
    }
}

/// Drops every capability that is not in `kept` from the bounding set, where that is allowed (`CAP_SETPCAP`).
fn drop_bounding(kept: u64) {
    for capability in (0..64).filter(|capability| kept >> capability & 1 == 0) {
        // EINVAL: behind the last one that the kernel knows. EPERM: then nothing is to be had by it that is not had already.
        if prctl(libc::PR_CAPBSET_DROP, capability, 0).is_err() {
            return;
        }
    }
}

fn forbid_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

fn prctl(what: i32, first: u64, second: u64) -> io::Result<()> {
    // SAFETY: all options used here take numbers, and the unused places must be zero.
    check(unsafe { libc::prctl(what, first, second, 0u64, 0u64) })
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
