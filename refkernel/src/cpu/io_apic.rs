//! Interrupts of devices: lines of the I/O APIC, led to the first processor.
//!
//! Intel 82093AA data sheet. Its registers are a page of memory, uncached: one selects, the other is the selected one.
//!
//! ```text
//!   16 + 2 * pin      31..17 0 | 16 masked | 15 by level | 13 active low | 11 logical | 10..8 mode | 7..0 vector
//!   17 + 2 * pin      31..24 the local controller's number
//! ```
//!
//! Only pins that somebody routes are unmasked. The old controllers (8259) stay masked.

use super::apic;
use crate::memory::{self, Mutex};
use core::fmt;
use refkernel::boot_info::interrupt_lines::InterruptLine;

/// The keyboard's.
pub(crate) const KEYBOARD_VECTOR: u8 = 0xd0;
/// The serial line's.
pub(crate) const SERIAL_VECTOR: u8 = 0xd1;

/// Byte offsets of the two registers that are memory.
const SELECT: u64 = 0;
const WINDOW: u64 = 0x10;
/// Registers behind them.
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
const ACTIVE_LOW: u32 = 1 << 13;
const BY_LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

/// Why a line is not led anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteError {
    /// No table tells where it arrives.
    Unknown,
    /// The registers are not mapped.
    NotMapped,
    /// They are mapped for another controller.
    Another,
    /// The controller has fewer pins.
    NoPin(u32),
    /// The first processor's number does not fit a register.
    Unnameable,
}

impl fmt::Display for RouteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => formatter.write_str("no table tells where its interrupts arrive"),
            Self::NotMapped => formatter.write_str("the registers of the I/O APIC are not mapped"),
            Self::Another => formatter.write_str("its interrupts arrive at a second I/O APIC"),
            Self::NoPin(pin) => write!(formatter, "the I/O APIC has no pin {pin}"),
            Self::Unnameable => formatter.write_str("the first processor's number is too large for the I/O APIC"),
        }
    }
}

/// The controller that is mapped: its physical address, and where it is shown.
static MAPPED: Mutex<Option<(u64, u64)>> = Mutex::new(None);

/// Leads a line to `vector` on the first processor. Maps the controller the first time.
pub(crate) fn route(line: Option<InterruptLine>, vector: u8) -> Result<(), RouteError> {
    let line = line.ok_or(RouteError::Unknown)?;
    let id = apic::id_of(0).filter(|id| *id < 0xff).ok_or(RouteError::Unnameable)?;
    let known = *MAPPED.lock();
    let page = match known {
        Some((physical, page)) if physical == line.controller => page,
        Some(_) => return Err(RouteError::Another),
        None => {
            let page = memory::map_io_apic(line.controller).map_err(|_| RouteError::NotMapped)?;
            *MAPPED.lock() = Some((line.controller, page));
            page
        }
    };
    // While it is held nobody else selects a register.
    let _guard = MAPPED.lock();
    if line.pin > read(page, VERSION) >> 16 & 0xff {
        return Err(RouteError::NoPin(line.pin));
    }
    let entry = FIRST_ENTRY + 2 * line.pin;
    let polarity = if line.active_low { ACTIVE_LOW } else { 0 };
    let trigger = if line.by_level { BY_LEVEL } else { 0 };
    write(page, entry, MASKED);
    write(page, entry + 1, id << 24);
    write(page, entry, u32::from(vector) | polarity | trigger);
    Ok(())
}

fn select(page: u64, register: u32) {
    // SAFETY: `map_io_apic` has shown the registers there, for ever; whoever calls this has the lock, so that the selection stays.
    unsafe { ((page + SELECT) as *mut u32).write_volatile(register) };
}

fn read(page: u64, register: u32) -> u32 {
    select(page, register);
    // SAFETY: as above. Reading changes nothing.
    unsafe { ((page + WINDOW) as *const u32).read_volatile() }
}

fn write(page: u64, register: u32, value: u32) {
    select(page, register);
    // SAFETY: as above. What is written changes how interrupts come, which the kernel is prepared for.
    unsafe { ((page + WINDOW) as *mut u32).write_volatile(value) };
}
