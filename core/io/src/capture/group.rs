//! The captures of several workers on one device, opened together each time.

use std::sync::{Mutex, PoisonError};

use super::{Capture, CaptureConfig, CaptureError};

/// What workers need to have a capture each of one device, also when the device was away for a while. Whoever finds its
/// capture lost first opens all of them again, in the same order, so that each flow comes to the worker that it came to
/// before; the others find theirs here.
pub struct CaptureGroup {
    config: CaptureConfig,
    members: usize,
    shared: Mutex<Shared>,
}

struct Shared {
    /// How often they were opened.
    opened: u64,
    /// Those that their members have not taken yet.
    waiting: Vec<Option<Capture>>,
}

impl CaptureGroup {
    /// Opens one capture for each member. The configuration's own `fanout` does not count.
    ///
    /// # Errors
    /// Why one of them cannot be opened.
    pub fn open(config: CaptureConfig, members: usize) -> Result<Self, CaptureError> {
        let waiting = Capture::open_group(&config, members)?.into_iter().map(Some).collect();
        Ok(Self { config, members, shared: Mutex::new(Shared { opened: 1, waiting }) })
    }

    /// The device they capture on.
    pub fn device(&self) -> &str {
        &self.config.device
    }

    /// The capture of a member, where there is one that it has not taken, and the number of its opening.
    pub fn newer(&self, member: usize) -> Option<(u64, Capture)> {
        let mut shared = self.lock();
        let opened = shared.opened;
        shared.waiting.get_mut(member)?.take().map(|capture| (opened, capture))
    }

    /// The capture of a member that has lost the one of this opening. Opens all captures again, unless another member has
    /// done so.
    ///
    /// # Errors
    /// Why one of them cannot be opened.
    pub fn again(&self, member: usize, lost: u64) -> Result<Option<(u64, Capture)>, CaptureError> {
        let mut shared = self.lock();
        if shared.opened == lost {
            shared.waiting = Capture::open_group(&self.config, self.members)?.into_iter().map(Some).collect();
            shared.opened += 1;
        }
        drop(shared);
        Ok(self.newer(member))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        // What a worker that failed has left is whole: nothing in between can panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
