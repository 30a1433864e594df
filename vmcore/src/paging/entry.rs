//! Entries as values: what an entry means, independent of the bits that a format writes it with.
//!
//! [`Leaf`] reads like a sentence: `Leaf::new(frame).user().writable().memory(WriteCombining)`. A format's description
//! turns it into a word and back ([`Mmu::encode_leaf`](crate::paging::Mmu::encode_leaf), [`Mmu::decode`](crate::paging::Mmu::decode)).

use core::fmt;

use crate::addr::Frame;
use crate::paging::{Limits, MemoryType};

bitflags::bitflags! {
    /// What an access does, what a window allows, or what a leaf permits.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Access: u8 {
        /// Reading.
        const READ = 1;
        /// Writing.
        const WRITE = 2;
        /// Fetching instructions.
        const EXECUTE = 4;
        /// By a program, rather than by the kernel alone.
        const USER = 8;
    }
}

impl Access {
    /// A kernel's data: read and write.
    pub const KERNEL_DATA: Self = Self::READ.union(Self::WRITE);
    /// A program's data: read and write.
    pub const USER_DATA: Self = Self::READ.union(Self::WRITE).union(Self::USER);
    /// A program's code: read and execute.
    pub const USER_CODE: Self = Self::READ.union(Self::EXECUTE).union(Self::USER);
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |flag, letter| if self.contains(flag) { letter } else { '-' };
        write!(
            f,
            "{}{}{}{}",
            letter(Self::READ, 'r'),
            letter(Self::WRITE, 'w'),
            letter(Self::EXECUTE, 'x'),
            letter(Self::USER, 'u')
        )
    }
}

/// A leaf: an entry that maps a page, or a larger block of memory at a higher level.
///
/// ```
/// use vmcore::addr::Frame;
/// use vmcore::paging::{Leaf, MemoryType, Mmu, X86_64};
/// let leaf = Leaf::new(Frame::new(0xfd000)).user().writable().memory(MemoryType::WriteCombining);
/// let mmu = X86_64::new(40);
/// let word = mmu.encode_leaf(0, leaf).unwrap();
/// assert_eq!(mmu.decode(0, word), vmcore::paging::Entry::Leaf(leaf));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Leaf {
    /// The first frame that it maps.
    pub frame: Frame,
    /// What it permits.
    pub access: Access,
    /// How accesses through it are cached.
    pub memory: MemoryType,
    /// Whether every address space shows it: a flush of one space may leave it in the TLB.
    pub global: bool,
    /// The hardware's mark that it was used.
    pub accessed: bool,
    /// The hardware's mark that it was written through.
    pub dirty: bool,
    /// A few bits that the hardware ignores, for the embedder's use.
    pub software: u8,
    /// The protection key, where the format has them; 0 elsewhere.
    pub key: u8,
}

impl Leaf {
    /// A leaf that maps `frame` for reading by the kernel alone: write-back, not global, not yet used.
    pub const fn new(frame: Frame) -> Self {
        Self {
            frame,
            access: Access::READ,
            memory: MemoryType::WriteBack,
            global: false,
            accessed: false,
            dirty: false,
            software: 0,
            key: 0,
        }
    }

    /// The same leaf, open to programs.
    pub const fn user(mut self) -> Self {
        self.access = self.access.union(Access::USER);
        self
    }

    /// The same leaf, writable.
    pub const fn writable(mut self) -> Self {
        self.access = self.access.union(Access::WRITE);
        self
    }

    /// The same leaf, executable.
    pub const fn executable(mut self) -> Self {
        self.access = self.access.union(Access::EXECUTE);
        self
    }

    /// The same leaf with exactly this access.
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// The same leaf with this memory type.
    pub const fn memory(mut self, memory: MemoryType) -> Self {
        self.memory = memory;
        self
    }

    /// The same leaf, shown in every address space.
    pub const fn global(mut self) -> Self {
        self.global = true;
        self
    }

    /// The same leaf with these software bits.
    pub const fn software(mut self, bits: u8) -> Self {
        self.software = bits;
        self
    }

    /// The same leaf with this protection key.
    pub const fn key(mut self, key: u8) -> Self {
        self.key = key;
        self
    }

    /// The same leaf, marked as used already (and as written, if it is writable): spares the hardware the update.
    pub const fn used(mut self) -> Self {
        self.accessed = true;
        self.dirty = self.access.contains(Access::WRITE);
        self
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {}", self.frame, self.access, self.memory)?;
        for (set, name) in [(self.global, " global"), (self.accessed, " accessed"), (self.dirty, " dirty")] {
            if set {
                f.write_str(name)?;
            }
        }
        if self.software != 0 {
            write!(f, " software {:#x}", self.software)?;
        }
        if self.key != 0 {
            write!(f, " key {}", self.key)?;
        }
        Ok(())
    }
}

/// What a word in a table means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Entry {
    /// Nothing is mapped; the other bits mean nothing to the hardware and hold this payload
    /// ([`Mmu::encode_absent`](crate::paging::Mmu::encode_absent)), 0 in a word that is 0.
    Absent(u64),
    /// A table of the next level in this frame, and what it lets through where the format's permissions combine over levels.
    Table(Frame, Limits),
    /// A page or a block.
    Leaf(Leaf),
    /// A pattern that the manual reserves, which the hardware faults on, or a memory type that has no name here.
    Reserved,
}

/// Why a leaf or a table cannot be written in a format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EncodeError {
    /// The format has no leaf at this level.
    NoLeafAtLevel(usize),
    /// The format has no table below this level.
    NoTableAtLevel(usize),
    /// The frame is not aligned to the size that a leaf of this level maps, or lies beyond the physical width.
    Frame(Frame),
    /// The format, or the layout chosen at boot, lacks the memory type.
    MemoryType(MemoryType),
    /// The format cannot express the access (for example: writable but not readable).
    Access(Access),
    /// The format has fewer software bits.
    Software(u8),
    /// The format has no leaves that are shown in every address space.
    Global,
    /// The format has no protection keys, or fewer.
    Key(u8),
    /// The format, the level or this machine has no groups of leaves that a TLB may keep as one.
    Contiguous(usize),
    /// The format keeps fewer bits in an absent entry.
    Payload(u64),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeafAtLevel(level) => write!(f, "no leaf exists at level {level}: map smaller pages"),
            Self::NoTableAtLevel(level) => write!(f, "no table lies below level {level}: write a leaf"),
            Self::Frame(frame) => {
                write!(f, "{frame:?} is unaligned for the leaf or beyond the physical width: use another frame")
            }
            Self::MemoryType(memory) => {
                write!(f, "the memory type {memory} is not in this format's layout: program it or use another")
            }
            Self::Access(access) => {
                write!(f, "the access {access} cannot be expressed in this format: allow what it implies, or unmap")
            }
            Self::Software(bits) => write!(f, "the software bits {bits:#x} do not fit the format's: use fewer"),
            Self::Global => f.write_str("the format has no global leaves: leave the mark out"),
            Self::Key(key) => write!(f, "the format has no protection key {key}: use a lower one, or 0"),
            Self::Contiguous(level) => {
                write!(f, "leaves of level {level} have no contiguous groups here: write single leaves")
            }
            Self::Payload(payload) => {
                write!(f, "the payload {payload:#x} does not fit an absent entry of the format: use fewer bits")
            }
        }
    }
}

impl core::error::Error for EncodeError {}
