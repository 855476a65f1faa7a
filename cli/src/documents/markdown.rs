//! The shell commands of a document, and the marks that say what tests do with them.
//!
//! A block of commands is fenced by "```sh". What stands in front of it, in a comment that readers do not see, says how it
//! is checked:
//!
//! | mark | meaning |
//! |---|---|
//! | `<!-- run on HOST -->` | a test of the lab runs the block on that host |
//! | `<!-- run on HOST, HOST -->` | it runs each line of the block on another host, in this order |
//! | `<!-- not run: REASON -->` | nobody runs it, for this reason; options of tcpcopy and intercept are checked |
//! | `<!-- not checked: REASON -->` | nor are these |
//!
//! A block without a mark is a mistake.
//!
//! Between blocks that are run, other marks say what the test does:
//!
//! | mark | meaning |
//! |---|---|
//! | `<!-- requests arrive -->` | it sends requests to online until they arrive at the target, and then some that all must |
//! | `<!-- requests arrive N times -->` | each that must arrive does so N times |
//! | `<!-- requests over IPv6 arrive -->` | the same over IPv6 |
//! | `<!-- some requests arrive -->` | it sends requests until some of them arrive: what is copied is a sample |
//! | `<!-- requests of many clients arrive -->` | it sends requests from more and more addresses until some of them arrive |
//! | `<!-- clients ask -->`, `<!-- it has arrived -->` | the two halves of that: a replay stands between them |
//! | `<!-- queries arrive at HOST, HOST -->` | it asks online's name server until each of these hosts is asked, too, and then some that all must be |
//! | `<!-- queries over TCP arrive at HOST -->` | the same over TCP |
//! | `<!-- statements arrive -->` | the same with online's MySQL server, for each user of the recipe |
//! | `<!-- the log says: WORDS -->` | a program of the block above has written them, or does so soon |
//! | `<!-- stop: tcpcopy, intercept -->` | it ends these programs |
//! | `<!-- start again: tcpcopy -->` | it runs the last line of this program again |
//! | `<!-- with three hosts -->` | it has done that recipe, of this document or of docs/deploy.md, up to tcpcopy, and undoes it at the end |
//! | `<!-- with three hosts, copying -->` | the same, and tcpcopy runs, too |
//! | `<!-- with the files of docs/security.md -->` | it has made the files that this document makes |
//! | `<!-- with name servers -->` and the like | what the recipe finds there is there: see the lab's `surroundings.rs` |
//!
//! A recipe is what stands under one `##` heading.
//!
//! The lab's tests include this file, too, as a module of theirs.
#![allow(unreachable_pub)]

/// What is to be done with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Run on these hosts: all lines on one, or each on another.
    RunOn(Vec<String>),
    /// Not run, for this reason.
    NotRun(String),
    /// Not even looked at, for this reason.
    NotChecked(String),
}

/// A block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its mark, if it has one.
    pub mark: Option<Mark>,
    /// Its lines, continued ones joined.
    pub commands: Vec<String>,
}

/// What a test does at a place in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Looks at a block of commands.
    Block(Block),
    /// Sends requests to online, each of which arrives at the target as often as this.
    RequestsArrive(usize),
    /// Sends requests to online's IPv6 address, each of which arrives at the target.
    RequestsOverIpv6Arrive,
    /// Sends requests to online until some have arrived at the target.
    SomeArrive,
    /// Sends requests from more and more addresses to online until some have arrived at the target.
    OfManyClientsArrive,
    /// Asks online's name server; each query arrives at each of these hosts.
    QueriesArrive {
        /// Whether they go over TCP.
        over_tcp: bool,
        /// The hosts.
        at: Vec<String>,
    },
    /// Sends statements to online's MySQL server, which arrive at the target's.
    StatementsArrive,
    /// A program that was started last logs these words.
    LogSays(String),
    /// Sends requests to online.
    ClientsAsk,
    /// What was sent last has arrived at the target.
    ItHasArrived,
    /// Does what another recipe says for the other hosts; the title of its section, and how much of it.
    With(String),
    /// Ends these programs, in this order.
    Stop(Vec<String>),
    /// Runs the last line of this program again.
    StartAgain(String),
}

/// An [`Act`] and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The title of the `##` section.
    pub section: String,
    /// The line in the document, counted from 1.
    pub line: usize,
    /// What is done.
    pub act: Act,
}

