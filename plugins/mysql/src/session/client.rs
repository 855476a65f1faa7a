//! What becomes of the client's packets.

use tcpcopy_module_api::Ctx;

use super::target::in_packets;
use super::{Asked, LOOKED_AT, MySqlSession};
use crate::command::{
    Answer, CHANGE_USER, Command, Fate, INIT_DB, QUERY, RESET_CONNECTION, STMT_BULK_EXECUTE, STMT_CLOSE, STMT_EXECUTE,
    STMT_PREPARE,
};
use crate::statement::{Key, OnTarget, id_of};
use crate::text::classify;
use crate::wire::packet::KEPT;
use crate::wire::{Capabilities, ClientLogin, HEADER_LEN, Header, Login, Malformed, Reader};

/// A login, or a change of user, is no longer than this.
const LONGEST_LOGIN: usize = 64 << 10;
/// A command that is written anew is no longer than this; of a longer one, the beginning is.
const LONGEST_REWRITTEN: usize = 1 << 20;

const LOGIN: &str = "logins, which the module does by itself";
const REWRITTEN: &str = "written anew for the target";
const NOT_SEEN: &str = "of statements whose preparation was not seen";
const NOT_PREPARED: &str = "of statements that the target could not prepare";
const ATTRIBUTES: &str = "with attributes that the target does not take";
const LEFT_OUT: &str = "left out as told";

/// What becomes of a file that the client sends for LOAD DATA LOCAL INFILE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileFate {
    Copied,
    LeftOut,
}

#[derive(Debug)]
pub(super) struct ClientSide {
    /// Who the client is; that of a session that was open already is made up.
    pub(super) login: Option<Login>,
    /// The login was seen, or is not to be expected.
    in_commands: bool,
    /// Where the first byte is that was not decided about, counted from the first that was shown.
    at: u64,
    /// Where the first packet begins that was not looked at for online's sake, and whether it is a command by then.
    scanned: u64,
    scanned_login: bool,
    /// The packet before goes on in the next, and was copied, or not.
    continued: Option<bool>,
    file: Option<FileFate>,
    /// Commands that were decided about: the number of the next one, as online's side counts them, too.
    number: u64,
}

impl ClientSide {
    pub(super) fn new(joined_as: Option<Login>) -> Self {
        let in_commands = joined_as.is_some();
        Self {
            login: joined_as,
            in_commands,
            at: 0,
            scanned: 0,
            scanned_login: in_commands,
            continued: None,
            file: None,
            number: 0,
        }
    }

    pub(super) fn user(&self) -> Vec<u8> {
        self.login.as_ref().map(|login| login.user.clone()).unwrap_or_default()
    }

    /// The bytes of `data`, which begins with what was not decided about, that were not scanned.
    pub(super) fn not_scanned<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        data.get(usize::try_from(self.scanned.saturating_sub(self.at)).ok()?..)
    }

    /// Whether the packet that is scanned next is behind the login.
    pub(super) fn scans_commands(&self) -> bool {
        self.scanned_login
    }

    pub(super) fn scanned_packet(&mut self, header: &Header) {
        self.scanned = self.scanned.max(self.at) + (HEADER_LEN + header.len) as u64;
        self.scanned_login = true;
    }

    /// The target wants the file that the client is going to send.
    pub(super) fn file_is_wanted(&mut self) {
        self.file = Some(FileFate::Copied);
    }

    /// The command was answered: what is left of a file is not wanted.
    pub(super) fn file_is_over(&mut self) {
        if self.file == Some(FileFate::Copied) {
            self.file = None;
        }
    }

    pub(super) fn file_is_left_out(&mut self) {
        if self.file.is_some() {
            self.file = Some(FileFate::LeftOut);
        }
    }

    fn has(&self, flag: Capabilities) -> bool {
        self.login.as_ref().is_some_and(|login| login.capabilities.contains(flag))
    }
}

/// A command as it was said.
#[derive(Clone, Copy)]
struct Said<'a> {
    command: Command,
    /// All of its payload, or as much as is looked at.
    payload: &'a [u8],
    header: Header,
    /// There is more of it.
    is_cut: bool,
}

/// A query's payload, taken apart.
struct Query<'a> {
    attributes: u64,
    text: &'a [u8],
}

