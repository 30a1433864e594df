//! Entries changed by hand, for the controls of the table of attacks ([`crate::weakness`]).

use super::platform::{Kernel, forget_everything};
use super::{Mutex, audit};
use crate::weakness::Defence;
use vmcore::frame::Frames;
use vmcore::paging::Step;

const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;
/// Entries of the kernel's half that are changed at a time.
const CHANGED_MAX: usize = 64;

/// What stood in entries of tables that stay when a process ends: where, and what.
static CHANGED: Mutex<[Option<(u64, u64)>; CHANGED_MAX]> = Mutex::new([None; CHANGED_MAX]);

/// Where the kernel sees an entry.
fn place(step: &Step) -> u64 {
    Kernel.frame_pointer(step.table) as u64 + 8 * step.index as u64
}

/// Writes an entry of live tables.
fn write(entry: u64, word: u64) {
    // SAFETY: the entry was found by a walk of the live tables, which are in the linear map; a test that changes it bears with what that does. The hardware may set accessed and dirty
    // meanwhile, which nobody relies on here.
    unsafe { (entry as *mut u64).write_volatile(word) };
}

/// Writes an entry of the kernel's half, to be written back by [`restore`].
pub(crate) fn change(entry: u64, word: u64) {
    // SAFETY: as in `write`.
    let before = unsafe { (entry as *const u64).read_volatile() };
    let mut changed = CHANGED.lock();
    let known = changed.iter().flatten().any(|(place, _)| *place == entry);
    if let (false, Some(slot)) = (known, changed.iter_mut().find(|slot| slot.is_none())) {
        *slot = Some((entry, before));
    }
    write(entry, word);
    drop(changed);
    forget_everything();
}

/// Takes a bit that refuses an access away from the entries for an address; false if there is no leaf.
pub(crate) fn allow(address: u64, defence: Defence) -> bool {
    let walk = audit::walk(address);
    if walk.physical().is_none() {
        return false;
    }
    let last = walk.steps().count() - 1;
    for (number, step) in walk.steps().enumerate() {
        let word = match defence {
            Defence::NoExecute => step.word & !NO_EXECUTE,
            Defence::Supervisor => (step.word | USER) & !NO_EXECUTE,
            _ if number == last => step.word | WRITABLE,
            _ => step.word,
        };
        // A process's own tables, its root among them, go with it.
        if defence == Defence::Supervisor && number > 0 {
            change(place(step), word);
        } else {
            write(place(step), word);
        }
    }
    forget_everything();
    true
}

/// The leaf for an address: where it is, and what it holds.
pub(crate) fn leaf(address: u64) -> Option<(u64, u64)> {
    let walk = audit::walk(address);
    let step = walk.steps().last()?;
    Some((place(step), step.word))
}

/// Writes every changed entry of the kernel's half back.
pub(crate) fn restore() {
    let mut changed = CHANGED.lock();
    for slot in &mut *changed {
        if let Some((entry, word)) = slot.take() {
            write(entry, word);
        }
    }
    drop(changed);
    super::shootdown::forget_everywhere();
}

/// Lets the page of the kernel's at an address be executed.
pub(crate) fn allow_execution(address: u64) -> Result<(), &'static str> {
    let (entry, word) = leaf(address).ok_or("there is no leaf")?;
    change(entry, word & !NO_EXECUTE);
    Ok(())
}
