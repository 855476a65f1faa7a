//! What a check has found.

use std::fmt;

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing is in the way.
    Ok,
    /// The copy may work, but not always, or not well; or it could not be looked at.
    Warning,
    /// The copy cannot work like this.
    Failure,
}

/// One line of the doctor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked, in a word or two that stay the same: `capabilities`, `route to target`.
    pub check: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen, with the addresses, devices and values it was seen on.
    pub text: String,
    /// The command to type, and on which host, or the option to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl fmt::Display for Finding {
    /// `ok        capabilities: NET_RAW and NET_ADMIN`; what mends it stands on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failure => "FAILURE",
        };
        write!(f, "{outcome:<8} {}: {}", self.check, self.text)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n         -> {remedy}"),
            None => Ok(()),
        }
    }
}
