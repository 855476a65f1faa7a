//! A growable array that never moves its elements and never holds more than one chunk too many, unlike `Vec`, which
//! may hold twice what it needs and copies everything when it grows.

use std::ops::{Index, IndexMut};

const CHUNK: usize = 128;

/// An array of `T`, grown by whole chunks of default values.
#[derive(Debug, Default)]
pub(crate) struct Chunked<T> {
    // Of a length that is known, so that an index into one needs no check.
    chunks: Vec<Box<[T; CHUNK]>>,
}

impl<T: Default> Chunked<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Makes `index` valid.
    pub(crate) fn grow_to(&mut self, index: usize) {
        while self.chunks.len() * CHUNK <= index {
            let chunk: Box<[T]> = (0..CHUNK).map(|_| T::default()).collect();
            let Ok(chunk) = chunk.try_into() else { unreachable!("as many as a chunk has") };
            self.chunks.push(chunk);
        }
    }

    /// The element, if the array has grown to it.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        Some(&mut self.chunks.get_mut(index / CHUNK)?[index % CHUNK])
    }

    /// Number of valid indices.
    pub(crate) fn len(&self) -> usize {
        self.chunks.len() * CHUNK
    }
}

impl<T> Index<usize> for Chunked<T> {
    type Output = T;
    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T> IndexMut<usize> for Chunked<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}
