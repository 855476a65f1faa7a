//! Reading addresses, ports and lists out of an option's text, with errors that point at the place.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use ipnet::IpNet;

use tcpcopy_wire::Port;

/// An option as messages name it, with an example of its right form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionName {
    /// Short and long name: `-x (--map)`.
    pub name: &'static str,
    /// An example of the right form: `-x 80-10.0.0.2:8080`.
    pub example: &'static str,
}

/// What is wrong with an option's text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The option.
    pub option: OptionName,
    /// Its whole text.
    pub text: String,
    /// The bytes of `text` that are wrong.
    pub place: Range<usize>,
    /// What is wrong with them.
    pub reason: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.text.get(..self.place.start).map_or(0, |s| s.chars().count());
        let marked = self.text.get(self.place.clone()).map_or(1, |s| s.chars().count().max(1));
        writeln!(f, "in {}: {}", self.option.name, self.reason)?;
        writeln!(f, "    {}", self.text)?;
        writeln!(f, "    {}{}", " ".repeat(before), "^".repeat(marked))?;
        write!(f, "it is written like this: {}", self.option.example)
    }
}

impl std::error::Error for SyntaxError {}

/// A part of an option's text that remembers its place in the whole.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    option: OptionName,
    whole: &'a str,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    /// The whole text of an option.
    pub fn whole(option: OptionName, text: &'a str) -> Self {
        Self { option, whole: text, start: 0, end: text.len() }
    }

    /// Its text.
    pub fn text(&self) -> &'a str {
        &self.whole[self.start..self.end]
    }

    /// An error at this part.
    pub fn error(&self, reason: impl Into<String>) -> SyntaxError {
        SyntaxError {
            option: self.option,
            text: self.whole.to_owned(),
            place: self.start..self.end,
            reason: reason.into(),
        }
    }

    /// The part of these bytes of this part.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self { start: self.start + range.start, end: self.start + range.end, ..*self }
    }

    /// Without spaces around it.
    #[must_use]
    pub fn trimmed(&self) -> Self {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        let end = text.trim_end().len().max(start);
        self.slice(start..end)
    }

    /// What is before and after the first `separator`.
    pub fn split_once(&self, separator: char) -> Option<(Self, Self)> {
        let at = self.text().find(separator)?;
        Some((self.slice(0..at), self.slice(at + separator.len_utf8()..self.text().len())))
    }

    /// The parts between commas, without spaces around them. A comma at the end is forgiven.
    ///
    /// # Errors
    /// When a part is empty, or a character stands there that only looks like the right one.
    pub fn list(&self) -> Result<Vec<Self>, SyntaxError> {
        self.check_characters()?;
        let text = self.text().trim_end().trim_end_matches(',');
        let mut parts = Vec::new();
        let mut at = 0;
        for item in text.split(',') {
            let part = self.slice(at..at + item.len()).trimmed();
            if part.text().is_empty() {
                return Err(part.error("there is nothing here"));
            }
            parts.push(part);
            at += item.len() + 1;
        }
        Ok(parts)
    }

    /// Pages and word processors turn `-` into a dash, and input methods write wide punctuation.
    fn check_characters(&self) -> Result<(), SyntaxError> {
        for (at, c) in self.text().char_indices() {
            let plain = match c {
                c if is_dash(c) => '-',
                '，' | '、' => ',',
                '：' => ':',
                '．' | '。' => '.',
                '\u{a0}' | '\u{3000}' => ' ',
                _ => continue,
            };
            return Err(self
                .slice(at..at + c.len_utf8())
                .error(format!("`{c}` only looks like `{plain}` (pasted from a page?); type `{plain}`")));
        }
        Ok(())
    }

    /// A port.
    ///
    /// # Errors
    /// When it is no number from 1 to 65535.
    pub fn port(&self) -> Result<Port, SyntaxError> {
        match self.text().parse::<u16>() {
            Ok(0) | Err(_) if self.text().is_empty() => Err(self.error("the port is missing")),
            Ok(0) | Err(_) => Err(self.error(format!("`{}` is not a port (1 to 65535)", self.text()))),
            Ok(port) => Ok(Port(port)),
        }
    }

    /// An address, IPv6 in brackets or not.
    ///
    /// # Errors
    /// When it is none.
    pub fn address(&self) -> Result<IpAddr, SyntaxError> {
        let text = self.text();
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return inner
                .parse::<Ipv6Addr>()
                .map(IpAddr::V6)
                .map_err(|_| self.error(format!("`{inner}` is not an IPv6 address")));
        }
        text.parse().map_err(|_| self.error(not_an_address(text)))
    }

    /// `address:port`, or `port` alone; an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// When it is neither.
    pub fn address_and_port(&self) -> Result<(Option<IpAddr>, Port), SyntaxError> {
        let text = self.text();
        if text.is_empty() {
            return Err(self.error("an address and a port are missing"));
        }
        if text.starts_with('[') {
            let Some(end) = text.find(']') else { return Err(self.error("the `]` is missing")) };
            let address = self.slice(0..end + 1).address()?;
            let rest = self.slice(end + 1..text.len());
            let Some((nothing, port)) = rest.split_once(':') else {
                return Err(if rest.text().is_empty() {
                    self.error("the port is missing")
                } else {
                    rest.error("a `:` and the port are expected here")
                });
            };
            if !nothing.text().is_empty() {
                return Err(nothing.error("a `:` and the port are expected here"));
            }
            return Ok((Some(address), port.port()?));
        }
        match text.matches(':').count() {
            0 if text.parse::<Ipv4Addr>().is_ok() => Err(self.error("the port is missing")),
            0 => Ok((None, self.port()?)),
            1 => {
                let (address, port) = self.split_once(':').expect("there is one");
                let Ok(ip) = address.text().parse::<Ipv4Addr>() else {
                    return Err(address.error(not_an_address(address.text())));
                };
                Ok((Some(IpAddr::V4(ip)), port.port()?))
            }
            _ => Err(self.error("an IPv6 address stands in brackets, with the port behind: [fd00::1]:80")),
        }
    }
}

