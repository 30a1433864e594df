//! What a process does, as recordings have it: calls and accesses, out of their words and into them.

use std::fmt;

use anyhow::{Context as _, Result, bail};

use crate::input::{number, numbers};

/// How many bytes are copied at the most.
const LONGEST: u64 = 1 << 24;

/// A part of a file: which, and from which byte on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct File {
    /// Its number.
    pub number: u8,
    /// Bytes.
    pub offset: u64,
}

/// Something that a process does. Addresses count from the window in which all happens, in bytes; those below it wrap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the arguments have the names of the manual")]
pub enum Call {
    Map { address: u64, length: u64, protection: u32, flags: u32, file: Option<File> },
    Unmap { address: u64, length: u64 },
    Protect { address: u64, length: u64, protection: u32 },
    Advise { address: u64, length: u64, advice: u32 },
    Remap { old: u64, old_length: u64, new_length: u64, flags: u32, new: u64 },
    Sync { address: u64, length: u64, flags: u32 },
    Core { address: u64, length: u64 },
    Lock { address: u64, length: u64 },
    Unlock { address: u64, length: u64 },
    LockAll { flags: u32 },
    UnlockAll,
    Seal { address: u64, length: u64 },
    Truncate { file: u8, size: u64 },
    Write { address: u64, value: u64 },
    Read { address: u64 },
    CopyIn { address: u64, length: u64 },
    CopyOut { address: u64, length: u64, pattern: u64 },
    Fork { child: u8 },
    Exit,
}

impl Call {
    /// Whether it is an access of a program, rather than a call of the kernel's.
    pub const fn is_access(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Read { .. })
    }

    /// A call out of its name and the words of its arguments.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(name: &str, words: &[&str]) -> Result<Self> {
        let short = |word: u64| u32::try_from(word).context("too large a number");
        let file_number = |word: u64| u8::try_from(word).context("too large a number of a file");
        Ok(match name {
            "mmap" => {
                let [address, length, protection, flags] = numbers(words)?;
                let (protection, flags) = (short(protection)?, short(flags)?);
                let file = match words.get(4..) {
                    Some(words @ [_, ..]) => {
                        let [file, offset] = numbers(words)?;
                        Some(File { number: file_number(file)?, offset })
                    }
                    _ => None,
                };
                Self::Map { address, length, protection, flags, file }
            }
            "munmap" => {
                let [address, length] = numbers(words)?;
                Self::Unmap { address, length }
            }
            "mprotect" => {
                let [address, length, protection] = numbers(words)?;
                Self::Protect { address, length, protection: short(protection)? }
            }
            "madvise" => {
                let [address, length, advice] = numbers(words)?;
                Self::Advise { address, length, advice: short(advice)? }
            }
            "mremap" => {
                let [old, old_length, new_length, flags, new] = numbers(words)?;
                Self::Remap { old, old_length, new_length, flags: short(flags)?, new }
            }
            "msync" => {
                let [address, length, flags] = numbers(words)?;
                Self::Sync { address, length, flags: short(flags)? }
            }
            "mincore" => {
                let [address, length] = numbers(words)?;
                Self::Core { address, length }
            }
            "mlock" => {
                let [address, length] = numbers(words)?;
                Self::Lock { address, length }
            }
            "munlock" => {
                let [address, length] = numbers(words)?;
                Self::Unlock { address, length }
            }
            "mlockall" => {
                let [flags] = numbers(words)?;
                Self::LockAll { flags: short(flags)? }
            }
            "munlockall" => Self::UnlockAll,
            "mseal" => {
                let [address, length] = numbers(words)?;
                Self::Seal { address, length }
            }
            "truncate" => {
                let [file, size] = numbers(words)?;
                Self::Truncate { file: file_number(file)?, size }
            }
            "write" => {
                let [address, value] = numbers(words)?;
                Self::Write { address, value }
            }
            "read" => {
                let [address] = numbers(words)?;
                Self::Read { address }
            }
            "copyin" | "copyout" => {
                let [address, length] = numbers(words)?;
                if length > LONGEST {
                    bail!("a copy of more than {LONGEST} bytes");
                }
                let pattern = words.get(2).and_then(|word| word.strip_prefix("pat=")).context("no pattern")?;
                let pattern = u64::from_str_radix(pattern, 16)?;
                match name {
                    "copyin" => Self::CopyIn { address, length },
                    _ => Self::CopyOut { address, length, pattern },
                }
            }
            "fork" => Self::Fork { child: slot(words.get(1).context("no child")?)? },
            "exit" => Self::Exit,
            _ => bail!("an unknown operation"),
        })
    }
}

