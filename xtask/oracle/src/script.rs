//! What is done: calls and accesses, each by one process, and what they find at the start.

pub use replay::{Call, File};

/// Where the window lies in which all happens, and how many pages it has. As in the recordings.
pub const BASE: u64 = 0x1000_0000_0000;
pub const PAGE: u64 = 0x1000;
pub const PAGES: u64 = 64;
/// The first address behind the window.
pub const END: u64 = BASE + PAGES * PAGE;
/// How many processes there are at a time.
pub const SLOTS: usize = 6;
/// How many threads a process has at the most.
pub const THREADS: usize = 2;
/// How many files there are at the most.
pub const FILES: usize = 2;
/// How many steps a script has at the most.
pub const MOST_STEPS: usize = 1024;
/// How many bytes a copy from outside has at the most.
pub const MOST_COPIED: usize = 0x8000;

/// The address 0, as it is given to calls whose addresses count from the window.
pub const NULL: u64 = BASE.wrapping_neg();

/// Numbers of Linux' flags and advice that are used here.
pub mod linux {
    pub const MAP_SHARED: u32 = 0x01;
    pub const MAP_PRIVATE: u32 = 0x02;
    pub const MAP_FIXED: u32 = 0x10;
    pub const MAP_ANONYMOUS: u32 = 0x20;
    pub const MAP_GROWSDOWN: u32 = 0x100;
    pub const MAP_LOCKED: u32 = 0x2000;
    pub const MAP_NORESERVE: u32 = 0x4000;
    pub const MAP_POPULATE: u32 = 0x8000;
    pub const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
    pub const MREMAP_MAYMOVE: u32 = 1;
    pub const MREMAP_FIXED: u32 = 2;
    pub const MREMAP_DONTUNMAP: u32 = 4;
    pub const MADV_DONTNEED: u32 = 4;
    pub const MADV_FREE: u32 = 8;
    pub const MADV_DONTFORK: u32 = 10;
    pub const MADV_DOFORK: u32 = 11;
    pub const MADV_HUGEPAGE: u32 = 14;
    pub const MADV_NOHUGEPAGE: u32 = 15;
    pub const MADV_DONTDUMP: u32 = 16;
    pub const MADV_WIPEONFORK: u32 = 18;
    pub const MADV_KEEPONFORK: u32 = 19;
    pub const MADV_POPULATE_READ: u32 = 22;
    pub const MADV_POPULATE_WRITE: u32 = 23;
    pub const MADV_GUARD_INSTALL: u32 = 102;
    pub const MADV_GUARD_REMOVE: u32 = 103;
    pub const PROT_NONE: u32 = 0;
}

/// Whether a call can reach nothing but the window and what it may grow over: other memory of a process must not be changed. Ranges that are none are refused by the kernel at
/// once. (What locks all of a process' memory changes none of it.)
pub fn is_contained(call: &Call) -> bool {
    let window = PAGES * PAGE;
    let inside = |address: u64, length: u64| {
        address <= window && length <= window && address + length <= window + PAGE && BASE + address < END
    };
    // It begins in the window and overflows.
    let none = |address: u64, length: u64| address < window && length > PAGE.wrapping_neg() - window;
    match *call {
        Call::Map { address: NULL, length, flags, .. } => {
            flags & linux::MAP_FIXED == 0 && (length <= window || length > 1 << 47)
        }
        Call::Unmap { address, length }
        | Call::Protect { address, length, .. }
        | Call::Advise { address, length, .. }
        | Call::Sync { address, length, .. }
        | Call::Core { address, length }
        | Call::Lock { address, length }
        | Call::Unlock { address, length }
        | Call::Seal { address, length }
        | Call::Map { address, length, .. } => inside(address, length) || none(address, length),
        Call::Remap { old, old_length, new_length, new, .. } => {
            inside(old, old_length) && new < window && new_length <= window
        }
        Call::Write { address, .. } | Call::Read { address } => address <= window - 8,
        Call::CopyIn { address, length } | Call::CopyOut { address, length, .. } => inside(address, length),
        Call::LockAll { .. } | Call::UnlockAll | Call::Truncate { .. } | Call::Fork { .. } | Call::Exit => true,
    }
}

