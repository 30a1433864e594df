//! Handles on their way from one process to another: all of them arrive, or none has left.
//!
//! ```text
//!   giver's table     withdrawn: the places are held ─────────────────► let go       (or filled again: nothing happened)
//!                                     │                        ▲
//!   taker's table                     └── places are held ─────┴──► filled           (or let go)
//! ```
//!
//! Every step that can fail comes before the first that cannot be taken back.

use super::calls::handle_error;
use super::{Entry, Object, Process};
use crate::cpu::user_copy;
use refkernel::channels::End;
use refkernel_abi::{ErrorCode, MESSAGE_HANDLES_MAX, Rights, START_HANDLES_MAX};

/// The most handles that move at once.
pub(crate) const MOVED_MAX: usize = MESSAGE_HANDLES_MAX;
const _: () = assert!(START_HANDLES_MAX <= MOVED_MAX);

/// Entries that move.
pub(crate) type Entries = [Option<Entry>; MOVED_MAX];

/// Numbers from a program's array.
pub(crate) fn read_numbers(address: u64, count: u64) -> Result<([u64; MOVED_MAX], usize), ErrorCode> {
    let mut numbers = [0; MOVED_MAX];
    let count = usize::try_from(count).ok().filter(|count| *count <= MOVED_MAX).ok_or(ErrorCode::TooLarge)?;
    let mut bytes = [0; 8 * MOVED_MAX];
    let part = bytes.get_mut(..8 * count).unwrap_or_default();
    if !part.is_empty() {
        user_copy::copy_from_user(part, address)?;
    }
    for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *number = u64::from_le_bytes(*bytes);
    }
    Ok((numbers, count))
}

/// Entries taken out of a process's table, whose places are held: dropped, they go back to where they were.
pub(crate) struct Withdrawn<'a> {
    from: &'a Process,
    numbers: [u64; MOVED_MAX],
    pub(crate) entries: Entries,
    count: usize,
}

impl<'a> Withdrawn<'a> {
    /// Takes out what these numbers name, all of it or nothing.
    ///
    /// # Errors
    ///
    /// A number names nothing, or comes twice; a handle lacks the right to share.
    pub(crate) fn new(from: &'a Process, numbers: &[u64]) -> Result<Self, ErrorCode> {
        // Dropped on the way out, it puts back what was taken so far.
        let mut this = Self { from, numbers: [0; MOVED_MAX], entries: Entries::default(), count: 0 };
        let mut handles = from.handles();
        let mut failed = None;
        for ((number, slot), entry) in numbers.iter().zip(&mut this.numbers).zip(&mut this.entries) {
            let allowed = handles.get(*number).map_err(handle_error).and_then(|entry| entry.require(Rights::SHARE));
            match allowed.and_then(|()| handles.withdraw(*number).map_err(handle_error)) {
                Ok(taken) => {
                    (*slot, *entry) = (*number, Some(taken));
                    this.count += 1;
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(handles);
        failed.map_or(Ok(this), Err)
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The ends of channels among them.
    pub(crate) fn ends(&self) -> ([End; MOVED_MAX], usize) {
        let mut ends = [End::NONE; MOVED_MAX];
        let mut count = 0;
        for (place, end) in ends.iter_mut().zip(self.entries.iter().flatten().filter_map(end_of)) {
            *place = end;
            count += 1;
        }
        (ends, count)
    }

    /// They have arrived elsewhere: gives their places free.
    pub(crate) fn commit(mut self) {
        let mut handles = self.from.handles();
        for number in self.numbers.iter().take(self.count) {
            handles.let_go(*number);
        }
        drop(handles);
        self.count = 0;
    }
}

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        for (number, entry) in self.numbers.iter().zip(&mut self.entries).take(self.count) {
            if let Some(entry) = entry.take() {
                // The place is held, so it is filled; else the entry is dropped, without the lock.
                let back = self.from.handles().fill(*number, entry);
                drop(back);
            }
        }
    }
}

/// The end of a channel that an entry names.
pub(crate) fn end_of(entry: &Entry) -> Option<End> {
    match &entry.object {
        Object::Channel(end) => Some(end.end()),
        _ => None,
    }
}

/// Places in a process's table that are held for entries that come: dropped, they are free again.
pub(crate) struct Places<'a> {
    to: &'a Process,
    numbers: [u64; MOVED_MAX],
    count: usize,
}

impl<'a> Places<'a> {
    /// Holds so many places, or none.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::TooManyHandles`].
    pub(crate) fn new(to: &'a Process, count: usize) -> Result<Self, ErrorCode> {
        let mut this = Self { to, numbers: [0; MOVED_MAX], count: 0 };
        let mut handles = to.handles();
        let mut failed = None;
        for slot in this.numbers.iter_mut().take(count) {
            match handles.hold() {
                Ok(number) => {
                    *slot = number;
                    this.count += 1;
                }
                Err(error) => {
                    failed = Some(handle_error(error));
                    break;
                }
            }
        }
        drop(handles);
        failed.map_or(Ok(this), Err)
    }

    /// The numbers, as a program's array holds them.
    pub(crate) fn bytes(&self) -> ([u8; 8 * MOVED_MAX], usize) {
        let mut bytes = [0; 8 * MOVED_MAX];
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.numbers) {
            *place = number.to_le_bytes();
        }
        (bytes, 8 * self.count)
    }

    /// Puts the entries, as many as there are places, there.
    pub(crate) fn fill(mut self, entries: &mut Entries) {
        for (number, entry) in self.numbers.iter().zip(entries).take(self.count) {
            if let Some(entry) = entry.take() {
                let unused = self.to.handles().fill(*number, entry);
                drop(unused);
            }
        }
        self.count = 0;
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        let mut handles = self.to.handles();
        for number in self.numbers.iter().take(self.count) {
            handles.let_go(*number);
        }
    }
}
