//! What the kernel says of a process' memory: regions and pages of the window. Without memory of its own, for children.

use core::mem::size_of;

use super::sys;
use crate::script::{BASE, END, PAGE, PAGES, Region, State};

/// `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    kind: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: u64 = 3 << 30 | (size_of::<Query>() as u64) << 16 | 0x66 << 8 | 17;
const COVERING_OR_NEXT: u64 = 0x10;

/// The files of a process that say it.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    maps: i64,
    pages: i64,
    /// Whether the kernel answers questions; else its text is read.
    asks: bool,
}

impl Maps {
    pub(super) const NONE: Self = Self { maps: -1, pages: -1, asks: false };

    /// Opens those of the process that runs, instead of what its parent had.
    pub(super) fn reopen(&mut self, asks: bool) -> bool {
        for file in [self.maps, self.pages].into_iter().filter(|file| *file >= 0) {
            sys::close(file);
        }
        *self = Self { maps: sys::open(c"/proc/self/maps"), pages: sys::open(c"/proc/self/pagemap"), asks };
        self.maps >= 0 && self.pages >= 0
    }

    /// Whether the kernel answers questions.
    pub(super) fn can_ask(&self) -> bool {
        self.query(0).is_ok()
    }

    /// The mapping at an address or the next one: start, end, kind. An errno where there is none.
    fn query(&self, address: u64) -> Result<(u64, u64, u8), i64> {
        let mut query = Query { size: size_of::<Query>() as u64, flags: COVERING_OR_NEXT, address, ..Query::default() };
        let pointer = core::ptr::from_mut(&mut query) as u64;
        // SAFETY: the kernel reads and writes the structure alone.
        match unsafe { sys::call(libc::SYS_ioctl, [self.maps as u64, PROCMAP_QUERY, pointer, 0, 0, 0]) } {
            0 => Ok((query.start, query.end, query.kind as u8 & 15)),
            errno => Err(errno),
        }
    }

    /// The regions of the window.
    pub(super) fn regions(&self, into: &mut State) {
        into.count = 0;
        let mut take = |start: u64, end: u64, kind: u8| {
            if end > BASE && start < END {
                let page = |address: u64| ((address.clamp(BASE, END) - BASE) / PAGE) as u8;
                into.push(Region { first: page(start), end: page(end), kind });
            }
        };
        if !self.asks {
            return each_line(self.maps, take);
        }
        let mut next = BASE;
        while next < END {
            let Ok((start, end, kind)) = self.query(next) else { break };
            take(start, end, kind);
            next = end;
        }
    }

    /// The pages of the window that are there.
    pub(super) fn pages(&self, into: &mut State) -> bool {
        let mut bytes = [0; PAGES as usize * 8];
        let offset = BASE / PAGE * 8;
        if sys::read_at(self.pages, &mut bytes, offset) != bytes.len() as i64 {
            return false;
        }
        (into.private, into.shared) = (0, 0);
        for (page, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            let (present, shared) = (word >> 63, word >> 61 & 1);
            into.private |= (present & !shared) << page;
            into.shared |= (present & shared) << page;
        }
        true
    }
}

/// Every mapping of the process that runs, as the text of `/proc/self/maps` has it: start, end, kind.
pub(super) fn each(take: impl FnMut(u64, u64, u8)) {
    let file = sys::open(c"/proc/self/maps");
    each_line(file, take);
    sys::close(file);
}

/// Reads the text in pieces; a line is `start-end rwxp …`.
fn each_line(file: i64, mut take: impl FnMut(u64, u64, u8)) {
    let mut piece = [0; 4096];
    let (mut offset, mut start, mut end, mut kind, mut field) = (0, 0_u64, 0_u64, 0_u8, 0);
    loop {
        let count = sys::read_at(file, &mut piece, offset);
        let Some(bytes) = usize::try_from(count).ok().and_then(|count| piece.get(..count)) else { return };
        if bytes.is_empty() {
            return;
        }
        offset += bytes.len() as u64;
        for byte in bytes {
            let digit = |byte: u8| u64::from((byte as char).to_digit(16).unwrap_or(0));
            match (field, *byte) {
                (_, b'\n') => {
                    take(start, end, kind);
                    (start, end, kind, field) = (0, 0, 0, 0);
                }
                (0, b'-') | (1 | 2, b' ') => field += 1,
                (0, byte) => start = start << 4 | digit(byte),
                (1, byte) => end = end << 4 | digit(byte),
                (2, b'r') => kind |= 1,
                (2, b'w') => kind |= 2,
                (2, b'x') => kind |= 4,
                (2, b's') => kind |= 8,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text and the answers say the same, and both what is there.
    #[test]
    fn both_ways_say_the_same() {
        let (mut start, mut found) = (0, 0);
        each(|from, end, kind| {
            assert!(from < end && start <= from, "{from:#x}-{end:#x}");
            start = end;
            let here = both_ways_say_the_same as *const () as u64;
            if (from..end).contains(&here) {
                assert_eq!(kind, 5, "code may be read and executed");
                found += 1;
            }
        });
        assert_eq!(found, 1);
        let mut maps = Maps::NONE;
        assert!(maps.reopen(false));
        if maps.can_ask() {
            let mut next = 0;
            // Other tests map and unmap meanwhile: code stays where it is.
            while let Ok((from, end, kind)) = maps.query(next) {
                next = end;
                if (from..end).contains(&(both_ways_say_the_same as *const () as u64)) {
                    assert_eq!(kind, 5);
                    return;
                }
            }
            panic!("the code was not found");
        }
    }
}
