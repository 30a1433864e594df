//! The boot module: a tar archive with the user programs (`programs/NAME`) and the kernel's symbols (`symbols`).
//!
//! The archive comes from a bootloader and may be damaged. [`Archive::new`] looks at every header once and refuses what does not
//! hold together; after that nothing can go wrong. Reading the format is the `tar-no-std` crate's work. Nothing is copied.

use core::fmt;

use tar_no_std::{CorruptDataError, TarArchiveRef};

/// Where the programs lie in the archive.
const PROGRAMS: &str = "programs/";

/// The name of the kernel's symbols in the archive.
const SYMBOLS: &str = "symbols";

/// Why a boot module is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is not a tar archive, or a damaged one.
    Corrupt(CorruptDataError),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(error) => write!(formatter, "the boot module is not a tar archive: {error}"),
        }
    }
}

impl core::error::Error for ArchiveError {}

/// A file of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is, by its name.
    pub kind: EntryKind,
    /// Its bytes.
    pub data: &'a [u8],
}

/// What a file of the archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A program.
    Program(ProgramName),
    /// The kernel's symbols.
    Symbols,
    /// Something that the kernel has no use for.
    Other,
}

/// The name of a program: at most [`ProgramName::LENGTH_MAX`] bytes of text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProgramName {
    bytes: [u8; Self::LENGTH_MAX],
    length: usize,
}

impl ProgramName {
    /// The most bytes of a name.
    pub const LENGTH_MAX: usize = 32;

    /// The name, or `None` where it is empty or too long.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; Self::LENGTH_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        (!name.is_empty()).then_some(Self { bytes, length: name.len() })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl fmt::Display for ProgramName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl fmt::Debug for ProgramName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

/// A boot module whose headers were all looked at.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    archive: TarArchiveRef<'a>,
}

impl<'a> Archive<'a> {
    /// Checks every header. Takes time in proportion to the number of files.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Corrupt`] with the block at which the archive stops making sense.
    pub fn new(module: &'a [u8]) -> Result<Self, ArchiveError> {
        TarArchiveRef::new(module).map(|archive| Self { archive }).map_err(ArchiveError::Corrupt)
    }

    /// The files, in their order. Folders and links are passed over.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        self.archive.entries().map(|entry| {
            let filename = entry.filename();
            let name = filename.as_str().unwrap_or_default();
            let name = name.strip_prefix("./").unwrap_or(name);
            let kind = match name.strip_prefix(PROGRAMS).and_then(ProgramName::new) {
                Some(name) => EntryKind::Program(name),
                None if name == SYMBOLS => EntryKind::Symbols,
                None => EntryKind::Other,
            };
            Entry { kind, data: entry.data() }
        })
    }

    /// The programs: name and ELF file.
    pub fn programs(&self) -> impl Iterator<Item = (ProgramName, &'a [u8])> + use<'a> {
        self.entries().filter_map(|entry| match entry.kind {
            EntryKind::Program(name) => Some((name, entry.data)),
            _ => None,
        })
    }

    /// The ELF file of the program `name`; the first, if there are several.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&'a [u8]> {
        self.programs().find(|(found, _)| found.as_str() == name).map(|(_, data)| data)
    }

    /// The kernel's symbols, for [`Symbols::new`](crate::symbols::Symbols::new).
    #[must_use]
    pub fn symbols(&self) -> Option<&'a [u8]> {
        self.entries().find(|entry| entry.kind == EntryKind::Symbols).map(|entry| entry.data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn finds_programs_and_symbols() {
        let large = vec![7; 100_000];
        let bytes = archive(&[
            ("symbols", b"1000 start\n"),
            ("programs/demo", &large),
            ("README", b"text"),
            ("programs/check", b"check"),
            ("programs/empty", b""),
        ]);
        let archive = Archive::new(&bytes).unwrap();
        assert_eq!(archive.program("demo"), Some(&large[..]));
        assert_eq!(archive.program("check"), Some(&b"check"[..]));
        assert_eq!(archive.program("empty"), Some(&b""[..]));
        assert_eq!(archive.program("README"), None);
        assert_eq!(archive.program("dem"), None);
        assert_eq!(archive.program(""), None);
        assert_eq!(archive.symbols(), Some(&b"1000 start\n"[..]));
        let names: Vec<_> = archive.programs().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["demo", "check", "empty"]);
        assert_eq!(archive.entries().count(), 5);
    }

    #[test]
    fn an_archive_without_programs_has_none() {
        // Two empty blocks, the smallest archive, are one block too few for the crate.
        assert!(Archive::new(&archive(&[])).is_err());
        let bytes = archive(&[("other", b"")]);
        let archive = Archive::new(&bytes).unwrap();
        assert_eq!(archive.programs().count(), 0);
        assert_eq!(archive.symbols(), None);
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        assert!(Archive::new(b"").is_err());
        assert!(Archive::new(b"not an archive").is_err());
        assert!(Archive::new(&[0xff; 4096]).is_err());
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = archive(&[("programs/demo", &[1; 700]), ("symbols", b"1 a\n")]);
        // The builder's archive ends in two blocks of zeros, which are needed.
        for length in 0..bytes.len() {
            assert!(Archive::new(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn names_are_bounded() {
        let long = "x".repeat(ProgramName::LENGTH_MAX + 1);
        assert_eq!(ProgramName::new(&long), None);
        assert_eq!(ProgramName::new(""), None);
        let longest = &long[1..];
        assert_eq!(ProgramName::new(longest).unwrap().as_str(), longest);
        let path = format!("programs/{long}");
        let bytes = archive(&[(path.as_str(), b"elf"), ("programs/demo", b"demo")]);
        let archive = Archive::new(&bytes).unwrap();
        assert_eq!(archive.programs().count(), 1);
        assert_eq!(archive.program("demo"), Some(&b"demo"[..]));
    }

    proptest! {
        /// Headers with any bytes in them, whose checksums are right again, are refused or read without a crash.
        #[test]
        fn mutated_headers_never_crash(
            changes in prop::collection::vec((0_usize..512, any::<u8>()), 1..5)
        ) {
            let mut bytes = archive(&[("programs/demo", &[1; 700]), ("symbols", b"1 a\n")]);
            for (offset, value) in changes {
                bytes[offset] = value;
            }
            let sum: u32 = bytes[..512]
                .iter()
                .enumerate()
                .map(|(index, byte)| u32::from(if (148..156).contains(&index) { b' ' } else { *byte }))
                .sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            if let Ok(archive) = Archive::new(&bytes) {
                prop_assert!(archive.entries().count() <= bytes.len() / 512);
                let _ = archive.program("demo");
            }
        }
    }
}
