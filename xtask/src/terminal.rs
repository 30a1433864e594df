//! The terminal with every key given as it is pressed, and its own state again afterwards: also behind a panic, and behind a signal that ends this
//! program. Otherwise the person would be left at a prompt that shows nothing of what is typed.

use std::{
    io::stdin,
    sync::{Mutex, Once, PoisonError, TryLockError},
    thread,
};

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// How the terminal was, while it is not so.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// What a shell adds to the number of the signal that has ended a program.
const SIGNALLED: i32 = 128;

/// The terminal of standard input, raw; as it was before when this is dropped.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// `None` where standard input is no terminal.
    pub(crate) fn of_stdin() -> Option<Self> {
        static PREPARED: Once = Once::new();
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // The kernel ends its lines with a line feed alone.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        PREPARED.call_once(prepare);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let terminal = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw).ok()?;
        Some(terminal)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was. Nothing to do about one that went away.
fn restore() {
    let before = match BEFORE.try_lock() {
        Ok(mut before) => before.take(),
        Err(TryLockError::Poisoned(before)) => before.into_inner().take(),
        // Somebody else is at it.
        Err(TryLockError::WouldBlock) => None,
    };
    if let Some(before) = before {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

/// Sees to the ends that drop nothing: panics abort, and signals come at any moment. (Ctrl-C on a raw terminal is a key like any other.)
fn prepare() {
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        said(panic);
    }));
    // Where they cannot be watched a signal ends this program as it does without.
    if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                restore();
                // QEMU ends with this process.
                std::process::exit(SIGNALLED + signal);
            }
        });
    }
}
