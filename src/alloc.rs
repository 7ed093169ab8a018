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
#[cfg(feature = "flex")]
use std::cell::Cell;
#[cfg(feature = "flex")]
use std::sync::atomic::AtomicI64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::units::Bytes;

static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);
/// A second peak, for the crate's own use: watching a step must not disturb the caller's peak.
static WATCHED: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// Accounts that threads can be put on: on the CPU, where all devices of a pipeline share one heap, each
/// device has one.
#[cfg(feature = "flex")]
pub(crate) const ACCOUNTS: usize = 64;

#[cfg(feature = "flex")]
struct Account {
    live: AtomicI64,
    peak: AtomicI64,
}

#[cfg(feature = "flex")]
static BOOKS: [Account; ACCOUNTS] = [const { Account { live: AtomicI64::new(0), peak: AtomicI64::new(0) } }; ACCOUNTS];

#[cfg(feature = "flex")]
thread_local! {
    /// No destructor and no allocation: the allocator itself looks here.
    static ON: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Put what this thread allocates and frees on an account from now on; the one before is given back.
#[cfg(feature = "flex")]
pub(crate) fn on_account(account: Option<usize>) -> Option<usize> {
    let before = ON.replace(account.filter(|&n| n < ACCOUNTS).unwrap_or(usize::MAX));
    Some(before).filter(|&n| n < ACCOUNTS)
}

/// Accounts in use, a bit for each.
#[cfg(feature = "flex")]
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// An account that nobody else has; none where all are taken.
#[cfg(feature = "flex")]
pub(crate) fn take_account() -> Option<usize> {
    let lowest = |taken: u64| Some(taken | 1 << taken.trailing_ones()).filter(|_| taken != u64::MAX);
    TAKEN.fetch_update(Relaxed, Relaxed, lowest).ok().map(|taken| taken.trailing_ones() as usize)
}

/// Give an account back.
#[cfg(feature = "flex")]
pub(crate) fn give_account(account: usize) {
    TAKEN.fetch_and(!(1 << account), Relaxed);
}

/// Begin an account anew.
#[cfg(feature = "flex")]
pub(crate) fn open_account(account: usize) {
    if let Some(book) = BOOKS.get(account) {
        book.live.store(0, Relaxed);
        book.peak.store(0, Relaxed);
    }
}

/// The most bytes on an account at once since it was begun.
#[cfg(feature = "flex")]
pub(crate) fn account_peak(account: usize) -> Bytes {
    Bytes(BOOKS.get(account).map_or(0, |book| book.peak.load(Relaxed)).max(0) as u64)
}

#[cfg(feature = "flex")]
fn book(bytes: i64) {
    let on = ON.try_with(Cell::get).unwrap_or(usize::MAX);
    if let Some(book) = BOOKS.get(on) {
        let live = book.live.fetch_add(bytes, Relaxed) + bytes;
        if live > book.peak.load(Relaxed) {
            book.peak.fetch_max(live, Relaxed);
        }
    }
}

#[cfg(not(feature = "flex"))]
fn book(_: i64) {}

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
    book(bytes as i64);
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
    book(-(bytes as i64));
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
