//! Tables read by somebody else: a plain walk over a whole tree, written from the manuals, that shares no code with any candidate.
//!
//! ```text
//!   x86-64    63 XD   51..12 address   7 PS (above 4 KiB)   6 D   5 A   2 U/S   1 R/W   0 P
//!   AArch64   54 UXN  53 PXN  51 DBM   47..12 address   10 AF   7 AP[2] read-only   6 AP[1] program   1 table, or page   0 valid
//! ```
//!
//! Intel SDM volume 3A, tables 5-15 to 5-20; Arm ARM, section D8.3 (VMSAv8-64, granule of 4 KiB). Both have four levels of 512 entries.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::subject::FIRST_ADDRESS;

/// How a tree is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// x86-64, four levels.
    X86_64,
    /// AArch64 stage 1, granule of 4 KiB, 48 bits.
    Aarch64,
}

/// One page of 4 KiB that a tree maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Its address.
    pub address: u64,
    /// Where it leads.
    pub physical: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether the hardware marked it as written. Always false on AArch64, whose marks nobody here asks for.
    pub dirty: bool,
}

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The entries of the table at `table`.
///
/// # Safety
/// A table is there, in an arena, and nobody changes it other than by atomics meanwhile.
unsafe fn entries(table: u64) -> &'static [AtomicU64; 512] {
    // SAFETY: an arena is never given back, frames are aligned, and atomics may be shared.
    unsafe { &*(table as *const [AtomicU64; 512]) }
}

/// Calls `visit` for each leaf entry below [`FIRST_ADDRESS`]'s slot of the root, with its address, and gives the number of tables there. (Other slots may
/// hold what a candidate keeps for itself, such as a recursive self-map.)
///
/// # Panics
/// At a leaf that is larger than a page: no candidate may use one here.
///
/// # Safety
/// `root` is the root of a tree in an arena, of this format, that nobody changes meanwhile.
pub unsafe fn each_leaf(root: u64, format: Format, visit: &mut impl FnMut(u64, &AtomicU64)) -> u64 {
    // SAFETY: as the caller says.
    let slot = unsafe { &entries(root)[(FIRST_ADDRESS >> 39) as usize] }.load(Relaxed);
    if slot & 1 == 0 {
        return 0;
    }
    // SAFETY: the entry is valid, so it leads to a table of the tree.
    unsafe { each_below(slot & ADDRESS, 2, FIRST_ADDRESS, format, visit) }
}

unsafe fn each_below(
    table: u64,
    level: u32,
    start: u64,
    format: Format,
    visit: &mut impl FnMut(u64, &AtomicU64),
) -> u64 {
    let mut tables = 1;
    // SAFETY: the caller vouches for the root, and each valid entry of a tree leads to a table of it.
    for (index, entry) in unsafe { entries(table) }.iter().enumerate() {
        let (word, address) = (entry.load(Relaxed), start + ((index as u64) << (12 + 9 * level)));
        if word & 1 == 0 {
            continue;
        }
        let is_leaf = match format {
            Format::X86_64 => level == 0 || word & 1 << 7 != 0,
            Format::Aarch64 => level == 0 || word & 1 << 1 == 0,
        };
        if level == 0 {
            visit(address, entry);
        } else if is_leaf {
            panic!("a leaf of level {level} at {address:#x}: {word:#x}");
        } else {
            // SAFETY: as above.
            tables += unsafe { each_below(word & ADDRESS, level - 1, address, format, visit) };
        }
    }
    tables
}

/// Everything that is mapped there, in order, and the number of tables.
///
/// # Safety
/// As for [`each_leaf`].
pub unsafe fn read(root: u64, format: Format) -> (Vec<Mapped>, u64) {
    let mut found = Vec::new();
    // SAFETY: as the caller says.
    let tables = unsafe {
        each_leaf(root, format, &mut |address, entry| {
            let word = entry.load(Relaxed);
            let (writable, dirty) = match format {
                Format::X86_64 => (word & 1 << 1 != 0, word & 1 << 6 != 0),
                Format::Aarch64 => (word & 1 << 7 == 0, false),
            };
            found.push(Mapped { address, physical: word & ADDRESS, writable, dirty });
        })
    };
    (found, tables)
}

/// Marks every mapped page as written, as the hardware would.
///
/// # Safety
/// As for [`each_leaf`]; the format is x86-64.
pub unsafe fn mark_dirty(root: u64) {
    // SAFETY: as the caller says.
    unsafe {
        each_leaf(root, Format::X86_64, &mut |_, entry| {
            entry.fetch_or(1 << 6, Relaxed);
        });
    }
}
