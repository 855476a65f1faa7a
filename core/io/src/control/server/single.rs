//! Which connections share the responses of an intercept that was started with `--single`.
//!
//! tcpcopys of the C programs that were built for it register no routes, so there is nothing to tell two of them apart by:
//! one is served at a time. Its connections come within a moment; one that comes later is another tcpcopy's.

use std::time::Duration;

use tcpcopy_wire::Timestamp;

use super::super::CloseReason;

/// From the first connection of a tcpcopy to the last.
pub(super) const WINDOW: Duration = Duration::from_secs(3);
/// Connections of one tcpcopy at most.
const MOST: usize = 16;

/// What happens when another tcpcopy comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// It is served, and the connections that are there are closed.
    Newest,
    /// It is turned away while a connection is left of the one that is there (`-c`).
    Oldest,
}

/// The connections of the tcpcopy that is served, by their places in the list of peers.
#[derive(Debug, Default)]
pub(in super::super) struct Group {
    members: Vec<usize>,
    began: Timestamp,
}

impl Group {
    /// Takes a connection in. Those that it replaces are to be closed.
    ///
    /// # Errors
    /// Why it is not served.
    pub(in super::super) fn join(
        &mut self,
        policy: Single,
        slot: usize,
        now: Timestamp,
    ) -> Result<Vec<usize>, CloseReason> {
        let mut replaced = Vec::new();
        if now >= self.began + WINDOW || self.members.is_empty() {
            if policy == Single::Oldest && !self.members.is_empty() {
                return Err(CloseReason::Occupied);
            }
            replaced = std::mem::take(&mut self.members);
            self.began = now;
        }
        if self.members.len() >= MOST {
            return Err(CloseReason::TooMany { limit: MOST });
        }
        self.members.push(slot);
        Ok(replaced)
    }

    /// A connection is gone, if it was one of them.
    pub(super) fn leave(&mut self, slot: usize) {
        self.members.retain(|member| *member != slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(u64) -> Timestamp = Timestamp::from_millis;

    #[test]
    fn connections_of_a_moment_belong_together_and_a_later_one_replaces_them() {
        let mut group = Group::default();
        for (slot, at) in [(0, 10_000), (1, 12_999)] {
            assert_eq!(group.join(Single::Newest, slot, T(at)), Ok(vec![]));
        }
        assert_eq!(group.join(Single::Newest, 2, T(13_000)), Ok(vec![0, 1]));
        assert_eq!(group.join(Single::Newest, 3, T(15_000)), Ok(vec![]));
        group.leave(2);
        assert_eq!(group.join(Single::Newest, 2, T(20_000)), Ok(vec![3]));
    }

    #[test]
    fn the_oldest_is_kept_as_long_as_anything_is_left_of_it() {
        let mut group = Group::default();
        for slot in [0, 1] {
            assert_eq!(group.join(Single::Oldest, slot, T(0)), Ok(vec![]));
        }
        group.leave(0);
        assert_eq!(group.join(Single::Oldest, 2, T(60_000)), Err(CloseReason::Occupied));
        group.leave(1);
        assert_eq!(group.join(Single::Oldest, 2, T(60_001)), Ok(vec![]));
        assert_eq!(group.join(Single::Oldest, 3, T(62_000)), Ok(vec![]), "its own second connection");
    }

    #[test]
    fn one_tcpcopy_has_sixteen_connections_at_most() {
        let mut group = Group::default();
        for slot in 0..16 {
            assert_eq!(group.join(Single::Newest, slot, T(0)), Ok(vec![]));
        }
        assert_eq!(group.join(Single::Newest, 16, T(0)), Err(CloseReason::TooMany { limit: 16 }));
    }
}
