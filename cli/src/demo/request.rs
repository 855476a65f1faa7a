//! The requests of the demo: each can be told from every other, and checked to the last byte.

use std::hash::BuildHasher;
use std::io::Write;

use foldhash::quality::FixedState;

/// A request as bytes.
///
/// The path carries `id`, the body is `body_len` bytes that depend on `id`, so no two requests are alike.
pub fn build(id: u64, body_len: usize, close: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(160 + body_len);
    let method = if body_len == 0 { "GET" } else { "POST" };
    let connection = if close { "close" } else { "keep-alive" };
    // Writing to a Vec cannot fail.
    let _ = write!(bytes, "{method} /r/{id} HTTP/1.1\r\nHost: online\r\nConnection: {connection}\r\n");
    if body_len > 0 {
        let _ = write!(bytes, "Content-Length: {body_len}\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    let end = bytes.len() + body_len;
    let mut word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < end {
        // xorshift64: any cheap sequence without short repeats will do.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        let chunk = word.to_ne_bytes();
        let take = chunk.len().min(end - bytes.len());
        bytes.extend_from_slice(&chunk[..take]);
    }
    bytes
}

/// A number that differs, as good as certainly, when the bytes differ. The same in every run.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    FixedState::default().hash_one(bytes)
}

/// What the head of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number in a path of the form `/r/<number>`.
    pub id: Option<u64>,
    /// Length of the whole request, head and body, in bytes.
    pub total: usize,
    /// Whether the client wants the connection closed after the answer.
    pub close: bool,
}

/// What [`parse_head`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head goes on.
    Partial,
    /// The head is complete.
    Complete(Head),
    /// This is not HTTP/1.1.
    Garbage,
}

/// Reads the head of a request at the start of `bytes`.
pub fn parse_head(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let head_len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Garbage,
    };
    let Some(body_len) = content_length(request.headers) else { return Parsed::Garbage };
    let close = header(request.headers, "connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    let id = request.path.and_then(|path| path.strip_prefix("/r/")).and_then(|id| id.parse().ok());
    Parsed::Complete(Head { id, total: head_len + body_len, close })
}

/// Length of the answer at the start of `bytes`, head and body, once its head is complete.
///
/// # Errors
/// When the bytes are no HTTP answer with a length.
pub fn answer_len(bytes: &[u8]) -> Result<Option<usize>, NotAnAnswer> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => {
            content_length(response.headers).map(|body| Some(len + body)).ok_or(NotAnAnswer)
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(NotAnAnswer),
    }
}

/// The bytes are no HTTP answer with a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnAnswer;

fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Zero without the header; `None` when it is no number.
fn content_length(headers: &[httparse::Header<'_>]) -> Option<usize> {
    match header(headers, "content-length") {
        None => Some(0),
        Some(value) => std::str::from_utf8(value).ok()?.trim().parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        for (body_len, close) in [(0, false), (1, true), (13, false), (100_000, true)] {
            let bytes = build(42, body_len, close);
            assert_eq!(parse_head(&bytes), Parsed::Complete(Head { id: Some(42), total: bytes.len(), close }));
        }
    }

    #[test]
    fn a_head_cut_short_is_partial_and_noise_is_garbage() {
        let bytes = build(42, 0, false);
        assert_eq!(parse_head(&bytes[..bytes.len() - 1]), Parsed::Partial);
        assert_eq!(parse_head(b"\x16\x03\x01\x02\x00 not HTTP"), Parsed::Garbage);
        assert_eq!(parse_head(b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n"), Parsed::Garbage);
    }

    #[test]
    fn one_changed_byte_changes_the_fingerprint() {
        let bytes = build(7, 5000, false);
        for at in [0, 20, 200, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(fingerprint(&bytes), fingerprint(&changed), "byte {at}");
        }
        assert_ne!(fingerprint(&build(1, 100, false)), fingerprint(&build(2, 100, false)));
    }
}