/// Takes COM_QUERY apart: attributes stand in front of its text, where they were agreed on.
///
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query.html>
fn query(payload: &[u8], has_attributes: bool) -> Result<Query<'_>, Malformed> {
    let mut reader = Reader::new(payload);
    reader.u8("an empty command")?;
    if !has_attributes {
        return Ok(Query { attributes: 0, text: reader.rest() });
    }
    let attributes = reader.length_encoded("a query without a number of attributes")?;
    reader.length_encoded("a query without sets of attributes")?;
    if attributes > 0 {
        skip_attributes(&mut reader, attributes)?;
    }
    Ok(Query { attributes, text: reader.rest() })
}

fn skip_attributes(reader: &mut Reader<'_>, count: u64) -> Result<(), Malformed> {
    const WHAT: &str = "attributes of a query that are cut off";
    let count = usize::try_from(count).map_err(|_| Malformed(WHAT))?;
    let nulls = reader.bytes(count.div_ceil(8), WHAT)?;
    reader.u8(WHAT)?;
    let mut types = Vec::new();
    for _ in 0..count {
        types.push(reader.number(2, WHAT)? as u8);
        reader.length_encoded_bytes(WHAT)?;
    }
    for (n, kind) in types.into_iter().enumerate() {
        if nulls[n / 8] & 1 << (n % 8) != 0 {
            continue;
        }
        match kind {
            0x06 => {}
            0x01 => drop(reader.bytes(1, WHAT)?),
            0x02 | 0x0d => drop(reader.bytes(2, WHAT)?),
            0x03 | 0x04 | 0x09 => drop(reader.bytes(4, WHAT)?),
            0x05 | 0x08 => drop(reader.bytes(8, WHAT)?),
            // Dates and times have their length in one byte; strings in as many as they need.
            _ => drop(reader.length_encoded_bytes(WHAT)?),
        }
    }
    Ok(())
}

impl MySqlSession {
    /// Decides about the packet at the front of `rest`. Returns how many bytes it was about, perhaps more than there are;
    /// `None`: it is held.
    pub(super) fn decide(&mut self, ctx: &mut Ctx<'_>, rest: &[u8]) -> Option<usize> {
        let header = Header::read(rest)?;
        let len = HEADER_LEN + header.len;
        if let Some(copied) = self.client.continued {
            self.client.continued = header.is_continued().then_some(copied);
            return Some(if copied { self.pass(ctx, len) } else { self.leave_out(ctx, len, LEFT_OUT) });
        }
        if !self.client.in_commands {
            return self.decide_login(ctx, rest, &header);
        }
        if let Some(fate) = self.client.file {
            if header.len == 0 {
                self.client.file = None;
            }
            return Some(match fate {
                FileFate::Copied => {
                    let decided = self.pass(ctx, len);
                    if header.len == 0 {
                        ctx.expect_response();
                    }
                    decided
                }
                FileFate::LeftOut => self.leave_out(ctx, len, "of files that the target did not ask for"),
            });
        }
        if header.sequence != 0 {
            if self.asked.as_ref().is_some_and(|asked| asked.command.answer == Answer::Results) {
                return None; // a file, which the target may ask for
            }
            // What is left of a login, or of a file.
            return Some(self.leave_out(ctx, len, LOGIN));
        }
        if self.asked.is_some() || !self.target.is_ready() {
            return None;
        }
        if header.len == 0 {
            return Some(self.leave_out(ctx, len, "empty commands"));
        }
        let decided = self.decide_command(ctx, rest, &header)?;
        self.client.number += 1;
        Some(decided)
    }

    fn decide_command(&mut self, ctx: &mut Ctx<'_>, rest: &[u8], header: &Header) -> Option<usize> {
        let command = match Command::of(*rest.get(HEADER_LEN)?) {
            Some(command) if command.fate != Fate::SessionRefused => command,
            Some(command) => {
                ctx.count(&format!("sessions given up at command: {}", command.name), 1);
                ctx.abort("a session of replication, or another that cannot be copied");
                return None;
            }
            None => {
                ctx.abort("a command that is not known: not MySQL, or a new kind of it");
                return None;
            }
        };
        if command.fate == Fate::LeftOut {
            ctx.count(&format!("left out: {}", command.name), 1);
            return Some(self.skip(ctx, header, "commands that must not reach the target"));
        }
        // Everything that is changed must be there, and of the rest as much as is looked at.
        let changed = command.has_statement() || matches!(command.code, CHANGE_USER | INIT_DB | STMT_PREPARE | QUERY);
        let wanted = if changed && header.len <= LONGEST_REWRITTEN { header.len } else { header.len.min(LOOKED_AT) };
        let payload = &rest[HEADER_LEN..];
        let payload = payload.get(..wanted).filter(|payload| !payload.is_empty())?;
        let is_cut = payload.len() < header.len || header.is_continued();
        let said = Said { command, payload, header: *header, is_cut };
        match command.code {
            QUERY | STMT_PREPARE => self.decide_text(ctx, said),
            CHANGE_USER => self.decide_change_user(ctx, said),
            _ if command.has_statement() => {
                let decided = self.decide_statement(ctx, said);
                if command.code == STMT_CLOSE
                    && let Some(key) = id_of(payload).and_then(|id| self.statements.by_online(id)).map(|s| s.key())
                {
                    self.statements.close(key);
                }
                decided
            }
            _ => {
                match command.code {
                    INIT_DB if !is_cut => self.remember_setting(payload),
                    RESET_CONNECTION => {
                        self.statements.clear();
                        self.settings.retain(|setting| setting.first() == Some(&INIT_DB));
                    }
                    _ => {}
                }
                Some(self.copy(ctx, said, command.name, None, &[]))
            }
        }
    }

