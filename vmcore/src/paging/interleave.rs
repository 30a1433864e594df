//! Lets a test run other CPUs between any two accesses of an operation to a table's memory.
//!
//! ```text
//!   operation:   load ──► load ──► store ──► load ──► compare-exchange
//!   step:             ▲        ▲         ▲        ▲                        accesses of other CPUs, of the test's choice
//! ```
//!
//! The step belongs to the thread: tests that run side by side do not meet each other's.

use std::boxed::Box;
use std::cell::RefCell;

type Step = Box<dyn FnMut()>;

std::thread_local! {
    static STEP: RefCell<Option<Step>> = const { RefCell::new(None) };
}

/// Called before every access to an entry.
pub(super) fn step() {
    STEP.with(|slot| {
        // A step that reaches tables itself takes no further steps.
        if let Ok(mut slot) = slot.try_borrow_mut() {
            if let Some(step) = slot.as_mut() {
                step();
            }
        }
    });
}

/// Runs `operation` with `step` before each of its accesses to an entry.
pub(super) fn during<T>(step: impl FnMut() + 'static, operation: impl FnOnce() -> T) -> T {
    /// Takes the step away, also where the operation panics.
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            STEP.with(|slot| drop(slot.take()));
        }
    }
    STEP.with(|slot| *slot.borrow_mut() = Some(Box::new(step)));
    let _guard = Guard;
    operation()
}
