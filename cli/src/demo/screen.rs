//! What the demo prints.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Standard output, with colours and rewritten lines when it is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    terminal: bool,
    colour: bool,
}

/// How a text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A heading.
    Bold,
    /// An explanation.
    Faint,
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
}

impl Screen {
    /// Standard output as it is. `NO_COLOR` in the environment turns colours off.
    pub fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, colour: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Whether lines can be rewritten.
    pub fn is_terminal(self) -> bool {
        self.terminal
    }

    /// `text` in this style.
    pub fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Faint => "2",
            Style::Good => "1;32",
            Style::Bad => "1;31",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a line.
    pub fn line(self, text: &str) {
        // Nobody may be reading any more; the demo goes on to its end and cleans up.
        let _ = writeln!(io::stdout(), "{text}");
    }

    /// Prints a line that the next one replaces; nothing when lines cannot be rewritten.
    pub fn passing(self, text: &str) {
        if self.terminal {
            let mut out = io::stdout();
            let _ = write!(out, "\r\x1b[K{text}\r");
            let _ = out.flush();
        }
    }

    /// Removes a passing line.
    pub fn clear(self) {
        if self.terminal {
            let _ = write!(io::stdout(), "\r\x1b[K");
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// A number with its thousands apart: `12,345`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in the unit that suits it: `340 us`, `1.25 ms`, `2.00 s`.
pub fn readable(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1_000.0 {
        format!("{micros:.0} us")
    } else if micros < 1_000_000.0 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let texts = [0, 999, 1_000, 12_345, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "12,345", "1,234,567"]);
        let texts = [340, 1_250, 2_000_000].map(|micros| readable(Duration::from_micros(micros)));
        assert_eq!(texts, ["340 us", "1.25 ms", "2.00 s"]);
    }
}