    fn decide_login(&mut self, ctx: &mut Ctx<'_>, rest: &[u8], header: &Header) -> Option<usize> {
        if header.len > LONGEST_LOGIN {
            ctx.abort("a login of more than 64 KB: not MySQL");
            return None;
        }
        let payload = rest.get(HEADER_LEN..HEADER_LEN + header.len)?;
        match ClientLogin::parse(payload) {
            Err(malformed) => {
                ctx.abort(&format!("the client's login: {malformed}"));
                None
            }
            Ok(ClientLogin::Tls) => {
                self.cannot_be_copied(ctx, true);
                None
            }
            Ok(ClientLogin::Login(login))
                if self.online.agreed(login.capabilities).0 & (Capabilities::COMPRESS | Capabilities::ZSTD).0 != 0 =>
            {
                self.cannot_be_copied(ctx, false);
                None
            }
            Ok(ClientLogin::Login(mut login)) => {
                // A client may name what the server has not; they do without it.
                login.capabilities = self.online.agreed(login.capabilities);
                self.client.login = Some(login);
                self.client.in_commands = true;
                let decided = self.leave_out(ctx, HEADER_LEN + header.len, LOGIN);
                self.log_in(ctx)?;
                Some(decided)
            }
        }
    }

    fn pass(&mut self, ctx: &mut Ctx<'_>, len: usize) -> usize {
        ctx.pass(len);
        self.client.at += len as u64;
        len
    }

    fn leave_out(&mut self, ctx: &mut Ctx<'_>, len: usize, reason: &str) -> usize {
        ctx.drop(len, reason);
        self.client.at += len as u64;
        len
    }

    /// Leaves out a command, with the packets that it goes on in.
    fn skip(&mut self, ctx: &mut Ctx<'_>, header: &Header, reason: &str) -> usize {
        self.client.continued = header.is_continued().then_some(false);
        self.leave_out(ctx, HEADER_LEN + header.len, reason)
    }

    /// Copies a command: as it is, or with `anew` in the place of its payload.
    fn copy(
        &mut self,
        ctx: &mut Ctx<'_>,
        said: Said<'_>,
        kind: &'static str,
        anew: Option<Vec<u8>>,
        text: &[u8],
    ) -> usize {
        let Said { command, payload, header, is_cut } = said;
        let decided = if let Some(anew) = anew.filter(|anew| *anew != payload) {
            let decided = self.leave_out(ctx, HEADER_LEN + header.len, REWRITTEN);
            ctx.send(&in_packets(&anew));
            decided
        } else {
            self.client.continued = header.is_continued().then_some(true);
            self.pass(ctx, HEADER_LEN + header.len)
        };
        ctx.count(kind, 1);
        self.payload.clear();
        if !is_cut && payload.len() <= KEPT {
            self.payload.extend_from_slice(payload);
        }
        if self.shared.log.is_some() {
            self.text.clear();
            self.text.extend_from_slice(&text[..text.len().min(2_048)]);
        }
        if command.answer != Answer::Nothing {
            let asked = Asked { command, kind, number: self.client.number, at: ctx.now(), prepares: None, error: None };
            self.expect(ctx, asked);
        }
        decided
    }

