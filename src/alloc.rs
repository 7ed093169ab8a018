//! A global allocator that counts: what a CPU step really holds.
//!
//! ```no_run
//! #[global_allocator]
//! static ALLOCATOR: plimsoll::alloc::Counting = plimsoll::alloc::Counting;
//! ```
//!
//! With it installed, programs and tests measure real peaks, and workspace is measured into the
//! cost profile. Without it everything works, on estimates of workspace.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::units::Bytes;

static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);
/// A second peak, for the crate's own use: watching a step must not disturb the caller's peak.
static WATCHED: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting the bytes asked of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting;

/// Whether [`Counting`] is this program's global allocator.
pub fn installed() -> bool {
    // Any Rust program has allocated something before it can ask.
    TOTAL.load(Relaxed) > 0
}

/// Bytes allocated and not yet freed; zero when not installed.
pub fn live() -> Bytes {
    Bytes(LIVE.load(Relaxed))
}

/// The most bytes live at once since the last [`reset_peak`].
pub fn peak() -> Bytes {
    Bytes(PEAK.load(Relaxed))
}

/// Forget the peak: from now on it is what is live now, or more.
pub fn reset_peak() {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
}

/// Begin watching the peak of a stretch of work.
#[cfg(feature = "flex")]
pub(crate) fn start_watch() {
    WATCHED.store(LIVE.load(Relaxed), Relaxed);
}

/// The most bytes live at once since [`start_watch`].
#[cfg(feature = "flex")]
pub(crate) fn watched() -> Bytes {
    Bytes(WATCHED.load(Relaxed))
}

fn grow(bytes: usize) {
    TOTAL.fetch_add(1, Relaxed);
    let live = LIVE.fetch_add(bytes as u64, Relaxed) + bytes as u64;
    // A plain load first: the peak rarely moves, and a read-modify-write on every allocation
    // would bounce its cache line between threads.
    for peak in [&PEAK, &WATCHED] {
        if live > peak.load(Relaxed) {
            peak.fetch_max(live, Relaxed);
        }
    }
}

fn shrink(bytes: usize) {
    LIVE.fetch_sub(bytes as u64, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counters are atomics
// and allocate nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) };
        shrink(layout.size());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let moved = unsafe { System.realloc(pointer, layout, size) };
        if !moved.is_null() {
            // A realloc that moves holds both for a moment; what is asked for is what is counted.
            shrink(layout.size());
            grow(size);
        }
        moved
    }
}
