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
        let done = match space.write_bytes(at(address), bytes) {
            Ok(flush) => {
                flush.complete();
                allowed
            }
            Err(stopped) => stopped.done,
        };
        if done == 0 { Err(Errno::Fault) } else { Ok(done) }
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
