//! The doctor's command line for a copy, from the words that the copy was started with.

use super::is_harmless;

/// Stands for a secret.
const STARS: &str = "***";

/// Shows the value of an option without what may be secret in it.
type Show = fn(&str) -> String;

/// The doctor's command line for a copy that was started with these words, its name first. What may be a secret is left out.
pub fn doctor_command(words: impl IntoIterator<Item = String>) -> String {
    let mut command = "tcpcopy doctor".to_owned();
    // How to show the next word, where it is the value of an option that may be secret.
    let mut show_next: Option<Show> = None;
    for word in words.into_iter().skip(1) {
        let shown = if let Some(show) = show_next.take() {
            show(&word)
        } else {
            let (shown, next) = option(&word);
            show_next = next;
            shown
        };
        command.push(' ');
        command.push_str(&quoted(&shown));
    }
    command
}

/// A word that stands where an option may, and how to show the one behind it if that is its value.
fn option(word: &str) -> (String, Option<Show>) {
    if let Some(name) = word.strip_prefix("--") {
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        let show: Show = match name {
            "mysql-user" => users,
            "proto-opt" => setting,
            _ => return (word.to_owned(), None),
        };
        return match value {
            None => (word.to_owned(), Some(show)),
            Some(value) => (format!("--{name}={}", show(value)), None),
        };
    }
    match mysql_user(word) {
        None => (word.to_owned(), None),
        Some("") => (word.to_owned(), Some(users)),
        Some(value) => {
            let letters = &word[..word.len() - value.len()];
            (format!("{letters}{}", users(value)), None)
        }
    }
}

/// The value behind `-u` in a word of short options, which may be empty: then it is the next word.
fn mysql_user(word: &str) -> Option<&str> {
    let (flags, value) = word.strip_prefix('-')?.split_once('u')?;
    // Letters of options without a value; behind any other one stands that one's value.
    flags.chars().all(|letter| "OWgLd".contains(letter)).then_some(value)
}

/// Names and passwords, in a form that the option takes; the name of a file stays.
fn users(value: &str) -> String {
    if value.starts_with('@') { value.to_owned() } else { format!("{STARS}@{STARS}") }
}

/// A module's option: of some it is known that they are no secrets.
fn setting(option: &str) -> String {
    match option.split_once('=') {
        Some((key, value)) if !is_harmless(key) => {
            let is_of_users = key.rsplit('.').next() == Some("user");
            format!("{key}={}", if is_of_users { users(value) } else { STARS.to_owned() })
        }
        _ => option.to_owned(),
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/@%+[]".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_what_was_typed() {
        let command = |words: &[&str]| doctor_command(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(
            command(&[
                "/usr/sbin/tcpcopy",
                "-x",
                "80-10.0.0.2:80",
                "-F",
                "tcp and dst port 80",
                "-d",
                "-c",
                "10.78.0.x"
            ]),
            "tcpcopy doctor -x 80-10.0.0.2:80 -F 'tcp and dst port 80' -d -c 10.78.0.x"
        );
        assert_eq!(command(&["tcpcopy", "it's", ""]), r"tcpcopy doctor 'it'\''s' ''");
    }

    #[test]
    fn the_command_shows_no_password() {
        let words = [
            &["-u", "app@secret"][..],
            &["-uapp@secret"],
            &["-du", "app@secret"],
            &["-dLuapp@secret"],
            &["--mysql-user", "app@secret,b@secret"],
            &["--mysql-user=app@secret"],
            &["--proto-opt", "mysql.user=app@secret"],
            &["--proto-opt=mysql.user=app@secret"],
        ];
        for words in words {
            let all = ["tcpcopy"].into_iter().chain(words.iter().copied()).map(str::to_owned);
            let command = doctor_command(all);
            assert!(!command.contains("secret") && command.contains("***@***"), "{command}");
        }
        for words in [
            &["--proto-opt", "redis.token=secret"][..],
            &["--proto-opt=token=secret"],
            &["--proto-opt", "mysql.new=secret"],
        ] {
            let all = ["tcpcopy"].into_iter().chain(words.iter().copied()).map(str::to_owned);
            let command = doctor_command(all);
            assert!(!command.contains("secret") && command.contains("=***"), "{command}");
        }
        let harmless = doctor_command(["tcpcopy", "--proto-opt", "mysql.only=select", "-u-x", "-x"].map(str::to_owned));
        assert_eq!(harmless, "tcpcopy doctor --proto-opt mysql.only=select '-u***@***' -x");
        let file = doctor_command(["tcpcopy", "-u", "@/etc/users"].map(str::to_owned));
        assert_eq!(file, "tcpcopy doctor -u @/etc/users");
        let other = doctor_command(["tcpcopy", "-lu", "-x", "80-10.0.0.2:80"].map(str::to_owned));
        assert_eq!(other, "tcpcopy doctor -lu -x 80-10.0.0.2:80", "`u` is the value of -l here");
    }
}
