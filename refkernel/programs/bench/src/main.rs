//! Measures system calls, faults, mappings and copies of the process from ring 3, with the processor's time-stamp counter.
//!
//! Under QEMU with `-icount shift=0` the counter counts instructions, so the figures are repeatable to the instruction. Each operation is timed alone, with the
//! cost of reading the counter taken off:
//!
//! ```text
//! bench NAME: MEDIAN instructions (N operations of P pages; least L, 99 % Q, most M; I interrupted left out)
//! bench NAME: COUNT interrupts (N operations of P pages)
//! ```
//!
//! The same source is built for Linux, where the runtime (with its feature `linux`) makes Linux's calls of these: `cargo xtask bench-guest` puts both beside
//! each other.
//!
//! | module | what lives there |
//! |---|---|
//! | `samples` | how long something takes |
//! | `memory` | what every row does with memory, and where its windows lie |
//! | `single` | rows of one page at a time |
//! | `ranges` | rows of 4,096 pages at once |
//! | `clones` | rows about copies of the process |
//! | `flushes` | interrupts that flushes send |

#![no_std]
#![no_main]

mod clones;
mod flushes;
mod memory;
mod ranges;
mod samples;
mod single;

use refkernel_runtime::roles::BenchRole;
use refkernel_runtime::{ErrorCode, StartInformation, program, program_status, say};
use samples::Bench;

program!(main);

fn main(start: &StartInformation) -> u32 {
    let Some(role) = BenchRole::from_number(start.argument) else {
        say!("bench: there is no part {}", start.argument);
        return program_status::FAILURE;
    };
    let measured = match role {
        BenchRole::Flushes => flushes::measure(),
        role => all(role == BenchRole::Quick),
    };
    match measured {
        Ok(()) => program_status::SUCCESS,
        Err(error) => {
            say!("bench: an operation failed: {error}");
            program_status::FAILURE
        }
    }
}

fn all(quick: bool) -> Result<(), ErrorCode> {
    let bench = Bench::new(quick);
    single::measure(bench)?;
    ranges::measure(bench)?;
    clones::measure(bench)
}
