//! The client's bytes that a module has not decided about.

/// Room that an empty buffer keeps, in bytes.
const KEPT: usize = 64 << 10;

/// Bytes of which the first are taken and to which more are added: at an effort that does not depend on how many there are.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    /// The first so many are gone.
    gone: usize,
}

impl Held {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.gone
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// The first `n` bytes are gone.
    pub(crate) fn take(&mut self, n: usize) {
        self.gone += n;
        if self.gone == self.bytes.len() {
            self.gone = 0;
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        } else if self.gone > self.bytes.len() / 2 {
            // Half of it at the most is moved, each time twice as much has gone.
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_added_is_taken_in_order(steps in prop::collection::vec((any::<bool>(), 0usize..300), 1..100)) {
            let (mut held, mut model, mut next) = (Held::default(), Vec::new(), 0_u8);
            for (add, n) in steps {
                if add {
                    let data: Vec<u8> = (0..n).map(|_| { next = next.wrapping_add(1); next }).collect();
                    held.push(&data);
                    model.extend(data);
                } else {
                    let n = n.min(model.len());
                    held.take(n);
                    model.drain(..n);
                }
                prop_assert_eq!(held.as_slice(), &model[..]);
                prop_assert_eq!((held.len(), held.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
