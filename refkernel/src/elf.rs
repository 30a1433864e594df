//! From the bytes of an ELF file to a plan of what goes where in a program's address space.
//!
//! The file is hostile: whoever wrote it wants the kernel to crash, to overwrite something, or to map memory that can be
//! written and executed. Reading the format is the `elf` crate's work; this module decides what is acceptable, and says by name
//! what is not. It allocates nothing and copies nothing.
//!
//! ```text
//!   file      | headers | text ............ | data ..... |
//!                         |                   |
//!   memory    ......[ text  0 ]......[ 0  data  0 0 0 0 ]......
//!                   ^ address        ^ address
//!                   |<-- size -->|   |<>| lead            (address and size are whole pages;
//!                                    |<---- size ---->|    what no file byte covers is zero)
//! ```
//!
//! # Invariants
//!
//! Of every [`Plan`]: there are 1 to [`SEGMENTS_MAX`] segments, sorted by address. Each is whole pages inside
//! `USER_START..USER_END`, shares no page with another, is never writable and executable at once, and its file bytes fit
//! in it. The entry is the address of a file byte in an executable segment.

use core::fmt;

use elf::ElfBytes;
use elf::ParseError;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;
use refkernel_abi::{AREA_SIZE_MAX, Access, PAGE_SIZE, USER_END, USER_START};

/// The most segments that a program may have.
pub const SEGMENTS_MAX: usize = 16;

/// The most program headers that are looked at; a file with more is refused.
pub const HEADERS_MAX: usize = 64;

/// Why a file is not loaded. A `header` is the index of the program header at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The file ends before something that its headers promise.
    Truncated,
    /// The file does not start with ELF's magic number.
    NotElf,
    /// The file is not 64-bit.
    WrongClass,
    /// The file is not little-endian.
    WrongEndianness,
    /// The file is for another machine than x86-64.
    WrongMachine {
        /// ELF's number of that machine.
        machine: u16,
    },
    /// The file is not an executable at a fixed address.
    WrongType {
        /// ELF's number of what it is: 1 relocatable, 3 position-independent or a library, 4 core dump.
        kind: u16,
    },
    /// A version or a size of a table entry is not ELF's.
    Malformed,
    /// There are more than [`HEADERS_MAX`] program headers.
    TooManyHeaders {
        /// How many there are.
        count: usize,
    },
    /// There are more than [`SEGMENTS_MAX`] segments.
    TooManySegments,
    /// Nothing is to be loaded.
    NoSegments,
    /// The program asks for an interpreter (`PT_INTERP`).
    Interpreter,
    /// The program asks for dynamic linking (`PT_DYNAMIC`).
    Dynamic,
    /// The program asks for thread-local storage (`PT_TLS`).
    ThreadLocalStorage,
    /// The program asks for an executable stack (`PT_GNU_STACK`).
    ExecutableStack,
    /// A segment is writable and executable.
    WriteAndExecute {
        /// The program header.
        header: usize,
    },
    /// A segment is not even readable.
    NoAccess {
        /// The program header.
        header: usize,
    },
    /// A segment's place in memory and in the file do not agree modulo the page size or its alignment, or the alignment is not a power
    /// of two.
    Unaligned {
        /// The program header.
        header: usize,
    },
    /// A segment has more bytes in the file than in memory.
    FileLargerThanMemory {
        /// The program header.
        header: usize,
    },
    /// A segment's end in memory or in the file is beyond what 64 bits hold.
    Overflow {
        /// The program header.
        header: usize,
    },
    /// A segment leaves the addresses that are a program's.
    OutOfRange {
        /// The program header.
        header: usize,
        /// Its address.
        address: u64,
    },
    /// A segment is larger than an area may be.
    TooLarge {
        /// The program header.
        header: usize,
    },
    /// A segment shares a page with another.
    Overlap {
        /// The program header that comes later in the file.
        header: usize,
    },
    /// The entry is not in the file's part of an executable segment.
    EntryNotExecutable {
        /// The entry.
        entry: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => formatter.write_str("the file ends too early"),
            Self::NotElf => formatter.write_str("not an ELF file"),
            Self::WrongClass => formatter.write_str("not a 64-bit ELF file"),
            Self::WrongEndianness => formatter.write_str("not a little-endian ELF file"),
            Self::WrongMachine { machine } => {
                write!(formatter, "for machine {machine}, not for x86-64 (62)")
            }
            Self::WrongType { kind } => {
                write!(formatter, "of ELF type {kind}, not an executable at a fixed address (2): link it with -no-pie")
            }
            Self::Malformed => formatter.write_str("the ELF headers contradict the format"),
            Self::TooManyHeaders { count } => {
                write!(formatter, "{count} program headers, at most {HEADERS_MAX} are read")
            }
            Self::TooManySegments => {
                write!(formatter, "more than {SEGMENTS_MAX} segments to load")
            }
            Self::NoSegments => formatter.write_str("no segment to load"),
            Self::Interpreter => formatter.write_str("asks for an interpreter (PT_INTERP): link it with -static"),
            Self::Dynamic => formatter.write_str("asks for dynamic linking (PT_DYNAMIC): link it with -static -no-pie"),
            Self::ThreadLocalStorage => formatter.write_str("asks for thread-local storage (PT_TLS)"),
            Self::ExecutableStack => formatter.write_str("asks for an executable stack (PT_GNU_STACK)"),
            Self::WriteAndExecute { header } => {
                write!(formatter, "program header {header} is writable and executable")
            }
            Self::NoAccess { header } => {
                write!(formatter, "program header {header} allows no access")
            }
            Self::Unaligned { header } => {
                write!(formatter, "program header {header}: address, file offset and alignment do not agree")
            }
            Self::FileLargerThanMemory { header } => {
                write!(formatter, "program header {header} has more bytes in the file than in memory")
            }
            Self::Overflow { header } => {
                write!(formatter, "program header {header}: its end does not fit 64 bits")
            }
            Self::OutOfRange { header, address } => {
                write!(formatter, "program header {header} at {address:#x} leaves {USER_START:#x}..{USER_END:#x}")
            }
            Self::TooLarge { header } => {
                write!(formatter, "program header {header} is larger than {AREA_SIZE_MAX:#x} bytes")
            }
            Self::Overlap { header } => {
                write!(formatter, "program header {header} shares a page with another segment")
            }
            Self::EntryNotExecutable { entry } => {
                write!(formatter, "the entry {entry:#x} is not in executable bytes of the file")
            }
        }
    }
}

