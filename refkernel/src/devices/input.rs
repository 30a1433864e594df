//! What a person types, at the serial line or at the keyboard.
//!
//! Both interrupt where the machine tells how; where it does not, they are looked at every so often. Whoever waits does so as a thread: others run meanwhile.
//!
//! ```text
//!   keyboard ──(interrupt 1)──► its codes are taken ──┐
//!                                                     ├──► the thread that waits is woken, and looks at both
//!   serial line ──(interrupt 4)───────────────────────┘
//! ```

use super::keyboard;
use super::serial::{self, Received};
use crate::cpu::apic;
use crate::cpu::io_apic::{self, KEYBOARD_VECTOR, SERIAL_VECTOR};
use crate::log;
use crate::thread::{self, scheduler, sleep};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use refkernel::boot_info::BootInfo;
use refkernel::shell::keys::Key;
use spin::Once;

/// How often both are looked at without a pause after something came: what follows closely is not waited for.
const EAGER: u32 = 2_000;
/// How long nobody looks then where nobody interrupts, in microseconds: less than it takes at 115,200 baud to fill 16 bytes, but for the tick that ends a wait.
const PAUSE: u64 = 1_000;

/// What a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A byte came over the serial line.
    Byte(u8),
    /// A key of the keyboard was pressed.
    Key(Key),
}

impl Typed {
    /// Whether an answer is to be ended.
    pub(crate) fn is_interrupt(self) -> bool {
        const CONTROL_C: u8 = 3;
        matches!(self, Self::Byte(CONTROL_C) | Self::Key(Key::Cancel))
    }

    /// Whether a line is done.
    pub(crate) fn is_enter(self) -> bool {
        matches!(self, Self::Byte(b'\r' | b'\n') | Self::Key(Key::Enter))
    }
}

static BEGUN: Once<()> = Once::new();
/// There is a keyboard.
static KEYBOARD: AtomicBool = AtomicBool::new(false);
/// Whatever is typed interrupts.
static INTERRUPTS: AtomicBool = AtomicBool::new(false);
/// The number of the thread that waits, or zero.
static WAITER: AtomicU64 = AtomicU64::new(0);

/// Makes both ready, and says what there is. Once; later calls do nothing.
pub(crate) fn begin(info: &BootInfo) {
    BEGUN.call_once(|| {
        let mut all_interrupt = true;
        match keyboard::initialise() {
            Ok(()) => {
                KEYBOARD.store(true, Ordering::Relaxed);
                match io_apic::route(info.interrupt_lines.isa(keyboard::LINE), KEYBOARD_VECTOR) {
                    Ok(()) => log!("keyboard: ready, by interrupt {}", keyboard::LINE),
                    Err(error) => {
                        all_interrupt = false;
                        log!("keyboard: ready, looked at every so often: {error}");
                    }
                }
            }
            Err(absence) => log!("keyboard: none: {absence}"),
        }
        if serial::is_there() {
            match io_apic::route(info.interrupt_lines.isa(serial::LINE), SERIAL_VECTOR) {
                Ok(()) => serial::interrupt_when_something_comes(),
                Err(error) => {
                    all_interrupt = false;
                    log!("serial line: looked at every so often: {error}");
                }
            }
        }
        INTERRUPTS.store(all_interrupt, Ordering::Relaxed);
    });
}

/// Takes what was typed, if anything was.
pub(crate) fn poll() -> Option<Typed> {
    match serial::poll() {
        Received::Byte(byte) => Some(Typed::Byte(byte)),
        Received::Nothing | Received::NoPort => keyboard::poll().map(Typed::Key),
    }
}

/// Waits until something is typed; `None` where nobody can. After [`begin`], by one thread at a time.
pub(crate) fn wait() -> Option<Typed> {
    if !serial::is_there() && !KEYBOARD.load(Ordering::Relaxed) {
        return None;
    }
    for _ in 0..EAGER {
        if let Some(typed) = poll() {
            return Some(typed);
        }
        crate::memory::relax();
    }
    WAITER.store(scheduler::current().map_or(0, thread::Thread::number), Ordering::SeqCst);
    let mut typed = None;
    while typed.is_none() {
        let deadline = if INTERRUPTS.load(Ordering::Relaxed) { None } else { sleep::deadline(PAUSE) };
        // What comes behind the last look interrupts, and so ends the wait.
        sleep::wait(deadline, || {
            typed = poll();
            typed.is_some()
        });
    }
    WAITER.store(0, Ordering::SeqCst);
    typed
}

/// The handler of both interrupts.
pub(crate) fn interrupt(vector: u8) {
    if vector == KEYBOARD_VECTOR {
        // The controller has room for one code, and interrupts for the next one when it was taken.
        keyboard::take_codes();
    }
    apic::end_of_interrupt();
    match WAITER.load(Ordering::SeqCst) {
        0 => {}
        number => thread::wake(number),
    }
}
