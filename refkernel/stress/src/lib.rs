//! The model of the program `stress`: what memory must be after operations that are chosen at random, whatever the kernel does to bring that about.
//!
//! | module | what lives there |
//! |---|---|
//! | [`content`] | what a page holds, as one number, and as the words that stand for it |
//! | [`operation`] | what can be done, and the choice of what is done next |
//! | [`world`] | the areas and windows of one thread, as it must find them |
//! | [`step`] | one operation: made, compared with the model, and entered there |
//!
//! ```text
//!   seed ──► choose ──► operation ──► the kernel's calls ──► outcome ─┐
//!              ▲                                                      ├─ the same? ──► entered in the model
//!            world ─────────────────────────────────► what must be ───┘
//! ```
//!
//! A world is a range of addresses that nothing else maps into, and the areas that are shown there. It is plain data without pointers: a copy of a process has the
//! world of its parent at that moment in its own memory, and can compare its memory with it.
//!
//! # Invariants
//!
//! What is chosen depends on the seed and on the model alone, so the same seed gives the same operations. The model never looks at memory to learn what it is, but where two outcomes are
//! right (memory that was given up [lazily](refkernel_abi::Advice::FreeLazily), a copy that stopped in the middle): then it holds both until it has seen one.

#![no_std]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod content;
pub mod operation;
pub mod step;
pub mod world;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use content::Content;
pub use oorandom::Rand64;
pub use operation::Operation;
pub use step::{Failure, Kernel, What};
pub use world::World;
