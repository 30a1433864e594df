//! The keyboard at the controller of a PC (i8042): codes by interrupt 1, or by looking.
//!
//! ```text
//!   0x64  read: status (0 something to read, 1 not ready to be written)      written: a command
//!   0x60  data of either
//! ```
//!
//! IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller. A machine without one answers with all bits set, or not at all: every
//! wait ends by itself.

use crate::memory::Mutex;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use refkernel::shell::keyboard::Keyboard;
use refkernel::shell::keys::Key;
use x86_64::instructions::port::Port;

/// Its line of the ISA bus.
pub(crate) const LINE: u8 = 1;

const DATA: u16 = 0x60;
const STATUS: u16 = 0x64;
const SOMETHING_TO_READ: u8 = 1 << 0;
const NOT_READY: u8 = 1 << 1;
/// What is to be read is of the second device.
const OF_SECOND: u8 = 1 << 5;

const READ_CONFIGURATION: u8 = 0x20;
const WRITE_CONFIGURATION: u8 = 0x60;
const DISABLE_SECOND: u8 = 0xa7;
const TEST_CONTROLLER: u8 = 0xaa;
const TEST_PORT: u8 = 0xab;
const DISABLE: u8 = 0xad;
const ENABLE: u8 = 0xae;

const INTERRUPT: u8 = 1 << 0;
const INTERRUPT_OF_SECOND: u8 = 1 << 1;
const CLOCK_OFF: u8 = 1 << 4;
const CLOCK_OF_SECOND_OFF: u8 = 1 << 5;
/// Codes of set 2 are made codes of set 1.
const TRANSLATED: u8 = 1 << 6;

/// To the keyboard: send codes. Its answer.
const SEND_CODES: u8 = 0xf4;
const ACKNOWLEDGED: u8 = 0xfa;

/// How often the status is read before something is given up. A read takes about 1 µs on real hardware, and the keyboard's answer up to 20 ms.
const PATIENCE: u32 = 50_000;
/// Keys that are kept until somebody asks.
const KEPT: usize = 64;

/// Why there is no keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Nothing is at the ports.
    NoController,
    /// The controller does not answer.
    Silent,
    /// Its test failed with this.
    Test(u8),
    /// That of its connection to the keyboard did.
    Connection(u8),
    /// Nothing is plugged in that answers.
    NoKeyboard,
}

impl fmt::Display for Absence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoController => formatter.write_str("the machine has no controller for one"),
            Self::Silent => formatter.write_str("its controller does not answer"),
            Self::Test(code) => write!(formatter, "its controller's test failed with {code:#x}"),
            Self::Connection(code) => write!(formatter, "the test of its connection failed with {code:#x}"),
            Self::NoKeyboard => formatter.write_str("none is plugged in"),
        }
    }
}

/// The codes so far, and the keys that nobody has asked for yet, oldest first.
struct State {
    keyboard: Keyboard,
    keys: [Option<Key>; KEPT],
    count: usize,
}

static STATE: Mutex<State> = Mutex::new(State { keyboard: Keyboard::new(), keys: [None; KEPT], count: 0 });
/// The controller works.
static READY: AtomicBool = AtomicBool::new(false);

fn status() -> u8 {
    // SAFETY: the port is the controller's, or nobody's; reading the status changes nothing.
    unsafe { Port::new(STATUS).read() }
}

fn data() -> u8 {
    // SAFETY: the port is the controller's, or nobody's; reading takes what is there, which is for this driver alone.
    unsafe { Port::new(DATA).read() }
}

/// Writes to one of the two ports as soon as the controller takes it.
fn write(port: u16, value: u8) -> Result<(), Absence> {
    for _ in 0..PATIENCE {
        if status() & NOT_READY == 0 {
            // SAFETY: the port is the controller's; what this driver sends reaches no memory, and does not reset the machine.
            unsafe { Port::new(port).write(value) };
            return Ok(());
        }
    }
    Err(Absence::Silent)
}

fn answer() -> Option<u8> {
    (0..PATIENCE).find(|_| status() & SOMETHING_TO_READ != 0).map(|_| data())
}

/// Sets the controller up, once. From then on keys come to [`poll`].
pub(crate) fn initialise() -> Result<(), Absence> {
    if status() == u8::MAX {
        return Err(Absence::NoController);
    }
    write(STATUS, DISABLE)?;
    write(STATUS, DISABLE_SECOND)?;
    // What firmware has left; the controller holds few bytes.
    for _ in 0..KEPT {
        if status() & SOMETHING_TO_READ == 0 {
            break;
        }
        data();
    }
    write(STATUS, TEST_CONTROLLER)?;
    match answer() {
        Some(0x55) => {}
        Some(code) => return Err(Absence::Test(code)),
        None => return Err(Absence::Silent),
    }
    write(STATUS, READ_CONFIGURATION)?;
    let configuration = answer().ok_or(Absence::Silent)?;
    let configuration =
        configuration & !(INTERRUPT_OF_SECOND | CLOCK_OFF) | INTERRUPT | CLOCK_OF_SECOND_OFF | TRANSLATED;
    write(STATUS, WRITE_CONFIGURATION)?;
    write(DATA, configuration)?;
    write(STATUS, TEST_PORT)?;
    match answer() {
        Some(0) => {}
        Some(code) => return Err(Absence::Connection(code)),
        None => return Err(Absence::Silent),
    }
    write(STATUS, ENABLE)?;
    write(DATA, SEND_CODES)?;
    // Keys that are pressed meanwhile are lost.
    let mut answers = core::iter::from_fn(answer).take(KEPT);
    if !answers.any(|answer| answer == ACKNOWLEDGED) {
        return Err(Absence::NoKeyboard);
    }
    READY.store(true, Ordering::Release);
    Ok(())
}

/// Takes what the controller has: by its interrupt, or by whoever looks.
pub(crate) fn take_codes() {
    if !READY.load(Ordering::Acquire) {
        return;
    }
    let mut state = STATE.lock();
    let state = &mut *state;
    for _ in 0..KEPT {
        let status = status();
        if status & SOMETHING_TO_READ == 0 {
            break;
        }
        let code = data();
        if status & OF_SECOND != 0 {
            continue;
        }
        // Where there is no room for it, the key is lost.
        if let (Some(key), Some(slot)) = (state.keyboard.take(code), state.keys.get_mut(state.count)) {
            *slot = Some(key);
            state.count += 1;
        }
    }
}

/// The next key, if one was pressed.
pub(crate) fn poll() -> Option<Key> {
    take_codes();
    let mut state = STATE.lock();
    let key = state.keys.first().copied().flatten()?;
    state.keys.rotate_left(1);
    state.count -= 1;
    let count = state.count;
    if let Some(slot) = state.keys.get_mut(count) {
        *slot = None;
    }
    Some(key)
}
