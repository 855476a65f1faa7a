//! How a server says that something is done, or is not.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_response_packets.html>

use super::{Malformed, Reader};

/// More results follow (SERVER_MORE_RESULTS_EXISTS).
pub const MORE_RESULTS: u16 = 0x0008;
/// Rows are fetched later (SERVER_STATUS_CURSOR_EXISTS).
pub const CURSOR_EXISTS: u16 = 0x0040;

/// Most that is kept of an error's text, in bytes.
const TEXT_LEN: usize = 200;

/// An error (ERR_Packet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrPacket {
    /// Its number: 1045 is ER_ACCESS_DENIED_ERROR.
    pub code: u16,
    /// What the server says of it, the beginning.
    pub text: String,
}

impl ErrPacket {
    /// Reads the payload of an error.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.u8("an empty answer")? != 0xff {
            return Err(Malformed("something else than an error"));
        }
        let code = reader.number(2, "an error without number")? as u16;
        let mut text = reader.rest();
        if let Some(behind) = text.strip_prefix(b"#") {
            // The SQL state. An error in place of a greeting has none.
            text = behind.get(5..).unwrap_or_default();
        }
        let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_LEN)]).into_owned();
        Ok(Self { code, text })
    }
}

/// That something is done (OK_Packet), or that rows are at their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OkPacket {
    /// Rows that were changed.
    pub affected_rows: u64,
    /// Status flags.
    pub status: u16,
}

impl OkPacket {
    /// Reads the payload of an OK packet, whose first byte says nothing here: 0x00, or 0xfe at the end of rows.
    ///
    /// # Errors
    /// What is missing of it.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        reader.u8("an empty answer")?;
        let affected_rows = reader.length_encoded("an OK without a number of rows")?;
        reader.length_encoded("an OK without a last id")?;
        let status = reader.number(2, "an OK without status")? as u16;
        Ok(Self { affected_rows, status })
    }

    /// Reads the payload of an EOF packet.
    ///
    /// # Errors
    /// What is missing of it.
    pub fn parse_eof(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        reader.bytes(3, "an EOF without warnings")?;
        Ok(Self { affected_rows: 0, status: reader.number(2, "an EOF without status")? as u16 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_oks_are_read() {
        let error = ErrPacket::parse(b"\xff\x15\x04#28000Access denied for user 'a'@'b'").unwrap();
        assert_eq!((error.code, &*error.text), (1045, "Access denied for user 'a'@'b'"));
        assert_eq!(ErrPacket::parse(b"\xff\x15\x04#28").unwrap().text, "");
        assert_eq!(OkPacket::parse(&[0, 3, 0, 2, 0, 0, 0]).unwrap(), OkPacket { affected_rows: 3, status: 2 });
        assert_eq!(OkPacket::parse_eof(&[0xfe, 0, 0, 8, 0]).unwrap().status, MORE_RESULTS);
        for cut in 0..5 {
            assert!(OkPacket::parse(&[0, 3, 0, 2, 0][..cut]).is_err());
            assert!(OkPacket::parse_eof(&[0xfe, 0, 0, 8, 0][..cut]).is_err());
        }
    }
}