    /// A query, or a statement to be prepared.
    fn decide_text(&mut self, ctx: &mut Ctx<'_>, said: Said<'_>) -> Option<usize> {
        let Said { command, payload, header, is_cut } = said;
        let prepares = command.code == STMT_PREPARE;
        if !prepares && ctx.info().joined && payload.get(1..3) == Some(&[0, 1]) {
            // No statement begins with a NUL: this client has agreed on attributes with online.
            if let Some(login) = &mut self.client.login {
                login.capabilities = login.capabilities | Capabilities::QUERY_ATTRIBUTES;
            }
        }
        let client_has_attributes = self.client.has(Capabilities::QUERY_ATTRIBUTES) && !prepares;
        let target_has_attributes = self.target.capabilities.contains(Capabilities::QUERY_ATTRIBUTES) && !prepares;
        let query = match query(payload, client_has_attributes) {
            Ok(query) => query,
            Err(malformed) => {
                ctx.abort(&format!("the client's query: {malformed}"));
                return None;
            }
        };
        let text = query.text;
        let statement = classify(text, is_cut);
        let key =
            prepares.then(|| self.statements.prepare((!is_cut).then_some(text), statement.kind, OnTarget::Unknown));
        if let Some(key) = key
            && let Some(id) = self.online.take_id(key)
        {
            self.statements.on_online(key, id);
        }
        if self.shared.settings.selects() && !self.shared.settings.takes(&statement, text) {
            ctx.count(&format!("left out: {}", statement.kind), 1);
            if let Some(statement) = key.and_then(|key| self.statements.get(key)) {
                statement.target = OnTarget::LeftOut;
            }
            return Some(self.skip(ctx, &header, LEFT_OUT));
        }
        let anew = match (client_has_attributes, target_has_attributes) {
            (true, false) if query.attributes > 0 => {
                ctx.count("left out: query attributes", 1);
                return Some(self.skip(ctx, &header, ATTRIBUTES));
            }
            (true, false) if is_cut => {
                return Some(self.skip(ctx, &header, ATTRIBUTES));
            }
            (true, false) => Some([&[QUERY], text].concat()),
            (false, true) if !is_cut => Some([&[QUERY, 0, 1], text].concat()),
            _ => None,
        };
        if !prepares && statement.sets_session && !is_cut {
            self.remember_setting(anew.as_deref().unwrap_or(payload));
        }
        let kind = if prepares { "prepare" } else { statement.kind };
        let decided = self.copy(ctx, said, kind, anew, text);
        if let Some(asked) = &mut self.asked {
            asked.prepares = key;
        }
        Some(decided)
    }

    fn decide_change_user(&mut self, ctx: &mut Ctx<'_>, said: Said<'_>) -> Option<usize> {
        let Said { command, payload, header, .. } = said;
        let changed = self.client.login.as_ref()?.change_user(payload);
        let decided = self.skip(ctx, &header, LOGIN);
        let refused = match changed {
            Ok(changed) => self.change_user(ctx, changed),
            Err(malformed) => Err(format!("the client's change of user: {malformed}")),
        };
        if let Err(reason) = refused {
            ctx.abort(&reason);
            return None;
        }
        ctx.count(command.name, 1);
        self.payload.clear();
        self.text.clear();
        let asked = Asked {
            command,
            kind: command.name,
            number: self.client.number,
            at: ctx.now(),
            prepares: None,
            error: None,
        };
        self.expect(ctx, asked);
        Some(decided)
    }

    /// A command about a prepared statement.
    fn decide_statement(&mut self, ctx: &mut Ctx<'_>, said: Said<'_>) -> Option<usize> {
        let Said { command, payload, header, is_cut } = said;
        let Some(id) = id_of(payload) else {
            ctx.abort("a command about a statement, without the statement's number");
            return None;
        };
        let Some(statement) = self.statements.by_online(id) else {
            ctx.count(&format!("left out: {} {NOT_SEEN}", command.name), 1);
            return Some(self.skip(ctx, &header, NOT_SEEN));
        };
        let (key, kind, on_target) = (statement.key(), statement.kind, statement.target);
        let text = if self.shared.log.is_some() { statement.text.clone() } else { Vec::new() };
        let executes = matches!(command.code, STMT_EXECUTE | STMT_BULK_EXECUTE);
        let bulk =
            command.code == STMT_BULK_EXECUTE && !self.target.capabilities.contains(Capabilities::STMT_BULK_OPERATIONS);
        match on_target {
            OnTarget::LeftOut => {
                if executes {
                    ctx.count(&format!("left out: {kind}"), 1);
                }
                return Some(self.skip(ctx, &header, LEFT_OUT));
            }
            OnTarget::AsQuery if !executes => {
                return Some(self.skip(ctx, &header, "of statements that are copied as queries"));
            }
            OnTarget::Unknown | OnTarget::Refused => {
                if executes {
                    ctx.count(&format!("left out: {} {NOT_PREPARED}", command.name), 1);
                }
                return Some(self.skip(ctx, &header, NOT_PREPARED));
            }
            OnTarget::Prepared(_) | OnTarget::AsQuery if bulk => {
                ctx.count("left out: bulk execute, which the target does not take", 1);
                return Some(self.skip(ctx, &header, "bulk operations that the target does not take"));
            }
            OnTarget::Prepared(_) | OnTarget::AsQuery => {}
        }
        let kind = if executes { kind } else { command.name };
        if is_cut {
            // Too long to be written anew: its number goes first, the rest follows as it is.
            return Some(self.copy_cut(ctx, command, kind, key, &header));
        }
        let anew = match self.in_targets_words_of(command, payload, key) {
            Ok(anew) => anew,
            Err(reason) => {
                ctx.count(&format!("left out: {reason}"), 1);
                return Some(self.skip(ctx, &header, ATTRIBUTES));
            }
        };
        Some(self.copy(ctx, said, kind, Some(anew), &text))
    }

