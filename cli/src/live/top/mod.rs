//! `tcpcopy top`: a running copy in the terminal.
//!
//! One thread asks the copy once a second and carries orders out; this one draws, and reads the keyboard, so that a copy that
//! is slow to answer does not hold the keys up. Leaving ends nothing but the view.

mod history;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};

use self::history::History;
use super::client::{AskError, Connection};
use super::protocol::{Command, InForce, Status};
use crate::exit::{Exit, Failure};

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);
/// Between looks at what has come while no key is pressed.
const TICK: Duration = Duration::from_millis(100);
/// What an order led to is shown for this long.
const NOTE_FOR: Duration = Duration::from_secs(5);

/// What comes from the thread that asks.
enum News {
    Status(Box<Status>, Instant),
    Order(Result<InForce, AskError>),
    /// There will be no more.
    Ended(AskError),
}

/// What the view shows beside the copy's numbers.
#[derive(Default)]
pub(super) struct View {
    pub(super) history: History,
    /// Lines that are scrolled away at the top.
    pub(super) scrolled: u16,
    /// `p` was pressed while the copy runs, and waits to be confirmed.
    pub(super) asks: bool,
    /// What the last order led to, and until when that is shown.
    pub(super) note: Option<(String, Instant)>,
    /// Why there is no more to come.
    pub(super) ended: Option<String>,
}

/// What a key leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Order(Command),
    Leave,
}

/// Shows the copy until the person leaves.
///
/// # Errors
/// When there is no terminal, or it fails.
pub(super) fn run(connection: Connection) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage("top needs a terminal; tcpcopy status says the same once"));
    }
    let failed = |e: io::Error| Failure::new(Exit::Failure, format!("the terminal fails: {e}"));
    // The terminal is left as it was, also when a signal ends the view.
    let told_to_end = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&told_to_end)).map_err(failed)?;
    }
    let (sender, news) = mpsc::channel();
    let (orders, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("asks".to_owned())
        .spawn(move || ask(connection, &sender, &receiver))
        .map_err(failed)?;
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let result = show(&mut terminal, &news, &orders, &told_to_end);
    ratatui::restore();
    result.map_err(failed)
}

/// Asks the copy every second, and whatever is ordered between.
fn ask(mut connection: Connection, news: &Sender<News>, orders: &Receiver<Command>) {
    let mut due = Instant::now();
    loop {
        let item = match orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(order) => News::Order(connection.order(order)),
            Err(RecvTimeoutError::Timeout) => {
                due = Instant::now() + EVERY;
                match connection.status() {
                    Ok(status) => News::Status(Box::new(status), Instant::now()),
                    // It may be busy for a while.
                    Err(AskError::Refused(refusal)) => News::Order(Err(AskError::Refused(refusal))),
                    Err(error) => {
                        let _ = news.send(News::Ended(error));
                        return;
                    }
                }
            }
        };
        if news.send(item).is_err() {
            return;
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    news: &Receiver<News>,
    orders: &Sender<Command>,
    told_to_end: &AtomicBool,
) -> io::Result<()> {
    let mut view = View::default();
    let mut redraw = true;
    while !told_to_end.load(Ordering::Relaxed) {
        for item in news.try_iter() {
            view.take(item, Instant::now());
            redraw = true;
        }
        if view.note.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
            view.note = None;
            redraw = true;
        }
        if std::mem::take(&mut redraw) {
            terminal.draw(|frame| view::draw(frame, &mut view))?;
        }
        match event::poll(TICK) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        redraw = true;
        if let Event::Key(key) = event::read()? {
            match view.press(key) {
                Step::Nothing => {}
                Step::Leave => return Ok(()),
                // When the other thread has ended, so has the copy, which is shown.
                Step::Order(order) => drop(orders.send(order)),
            }
        }
    }
    Ok(())
}

impl View {
    fn take(&mut self, news: News, now: Instant) {
        match news {
            News::Status(status, at) => self.history.add(*status, at),
            News::Order(Ok(in_force)) => {
                let text = if in_force.paused { "paused: nothing is copied" } else { "resumed" };
                self.note = Some((text.to_owned(), now + NOTE_FOR));
            }
            News::Order(Err(error)) => self.note = Some((error.to_string(), now + NOTE_FOR)),
            News::Ended(error) => {
                self.asks = false;
                self.ended = Some(error.to_string());
            }
        }
    }

    fn is_paused(&self) -> bool {
        self.history.now().is_some_and(|status| status.in_force.paused)
    }

    fn press(&mut self, key: KeyEvent) -> Step {
        if key.kind == KeyEventKind::Release {
            return Step::Nothing;
        }
        let asks = std::mem::take(&mut self.asks);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Step::Leave,
            KeyCode::Char('y' | 'Y') if asks => Step::Order(Command::Pause),
            // Any other key takes the question back, and does nothing else.
            _ if asks => Step::Nothing,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Step::Leave,
            KeyCode::Char('p' | 'P') if self.ended.is_none() && self.history.now().is_some() => {
                if self.is_paused() {
                    return Step::Order(Command::Resume);
                }
                self.asks = true;
                Step::Nothing
            }
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll(10),
            KeyCode::Home => self.scroll(i16::MIN),
            _ => Step::Nothing,
        }
    }

    /// The end is known to whoever draws.
    fn scroll(&mut self, lines: i16) -> Step {
        self.scrolled = self.scrolled.saturating_add_signed(lines);
        Step::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> Step {
        view.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn view(paused: bool) -> View {
        let mut view = View::default();
        let in_force = InForce { paused, ..InForce::default() };
        view.take(News::Status(Box::new(Status { in_force, ..Status::default() }), Instant::now()), Instant::now());
        view
    }

    #[test]
    fn a_pause_is_asked_for_twice_and_a_resume_once() {
        let mut running = view(false);
        assert_eq!(press(&mut running, KeyCode::Char('p')), Step::Nothing);
        assert_eq!(press(&mut running, KeyCode::Char('q')), Step::Nothing, "takes the question back");
        assert_eq!(press(&mut running, KeyCode::Char('y')), Step::Nothing);
        press(&mut running, KeyCode::Char('p'));
        assert_eq!(press(&mut running, KeyCode::Char('y')), Step::Order(Command::Pause));
        assert_eq!(press(&mut view(true), KeyCode::Char('p')), Step::Order(Command::Resume));
    }

    #[test]
    fn there_are_three_ways_out() {
        assert_eq!(press(&mut view(false), KeyCode::Char('q')), Step::Leave);
        assert_eq!(press(&mut view(false), KeyCode::Esc), Step::Leave);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let mut asking = view(false);
        press(&mut asking, KeyCode::Char('p'));
        assert_eq!(asking.press(interrupt), Step::Leave, "whatever is asked");
    }

    #[test]
    fn when_the_copy_has_ended_nothing_can_be_ordered() {
        let mut view = view(false);
        press(&mut view, KeyCode::Char('p'));
        view.take(News::Ended(AskError::Gone), Instant::now());
        assert_eq!(press(&mut view, KeyCode::Char('y')), Step::Nothing);
        assert_eq!(press(&mut view, KeyCode::Char('p')), Step::Nothing);
        assert!(!view.asks);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Step::Leave);
    }
}
