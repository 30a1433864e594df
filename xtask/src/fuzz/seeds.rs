//! Seeds: what Linux programs were recorded to do, as inputs of the targets. The same every time, and small.
//!
//! ```text
//!   12 s0 mprotect 0x3000 0x2000 1 = 0 e0  ──►  Call { process 0, page 3, pages 2, "mprotect", 1 }  ──►  a record for each target
//! ```
//!
//! The records are those that the targets' decoders read (`fuzzed.rs` beside the tests of the library's modules, `bytes.rs` of its whole model, `call.rs` of its model of the
//! POSIX face). A seed that a decoder came to read in another way is an input like any other.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

const PAGE: u64 = 0x1000;
/// The most seeds of a recording, for each target.
const MOST: usize = 24;
/// The recordings that the project keeps.
const RECORDINGS: &str = "xtask/replay/data";

/// A recorded call, in pages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    process: u8,
    name: String,
    page: u64,
    pages: u64,
    /// The other numbers.
    more: Vec<u64>,
}

/// Writes the seeds of every target into its directory, and says how many there are.
pub(super) fn write(root: &Path, corpus: &Path) -> Result<Vec<(&'static str, usize)>> {
    let mut recordings = Vec::new();
    let directory = root.join(RECORDINGS);
    for path in super::files(&directory)? {
        let text = text(&path).with_context(|| format!("reading {}", path.display()))?;
        recordings.push(calls(&text));
    }
    let mut counts = Vec::new();
    for (target, _) in super::TARGETS {
        let directory = corpus.join(target);
        std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let seeds = seeds(target, &recordings);
        for (number, seed) in seeds.iter().enumerate() {
            let path = directory.join(format!("seed-{number:03}"));
            std::fs::write(&path, seed).with_context(|| format!("writing {}", path.display()))?;
        }
        counts.push((target, seeds.len()));
    }
    Ok(counts)
}

fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path)?;
    let mut text = Vec::new();
    lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut text).map_err(|error| anyhow!("{error:?}"))?;
    Ok(String::from_utf8(text)?)
}

/// The calls of a recording of either kind. What is no call is left out.
fn calls(text: &str) -> Vec<Call> {
    text.lines().filter(|line| !line.starts_with([' ', '#'])).filter_map(call).collect()
}

