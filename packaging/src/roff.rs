//! Text for man(7): what the formatter would take for something else is written so that it stays as it is.

/// Plain text within a line.
pub fn plain(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            // A hyphen could be broken at, and is another character in print.
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Bold text.
pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", plain(text))
}

/// Italic text, for what stands for something else.
pub fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", plain(text))
}

/// Prose of an option's help: names of options are bold, as is what stands between backticks.
pub fn prose(text: &str) -> String {
    let mut line = String::new();
    for (number, part) in text.split('`').enumerate() {
        if number % 2 == 1 {
            line.push_str(&bold(part));
        } else {
            prose_words(&mut line, part);
        }
    }
    folded(&line)
}

/// Text in lines of no more than 78 characters, where it has blanks to break at.
pub fn folded(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > 0 {
            let fits = column + 1 + width <= 78;
            lines.push(if fits { ' ' } else { '\n' });
            column = if fits { column + 1 } else { 0 };
        }
        // A line that began with one of these would be an order to the formatter.
        if column == 0 && word.starts_with(['.', '\'']) {
            lines.push_str("\\&");
        }
        lines.push_str(word);
        column += width;
    }
    lines
}

fn prose_words(line: &mut String, text: &str) {
    for word in text.split_inclusive(char::is_whitespace) {
        let start = word.find(|c| c != '(').unwrap_or(word.len());
        let (before, rest) = word.split_at(start);
        let end = rest.find(|c: char| !(c == '-' || c.is_ascii_alphanumeric())).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let letters = name.trim_start_matches('-');
        let is_option = name.len() > letters.len() && letters.starts_with(|c: char| c.is_ascii_alphabetic());
        line.push_str(&plain(before));
        line.push_str(&if is_option { bold(name) } else { plain(name) });
        line.push_str(&plain(after));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_an_order_to_the_formatter() {
        assert_eq!(plain(r"a\b-c 'd' `e`"), r"a\eb\-c \(aqd\(aq \(gae\(ga");
        assert_eq!(prose(".so /etc/passwd"), r"\&.so /etc/passwd");
        assert_eq!(prose("'quoted"), r"\(aqquoted");
        let text = format!("{} .solo", "word ".repeat(15));
        assert_eq!(folded(&text).lines().last(), Some("\\&.solo"), "a broken line is a line, too");
    }

    #[test]
    fn names_of_options_are_bold() {
        assert_eq!(prose("with -s local, not"), r"with \fB\-s\fR local, not");
        assert_eq!(prose("(--mysql-user)"), r"(\fB\-\-mysql\-user\fR)");
        assert_eq!(prose("80-10.0.0.2:80, - and -1"), r"80\-10.0.0.2:80, \- and \-1");
        assert_eq!(prose("or `auto`: one"), r"or \fBauto\fR: one");
    }
}
