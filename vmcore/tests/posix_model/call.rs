//! A call of a program, out of the bytes of a record: numbers are taken modulo what there is, so that every record is a call.

use vmcore::posix::{Advice, MapFlags, Protection, RemapFlags};

/// The bytes of a record: kind, process, page, pages, two that each kind reads as it likes, and whether a request for frames is refused.
pub(crate) const RECORD: usize = 7;

/// Pages that are addressed: across the end of a leaf table.
pub(crate) const FIRST: u64 = 0x1f0;
pub(crate) const PAGES: u64 = 28;
/// The most pages of a range.
const MOST: u8 = 9;

const ADVICE: [Advice; 14] = [
    Advice::DontNeed,
    Advice::DontNeed,
    Advice::PopulateRead,
    Advice::PopulateWrite,
    Advice::GuardInstall,
    Advice::GuardInstall,
    Advice::GuardRemove,
    Advice::DontFork,
    Advice::DoFork,
    Advice::WipeOnFork,
    Advice::KeepOnFork,
    Advice::Free,
    Advice::WillNeed,
    Advice::Cold,
];

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Map {
        protection: Protection,
        flags: MapFlags,
    },
    Unmap,
    Protect(Protection),
    Remap {
        pages: u64,
        flags: RemapFlags,
        new: u64,
    },
    Advise(Advice),
    Lock,
    Unlock,
    Seal,
    Query,
    Fork,
    Exit,
    Write {
        word: usize,
    },
    Read {
        word: usize,
    },
    /// So many words from the page's second on.
    CopyIn {
        words: usize,
    },
    CopyOut {
        words: usize,
    },
    Prefetch,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) process: usize,
    pub(crate) page: u64,
    pub(crate) pages: u64,
    pub(crate) what: What,
    /// The request for frames that is refused first; and all later ones.
    pub(crate) refused: Option<(u64, bool)>,
}

impl Call {
    pub(crate) fn of([kind, process, page, pages, a, b, refused]: [u8; RECORD]) -> Self {
        let protection = Protection::from_bits_truncate(u32::from(a & 7));
        let what = match kind % 32 {
            // Mostly what can be written.
            0..=5 => {
                let protection = if b & 3 == 0 { protection } else { Protection::READ | Protection::WRITE };
                let sharing = if a & 8 == 0 { MapFlags::PRIVATE } else { MapFlags::SHARED };
                let place = [MapFlags::FIXED, MapFlags::FIXED, MapFlags::FIXED_NO_REPLACE, MapFlags::empty()];
                let mut flags = MapFlags::ANONYMOUS | sharing | place[usize::from(a >> 4 & 3)];
                flags.set(MapFlags::POPULATE, b & 12 == 12);
                flags.set(MapFlags::LOCKED, b & 0x70 == 0x70);
                What::Map { protection, flags }
            }
            6 | 7 => What::Unmap,
            8..=10 => What::Protect(protection),
            11..=13 => {
                let mut flags = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
                flags.set(RemapFlags::DONT_UNMAP, b & 7 == 7);
                // Mostly what keeps its size.
                let pages = if b & 0x18 == 0 { u64::from(b >> 5) } else { u64::from(pages % MOST) };
                What::Remap { pages, flags, new: FIRST + u64::from(a) % PAGES }
            }
            14 | 15 => {
                let flags = RemapFlags::from_bits_truncate(u32::from(b & 5));
                What::Remap { pages: u64::from(a % 11), flags, new: 0 }
            }
            16..=19 => What::Advise(ADVICE[usize::from(a) % ADVICE.len()]),
            20 if a & 1 == 0 => What::Lock,
            20 => What::Unlock,
            21 if a & 7 == 0 => What::Seal,
            21 => What::Query,
            22 => What::Fork,
            23 if a & 1 == 0 => What::Exit,
            23 => What::Prefetch,
            24..=26 => What::Write { word: usize::from(a & 1) },
            27 | 28 => What::Read { word: usize::from(a & 1) },
            29 => What::CopyIn { words: 1 + usize::from(a & 1) },
            _ => What::CopyOut { words: 1 + usize::from(a & 1) },
        };
        // What is locked as far as memory goes is not locked where it ends.
        let leaves_open = matches!(what, What::Map { flags, .. } if flags.contains(MapFlags::LOCKED));
        Self {
            process: usize::from(process),
            page: FIRST + u64::from(page) % PAGES,
            pages: u64::from(pages % MOST),
            what,
            refused: (refused & 7 == 7 && !leaves_open).then_some((u64::from(refused >> 3 & 15), refused & 0x80 != 0)),
        }
    }

    pub(crate) fn range(&self) -> core::ops::Range<u64> {
        self.page..self.page + self.pages
    }
}
