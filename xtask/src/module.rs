//! The boot module: one tar archive with everything that the kernel is given at boot.
//!
//! `programs/NAME` is the ELF file of each user program, `symbols` the kernel's symbol table (see `symbols`). Times and owners
//! are left out, so the same sources give the same archive.

use std::{
    fs::File,
    io::{BufWriter, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result};

/// Writes the archive to `path`; `entries` are names and contents.
pub(crate) fn write<'a>(path: &Path, entries: impl IntoIterator<Item = (String, &'a [u8])>) -> Result<()> {
    let purpose = || format!("writing the boot module {}", path.display());
    // A new file: a machine that still runs with the old one, or another name of it, keeps what it has.
    if path.exists() {
        std::fs::remove_file(path).with_context(purpose)?;
    }
    let file = File::create(path).with_context(purpose)?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    for (name, contents) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive.append_data(&mut header, &name, contents).with_context(purpose)?;
    }
    archive.into_inner().and_then(|file| file.into_inner().map_err(Into::into)).with_context(purpose)?;
    Ok(())
}

/// What may be wrong with a boot module: the kernel has to answer it, not to crash on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// No archive at all.
    Noise,
    /// An archive without files.
    Empty,
    /// Every program ends in the middle.
    CutPrograms,
    /// Every program is for another machine.
    ForeignPrograms,
}

/// Writes a copy of the module `whole` with `damage` to `path`.
pub(crate) fn write_damaged(whole: &Path, damage: Damage, path: &Path) -> Result<()> {
    let purpose = || format!("writing the damaged boot module {}", path.display());
    if damage == Damage::Noise {
        // Any bytes do, as long as they are the same each time.
        let noise: Vec<u8> = (0..8192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        return std::fs::write(path, noise).with_context(purpose);
    }
    let mut entries = Vec::new();
    if damage != Damage::Empty {
        let mut archive = tar::Archive::new(File::open(whole).with_context(purpose)?);
        for entry in archive.entries().with_context(purpose)? {
            let mut entry = entry.with_context(purpose)?;
            let name = entry.path().with_context(purpose)?.to_string_lossy().into_owned();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).with_context(purpose)?;
            if name.starts_with("programs/") {
                damage_program(damage, &mut contents);
            }
            entries.push((name, contents));
        }
    }
    write(path, entries.iter().map(|(name, contents)| (name.clone(), contents.as_slice())))
}

fn damage_program(damage: Damage, program: &mut Vec<u8>) {
    match damage {
        Damage::CutPrograms => program.truncate(program.len() / 2),
        Damage::ForeignPrograms => {
            // `e_machine`, two bytes at offset 18 of an ELF header; 183 is AArch64.
            if let Some(machine) = program.get_mut(18..20) {
                machine.copy_from_slice(&183_u16.to_le_bytes());
            }
        }
        Damage::Noise | Damage::Empty => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            found.push((entry.path().unwrap().to_string_lossy().into_owned(), contents));
        }
        found
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("module.tar");
        let entries = [("programs/demo".to_owned(), &b"\x7fELF"[..]), ("symbols".to_owned(), b"0 start\n")];
        write(&path, entries).unwrap();

        let found = read(&path);
        assert_eq!(
            found,
            [("programs/demo".to_owned(), b"\x7fELF".to_vec()), ("symbols".to_owned(), b"0 start\n".to_vec())]
        );
    }

    #[test]
    fn damage_is_done_to_programs_only() {
        let directory = tempfile::tempdir().unwrap();
        let (whole, path) = (directory.path().join("module.tar"), directory.path().join("damaged.tar"));
        let program = [0x7f; 64];
        write(&whole, [("programs/demo".to_owned(), &program[..]), ("symbols".to_owned(), b"0 start\n")]).unwrap();

        write_damaged(&whole, Damage::CutPrograms, &path).unwrap();
        assert_eq!(read(&path).iter().map(|(_, contents)| contents.len()).collect::<Vec<_>>(), [32, 8]);
        write_damaged(&whole, Damage::ForeignPrograms, &path).unwrap();
        let mut foreign = program;
        foreign[18..20].copy_from_slice(&[183, 0]);
        assert_eq!(read(&path).first().unwrap().1, foreign);
        write_damaged(&whole, Damage::Empty, &path).unwrap();
        assert!(read(&path).is_empty());
        write_damaged(&whole, Damage::Noise, &path).unwrap();
        assert!(tar::Archive::new(File::open(&path).unwrap()).entries().unwrap().all(|entry| entry.is_err()));
    }
}
