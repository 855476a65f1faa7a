//! Reading the protocol's basic types.

use std::fmt;

/// Bytes that are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(
    /// Which part of it.
    pub &'static str,
);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not the MySQL protocol: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads from the front of a packet's payload. Whatever is read may be missing; nothing panics.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `payload`.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// `what`, when there are fewer.
    pub fn bytes(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(n).ok_or(Malformed(what))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A byte.
    ///
    /// # Errors
    /// `what`, when there is none.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.bytes(1, what)?[0])
    }

    /// A number of `n` bytes, 8 at most, the lowest first.
    ///
    /// # Errors
    /// `what`, when there are fewer bytes.
    pub fn number(&mut self, n: usize, what: &'static str) -> Result<u64, Malformed> {
        let bytes = self.bytes(n, what)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Bytes up to a NUL, which is read and not given.
    ///
    /// # Errors
    /// `what`, when there is no NUL.
    pub fn nul_terminated(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(Malformed(what))?;
        let text = self.bytes(end, what)?;
        self.bytes(1, what)?;
        Ok(text)
    }

    /// Bytes up to a NUL, or to the end where a peer leaves the last NUL out.
    pub fn nul_terminated_or_rest(&mut self) -> &'a [u8] {
        self.nul_terminated("").unwrap_or_else(|_| std::mem::take(&mut self.rest))
    }

    /// A length-encoded number; NULL, which stands in rows, is `None`.
    ///
    /// # Errors
    /// `what`, when it is cut off or begins with 0xff.
    pub fn length_encoded_or_null(&mut self, what: &'static str) -> Result<Option<u64>, Malformed> {
        Ok(Some(match self.u8(what)? {
            0xfb => return Ok(None),
            0xfc => self.number(2, what)?,
            0xfd => self.number(3, what)?,
            0xfe => self.number(8, what)?,
            0xff => return Err(Malformed(what)),
            small => u64::from(small),
        }))
    }

    /// A length-encoded number.
    ///
    /// # Errors
    /// `what`, when it is cut off, or none.
    pub fn length_encoded(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.length_encoded_or_null(what)?.ok_or(Malformed(what))
    }

    /// Bytes with their length in front.
    ///
    /// # Errors
    /// `what`, when there are fewer than that.
    pub fn length_encoded_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.length_encoded(what)?;
        self.bytes(usize::try_from(len).map_err(|_| Malformed(what))?, what)
    }
}

/// Writes a length-encoded number.
pub fn write_length_encoded(number: u64, out: &mut Vec<u8>) {
    let bytes = number.to_le_bytes();
    match number {
        0..=0xfa => out.push(bytes[0]),
        0xfb..=0xffff => {
            out.push(0xfc);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn length_encoded_numbers_come_back(number in any::<u64>().prop_flat_map(|n| (0..64u32).prop_map(move |by| n >> by))) {
            let mut bytes = Vec::new();
            write_length_encoded(number, &mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.length_encoded("number"), Ok(number));
            prop_assert!(reader.rest().is_empty());
            for cut in 0..bytes.len() {
                prop_assert!(Reader::new(&bytes[..cut]).length_encoded("number").is_err());
            }
        }
    }

    #[test]
    fn a_length_that_is_not_there_is_refused() {
        assert_eq!(Reader::new(&[200, 1, 2]).length_encoded_bytes("text"), Err(Malformed("text")));
        let endless = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Reader::new(&endless).length_encoded_bytes("text"), Err(Malformed("text")));
        assert_eq!(Reader::new(b"no end").nul_terminated("name"), Err(Malformed("name")));
        assert_eq!(Reader::new(&[0xfb]).length_encoded_or_null("value"), Ok(None));
    }
}
