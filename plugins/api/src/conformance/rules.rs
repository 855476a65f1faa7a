//! The rules, each with the conversations that try it.

use std::collections::BTreeSet;

use super::{Failure, Rule, Sample, Step, Suite};
use crate::testing::{Conversation, Outcome, State};
use crate::{Payload, Transport};

/// Places in a sample that are tried one by one; in a longer one, so many of them, evenly spread.
const PLACES: usize = 600;
/// Samples garbled, and streams of garbage.
const GARBLED: u64 = 400;
/// Tails of a stream of garbage that are joined.
const TAILS: usize = 60;
/// Segments of a flood are as long as those of an Ethernet.
const SEGMENT: usize = 1_460;

impl Suite<'_> {
    pub(super) fn about(&self) -> Result<(), Failure> {
        let about = &self.module.about;
        let mut letters = about.name.bytes();
        let named = letters.next().is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
        if !named {
            return self
                .fail(Rule::About, format!("`{}` is no name: lower-case letters, digits, `-`, `_`", about.name));
        }
        if about.version.is_empty() || about.summary.is_empty() || about.summary.contains('\n') {
            return self.fail(Rule::About, "it wants a version, and a summary of one line");
        }
        Ok(())
    }

    /// The sample as its author wrote it, a segment for each step.
    pub(super) fn sample(&mut self, sample: &Sample) -> Result<(), Failure> {
        let outcome = self.run(sample, "as it is", |_, _| Vec::new())?;
        let Some(expected) = &sample.to_target else { return Ok(()) };
        let came: Vec<u8> = outcome.connections.iter().flatten().flat_map(|message| message.bytes.clone()).collect();
        if came != *expected {
            let (came, expected) = (came.escape_ascii(), expected.escape_ascii());
            let what = format!("sample `{}`: `{came}` reached the target, and not `{expected}`", sample.name);
            return self.fail(Rule::Sample, what);
        }
        Ok(())
    }

    pub(super) fn determinism(&mut self, sample: &Sample) -> Result<(), Failure> {
        let first = self.run(sample, "once", |_, _| Vec::new())?;
        let second = self.run(sample, "once more", |_, _| Vec::new())?;
        if first != second {
            let what = format!("sample `{}` came to {}", sample.name, difference(&first, &second));
            return self.fail(Rule::Determinism, what);
        }
        Ok(())
    }

    pub(super) fn segmentation(&mut self, sample: &Sample) -> Result<(), Failure> {
        if self.module.about.transport == Transport::Udp {
            return Ok(());
        }
        let whole = self.run(sample, "in one segment a step", |_, _| Vec::new())?;
        for size in [1, 2, 3, 5, 7, 16, 100, SEGMENT] {
            let what = format!("in segments of {size}");
            let outcome = self.run(sample, &what, |_, bytes| (size..bytes.len()).step_by(size).collect())?;
            self.same(sample, &whole, &outcome, &what)?;
        }
        for (step, at) in places(sample) {
            let what = format!("with step {step} cut at {at}");
            let outcome = self.run(sample, &what, |i, _| if i == step { vec![at] } else { Vec::new() })?;
            self.same(sample, &whole, &outcome, &what)?;
        }
        for seed in 1..=GARBLED {
            let mut chance = Chance(seed);
            let what = format!("in segments by chance, seed {seed}");
            let outcome = self.run(sample, &what, |_, bytes| chance.cuts(bytes.len()))?;
            self.same(sample, &whole, &outcome, &what)?;
        }
        Ok(())
    }

    /// The client, or the target, closes in the middle of each step.
    pub(super) fn closes(&mut self, sample: &Sample) -> Result<(), Failure> {
        for (step, at) in places(sample) {
            let what = || format!("sample `{}`, closed at {at} of step {step}", sample.name);
            let (held, payload, state) = self.converse(what, |module| {
                let mut conversation = Conversation::open(module);
                up_to(&mut conversation, sample, step, at);
                conversation.client_closes();
                let after = (conversation.held().len(), conversation.payload(), conversation.state().clone());
                conversation.target_closes();
                after
            })?;
            // A response may still decide about them, but only one that is shown.
            if state == State::Open && held > 0 && payload == Payload::Headers {
                let what = format!("{}: {held} bytes are held for good, and the client's close with them", what());
                return self.fail(Rule::Close, what);
            }
            self.converse(what, |module| {
                let mut conversation = Conversation::open(module);
                up_to(&mut conversation, sample, step, at);
                conversation.target_closes().client_closes();
            })?;
        }
        Ok(())
    }

    /// The session is joined between two messages; and, if the samples say that it can be, anywhere.
    pub(super) fn joins(&mut self, sample: &Sample) -> Result<(), Failure> {
        if self.module.about.transport == Transport::Udp {
            return Ok(());
        }
        let stream = sample.client_bytes();
        let boundaries = self.boundaries(sample)?;
        let mut joined = 0_usize;
        let anywhere = spread(stream.len() + 1);
        let places: Vec<usize> = if self.samples.joins_anywhere {
            anywhere
        } else {
            self.offsets_within(&stream)?;
            boundaries.iter().map(|at| *at as usize).collect()
        };
        for at in places {
            let what = || format!("sample `{}`, joined at {at}", sample.name);
            let rest = stream.get(at..).unwrap_or_default();
            let Some(offset) = self.join_at(rest, what)? else { continue };
            joined += 1;
            let begun = self.converse(what, |module| {
                let conversation = Conversation::join(module, rest)?;
                (!conversation.is_bypassed()).then(|| conversation.boundaries().to_vec())
            })?;
            let begun = begun.unwrap_or_default();
            let wrong = begun.iter().find(|begun| !boundaries.contains(&(at as u64 + offset as u64 + *begun)));
            if let Some(wrong) = wrong {
                let wrong = at as u64 + offset as u64 + wrong;
                let what = format!("{}: takes a message to begin at {wrong}, in the middle of one", what());
                return self.fail(Rule::Join, what);
            }
        }
        if self.samples.joins_anywhere && joined == 0 && boundaries.len() > 1 {
            return self.fail(Rule::Join, format!("sample `{}` was joined nowhere", sample.name));
        }
        Ok(())
    }

    /// The target closes in the middle of each step.
    pub(super) fn reconnects(&mut self, sample: &Sample) -> Result<(), Failure> {
        for (step, at) in places(sample) {
            let what = || format!("sample `{}`, target closed at {at} of step {step}", sample.name);
            let (stuck, held) = self.converse(what, |module| {
                let mut conversation = Conversation::open(module);
                up_to(&mut conversation, sample, step, at);
                conversation.target_closes();
                let mut most_held = 0;
                for (i, rest) in sample.steps.iter().enumerate().skip(step) {
                    let rest = if i == step { rest.with(rest.bytes()[at..].to_vec()) } else { rest.clone() };
                    rest.happen(&mut conversation, &[]);
                    // What waits for a login has not been decided, and is the engine's to bound.
                    if conversation.is_ready() {
                        most_held = most_held.max(conversation.held().len());
                    }
                }
                // In some protocols the server speaks first.
                let asked = conversation.messages().iter().any(|message| message.own)
                    || matches!(sample.steps.first(), Some(Step::Target(_) | Step::Online(_)));
                let asked = asked && conversation.payload() != Payload::Headers;
                (conversation.state() == &State::Open && !conversation.is_ready() && !asked, most_held)
            })?;
            if stuck {
                let what = format!("{}: not ready, and waits for nothing that it has asked", what());
                return self.fail(Rule::Reconnect, what);
            }
            self.check_held(held, what)?;
        }
        Ok(())
    }

    /// The sample with bytes changed, left out, doubled and put in, in both directions.
    pub(super) fn garbled(&mut self, sample: &Sample) -> Result<(), Failure> {
        for seed in 1..=GARBLED {
            let mut chance = Chance(seed);
            let mut other = sample.clone();
            for step in &mut other.steps {
                *step = step.with(chance.garble(step.bytes()));
            }
            let what = format!("garbled, seed {seed}");
            self.run(&other, &what, |_, bytes| chance.cuts(bytes.len()))?;
            self.offsets_within(&other.client_bytes())?;
        }
        Ok(())
    }

    /// Bytes that have nothing to do with the protocol, from all sides.
    pub(super) fn garbage(&mut self) -> Result<(), Failure> {
        for seed in 1..=GARBLED {
            let mut chance = Chance(seed);
            let mut sample = Sample::of("garbage");
            for _ in 0..8 {
                sample = sample.client(&chance.garbage(600)).target(&chance.garbage(600));
                if self.module.about.sees_online {
                    sample = sample.online(&chance.garbage(600));
                }
            }
            let what = format!("seed {seed}");
            self.run(&sample, &what, |_, bytes| chance.cuts(bytes.len()))?;
            self.offsets_within(&sample.client_bytes())?;
        }
        Ok(())
    }

    /// A client that sends without end, from the beginning or from any message of a sample: nothing is held for ever.
    pub(super) fn floods(&mut self) -> Result<(), Failure> {
        let mut beginnings = vec![Vec::new()];
        for sample in &self.samples.samples {
            let stream = sample.client_bytes();
            let places = spread(stream.len());
            let few = places.len().div_ceil(8).max(1);
            beginnings.extend(places.into_iter().step_by(few).map(|at| stream[..at].to_vec()));
        }
        let length = 2 * self.samples.most_held + 65_536;
        for beginning in &beginnings {
            for byte in [0, 0xff, b'a', b'1', b' '] {
                let what = || format!("`{}` and then {byte:#04x} without end", beginning.escape_ascii());
                let segment = [byte; SEGMENT];
                let most = self.samples.most_held;
                let held = self.converse(what, |module| {
                    let mut conversation = Conversation::open(module);
                    conversation.client(beginning);
                    for _ in 0..length / SEGMENT {
                        conversation.client(&segment);
                        if conversation.held().len() > most {
                            break;
                        }
                    }
                    conversation.held().len()
                })?;
                self.report.bytes += length as u64;
                self.check_held(held, what)?;
            }
        }
        Ok(())
    }

    /// Holds a sample's conversation to its end, each step in the pieces that `cuts` gives for it.
    fn run(
        &mut self,
        sample: &Sample,
        how: &str,
        mut cuts: impl FnMut(usize, &[u8]) -> Vec<usize>,
    ) -> Result<Outcome, Failure> {
        let what = || format!("sample `{}` {how}", sample.name);
        let cuts: Vec<Vec<usize>> = sample.steps.iter().enumerate().map(|(i, step)| cuts(i, step.bytes())).collect();
        self.report.bytes += sample.client_bytes().len() as u64;
        let (outcome, held) = self.converse(what, |module| {
            let mut conversation = Conversation::open(module);
            let mut most_held = 0;
            for (step, cuts) in sample.steps.iter().zip(&cuts) {
                step.happen(&mut conversation, cuts);
                if conversation.is_ready() {
                    most_held = most_held.max(conversation.held().len());
                }
            }
            conversation.client_closes();
            let outcome = conversation.outcome();
            conversation.target_closes();
            (outcome, most_held)
        })?;
        self.check_held(held, what)?;
        Ok(outcome)
    }

    /// Where in the client's stream the messages of a sample begin, as the session sees it from its beginning.
    fn boundaries(&mut self, sample: &Sample) -> Result<BTreeSet<u64>, Failure> {
        self.converse(
            || format!("sample `{}`", sample.name),
            |module| {
                let mut conversation = Conversation::open(module);
                sample.steps.iter().for_each(|step| step.happen(&mut conversation, &[]));
                conversation.boundaries().iter().copied().collect()
            },
        )
    }

    fn same(&self, sample: &Sample, whole: &Outcome, cut: &Outcome, what: &str) -> Result<(), Failure> {
        // What is worth a line of the log may depend on what came together.
        let (mut whole, mut cut) = (whole.clone(), cut.clone());
        whole.log.clear();
        cut.log.clear();
        if whole != cut {
            let difference = difference(&whole, &cut);
            return self.fail(Rule::Segmentation, format!("sample `{}` {what} came to {difference}", sample.name));
        }
        Ok(())
    }

    /// Where the module would join a client that sends `data`.
    fn join_at(&mut self, data: &[u8], what: impl Fn() -> String) -> Result<Option<usize>, Failure> {
        let offset = self.converse(&what, |module| module.module.join_at(data))?;
        match offset {
            Some(offset) if offset > data.len() => {
                self.fail(Rule::Join, format!("{}: offset {offset} of {} bytes", what(), data.len()))
            }
            offset => Ok(offset),
        }
    }

    /// Each tail of `data` is joined within it.
    fn offsets_within(&mut self, data: &[u8]) -> Result<(), Failure> {
        let tails = spread(data.len() + 1);
        for at in tails.iter().copied().step_by(tails.len().div_ceil(TAILS)) {
            let tail = &data[at..];
            self.join_at(tail, || format!("joined with `{}`", tail[..tail.len().min(64)].escape_ascii()))?;
        }
        Ok(())
    }
}

