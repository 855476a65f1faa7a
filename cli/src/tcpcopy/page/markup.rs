//! Writes HTML that is well-formed XML as well: every element is closed, every text escaped.

/// Attributes of an element: names are ours, values may be anybody's.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a str)];

/// A document, or a part of one.
#[derive(Debug, Default)]
pub(super) struct Markup {
    text: String,
}

impl Markup {
    /// An element with something in it.
    pub(super) fn within(&mut self, tag: &'static str, attributes: Attributes<'_>, content: impl FnOnce(&mut Self)) {
        self.begin(tag, attributes);
        self.text.push('>');
        content(self);
        self.text.push_str("</");
        self.text.push_str(tag);
        self.text.push_str(">\n");
    }

    /// An element with a text in it.
    pub(super) fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.within(tag, attributes, |m| m.text(text));
    }

    /// An element that cannot have anything in it, as HTML has some and SVG many.
    pub(super) fn void(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.begin(tag, attributes);
        self.text.push_str("/>\n");
    }

    /// A text.
    pub(super) fn text(&mut self, text: &str) {
        escape_into(&mut self.text, text);
    }

    /// What is markup already; of this program only.
    pub(super) fn own(&mut self, markup: &'static str) {
        self.text.push_str(markup);
    }

    /// The whole of it.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn begin(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.text.push('<');
        self.text.push_str(tag);
        for (name, value) in attributes {
            self.text.push(' ');
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape_into(&mut self.text, value);
            self.text.push('"');
        }
    }
}

/// Takes from a text what would be markup, and the characters that XML has no place for.
fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // Also those that turn the direction of writing, and so what a line seems to say.
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}') =>
            {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_text_it_is_no_markup() {
        let mut markup = Markup::default();
        markup.leaf("td", &[("title", "a\"b<c>'d'")], "<script>&\u{1b}[31m\u{202e}</td>");
        assert_eq!(
            markup.into_text(),
            "<td title=\"a&quot;b&lt;c&gt;&#39;d&#39;\">&lt;script&gt;&amp;\u{fffd}[31m\u{fffd}&lt;/td&gt;</td>\n"
        );
    }
}
