//! Where threads that serve somebody outside ask the main thread, which has the numbers.
//!
//! A thread asks and waits; the main thread is woken, answers when it comes to it, and is not held up by whoever asks.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

use mio::Waker;

/// A question that waits.
#[derive(Debug)]
pub(crate) struct Question<Q, A> {
    /// What is asked.
    pub(crate) words: Q,
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

    /// The questions that wait.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Question<Q, A>> {
        self.0.try_iter()
    }
}

impl<Q, A> Asker<Q, A> {
    /// Asks, and waits for the answer; `None`: it did not come within `limit`.
    pub(crate) fn ask(&self, words: Q, limit: Duration) -> Option<A> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.questions.send(Question { words, reply }).ok()?;
        self.waker.wake().ok()?;
        answer.recv_timeout(limit).ok()
    }
}