/// The number of a process.
pub(crate) fn slot(word: &str) -> Result<u8> {
    word.strip_prefix('s').and_then(|digits| number(digits).ok()?.try_into().ok()).context("not a process")
}

/// As its line has it.
impl fmt::Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Map { address, length, protection, flags, file } => {
                write!(out, "mmap {address:#x} {length:#x} {protection} {flags:#x}")?;
                if let Some(File { number, offset }) = file {
                    write!(out, " {number} {offset:#x}")?;
                }
                Ok(())
            }
            Self::Unmap { address, length } => write!(out, "munmap {address:#x} {length:#x}"),
            Self::Protect { address, length, protection } => {
                write!(out, "mprotect {address:#x} {length:#x} {protection}")
            }
            Self::Advise { address, length, advice } => write!(out, "madvise {address:#x} {length:#x} {advice}"),
            Self::Remap { old, old_length, new_length, flags, new } => {
                write!(out, "mremap {old:#x} {old_length:#x} {new_length:#x} {flags} {new:#x}")
            }
            Self::Sync { address, length, flags } => write!(out, "msync {address:#x} {length:#x} {flags}"),
            Self::Core { address, length } => write!(out, "mincore {address:#x} {length:#x}"),
            Self::Lock { address, length } => write!(out, "mlock {address:#x} {length:#x}"),
            Self::Unlock { address, length } => write!(out, "munlock {address:#x} {length:#x}"),
            Self::LockAll { flags } => write!(out, "mlockall {flags}"),
            Self::UnlockAll => out.write_str("munlockall"),
            Self::Seal { address, length } => write!(out, "mseal {address:#x} {length:#x}"),
            Self::Truncate { file, size } => write!(out, "truncate {file} {size:#x}"),
            Self::Write { address, value } => write!(out, "write {address:#x} {value}"),
            Self::Read { address } => write!(out, "read {address:#x}"),
            Self::CopyIn { address, length } => write!(out, "copyin {address:#x} {length} pat=0"),
            Self::CopyOut { address, length, pattern } => write!(out, "copyout {address:#x} {length} pat={pattern:x}"),
            Self::Fork { child } => write!(out, "fork -> s{child}"),
            Self::Exit => out.write_str("exit "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read as the same.
    #[test]
    fn words_there_and_back() {
        let file = Some(File { number: 1, offset: 0x2000 });
        for call in [
            Call::Map { address: 0x1000, length: 0x2000, protection: 3, flags: 0x32, file: None },
            Call::Map { address: 0x1000, length: 0x2000, protection: 3, flags: 0x12, file },
            Call::Unmap { address: u64::MAX, length: 1 },
            Call::Protect { address: 1, length: 2, protection: 3 },
            Call::Advise { address: 1, length: 2, advice: 3 },
            Call::Remap { old: 1, old_length: 2, new_length: 3, flags: 4, new: 5 },
            Call::Sync { address: 1, length: 2, flags: 3 },
            Call::Core { address: 1, length: 2 },
            Call::Lock { address: 1, length: 2 },
            Call::Unlock { address: 1, length: 2 },
            Call::LockAll { flags: 3 },
            Call::UnlockAll,
            Call::Seal { address: 1, length: 2 },
            Call::Truncate { file: 1, size: 2 },
            Call::Write { address: 1, value: 2 },
            Call::Read { address: 1 },
            Call::CopyIn { address: 1, length: 2 },
            Call::CopyOut { address: 1, length: 2, pattern: 0xabc },
            Call::Fork { child: 3 },
            Call::Exit,
        ] {
            let text = call.to_string();
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            assert_eq!(Call::parse(words[0], &words[1..]).unwrap(), call, "{text}");
        }
    }
}