/// `address` or `address:port` with a default; an IPv6 address needs brackets only with a port.
///
/// # Errors
/// When it is neither.
pub fn address_with_default_port(part: Part<'_>, default_port: u16) -> Result<SocketAddr, SyntaxError> {
    let text = part.text();
    if text.starts_with('[') && text.ends_with(']') || text.matches(':').count() > 1 && !text.starts_with('[') {
        return Ok(SocketAddr::new(part.address()?, default_port));
    }
    if !text.contains(':') {
        return Ok(SocketAddr::new(part.address()?, default_port));
    }
    match part.address_and_port()? {
        (Some(address), port) => Ok(SocketAddr::new(address, port.0)),
        (None, _) => Err(part.error("the address is missing")),
    }
}

fn not_an_address(text: &str) -> String {
    if text.is_empty() {
        "the address is missing".to_owned()
    } else if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        format!("`{text}` is not an IPv4 address")
    } else {
        format!("`{text}` is not an IP address; names are not looked up")
    }
}

/// Reads an address, or a network: `10.0.0.9` or `10.1.0.0/16`.
///
/// # Errors
/// When it is neither.
pub fn network(part: Part<'_>) -> Result<IpNet, SyntaxError> {
    let Some((address, length)) = part.split_once('/') else { return Ok(IpNet::from(part.address()?)) };
    let address: IpAddr = address.address()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length: Option<u8> = length.text().parse().ok().filter(|length| *length <= longest);
    let length =
        length.ok_or_else(|| part.error(format!("the length of a network is a number from 0 to {longest}")))?;
    IpNet::new(address, length).map_err(|e| part.error(e.to_string()))
}

/// Whether a character is one of the dashes that pages make out of `-`.
pub fn is_dash(c: char) -> bool {
    matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
}
