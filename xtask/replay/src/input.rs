//! Reading a file, and the words of its lines.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

/// How an xz file begins.
const XZ: &[u8] = b"\xfd7zXZ\0";

/// The text of a file, which may be compressed.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    decode(&bytes).with_context(|| format!("cannot decode {}", path.display()))
}

/// Text out of bytes that may be compressed.
pub(crate) fn decode(bytes: &[u8]) -> Result<String> {
    if !bytes.starts_with(XZ) {
        return String::from_utf8(bytes.to_vec()).context("it is no text");
    }
    let mut text = Vec::new();
    lzma_rs::xz_decompress(&mut &*bytes, &mut text).map_err(|error| anyhow!("it is damaged or cut short: {error}"))?;
    String::from_utf8(text).context("it is no text")
}

/// A number: decimal, or hexadecimal after `0x`; negative ones as two's complement.
pub(crate) fn number(word: &str) -> Result<u64> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => match word.strip_prefix('-') {
            Some(digits) => digits.parse::<u64>().map(u64::wrapping_neg),
            None => word.parse(),
        },
    };
    parsed.with_context(|| format!("{word:?} is no number"))
}

/// The words of a line as numbers.
pub(crate) fn numbers<const N: usize>(words: &[&str]) -> Result<[u64; N]> {
    let mut all = [0; N];
    for (index, slot) in all.iter_mut().enumerate() {
        *slot = number(words.get(index).with_context(|| format!("{words:?} has fewer than {N} words"))?)?;
    }
    Ok(all)
}
