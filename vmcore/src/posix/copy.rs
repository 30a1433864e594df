//! `process_vm_readv` and `process_vm_writev`: bytes out of a program's memory, and into it, from outside.

use crate::platform::Platform;
use crate::posix::map::at;
use crate::posix::{Errno, Memory, Protection};
use crate::vm_space::Space;

impl<P: Platform> Memory<P> {
    /// `process_vm_readv` of one piece: copies what the program has at `address` into `into`, and gives how many bytes came before the first page that it may not read.
    ///
    /// # Errors
    /// [`Errno::Fault`] if not even the first byte can be read.
    pub fn copy_in(&mut self, space: &Space<P>, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let allowed = self.allowed(space, address, into.len(), Protection::READ);
        let Some(into) = into.get_mut(..allowed) else { return Err(Errno::Fault) };
        let done = match space.read_bytes(at(address), into) {
            Ok(()) => allowed,
            Err(stopped) => stopped.done,
        };
        if done == 0 { Err(Errno::Fault) } else { Ok(done) }
    }

    /// `process_vm_writev` of one piece: copies bytes to the program's `address`, and gives how many came before the first page that it may not write.
    ///
    /// # Errors
    /// [`Errno::Fault`] if not even the first byte can be written.
    pub fn copy_out(&mut self, space: &Space<P>, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let allowed = self.allowed(space, address, bytes.len(), Protection::WRITE);
        let Some(bytes) = bytes.get(..allowed) else { return Err(Errno::Fault) };
        let end = address.saturating_add(allowed as u64);
        self.refresh(space, address, end);
        self.make_ready(space, address, end);
        let done = match space.write_bytes(at(address), bytes) {
            Ok(flush) => {
                flush.complete();
                allowed
            }
            Err(stopped) => {
                self.note_refused_write(stopped.error);
                stopped.done
            }
        };
        self.refresh(space, address, end);
        if done == 0 { Err(Errno::Fault) } else { Ok(done) }
    }

    /// Makes the pages of a range ready to be written to, if some may be pages of a file and others private pages of the same. Linux does so before it moves the first byte: a
    /// private page holds what the file held then, and not what the call writes into the file. Where not all can be made ready, each is when the copy comes to it.
    fn make_ready(&self, space: &Space<P>, address: u64, end: u64) {
        let (mut private, mut shared) = (false, false);
        for region in self.regions.overlapping(address, end).filter(|region| !region.is_anonymous_private()) {
            private |= region.is_private();
            shared |= !region.is_private();
        }
        if !private || !shared {
            return;
        }
        let start = address & !(Self::PAGE - 1);
        let Some(size) = Self::whole_pages(end.saturating_sub(start)) else { return };
        let (range, access) = (space.range(start, size), self.access(space, Protection::READ | Protection::WRITE));
        let (Ok(range), Ok(access)) = (range, access) else { return };
        if let Ok(flush) = space.populate(range, access) {
            flush.complete();
        }
    }

    /// How many of the bytes lie in regions with this protection, without a gap.
    fn allowed(&mut self, space: &Space<P>, address: u64, length: usize, protection: Protection) -> usize {
        let end = address.saturating_add(length as u64);
        self.follow_stacks(space, address, end);
        let mut next = address;
        for region in self.regions.overlapping(address, end) {
            if region.start > next || !region.protection.contains(protection) {
                break;
            }
            next = region.end.min(end);
        }
        usize::try_from(next - address).unwrap_or(0)
    }
}
