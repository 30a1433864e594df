//! Tests that end the machine, each to be recognised by whoever started it.

use crate::devices::exit::{exit, stop};
use crate::log;
use refkernel::command_line::EndingTest;
use refkernel_abi::ExitCode;
use x86_64::VirtAddr;
use x86_64::structures::DescriptorTablePointer;

/// Runs `test`. Coming to its end in another way than it says is a failure.
pub(crate) fn run(test: EndingTest) -> ! {
    log!("test {}", test.name());
    match test {
        EndingTest::TripleFault => triple_fault(),
        EndingTest::StackOverflow => {
            let depth = overflow(1);
            log!("test {}: came back from depth {depth}", test.name());
        }
        EndingTest::Panic => panic!("asked for by test={}", test.name()),
        EndingTest::Silence => stop(),
    }
    exit(ExitCode::Failure)
}

/// A trap without a descriptor table cannot be delivered, neither can its double fault: the processor gives up.
fn triple_fault() {
    let empty = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: meant to end the machine: no handler runs, so none runs on a wrong state.
    unsafe {
        x86_64::instructions::tables::lidt(&empty);
        core::arch::asm!("ud2");
    }
}

/// Calls itself until the stack is used up. The result depends on what comes after the call, so that it is no loop.
#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let mut frame = [depth; 32];
    core::hint::black_box(&mut frame);
    if depth == u64::MAX { depth } else { overflow(depth + 1) + core::hint::black_box(frame[0] & 1) }
}
