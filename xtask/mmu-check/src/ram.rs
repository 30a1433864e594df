//! The machine's memory: a sparse file that the host fills before the machine starts and reads after it has ended.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Where a machine has its memory: stretches of physical addresses, the first byte of the file first.
pub(crate) type Map = &'static [(u64, u64)];

/// Bytes of a page, by which it is remembered what was written.
pub(crate) const PAGE: usize = 4096;

/// The file.
#[derive(Debug)]
pub(crate) struct Ram {
    file: File,
    path: PathBuf,
    map: Map,
    /// The numbers of the pages that were written.
    written: RefCell<BTreeSet<u64>>,
}

impl Ram {
    /// A file of zeros at `path`, which takes no room until it is written to.
    pub(crate) fn create(path: &Path, map: Map) -> Result<Self> {
        let purpose = || format!("making the machine's memory, {}", path.display());
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(path).with_context(purpose)?;
        file.set_len(size(map)).with_context(purpose)?;
        Ok(Self { file, path: path.to_owned(), map, written: RefCell::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where in the file a physical address is.
    fn offset(&self, address: u64) -> Result<u64> {
        let mut before = 0;
        for (start, size) in self.map {
            if (*start..start + size).contains(&address) {
                return Ok(before + (address - start));
            }
            before += size;
        }
        anyhow::bail!("the machine has no memory at {address:#x}")
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.offset(address)?).context("writing the machine's memory")?;
        let page = PAGE as u64;
        self.written.borrow_mut().extend(address / page..(address + bytes.len() as u64).div_ceil(page));
        Ok(())
    }

    /// The addresses of the pages that were written, in order.
    pub(crate) fn written(&self) -> Vec<u64> {
        self.written.borrow().iter().map(|number| number * PAGE as u64).collect()
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, self.offset(address)?).context("reading the machine's memory")
    }

    pub(crate) fn write_words(&self, address: u64, words: &[u64]) -> Result<()> {
        self.write(address, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }

    pub(crate) fn read_words(&self, address: u64, count: usize) -> Result<Vec<u64>> {
        let mut bytes = vec![0; count * 8];
        self.read(address, &mut bytes)?;
        Ok(bytes
            .chunks_exact(8)
            .map(|chunk| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
            .collect())
    }
}

/// The size of all of it, in bytes.
pub(crate) fn size(map: Map) -> u64 {
    map.iter().map(|(_, size)| size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_above_a_hole_follow_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let ram = Ram::create(&directory.path().join("ram"), &[(0, 0x2000), (0x10000, 0x1000)]).unwrap();
        ram.write_words(0x10008, &[0x0123_4567_89ab_cdef]).unwrap();
        assert_eq!(ram.read_words(0x10000, 2).unwrap(), [0, 0x0123_4567_89ab_cdef]);
        assert_eq!(ram.offset(0x10008).unwrap(), 0x2008);
        assert!(ram.offset(0x2000).is_err() && ram.offset(0x11000).is_err());
    }

    #[test]
    fn it_is_known_which_pages_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let ram = Ram::create(&directory.path().join("ram"), &[(0, 0x8000)]).unwrap();
        ram.write(0x5ffc, &[1; 8]).unwrap();
        ram.write(0x1000, &[1; 0x1000]).unwrap();
        assert_eq!(ram.written(), [0x1000, 0x5000, 0x6000]);
    }
}
