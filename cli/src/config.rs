//! Options from the command line and from a configuration file, as one.
//!
//! A program's options are one struct that is filled by clap from the command line and by serde from TOML, where each
//! option has its long name. What is not given stays `None`, `false` or empty; [`merge`] then lets the command line
//! win over the file.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::grammar::is_dash;

/// Why a configuration file cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// It cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Its content is wrong.
    Content {
        /// The file.
        path: PathBuf,
        /// Where and what, with the line itself.
        reason: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "cannot read the configuration file {}: {source}", path.display()),
            Self::Content { path, reason } => write!(f, "in the configuration file {}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, or holds what `O` does not know (with file and line).
pub fn read<O: DeserializeOwned>(path: &Path) -> Result<O, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|e| ConfigError::Content { path: path.to_owned(), reason: e.to_string().trim_end().to_owned() })
}

/// The options of `file`, with those that `command_line` gives in their place.
///
/// `O` must leave out of its serialized form what was not given (`skip_serializing_if`).
///
/// # Panics
/// When `O` does not read back what it writes.
pub fn merge<O: Serialize + DeserializeOwned>(command_line: &O, file: &O) -> O {
    let table = |options: &O| toml::Table::try_from(options).expect("options serialize to a table");
    let mut merged = table(file);
    merged.extend(table(command_line));
    merged.try_into().expect("options read back what they wrote")
}

/// For serde: whether a switch is off, and so was not given.
pub fn is_off(switch: &bool) -> bool {
    !switch
}

/// For serde: one string, or a list of them.
///
/// # Errors
/// When the value is neither.
pub fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element::<String>()? {
                list.push(item);
            }
            if list.is_empty() {
                return Err(A::Error::custom("the list is empty"));
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(OneOrMany)
}

/// For serde: a value that is text in the end, as it would be on a command line: a string, a number or a boolean, or a
/// list of these, which becomes one text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Text(pub String);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;

        impl<'de> Visitor<'de> for AnyText {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number, a boolean or a list of these")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text, A::Error> {
                let mut list = Vec::new();
                while let Some(Text(item)) = items.next_element()? {
                    list.push(item);
                }
                Ok(Text(list.join(",")))
            }
        }

        deserializer.deserialize_any(AnyText)
    }
}

/// The words of a command line as they were meant, where a page or a shell has spoiled them: `-s 10.0.0.1, 10.0.0.2` is one
/// value, a dash that a page has made longer begins an option all the same, and what stands in a page's quotation marks is
/// one word.
pub fn mend(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    const OPENING: &[char] = &['\u{2018}', '\u{201c}', '\u{2019}', '\u{201d}'];
    let mut mended: Vec<String> = Vec::new();
    let mut quoted = false;
    for argument in arguments {
        let closes = argument.ends_with(OPENING);
        if quoted {
            if let Some(last) = mended.last_mut() {
                last.push(' ');
                last.push_str(argument.trim_end_matches(OPENING));
            }
            quoted = !closes;
            continue;
        }
        if argument.starts_with(OPENING) {
            mended.push(argument.trim_matches(OPENING).to_owned());
            quoted = !closes || argument.chars().count() == 1;
            continue;
        }
        match mended.last_mut() {
            Some(last) if last.ends_with(',') && !argument.starts_with('-') => last.push_str(&argument),
            _ => mended.push(mend_dash(argument)),
        }
    }
    mended
}

/// `–x` for `-x`, and `—map` or `––map` for `--map`.
fn mend_dash(word: String) -> String {
    let plain = word.trim_start_matches(is_dash);
    if plain.len() == word.len() || !plain.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return word;
    }
    let dashes = if plain.chars().count() > 1 { "--" } else { "-" };
    format!("{dashes}{plain}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
    struct Sample {
        #[serde(skip_serializing_if = "Option::is_none")]
        default_port: Option<u16>,
        #[serde(skip_serializing_if = "is_off")]
        daemon: bool,
        #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
        map: Vec<String>,
    }

    #[test]
    fn the_command_line_wins_and_the_rest_comes_from_the_file() {
        let file: Sample = toml::from_str("default-port = 1\ndaemon = true\nmap = ['a', 'b']").unwrap();
        let command_line = Sample { default_port: Some(2), ..Sample::default() };
        let merged = merge(&command_line, &file);
        assert_eq!(merged, Sample { default_port: Some(2), daemon: true, map: vec!["a".into(), "b".into()] });
    }

    #[test]
    fn one_string_is_a_list_of_one() {
        let sample: Sample = toml::from_str("map = '80-10.0.0.1:80'").unwrap();
        assert_eq!(sample.map, ["80-10.0.0.1:80"]);
    }

    #[test]
    fn values_of_any_kind_are_text() {
        let table: std::collections::BTreeMap<String, Text> =
            toml::from_str("a = 'x'\nb = -3\nc = 0.5\nd = true\ne = ['get', 7]\nf = []").unwrap();
        let texts: Vec<&str> = table.values().map(|text| text.0.as_str()).collect();
        assert_eq!(texts, ["x", "-3", "0.5", "true", "get,7", ""]);
        let refused = toml::from_str::<std::collections::BTreeMap<String, Text>>("a = { b = 1 }").unwrap_err();
        assert!(refused.to_string().contains("a string, a number"), "{refused}");
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let path = std::env::temp_dir().join(format!("tcpcopy-config-{}.toml", std::process::id()));
        for (text, line, word) in [
            ("daemon = true\nmpa = 'x'\n", "line 2", "mpa"),
            ("daemon = 3\n", "line 1", "boolean"),
            ("default-port = 70000\n", "line 1", "70000"),
            ("map = []\n", "line 1", "empty"),
        ] {
            fs::write(&path, text).unwrap();
            let message = read::<Sample>(&path).unwrap_err().to_string();
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(message.contains(line) && message.contains(word), "{message}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read::<Sample>(&path), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn words_are_joined_after_a_comma() {
        let words = ["-s", "10.0.0.1,", "10.0.0.2:80,", "-d", "-x", "a"].map(str::to_owned);
        assert_eq!(mend(words), ["-s", "10.0.0.1,10.0.0.2:80,", "-d", "-x", "a"]);
    }

    #[test]
    fn what_a_page_has_spoiled_is_mended() {
        let mended = |line: &str| mend(line.split(' ').map(str::to_owned)).join("|");
        assert_eq!(mended("tcpcopy \u{2013}x 80-10.0.0.2:80 \u{2013}n 3"), "tcpcopy|-x|80-10.0.0.2:80|-n|3");
        assert_eq!(mended("\u{2014}map 80-10.0.0.2:80 \u{2013}\u{2013}log a"), "--map|80-10.0.0.2:80|--log|a");
        assert_eq!(mended("-F \u{2018}tcp and src port 80\u{2018} -d"), "-F|tcp and src port 80|-d");
        assert_eq!(mended("-F \u{201c}tcp\u{201d} -d"), "-F|tcp|-d");
        assert_eq!(mended("-x \u{2013}5"), "-x|\u{2013}5", "no option begins with a digit");
    }
}
