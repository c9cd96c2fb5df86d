//! Work that is cut over the processor's threads. In a browser there is one, and what shares work out among
//! several would be a twentieth of the page: there the same names are those of ordinary iterators.

#[cfg(target_arch = "wasm32")]
pub(crate) use one_thread::*;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use rayon::prelude::*;

#[cfg(target_arch = "wasm32")]
mod one_thread {
    use std::{ops::Range, slice};

    /// Parts of a slice.
    pub(crate) trait Slices<T> {
        fn par_iter(&self) -> slice::Iter<'_, T>;
        fn par_iter_mut(&mut self) -> slice::IterMut<'_, T>;
        fn par_chunks(&self, n: usize) -> slice::Chunks<'_, T>;
        fn par_chunks_mut(&mut self, n: usize) -> slice::ChunksMut<'_, T>;
        fn par_chunks_exact_mut(&mut self, n: usize) -> slice::ChunksExactMut<'_, T>;
    }

    impl<T> Slices<T> for [T] {
        fn par_iter(&self) -> slice::Iter<'_, T> {
            self.iter()
        }

        fn par_iter_mut(&mut self) -> slice::IterMut<'_, T> {
            self.iter_mut()
        }

        fn par_chunks(&self, n: usize) -> slice::Chunks<'_, T> {
            self.chunks(n)
        }

        fn par_chunks_mut(&mut self, n: usize) -> slice::ChunksMut<'_, T> {
            self.chunks_mut(n)
        }

        fn par_chunks_exact_mut(&mut self, n: usize) -> slice::ChunksExactMut<'_, T> {
            self.chunks_exact_mut(n)
        }
    }

    pub(crate) trait IntoPar {
        fn into_par_iter(self) -> Self;
    }

    impl IntoPar for Range<usize> {
        fn into_par_iter(self) -> Self {
            self
        }
    }

    pub(crate) trait Parts: Iterator + Sized {
        fn with_min_len(self, _: usize) -> Self {
            self
        }

        fn for_each_init<T>(self, init: impl Fn() -> T, mut each: impl FnMut(&mut T, Self::Item)) {
            let mut own = init();
            self.for_each(|item| each(&mut own, item));
        }
    }

    impl<I: Iterator> Parts for I {}
}