impl core::error::Error for Refusal {}

/// A part of a program: whole pages with one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    address: u64,
    size: u64,
    lead: u64,
    data: &'a [u8],
    file_offset: u64,
    access: Access,
}

impl<'a> Segment<'a> {
    /// What an unused place of a plan holds.
    const NONE: Self = Self { address: 0, size: 0, lead: 0, data: &[], file_offset: 0, access: Access::READ };

    /// The address of the first page.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes, a multiple of the page size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of pages, at least 1.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.size / PAGE_SIZE
    }

    /// The first address after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address + self.size
    }

    /// Zero bytes before the file's bytes, less than a page.
    #[must_use]
    pub fn lead(&self) -> u64 {
        self.lead
    }

    /// The file's bytes, which lie at `address + lead`. What follows them is zero.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Where the file's bytes lie in the file.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// What the program may do there.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// What page `index` of the segment holds: the file's bytes and the offset in the page at which they lie. Everything else in
    /// the page is zero. Empty for a page without bytes from the file, and past the end.
    #[must_use]
    pub fn page(&self, index: u64) -> (usize, &'a [u8]) {
        const NOTHING: (usize, &[u8]) = (0, &[]);
        let Some(page_start) = index.checked_mul(PAGE_SIZE) else {
            return NOTHING;
        };
        // The bytes of the page in the coordinates of `data`, whose first byte is at `lead`.
        let first = page_start.saturating_sub(self.lead);
        let offset = self.lead.saturating_sub(page_start);
        let Some(end) = page_start.checked_add(PAGE_SIZE) else {
            return NOTHING;
        };
        let last = end.saturating_sub(self.lead).min(self.data.len() as u64);
        match self.data.get(first as usize..last as usize) {
            Some(bytes) if !bytes.is_empty() => (offset as usize, bytes),
            _ => NOTHING,
        }
    }
}

/// What to map for a program, and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    entry: u64,
    segments: [Segment<'a>; SEGMENTS_MAX],
    count: usize,
}

impl<'a> Plan<'a> {
    /// Plans the program in `file`. The plan borrows the file's bytes.
    ///
    /// # Errors
    ///
    /// Whatever makes the file unacceptable, by name. Of several reasons, the first found is given.
    pub fn new(file: &'a [u8]) -> Result<Self, Refusal> {
        // The crate reads a file shorter than the magic number as truncated; anything else that does not start so is not ELF.
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(refusal_of)?;
        let header = &elf.ehdr;
        if header.class != Class::ELF64 {
            return Err(Refusal::WrongClass);
        }
        if header.e_machine != abi::EM_X86_64 {
            return Err(Refusal::WrongMachine { machine: header.e_machine });
        }
        if header.e_type != abi::ET_EXEC {
            return Err(Refusal::WrongType { kind: header.e_type });
        }
        let headers = elf.segments().ok_or(Refusal::NoSegments)?;
        if headers.len() > HEADERS_MAX {
            return Err(Refusal::TooManyHeaders { count: headers.len() });
        }

        let mut plan = Self { entry: header.e_entry, segments: [Segment::NONE; SEGMENTS_MAX], count: 0 };
        for (index, header) in headers.iter().enumerate() {
            match header.p_type {
                abi::PT_INTERP => return Err(Refusal::Interpreter),
                abi::PT_DYNAMIC => return Err(Refusal::Dynamic),
                abi::PT_TLS => return Err(Refusal::ThreadLocalStorage),
                abi::PT_GNU_STACK if header.p_flags & abi::PF_X != 0 => {
                    return Err(Refusal::ExecutableStack);
                }
                abi::PT_LOAD if header.p_memsz != 0 || header.p_filesz != 0 => {
                    plan.insert(index, segment(file, index, &header)?)?;
                }
                // Notes, unwind tables and whatever else describes the file without asking for memory.
                _ => {}
            }
        }
        if plan.count == 0 {
            return Err(Refusal::NoSegments);
        }
        let entry_is_code = plan.segments().iter().any(|segment| {
            let start = segment.address + segment.lead;
            segment.access.contains(Access::EXECUTE) && (start..start + segment.data.len() as u64).contains(&plan.entry)
        });
        if !entry_is_code {
            return Err(Refusal::EntryNotExecutable { entry: plan.entry });
        }
        Ok(plan)
    }

