//! The walkers, one format per file, each written from its manual alone.

pub(super) mod aarch64;
pub(super) mod aarch64_stage2;
pub(super) mod ept;
#[cfg(any(loom, shuttle))]
pub(super) mod reduced;
pub(super) mod riscv;
#[cfg(test)]
mod tests;
pub(super) mod x86;
pub(super) mod x86_64;
pub(super) mod x86_pae;
