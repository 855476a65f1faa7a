//! What kind of statement a text is, as far as that can be told without knowing its tables.
//!
//! The text is read by the rules that MySQL and MariaDB share: strings, quoted names, three kinds of comments. Two things
//! depend on the server: whether a comment is code (`/*! ... */`, `/*M! ... */`, by its version), and whether a backslash
//! means something in a string. A statement is a read only if it is one either way.

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its kind, for statistics: its first word, mostly.
    pub kind: &'static str,
    /// It only reads, and locks nothing.
    pub is_read: bool,
    /// A `SET` of something that a new connection has to be told, or `USE`.
    pub sets_session: bool,
}

/// Words that begin statements, and whether those only read.
const VERBS: &[(&str, &str, bool)] = &[
    ("SELECT", "select", true),
    ("WITH", "select", true),
    ("TABLE", "select", true),
    ("VALUES", "select", true),
    ("SHOW", "show", true),
    ("EXPLAIN", "explain", true),
    ("DESCRIBE", "explain", true),
    ("DESC", "explain", true),
    ("HELP", "help", true),
    ("SET", "set", true),
    ("USE", "use", true),
    ("BEGIN", "begin", true),
    ("START", "begin", true),
    ("COMMIT", "commit", true),
    ("ROLLBACK", "rollback", true),
    ("SAVEPOINT", "savepoint", true),
    ("RELEASE", "savepoint", true),
    ("INSERT", "insert", false),
    ("REPLACE", "replace", false),
    ("UPDATE", "update", false),
    ("DELETE", "delete", false),
    ("CALL", "call", false),
    ("DO", "do", false),
    ("HANDLER", "handler", false),
    ("LOAD", "load data", false),
    ("LOCK", "lock tables", false),
    ("UNLOCK", "unlock tables", false),
    ("CREATE", "create", false),
    ("ALTER", "alter", false),
    ("DROP", "drop", false),
    ("TRUNCATE", "truncate", false),
    ("RENAME", "rename", false),
    ("ANALYZE", "analyze", false),
    ("CHECK", "check", false),
    ("CHECKSUM", "checksum", true),
    ("OPTIMIZE", "optimize", false),
    ("REPAIR", "repair", false),
    ("GRANT", "grant", false),
    ("REVOKE", "revoke", false),
    ("FLUSH", "flush", false),
    ("KILL", "kill", false),
    ("XA", "xa", false),
    ("PREPARE", "prepare", false),
    ("EXECUTE", "execute", false),
    ("DEALLOCATE", "deallocate", false),
];

const EMPTY: Statement = Statement { kind: "empty", is_read: true, sets_session: false };

/// What `text` is. Of several statements the kind is that of the first, and all must be reads for it to be one. `is_cut`:
/// there is more than this; a read that is not whole may turn out to be none, so it is taken for none.
pub fn classify(text: &[u8], is_cut: bool) -> Statement {
    let mut statement = classify_as(text, true, true);
    let has = |bytes: &[u8]| text.windows(bytes.len()).any(|window| window == bytes);
    if has(b"\\") || has(b"/*!") || has(b"/*M!") {
        for (code, escapes) in [(true, false), (false, true), (false, false)] {
            statement.is_read &= classify_as(text, code, escapes).is_read;
        }
    }
    statement.is_read &= !is_cut;
    statement
}

fn classify_as(text: &[u8], code: bool, escapes: bool) -> Statement {
    let mut tokens = Tokens { rest: text, broken: false, in_code: false, code, escapes };
    let mut result: Option<Statement> = None;
    while let Some(statement) = one(&mut tokens) {
        let so_far = result.get_or_insert(statement);
        so_far.is_read &= statement.is_read;
        so_far.sets_session &= statement.sets_session;
    }
    let mut result = result.unwrap_or(EMPTY);
    result.is_read &= !tokens.broken;
    result
}