/// The steps of a sample up to offset `at` of step `step`.
fn up_to(conversation: &mut Conversation, sample: &Sample, step: usize, at: usize) {
    sample.steps[..step].iter().for_each(|step| step.happen(conversation, &[]));
    let last = &sample.steps[step];
    if at > 0 {
        last.with(last.bytes()[..at].to_vec()).happen(conversation, &[]);
    }
}

/// Places in a sample: a step and an offset in its bytes, that behind its last one included.
fn places(sample: &Sample) -> Vec<(usize, usize)> {
    let places = sample.steps.iter().enumerate().filter(|(_, step)| **step != Step::TargetCloses);
    let places: Vec<_> = places.flat_map(|(i, step)| (0..=step.bytes().len()).map(move |at| (i, at))).collect();
    spread(places.len()).into_iter().map(|i| places[i]).collect()
}

/// The numbers below `n`, or [`PLACES`] of them evenly spread.
fn spread(n: usize) -> Vec<usize> {
    if n <= PLACES { (0..n).collect() } else { (0..PLACES).map(|i| i * n / PLACES).collect() }
}

/// The first line in which two outcomes differ.
fn difference(one: &Outcome, other: &Outcome) -> String {
    let (one, other) = (format!("{one:#?}"), format!("{other:#?}"));
    let (mut ones, mut others) = (one.lines(), other.lines());
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return "the same".to_owned(),
            (a, b) if a == b => {}
            (a, b) => {
                let (a, b) = (a.unwrap_or("nothing more").trim(), b.unwrap_or("nothing more").trim());
                return format!("`{b}` instead of `{a}`");
            }
        }
    }
}