/// Everything in a document that tests look at.
///
/// # Errors
/// Which line has a mark that nobody knows, or one that marks nothing.
pub fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut section = String::new();
    let mut mark: Option<(usize, Mark)> = None;
    // The mark and the lines of the block that is open, if it is one of commands.
    let mut open: Option<Option<Block>> = None;
    let mut began = 0;
    for (line, content) in text.lines().enumerate().map(|(at, content)| (at + 1, content.trim())) {
        if let Some(block) = &mut open {
            if content.starts_with("```") {
                if let Some(block) = open.take().flatten() {
                    steps.push(Step { section: section.clone(), line: began, act: Act::Block(block) });
                }
            } else if let Some(block) = block {
                add(&mut block.commands, content);
            }
            continue;
        }
        let is_commands = content == "```sh";
        if let Some((line, mark)) = mark.take_if(|_| !content.is_empty() && !is_commands) {
            return Err(format!("line {line}: no block of commands follows {mark:?}"));
        }
        if content.starts_with("```") {
            began = line;
            open = Some(is_commands.then(|| Block { mark: mark.take().map(|(_, mark)| mark), commands: Vec::new() }));
        } else if let Some(title) = content.strip_prefix("## ") {
            title.clone_into(&mut section);
        } else if let Some(words) = content.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) {
            match act(words.trim()) {
                Some(Known::Mark(known)) => mark = Some((line, known)),
                Some(Known::Act(act)) => steps.push(Step { section: section.clone(), line, act }),
                Some(Known::Other) => {}
                None => return Err(format!("line {line}: nobody knows what `{content}` asks for")),
            }
        }
    }
    match (open, mark) {
        (Some(_), _) => Err(format!("line {began}: this block does not end")),
        (None, Some((line, _))) => Err(format!("line {line}: no block of commands follows")),
        (None, None) => Ok(steps),
    }
}

/// A line of a block; one that ends with a backslash goes on in the next.
fn add(commands: &mut Vec<String>, line: &str) {
    match commands.last_mut().filter(|last| last.ends_with('\\')) {
        Some(last) => {
            last.pop();
            last.push_str(line);
        }
        None if line.is_empty() => {}
        None => commands.push(line.to_owned()),
    }
}

enum Known {
    Mark(Mark),
    Act(Act),
    /// Of no concern for commands.
    Other,
}

fn act(words: &str) -> Option<Known> {
    let listed = |names: &str| names.split(", ").map(str::to_owned).collect();
    if let Some(hosts) = words.strip_prefix("run on ") {
        return Some(Known::Mark(Mark::RunOn(listed(hosts))));
    }
    if let Some(reason) = words.strip_prefix("not run: ") {
        return Some(Known::Mark(Mark::NotRun(reason.to_owned())));
    }
    if let Some(reason) = words.strip_prefix("not checked: ") {
        return Some(Known::Mark(Mark::NotChecked(reason.to_owned())));
    }
    if let Some(times) = words.strip_prefix("requests arrive ").and_then(|rest| rest.strip_suffix(" times")) {
        return times.parse().ok().map(|times| Known::Act(Act::RequestsArrive(times)));
    }
    if let Some(programs) = words.strip_prefix("stop: ") {
        return Some(Known::Act(Act::Stop(listed(programs))));
    }
    for (prefix, over_tcp) in [("queries arrive at ", false), ("queries over TCP arrive at ", true)] {
        if let Some(hosts) = words.strip_prefix(prefix) {
            return Some(Known::Act(Act::QueriesArrive { over_tcp, at: listed(hosts) }));
        }
    }
    if let Some(said) = words.strip_prefix("the log says: ") {
        return Some(Known::Act(Act::LogSays(said.to_owned())));
    }
    if let Some(program) = words.strip_prefix("start again: ") {
        return Some(Known::Act(Act::StartAgain(program.to_owned())));
    }
    if let Some(recipe) = words.strip_prefix("with ") {
        return Some(Known::Act(Act::With(recipe.to_owned())));
    }
    match words {
        "requests arrive" => Some(Known::Act(Act::RequestsArrive(1))),
        "some requests arrive" => Some(Known::Act(Act::SomeArrive)),
        "requests over IPv6 arrive" => Some(Known::Act(Act::RequestsOverIpv6Arrive)),
        "requests of many clients arrive" => Some(Known::Act(Act::OfManyClientsArrive)),
        "statements arrive" => Some(Known::Act(Act::StatementsArrive)),
        "clients ask" => Some(Known::Act(Act::ClientsAsk)),
        "it has arrived" => Some(Known::Act(Act::ItHasArrived)),
        _ if words.starts_with("generated") => Some(Known::Other),
        _ => None,
    }
}

/// The words of a line, as a shell would find them: quotation marks, and comments.
pub fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '#' if !quoted && word.is_none() => return words,
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}