/// The next statement, up to a semicolon or the end.
fn one(tokens: &mut Tokens<'_>) -> Option<Statement> {
    let first = loop {
        match tokens.next()? {
            Token::Symbol(b';' | b'(') => {}
            token => break token,
        }
    };
    let Token::Word(first) = first else {
        tokens.skip_statement();
        return Some(Statement { kind: "other", is_read: false, sets_session: false });
    };
    let Some((_, kind, reads)) = VERBS.iter().find(|(verb, ..)| verb.as_bytes().eq_ignore_ascii_case(first)).copied()
    else {
        tokens.skip_statement();
        return Some(Statement { kind: "other", is_read: false, sets_session: false });
    };
    let is = |word: &str| first.eq_ignore_ascii_case(word.as_bytes());
    let mut statement = Statement { kind, is_read: reads, sets_session: kind == "set" || kind == "use" };
    if is("EXPLAIN") || is("DESCRIBE") || is("DESC") || is("ANALYZE") {
        // `EXPLAIN ANALYZE` and MariaDB's `ANALYZE` run the statement.
        let runs = is("ANALYZE") || tokens.next_is("ANALYZE");
        if runs && !(is("ANALYZE") && (tokens.next_is("TABLE") || tokens.next_is("LOCAL"))) {
            if tokens.next_is("FORMAT") {
                tokens.next();
                tokens.next();
            }
            let run = one(tokens);
            statement.is_read = run.is_some_and(|run| run.is_read);
            return Some(statement);
        }
        tokens.skip_statement();
        return Some(statement);
    }
    match kind {
        "select" => scan_select(tokens, is("WITH"), &mut statement),
        "set" => scan_set(tokens, &mut statement),
        _ => tokens.skip_statement(),
    }
    Some(statement)
}

/// Words in a query that make it more than a read: it locks, stores its result, or changes something by a function.
fn scan_select(tokens: &mut Tokens<'_>, with: bool, statement: &mut Statement) {
    let (mut depth, mut main_verb) = (0_i32, !with);
    let mut before: &[u8] = b"";
    while let Some(token) = tokens.next() {
        match token {
            Token::Symbol(b';') => return,
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth -= 1,
            Token::Word(word) => {
                let is = |other: &str| word.eq_ignore_ascii_case(other.as_bytes());
                let was = |other: &str| before.eq_ignore_ascii_case(other.as_bytes());
                if depth == 0 && !main_verb && (is("UPDATE") || is("DELETE") || is("INSERT") || is("REPLACE")) {
                    statement.kind = if is("UPDATE") {
                        "update"
                    } else if is("DELETE") {
                        "delete"
                    } else {
                        "insert"
                    };
                    statement.is_read = false;
                    main_verb = true;
                }
                main_verb |= depth == 0 && is("SELECT");
                let locks = was("FOR") && (is("UPDATE") || is("SHARE")) || was("LOCK") && is("IN");
                let changes = is("INTO")
                    || is("GET_LOCK")
                    || is("RELEASE_LOCK")
                    || is("RELEASE_ALL_LOCKS")
                    || is("NEXTVAL")
                    || is("SETVAL")
                    || was("NEXT") && is("VALUE");
                if locks {
                    statement.kind = "locking select";
                }
                statement.is_read &= !(locks || changes);
                before = word;
                continue;
            }
            Token::Symbol(_) | Token::Quoted => {}
        }
        before = b"";
    }
}

