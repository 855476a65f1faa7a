//! Who reads captures and looks routes up: the main thread, or workers.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;

use mio::{Registry, Waker};
use tcpcopy_engine::{RelayConfig, RelayInput};
use tcpcopy_io::capture::{Capture, CaptureConfig, CaptureError};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Payload;

use super::crew::Crew;
use super::options::Options;
use super::worker::Worker;

/// One device, which all workers capture on.
pub(super) struct Device {
    pub(super) config: CaptureConfig,
    /// When it went away: when to try again.
    pub(super) reopen_at: Option<Timestamp>,
}

/// Who reads captures and looks routes up.
pub(super) enum Hands {
    /// The main thread.
    Own(Box<Worker>),
    /// Threads of their own.
    Crew(Box<Crew>),
}

impl Hands {
    pub(super) fn open(
        options: &Options,
        clock: MonotonicClock,
        registry: &Registry,
        waker: Arc<Waker>,
    ) -> io::Result<Self> {
        let config = || RelayConfig {
            initial_routes: options.initial_routes,
            seed: RandomState::new().hash_one(std::process::id()),
            legacy: options.legacy,
            translation: options.translation.clone(),
            ..RelayConfig::default()
        };
        let combined = options.responses_per_write;
        Ok(if options.workers == 1 {
            Self::Own(Box::new(Worker::new(registry.try_clone()?, config(), combined)))
        } else {
            Self::Crew(Box::new(Crew::start(options.workers, clock, config, combined, waker)?))
        })
    }

    /// Opens captures on a device, in the place of those that there are.
    pub(super) fn capture(&mut self, number: usize, device: &Device, now: Timestamp) -> Result<(), CaptureError> {
        match self {
            Self::Own(worker) => worker.give(number, Capture::open(&device.config)?, now),
            // Opened by one thread, in the order of the workers: so the groups of all devices bring a flow to one worker.
            Self::Crew(crew) => crew.give(number, Capture::open_group(&device.config, crew.len())?),
        }
        Ok(())
    }

    pub(super) fn wants_payload(&self) -> Payload {
        match self {
            Self::Own(worker) => worker.wants_payload(),
            Self::Crew(crew) => crew.wants_payload(),
        }
    }

    /// Passes on what concerns peers and routes.
    #[inline]
    pub(super) fn tell(&mut self, now: Timestamp, input: RelayInput<'static>) {
        match self {
            Self::Own(worker) => worker.tell(now, input),
            Self::Crew(crew) => crew.tell(input),
        }
    }
}