/// `12 s0 mmap 0x3000 0x2000 3 34 = …`, or `mmap 0x7f12… 8192 3 34 -1 0 = …`.
fn call(line: &str) -> Option<Call> {
    let mut words = line.split_ascii_whitespace().take_while(|word| *word != "=").peekable();
    let mut process = 0;
    if words.peek()?.parse::<u64>().is_ok() {
        words.next();
        process = words.next()?.strip_prefix('s')?.parse().ok()?;
    }
    let name = words.next()?.to_owned();
    if !matches!(
        name.as_str(),
        "mmap"
            | "munmap"
            | "mprotect"
            | "madvise"
            | "mremap"
            | "write"
            | "read"
            | "fork"
            | "exit"
            | "copyin"
            | "copyout"
    ) {
        return None;
    }
    let mut numbers = words.filter_map(number);
    let address = numbers.next().unwrap_or(0);
    let length = if matches!(name.as_str(), "write" | "read") { PAGE } else { numbers.next().unwrap_or(0) };
    // Where it lies in a space plays no part, but that near things are near.
    Some(Call { process, name, page: address / PAGE % 512, pages: length.div_ceil(PAGE), more: numbers.collect() })
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

/// The record of a call, for a target.
type Encode = fn(&Call) -> Vec<u8>;

/// The seeds of a target: pieces of the recordings, each as long as an input may be.
fn seeds(target: &str, recordings: &[Vec<Call>]) -> Vec<Vec<u8>> {
    let (head, calls, record): (&[u8], usize, Encode) = match target {
        "page_tree" => (&[], 24, tree),
        "tables" => (&[0, 3, 1, 0], 16, tables),
        "spaces" => (&[0, 0], 60, spaces),
        "posix" => (&[], 100, posix),
        "static_vec" => (&[4], 60, vector),
        "entries" => return entries(),
        _ => return vec![program(0x40_1000), program(0x1_0000_0000)],
    };
    let mut seeds = Vec::new();
    for recording in recordings {
        for (number, piece) in recording.chunks(calls).take(MOST).enumerate() {
            let mut seed = head.to_vec();
            if let Some(format) = seed.first_mut().filter(|_| head.len() > 1) {
                // Every format has its turn.
                *format = number as u8;
            }
            seed.extend(piece.iter().flat_map(record));
            seeds.push(seed);
        }
    }
    seeds
}

fn low(number: u64) -> u8 {
    number as u8
}

fn word(number: u64) -> [u8; 2] {
    (number as u16).to_le_bytes()
}

fn more(call: &Call, index: usize) -> u64 {
    call.more.get(index).copied().unwrap_or(0)
}

/// Kind and tree; a key is a form and a number, and a range a key and a count.
fn tree(call: &Call) -> Vec<u8> {
    let ([key, high], [count, much]) = (word(call.page), word(call.pages.saturating_sub(1)));
    let to = word(more(call, 2) / PAGE);
    match call.name.as_str() {
        "mmap" if call.pages > 4 => vec![12, call.process, low(call.page / 8), low(call.pages.min(9) * 8)],
        "mmap" | "write" | "copyout" => vec![0, call.process, 0, key, high],
        "munmap" => vec![4, call.process, 0, key, high, count, much],
        "mremap" => vec![13, call.process, 0, key, high, count, much, 0, to[0], to[1]],
        "mprotect" => vec![9, call.process, 0, key, high, count, much],
        "madvise" => vec![14, call.process, 0, key, high, count, much],
        "fork" => vec![6, call.process],
        "exit" => vec![7, call.process],
        _ => vec![10, call.process, 0, key, high, count, much, 2],
    }
}

/// Kind and place, offset, length, choice.
fn tables(call: &Call) -> Vec<u8> {
    let kind = match call.name.as_str() {
        "mmap" => 0,
        "munmap" => 5,
        "mprotect" => 6,
        "mremap" => 8,
        "madvise" => 10,
        "fork" => 9,
        "exit" => 17,
        "write" | "copyout" => 4,
        _ => 11,
    };
    let choice = more(call, 0).wrapping_mul(3).wrapping_add(call.page << 4) as u32;
    let mut record = vec![kind, call.process];
    record.extend(word(call.page));
    record.extend(word(3 + 8 * call.pages));
    record.extend(choice.to_le_bytes());
    record
}

/// Kind and how; then what each kind reads.
fn spaces(call: &Call) -> Vec<u8> {
    // Every other flush is acknowledged later.
    let (how, page) = (low(call.page & 1), word(call.page * 8 + 1));
    let (space, count) = (call.process, low(call.pages.saturating_sub(1)));
    match call.name.as_str() {
        "mmap" => vec![17, how, space, 0, page[0], page[1], 0, 0, count, 1, 1],
        "munmap" => vec![19, how, space, page[0], page[1], count],
        "mprotect" => vec![21, how, space, page[0], page[1], count, low(more(call, 0))],
        "mremap" => {
            vec![23, how, space, page[0], page[1], count, low(more(call, 0) / PAGE), 1, 0, page[0], page[1], 0, 0]
        }
        "madvise" if more(call, 0) == 102 => vec![27, how, space, page[0], page[1], count, 1],
        "madvise" => vec![25, how, space, page[0], page[1], count, low(more(call, 0))],
        "fork" => vec![5, how, space, space.wrapping_add(1), 8, 0, 1, 1],
        "exit" => vec![4, how, space],
        "write" | "copyout" => vec![51, 0, space, page[0], page[1], 1, 0],
        _ => vec![51, 0, space, page[0], page[1], 0, 0],
    }
}

/// Kind, process, page, pages, two more, none refused.
fn posix(call: &Call) -> Vec<u8> {
    let (page, pages) = (low(call.page), low(call.pages));
    let shared = if more(call, 1) & 1 != 0 { 8 } else { 0 };
    let advice = match more(call, 0) {
        22 => 2,
        23 => 3,
        102 => 4,
        103 => 6,
        10 => 7,
        11 => 8,
        18 => 9,
        19 => 10,
        _ => 0,
    };
    let (kind, a, b) = match call.name.as_str() {
        "mmap" => (0, low(more(call, 0) & 7) | shared, 4),
        "munmap" => (6, 0, 0),
        "mprotect" => (8, low(more(call, 0)), 0),
        "mremap" if more(call, 1) & 2 != 0 => {
            (11, low(more(call, 2) / PAGE), 8 | if more(call, 1) & 4 != 0 { 7 } else { 0 })
        }
        "mremap" => (14, low(more(call, 0) / PAGE), low(more(call, 1) & 1)),
        "madvise" => (16, advice, 0),
        "fork" => (22, 0, 0),
        "exit" => (23, 0, 0),
        "write" => (24, 0, 0),
        "read" => (27, 0, 0),
        "copyin" => (29, 1, 0),
        _ => (30, 1, 0),
    };
    vec![kind, call.process, page, pages, a, b, 0]
}

/// Kind and value; one more byte or two for some.
fn vector(call: &Call) -> Vec<u8> {
    let (value, count) = (low(call.page), low(call.pages));
    match call.name.as_str() {
        "mmap" | "write" => vec![0, value],
        "mprotect" => vec![5, value],
        "munmap" => vec![6, count],
        "mremap" => vec![4, count, value],
        "madvise" => vec![13, 0],
        "fork" => vec![14, 0],
        "exit" => vec![9, count],
        _ => vec![10, 0, count, 1],
    }
}

/// Words that mean something in one format or another, and leaves.
fn entries() -> Vec<Vec<u8>> {
    let words = [0, 1, 0x67, 0xe7, 0x8000_0000_0000_0063, 0x403, 0xcf, 0x2000_0000_00df, 0x60_0000_0000_0743, u64::MAX];
    let seed = |(number, word): (usize, u64)| {
        let mut seed = word.to_le_bytes().to_vec();
        seed.extend((0x1000_u64 << number).to_le_bytes());
        seed.extend([3, 0, low(number as u64), 15, 0, 0, 0, 0]);
        seed
    };
    words.into_iter().enumerate().map(seed).collect()
}

/// A program of a page of code and a page of data.
fn program(entry: u64) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([entry, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    file.extend([0_u32.to_le_bytes()].concat());
    file.extend([64_u16, 56, 2, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    for (flags, offset, address, in_file, in_memory) in
        [(5_u32, 0_u64, entry & !0xfff, 0x120_u64, 0x120_u64), (6, 0x120, (entry & !0xfff) + 0x1120, 0x10, 0x2000)]
    {
        file.extend([1, flags].into_iter().flat_map(u32::to_le_bytes));
        file.extend([offset, address, address, in_file, in_memory, PAGE].into_iter().flat_map(u64::to_le_bytes));
    }
    // The entry is a byte of the file.
    let entry = (entry & 0xfff) as usize;
    file.resize(0x130.max(entry + 1), 0x90);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_kinds_are_calls() {
        let expected = Call { process: 2, name: "mprotect".into(), page: 3, pages: 2, more: vec![1] };
        assert_eq!(call("12 s2 mprotect 0x3000 0x2000 1 = 0 e0"), Some(expected));
        let other = call("mmap 0x7f0000001000 8192 3 34 -1 0 = 139637976731648").unwrap();
        assert_eq!((other.page, other.pages, other.process), (1, 2, 0));
        assert_eq!(call("touch 0x1000 3 w"), None);
    }

    #[test]
    fn the_kept_recordings_give_every_target_small_seeds() {
        let directory = tempfile::tempdir().unwrap();
        let counts = write(&crate::workspace::root(), directory.path()).unwrap();
        for (target, count) in counts {
            assert!((2..=2 * MOST).contains(&count), "{target}: {count}");
            let longest = super::super::TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
            for path in super::super::files(&directory.path().join(target)).unwrap() {
                let size = std::fs::metadata(&path).unwrap().len() as usize;
                assert!(size > 0 && size <= longest, "{}: {size}", path.display());
            }
        }
    }
}