    /// Copies a long command about a statement, with another number in its beginning.
    fn copy_cut(
        &mut self,
        ctx: &mut Ctx<'_>,
        command: Command,
        kind: &'static str,
        key: Key,
        header: &Header,
    ) -> usize {
        let Some(OnTarget::Prepared(id)) = self.statements.get(key).map(|statement| statement.target) else {
            return self.skip(ctx, header, NOT_PREPARED);
        };
        let mut beginning = (header.len as u32).to_le_bytes()[..3].to_vec();
        beginning.extend_from_slice(&[0, command.code]);
        beginning.extend_from_slice(&id.to_le_bytes());
        let replaced = self.leave_out(ctx, beginning.len(), REWRITTEN);
        ctx.send(&beginning);
        self.client.continued = header.is_continued().then_some(true);
        let rest = self.pass(ctx, HEADER_LEN + header.len - replaced);
        ctx.count(kind, 1);
        self.payload.clear();
        self.text.clear();
        if command.answer != Answer::Nothing {
            self.expect(
                ctx,
                Asked { command, kind, number: self.client.number, at: ctx.now(), prepares: None, error: None },
            );
        }
        replaced + rest
    }

    /// A command in the target's words, in which statements have other numbers. `Err`: why that cannot be said.
    pub(super) fn in_targets_words(&mut self, command: Command, payload: &[u8]) -> Result<Vec<u8>, &'static str> {
        if !command.has_statement() {
            let (client, target) = (
                self.client.has(Capabilities::QUERY_ATTRIBUTES),
                self.target.capabilities.contains(Capabilities::QUERY_ATTRIBUTES),
            );
            if command.code == QUERY && client != target {
                let text = query(payload, client).map_err(|_| ATTRIBUTES)?.text;
                let front: &[u8] = if target { &[QUERY, 0, 1] } else { &[QUERY] };
                return Ok([front, text].concat());
            }
            return Ok(payload.to_vec());
        }
        let key = id_of(payload).and_then(|id| self.statements.by_online(id)).map(|statement| statement.key());
        self.in_targets_words_of(command, payload, key.ok_or(NOT_SEEN)?)
    }

    fn in_targets_words_of(&mut self, command: Command, payload: &[u8], key: Key) -> Result<Vec<u8>, &'static str> {
        let client = self.client.has(Capabilities::QUERY_ATTRIBUTES);
        let target = self.target.capabilities.contains(Capabilities::QUERY_ATTRIBUTES);
        let Some(statement) = self.statements.get(key) else { return Err(NOT_SEEN) };
        match statement.target {
            OnTarget::Prepared(id) if command.code == STMT_EXECUTE => {
                statement.rewrite_execute(payload, id, client, target).map_err(|_| ATTRIBUTES)
            }
            OnTarget::Prepared(id) => {
                let mut anew = payload.to_vec();
                anew[1..5].copy_from_slice(&id.to_le_bytes());
                Ok(anew)
            }
            OnTarget::AsQuery => {
                let front: &[u8] = if target { &[QUERY, 0, 1] } else { &[QUERY] };
                Ok([front, &statement.text[..]].concat())
            }
            OnTarget::Unknown | OnTarget::Refused | OnTarget::LeftOut => Err(NOT_PREPARED),
        }
    }
}