/// A `SET` that concerns more than the session is no read, and one that needs a query is not set again.
fn scan_set(tokens: &mut Tokens<'_>, statement: &mut Statement) {
    while let Some(token) = tokens.next() {
        match token {
            Token::Symbol(b';') => return,
            Token::Word(word) => {
                let is = |other: &str| word.eq_ignore_ascii_case(other.as_bytes());
                if ["GLOBAL", "PERSIST", "PERSIST_ONLY", "PASSWORD", "ROLE", "DEFAULT_ROLE"]
                    .iter()
                    .any(|other| is(other))
                {
                    statement.is_read = false;
                }
                if is("SELECT") || is("TRANSACTION") || is("PASSWORD") || is("GLOBAL") {
                    statement.sets_session = false;
                }
            }
            Token::Symbol(b'(') => statement.sets_session = false,
            Token::Symbol(_) | Token::Quoted => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A keyword or a name that is not quoted, or a number.
    Word(&'a [u8]),
    /// A string, or a quoted name.
    Quoted,
    Symbol(u8),
}

struct Tokens<'a> {
    rest: &'a [u8],
    /// A comment or a string has no end: what it hides is not known.
    broken: bool,
    /// Within a comment that is code.
    in_code: bool,
    /// Comments that may be code are code.
    code: bool,
    /// A backslash takes its meaning from the byte behind it.
    escapes: bool,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Tokens<'a> {
    fn skip(&mut self, n: usize) {
        self.rest = &self.rest[n.min(self.rest.len())..];
    }

    /// Skips up to and over `end`.
    fn skip_to(&mut self, end: &[u8]) {
        if let Some(at) = self.rest.windows(end.len()).position(|window| window == end) {
            self.skip(at + end.len());
        } else {
            // The end of a line may be that of the text.
            self.broken |= end != b"\n";
            self.rest = &[];
        }
    }

    fn skip_space(&mut self) {
        loop {
            let spaces = self.rest.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
            self.skip(spaces);
            match self.rest {
                [b'#', ..] => self.skip_to(b"\n"),
                [b'-', b'-', after, ..] if after.is_ascii_whitespace() || after.is_ascii_control() => {
                    self.skip_to(b"\n");
                }
                [b'-', b'-'] => self.rest = &[],
                [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] if self.code => {
                    self.skip(if self.rest[2] == b'!' { 3 } else { 4 });
                    let version = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    self.skip(version);
                    self.in_code = true;
                }
                [b'*', b'/', ..] if self.in_code => {
                    self.in_code = false;
                    self.skip(2);
                }
                [b'/', b'*', ..] => {
                    self.skip(2);
                    self.skip_to(b"*/");
                }
                _ => return,
            }
        }
    }

    /// Whether the next token is this word; then it is taken.
    fn next_is(&mut self, word: &str) -> bool {
        let before = Self { ..*self };
        if matches!(self.next(), Some(Token::Word(next)) if next.eq_ignore_ascii_case(word.as_bytes())) {
            return true;
        }
        *self = before;
        false
    }

    fn skip_statement(&mut self) {
        while !matches!(self.next(), None | Some(Token::Symbol(b';'))) {}
    }

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_space();
        let first = *self.rest.first()?;
        if is_word(first) {
            let (word, rest) = self.rest.split_at(self.rest.iter().take_while(|byte| is_word(**byte)).count());
            self.rest = rest;
            return Some(Token::Word(word));
        }
        self.skip(1);
        if !matches!(first, b'\'' | b'"' | b'`') {
            return Some(Token::Symbol(first));
        }
        loop {
            let Some((&byte, rest)) = self.rest.split_first() else {
                self.broken = true;
                return Some(Token::Quoted);
            };
            self.rest = rest;
            match byte {
                b'\\' if first != b'`' && self.escapes => self.skip(1),
                // A doubled quote stands for itself; two strings side by side come to the same.
                _ if byte == first => return Some(Token::Quoted),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn is(text: &str, kind: &str, is_read: bool) {
        let statement = classify(text.as_bytes(), false);
        assert_eq!((statement.kind, statement.is_read), (kind, is_read), "{text}");
    }

    #[test]
    fn reads_are_reads() {
        for text in [
            "SELECT 1",
            "  select * from t where a = 'for update' and `into` = \"LOCK IN SHARE MODE\"",
            "/* INSERT */ SELECT 1 -- for update\n",
            "(SELECT 1) UNION (SELECT 2)",
            "SELECT 'it''s; DELETE FROM t', 'back\\\\slash; DROP TABLE t' # FOR UPDATE",
            "WITH a AS (SELECT 1), b AS (SELECT 2) SELECT * FROM a JOIN b",
            "select/*+ hint */1",
            "TABLE t",
            "SELECT REPLACE(a, 'x', 'y') FROM t",
            "SELECT next, value FROM t",
        ] {
            is(text, "select", true);
        }
        is("SHOW STATUS", "show", true);
        is("EXPLAIN UPDATE t SET a = 1", "explain", true);
        is("EXPLAIN ANALYZE SELECT 1", "explain", true);
        is("ANALYZE FORMAT=JSON SELECT 1", "analyze", true);
        is("SET NAMES utf8mb4", "set", true);
        is("BEGIN", "begin", true);
        is("", "empty", true);
        is("SELECT 1; SELECT 2;", "select", true);
    }

    #[test]
    fn what_writes_or_locks_is_no_read() {
        for text in ["SELECT * FROM t FOR UPDATE", "select 1 for share", "SELECT * FROM t LOCK IN SHARE MODE"] {
            is(text, "locking select", false);
        }
        for text in [
            "SELECT 1 INTO OUTFILE '/tmp/x'",
            "SELECT a INTO @b FROM t",
            "SELECT GET_LOCK('a', 1)",
            "SELECT NEXT VALUE FOR s",
            "SELECT nextval(s)",
            "SELECT 1; DELETE FROM t",
            "/*! SELECT */ 1; UPDATE t SET a = 1",
            "SELECT 1 /*! INTO OUTFILE 'x' */",
            "SELECT 1 /*M!100100 FOR */ , 2 INTO @a",
            "SELECT 'no end",
            // Two servers may disagree about these.
            "SELECT '\\'; DELETE FROM t; -- '",
            "/*!99999 SELECT */ DELETE FROM t",
            "SELECT 1 /*!99999 */ INTO @a",
            "SELECT 1 /* no end",
        ] {
            is(text, "select", false);
        }
        is("INSERT INTO t VALUES (1)", "insert", false);
        is("/*!50000 INSERT */ INTO t VALUES (1)", "insert", false);
        is("WITH a AS (SELECT 1) DELETE FROM t", "delete", false);
        is("WITH a AS (SELECT 1) UPDATE t JOIN a SET b = 1", "update", false);
        is("EXPLAIN ANALYZE DELETE FROM t", "explain", false);
        is("ANALYZE TABLE t", "analyze", false);
        is("ANALYZE UPDATE t SET a = 1", "analyze", false);
        is("SET GLOBAL max_connections = 5", "set", false);
        is("CREATE TABLE t (a INT)", "create", false);
        is("frobnicate", "other", false);
        is("'string'", "other", false);
        assert!(!classify(b"SELECT 1", true).is_read, "who knows what follows");
    }

    #[test]
    fn what_a_new_connection_has_to_be_told_is_known() {
        for (text, sets) in [
            ("SET @a = 5, @b = 'x'", true),
            ("SET NAMES utf8mb4", true),
            ("SET SESSION sql_mode = ''", true),
            ("set autocommit=0", true),
            ("USE shop", true),
            ("SET GLOBAL x = 1", false),
            ("SET @a = (SELECT 1)", false),
            ("SET TRANSACTION READ ONLY", false),
            ("SELECT 1", false),
            ("SET @a = 1; DELETE FROM t", false),
        ] {
            assert_eq!(classify(text.as_bytes(), false).sets_session, sets, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in prop::collection::vec(any::<u8>(), 0..200), words in "[-a-zA-Z ;'\"`/*!#()\\\\]{0,80}") {
            classify(&text, false);
            classify(words.as_bytes(), false);
        }
    }
}
