//! The serial line: the kernel's log, and a byte at a time from the person at its other end.
//!
//! All of it is shown on the screen as well ([`crate::screen`]), if there is one.
//!
//! Every line of the log is sent as it is made, so that the last one before a crash has been seen. A machine without
//! the port loses the log and nothing else: sending gives up on a transmitter that never becomes ready.

use crate::memory::Mutex;
use crate::screen;
use core::fmt::{self, Write};
use uart_16550::{BaudRate, Config, Uart16550, backend::PioBackend, spec::registers::IER};

/// Its line of the ISA bus.
pub(crate) const LINE: u8 = 4;
/// COM1.
const PORT: u16 = 0x3f8;
/// How often a transmitter is asked before its byte is dropped. At 115,200 baud 16 bytes leave in 1.4 ms, and a port
/// read takes about 1 µs on real hardware.
const PATIENCE: u32 = 20_000;

// With interrupts off while a line is sent: who waits for the lock answers other processors meanwhile.
static SERIAL: Mutex<Option<Uart16550<PioBackend>>> = Mutex::new(None);

/// Sets the port up for 115,200 baud, 8 bits, no parity. The first use of the serial line.
pub(crate) fn initialise() {
    // SAFETY: COM1's eight ports belong to this driver alone, whose only instance is made here, under its lock.
    let Ok(mut port) = (unsafe { Uart16550::new_port(PORT) }) else { return };
    let config = Config {
        baud_rate: BaudRate::Baud115200,
        // Nothing may be plugged in on a real machine: the log must not wait for a terminal.
        check_cts_before_sending: false,
        ..Config::default()
    };
    if port.init(config).is_ok() {
        *SERIAL.lock() = Some(port);
    }
}

/// Breaks the lock of the serial line, for a message that is the kernel's last.
///
/// # Safety
///
/// The holder of the lock must never run again.
pub(crate) unsafe fn seize() {
    // SAFETY: by the contract; whoever held the lock of the text has its bytes from here, or draws.
    unsafe { screen::seize() };
    if SERIAL.is_locked() {
        // SAFETY: by the contract nobody continues in the critical section that is broken into. The device's state is
        // one register write at most behind, which garbles at most one byte.
        unsafe { SERIAL.raw().break_open() };
    }
}

/// Whether the machine has one.
pub(crate) fn is_there() -> bool {
    SERIAL.lock().is_some()
}

/// Lets it interrupt as soon as it has a byte, and again for what comes when all was taken.
pub(crate) fn interrupt_when_something_comes() {
    if let Some(port) = SERIAL.lock().as_mut() {
        port.enable_interrupts(IER::DATA_READY);
    }
}

/// What the line has for whoever looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A byte.
    Byte(u8),
    /// Nothing yet.
    Nothing,
    /// There is no serial port to wait at.
    NoPort,
}

/// Takes a byte if there is one.
pub(crate) fn poll() -> Received {
    match SERIAL.lock().as_mut().map(|port| port.try_receive_byte()) {
        Some(Ok(byte)) => Received::Byte(byte),
        Some(Err(_)) => Received::Nothing,
        None => Received::NoPort,
    }
}

/// Waits for a byte; `None` where there is no serial port to wait at.
pub(crate) fn receive() -> Option<u8> {
    loop {
        match poll() {
            Received::Byte(byte) => return Some(byte),
            Received::Nothing => crate::memory::relax(),
            Received::NoPort => return None,
        }
    }
}

/// Sends one line. The newline is added here, so that lines of several writers are not mixed.
pub(crate) fn line(arguments: fmt::Arguments<'_>) {
    let mut guard = SERIAL.lock();
    let mut sender = Sender(guard.as_mut());
    // The sender never fails; an error can only come from a `Display` that gives up on itself.
    let _ = sender.write_fmt(arguments);
    let _ = sender.write_str("\n");
}

/// Sends bytes as they are: a program's output.
pub(crate) fn bytes(bytes: &[u8]) {
    Sender(SERIAL.lock().as_mut()).send(bytes);
}

/// The line, if there is one, and the screen, with the same in the same order.
struct Sender<'a>(Option<&'a mut Uart16550<PioBackend>>);

impl Sender<'_> {
    fn send(&mut self, mut bytes: &[u8]) {
        screen::put(bytes);
        let Some(port) = self.0.as_mut() else { return };
        let mut patience = PATIENCE;
        while !bytes.is_empty() && patience != 0 {
            let sent = port.send_bytes(bytes);
            bytes = bytes.get(sent..).unwrap_or_default();
            patience = if sent == 0 { patience - 1 } else { PATIENCE };
        }
    }
}

impl Write for Sender<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        Ok(())
    }
}

/// Sends one line of the log: `log!("frames: {count}")`.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::devices::serial::line(format_args!($($argument)*))
    };
}
