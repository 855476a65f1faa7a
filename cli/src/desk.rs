//! Where threads that serve somebody outside ask the main thread, which has the numbers.
//!
//! A thread asks and waits; the main thread is woken, answers when it comes to it, and is not held up by whoever asks.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

use mio::Waker;

/// A question that waits.
#[derive(Debug)]
pub(crate) struct Question<Q, A> {
    /// What is asked.
    pub(crate) words: Q,
    /// Nobody waits for the answer any more from then on.
    until: Instant,
    reply: SyncSender<A>,
}

impl<Q, A> Question<Q, A> {
    /// Answers it. Whoever does not wait any more has none.
    pub(crate) fn answer(self, answer: A) {
        let _ = self.reply.try_send(answer);
    }
}

/// The main thread's end.
pub(crate) struct Desk<Q, A>(Receiver<Question<Q, A>>);

/// The other end, of which there may be several.
pub(crate) struct Asker<Q, A> {
    questions: Sender<Question<Q, A>>,
    waker: Arc<Waker>,
}

impl<Q, A> Clone for Asker<Q, A> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone(), waker: Arc::clone(&self.waker) }
    }
}

impl<Q, A> Desk<Q, A> {
    /// Both ends. `waker` wakes the main thread.
    pub(crate) fn open(waker: Arc<Waker>) -> (Self, Asker<Q, A>) {
        let (questions, receiver) = mpsc::channel();
        (Self(receiver), Asker { questions, waker })
    }

    /// The questions that wait. Those that nobody waits with are passed over: whoever has been told that there is no answer
    /// must not have it carried out later.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Question<Q, A>> {
        self.0.try_iter().filter(|question| Instant::now() < question.until)
    }
}

impl<Q, A> Asker<Q, A> {
    /// Asks, and waits for the answer; `None`: it did not come within `limit`.
    pub(crate) fn ask(&self, words: Q, limit: Duration) -> Option<A> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.questions.send(Question { words, until: Instant::now() + limit, reply }).ok()?;
        self.waker.wake().ok()?;
        answer.recv_timeout(limit).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use mio::{Poll, Token};

    use super::*;

    #[test]
    fn what_nobody_waits_for_any_more_is_not_carried_out() {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (desk, asker) = Desk::<_, &str>::open(waker);
        assert_eq!(asker.ask("pause", Duration::from_millis(1)), None);
        let patient = thread::spawn(move || asker.ask("status", Duration::from_secs(60)));
        let question = loop {
            match desk.questions().next() {
                Some(question) => break question,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        assert_eq!(question.words, "status");
        question.answer("copying");
        assert_eq!(patient.join().unwrap(), Some("copying"));
    }
}
