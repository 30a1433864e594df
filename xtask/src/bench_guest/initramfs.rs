//! The file system that Linux finds in its memory: the program as `/init`, and what it needs to be heard.
//!
//! The format is `cpio`'s "new ASCII" one (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`): for each file a header of thirteen numbers of eight
//! hexadecimal digits behind a magic one, the name with a zero behind it, and the contents, each filled up to a multiple of four bytes.

/// A file of the archive.
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    /// Of a device.
    numbers: (u32, u32),
    contents: &'a [u8],
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The archive with a program as the first process.
pub(crate) fn archive(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let directory = |name| Entry { name, mode: DIRECTORY, numbers: (0, 0), contents: &[] };
    let entries = [
        directory("dev"),
        directory("proc"),
        directory("sys"),
        // What Linux opens for the first process's output.
        Entry { name: "dev/console", mode: CHARACTER_DEVICE, numbers: (5, 1), contents: &[] },
        Entry { name: "init", mode: PROGRAM, numbers: (0, 0), contents: program },
    ];
    for (number, entry) in (1..).zip(entries) {
        append(&mut archive, number, &entry);
    }
    append(&mut archive, 0, &Entry { name: "TRAILER!!!", mode: 0, numbers: (0, 0), contents: &[] });
    archive
}

fn append(archive: &mut Vec<u8>, number: u32, entry: &Entry<'_>) {
    let links = if entry.mode == DIRECTORY { 2 } else { 1 };
    let (size, name_size) = (entry.contents.len() as u32, entry.name.len() as u32 + 1);
    let (major, minor) = entry.numbers;
    archive.extend(b"070701");
    // File number, mode, user, group, links, time, size, device of the file system, device, length of the name, checksum (unused).
    for field in [number, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
        archive.extend(format!("{field:08X}").bytes());
    }
    archive.extend(entry.name.bytes());
    archive.push(0);
    fill(archive);
    archive.extend(entry.contents);
    fill(archive);
}

/// Up to a multiple of four bytes.
fn fill(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive as Linux does: names, modes and contents.
    fn read(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut take = |length: usize| {
            let padded = length.next_multiple_of(4);
            let (taken, rest) = archive.split_at(padded);
            archive = rest;
            taken[..length].to_vec()
        };
        loop {
            // Header and name are filled up together: 110 bytes and two more until the name is known.
            let header = take(112);
            assert_eq!(&header[..6], b"070701");
            let field = |index: usize| {
                u32::from_str_radix(std::str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).unwrap(), 16).unwrap()
            };
            let rest = (110 + field(11) as usize).next_multiple_of(4) - 112;
            let name = [header[110..].to_vec(), take(rest)].concat();
            let name = name[..field(11) as usize - 1].to_vec();
            let contents = take(field(6) as usize);
            let name = String::from_utf8(name).unwrap();
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name, field(1), contents));
        }
    }

    #[test]
    fn the_program_is_the_first_process() {
        for length in [0, 1, 4, 4097] {
            let program = vec![7; length];
            let entries = read(&archive(&program));
            let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
            assert_eq!(names, ["dev", "proc", "sys", "dev/console", "init"]);
            assert_eq!(entries[4], ("init".to_owned(), PROGRAM, program));
        }
    }
}