/// A call, and who makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub slot: u8,
    pub thread: u8,
    pub call: Call,
}

/// What is there before the first step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Setting {
    /// Nothing but the window is free: what is mapped without a place comes into the window.
    pub placed: bool,
    /// How many pages each file has; 0 for none.
    pub files: [u8; FILES],
    /// How many threads each process has.
    pub threads: u8,
}

impl Setting {
    /// Whether a call makes sense here: what is mapped without a place must come into the window.
    pub fn allows(&self, call: &Call) -> bool {
        let has = |file: u8| self.files.get(usize::from(file)).is_some_and(|pages| *pages != 0);
        match *call {
            Call::Map { file: Some(File { number, .. }), .. } | Call::Truncate { file: number, .. } if !has(number) => {
                false
            }
            Call::Map { flags, .. } => self.placed || flags & (linux::MAP_FIXED | linux::MAP_FIXED_NOREPLACE) != 0,
            Call::Remap { flags, .. } => {
                self.placed || flags & linux::MREMAP_MAYMOVE == 0 || flags & linux::MREMAP_FIXED != 0
            }
            _ => true,
        }
    }
}

/// What is to be done, beginning with one process, `s0`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    pub setting: Setting,
    pub steps: Vec<Step>,
}

impl Script {
    /// Without the steps of processes that are not there, as they are left when others are taken away, and without what would reach out of the window.
    pub fn repaired(mut self) -> Self {
        let mut there = [false; SLOTS];
        there[0] = true;
        self.steps.retain(|step| {
            let own = there.get(usize::from(step.slot)).copied().unwrap_or(false);
            match step.call {
                _ if !is_contained(&step.call) || !self.setting.allows(&step.call) => false,
                _ if !own || step.thread >= self.setting.threads => false,
                Call::Fork { child } => match there.get_mut(usize::from(child)) {
                    Some(slot) if !*slot => {
                        *slot = true;
                        true
                    }
                    _ => false,
                },
                Call::Exit if there.iter().filter(|slot| **slot).count() < 2 => false,
                Call::Exit => {
                    there[usize::from(step.slot)] = false;
                    true
                }
                _ => true,
            }
        });
        self
    }
}

/// A region: first page, page behind the last, what is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Region {
    pub first: u8,
    pub end: u8,
    /// 1 read, 2 write, 4 execute, 8 shared.
    pub kind: u8,
}

/// What is seen of a process in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    pub count: u8,
    /// Neighbours of one kind are one.
    pub regions: [Region; PAGES as usize],
    /// A bit for each page that is there: private ones, shared ones.
    pub private: u64,
    pub shared: u64,
}

impl State {
    pub(crate) const EMPTY: Self =
        Self { count: 0, regions: [Region { first: 0, end: 0, kind: 0 }; PAGES as usize], private: 0, shared: 0 };

    /// Adds a region behind the others, as a part of the last if it carries that on.
    pub(crate) fn push(&mut self, region: Region) {
        let count = usize::from(self.count);
        let last = count.checked_sub(1).and_then(|last| self.regions.get_mut(last));
        if let Some(last) = last.filter(|last| (last.end, last.kind) == (region.first, region.kind)) {
            last.end = region.end;
            return;
        }
        if let Some(slot) = self.regions.get_mut(count) {
            *slot = region;
            self.count += 1;
        }
    }

    pub(crate) fn regions(&self) -> &[Region] {
        self.regions.get(..usize::from(self.count)).unwrap_or_default()
    }
}

/// How an access of a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    NotMapped,
    Denied,
    Bus,
}

/// What came of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// What the call returned (an address counts from the window); below 0 the errno.
    pub result: i64,
    /// Of an access.
    pub outcome: Outcome,
    /// What was read; or the hash of what was copied.
    pub value: u64,
    pub state: State,
    /// After a fork: what the child has.
    pub child: State,
}

impl Record {
    pub(crate) const EMPTY: Self =
        Self { result: 0, outcome: Outcome::Done, value: 0, state: State::EMPTY, child: State::EMPTY };
}
