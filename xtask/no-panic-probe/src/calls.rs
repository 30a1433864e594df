//! Every public call of `vmcore`, so that all of their code is in the linked program.
//!
//! # How to add a call
//!
//! 1. Write one statement in the file of its module here (or in a new one, whose `all` is called by [`all`]):
//!
//!    ```text
//!    shown(space.unmap(hidden(range)));
//!    ```
//!
//!    - [`hidden`] goes around **every argument** (and around the receiver where it was made from constants): the compiler must not know the
//!      value, or it would leave out the branches that this value does not take.
//!    - [`shown`] goes around **every result**: the compiler must not know that nobody looks at it, or it would leave out the call.
//!
//! 2. A generic call is written once for each type that takes another path through it: every architecture, every kind of area.
//! 3. A value that is needed by several calls is made once, by a call that is itself `hidden`; where making it may fail, `let Ok(…) = … else { return }`
//!    is enough: the compiler has to keep both ways.
//! 4. Iterators are driven: `for item in … { shown(item); }`. Values with a `Drop`, `Display` or `Debug` of their own have it called ([`displayed`], [`debugged`]); `Debug` only where it is
//!    written by hand, since a derived one calls nothing of the crate.
//! 5. Run `cargo xtask no-panic`. It names what it finds: the function of `core`, and the line that refers to it.
//!
//! The functions are never run with success in mind: what they compute does not matter, only that it is compiled.

mod addresses;
mod areas;
mod formats;
mod frames;
mod page_tree;
mod paging;
mod posix;
mod spaces;
mod static_vec;

use core::{
    fmt::{self, Write as _},
    hint::black_box,
};

/// A value that the compiler knows nothing about.
pub(crate) fn hidden<T>(value: T) -> T {
    black_box(value)
}

/// A result that the compiler must assume to be looked at.
pub(crate) fn shown<T>(result: T) {
    black_box(&result);
}

/// Text that the compiler must assume to be read.
struct Sink;

impl fmt::Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        shown(text);
        hidden(Ok(()))
    }
}

/// Calls a `Display`.
fn displayed(value: impl fmt::Display) {
    shown(write!(Sink, "{value}"));
}

/// Calls a `Debug` that is written by hand.
fn debugged(value: impl fmt::Debug) {
    shown(write!(Sink, "{value:?}"));
}

/// Calls everything.
pub(crate) fn all() {
    addresses::all();
    static_vec::all();
    page_tree::all();
    frames::all();
    paging::all();
    areas::all();
    formats::all();
    spaces::all();
}
