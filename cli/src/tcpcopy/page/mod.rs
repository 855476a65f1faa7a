//! The report of a run: one page of HTML with everything in it, and nothing from elsewhere.
//!
//! The page is well-formed XML, too, needs no scripts, and is made of a [`History`] alone: the same samples make the same
//! page.

mod axis;
mod findings;
mod head;
mod markup;
mod numbers;
mod plot;
mod plots;
mod tables;
mod words;

use super::recording::History;
use markup::Markup;

const STYLE: &str = include_str!("style.css");

/// What the page calls what is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Units {
    Requests,
    Datagrams,
    Both,
}

impl Units {
    fn of(history: &History) -> Self {
        let is = |transport: &str| history.begin.maps.iter().any(|map| map.transport == transport);
        match (is("TCP"), is("UDP")) {
            (_, false) => Self::Requests,
            (false, true) => Self::Datagrams,
            (true, true) => Self::Both,
        }
    }

    const fn plural(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Datagrams => "datagrams",
            Self::Both => "requests and datagrams",
        }
    }
}

/// What was captured, copied and answered of them, in a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    captured: u64,
    copied: u64,
    answered: u64,
}

impl Flow {
    fn of(history: &History) -> Self {
        let t = &history.totals;
        Self {
            captured: t.count("requests") + t.count("udp_datagrams"),
            copied: t.count("requests_copied") + t.count("udp_sent"),
            answered: t.target.count().max(t.count("udp_answered")),
        }
    }
}

/// The page.
pub fn render(history: &History) -> String {
    let mut m = Markup::default();
    m.own("<!DOCTYPE html>\n");
    m.within("html", &[("lang", "en")], |m| {
        m.within("head", &[], |m| {
            m.void("meta", &[("charset", "utf-8")]);
            m.void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            m.void("meta", &[("name", "color-scheme"), ("content", "light dark")]);
            m.leaf("title", &[], &head::title(history));
            m.within("style", &[], |m| m.own(STYLE));
        });
        m.within("body", &[], |m| {
            head::write(m, history);
            findings::write(m, history);
            plots::write(m, history);
            tables::write(m, history);
            footer(m, history);
        });
    });
    m.into_text()
}

fn footer(m: &mut Markup, history: &History) {
    m.leaf("h2", &[], "Words");
    m.within("dl", &[("class", "glossary")], |m| {
        for (word, meaning) in words::GLOSSARY {
            m.leaf("dt", &[], word);
            m.leaf("dd", &[], meaning);
        }
    });
    m.leaf("footer", &[], &format!("Written by tcpcopy {}.", history.begin.version));
}

#[cfg(test)]
mod tests;