/// Chance from a seed (xorshift64*), so that each failure can be had again.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Where to cut `len` bytes: rarely or often.
    fn cuts(&mut self, len: usize) -> Vec<usize> {
        let most = 1 + self.below(40);
        let mut cuts = Vec::new();
        let mut at = 0;
        while at < len {
            at += 1 + self.below(most);
            cuts.push(at);
        }
        cuts
    }

    /// Up to `most` bytes: of all kinds, printable ones, digits, or extremes.
    fn garbage(&mut self, most: usize) -> Vec<u8> {
        let kind = self.below(4);
        let byte = |chance: &mut Self| match kind {
            0 => chance.next() as u8,
            1 => [b' ', b'\r', b'\n', b'a', b'9', b'-'][chance.below(6)],
            2 => b"0123456789 \r\n"[chance.below(13)],
            _ => [0, 0xff, 0x7f, 0x80][chance.below(4)],
        };
        let len = self.below(most + 1);
        (0..len).map(|_| byte(self)).collect()
    }

    /// `bytes` with up to four things wrong.
    fn garble(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..self.below(5) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let doubled = bytes[at..end].to_vec();
                    bytes.splice(at..at, doubled);
                }
                3 => {
                    let garbage = self.garbage(12);
                    bytes.splice(at..end, garbage);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        bytes
    }
}