    /// Where the program starts.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// What is to be mapped, sorted by address.
    #[must_use]
    pub fn segments(&self) -> &[Segment<'a>] {
        self.segments.get(..self.count).unwrap_or_default()
    }

    /// Takes a segment in, at its place in the order of addresses.
    fn insert(&mut self, header: usize, segment: Segment<'a>) -> Result<(), Refusal> {
        let overlaps =
            self.segments().iter().any(|other| other.address < segment.end() && segment.address < other.end());
        if overlaps {
            return Err(Refusal::Overlap { header });
        }
        let place = self.segments().partition_point(|other| other.address < segment.address);
        let used = self.segments.get_mut(place..=self.count).ok_or(Refusal::TooManySegments)?;
        // The free place at the end comes to the front, and everything behind it moves back by one.
        used.rotate_right(1);
        if let Some(first) = used.first_mut() {
            *first = segment;
        }
        self.count += 1;
        Ok(())
    }
}

/// What is wrong with a file that the parser could not read.
fn refusal_of(error: ParseError) -> Refusal {
    match error {
        ParseError::BadMagic(_) => Refusal::NotElf,
        ParseError::UnsupportedElfClass(_) => Refusal::WrongClass,
        ParseError::UnsupportedElfEndianness(_) => Refusal::WrongEndianness,
        ParseError::SliceReadError(_)
        | ParseError::BadOffset(_)
        | ParseError::TryFromSliceError(_)
        | ParseError::IntegerOverflow => Refusal::Truncated,
        _ => Refusal::Malformed,
    }
}

/// Checks one program header to load.
fn segment<'a>(file: &'a [u8], index: usize, header: &ProgramHeader) -> Result<Segment<'a>, Refusal> {
    let readable = header.p_flags & (abi::PF_R | abi::PF_W | abi::PF_X) != 0;
    let writable = header.p_flags & abi::PF_W != 0;
    let executable = header.p_flags & abi::PF_X != 0;
    if !readable {
        return Err(Refusal::NoAccess { header: index });
    }
    if writable && executable {
        return Err(Refusal::WriteAndExecute { header: index });
    }
    if header.p_filesz > header.p_memsz {
        return Err(Refusal::FileLargerThanMemory { header: index });
    }

    // An alignment of 0 or 1 asks for nothing; the page size is asked for in any case (gABI, "Program Header").
    let alignment = header.p_align.max(1);
    if !alignment.is_power_of_two() {
        return Err(Refusal::Unaligned { header: index });
    }
    let mask = alignment.max(PAGE_SIZE) - 1;
    if header.p_vaddr & mask != header.p_offset & mask {
        return Err(Refusal::Unaligned { header: index });
    }

    let overflow = Refusal::Overflow { header: index };
    let end = header.p_vaddr.checked_add(header.p_memsz).ok_or(overflow)?;
    let file_end = header.p_offset.checked_add(header.p_filesz).ok_or(overflow)?;
    if header.p_vaddr < USER_START || end > USER_END {
        return Err(Refusal::OutOfRange { header: index, address: header.p_vaddr });
    }
    // `end` is at most `USER_END`, which is a multiple of the page size: rounding up stays below it.
    let address = header.p_vaddr & !(PAGE_SIZE - 1);
    let size = end.next_multiple_of(PAGE_SIZE) - address;
    if size > AREA_SIZE_MAX {
        return Err(Refusal::TooLarge { header: index });
    }
    let file_range = usize::try_from(header.p_offset).ok().zip(usize::try_from(file_end).ok());
    let data = file_range.and_then(|(start, end)| file.get(start..end)).ok_or(Refusal::Truncated)?;

    let mut access = Access::READ;
    if writable {
        access = access | Access::WRITE;
    }
    if executable {
        access = access | Access::EXECUTE;
    }
    Ok(Segment { address, size, lead: header.p_vaddr - address, data, file_offset: header.p_offset, access })
}

#[cfg(test)]
#[path = "elf/tests.rs"]
mod tests;
