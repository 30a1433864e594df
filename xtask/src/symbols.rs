//! The kernel's symbols, as the text that the kernel reads when it prints a backtrace.
//!
//! One line for each function, `HEXADDRESS NAME`, sorted by address. The address has 16 digits and no prefix; the name is
//! demangled, without the hash. Where several names share an address, the first in alphabetical order stays.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSymbol as _, SymbolKind};

/// The lines for the functions of an ELF file.
pub(crate) fn table(elf: &[u8]) -> Result<String> {
    let file = object::File::parse(elf).context("reading the kernel's symbols")?;
    let mut functions: BTreeMap<u64, String> = BTreeMap::new();
    for symbol in file.symbols() {
        let Ok(name) = symbol.name() else { continue };
        // Entry points in assembly carry no type; what lies in a section of code is one of them.
        let is_code = match symbol.kind() {
            SymbolKind::Text => true,
            SymbolKind::Label | SymbolKind::Unknown => symbol
                .section_index()
                .and_then(|index| file.section_by_index(index).ok())
                .is_some_and(|section| object::ObjectSection::kind(&section) == object::SectionKind::Text),
            _ => false,
        };
        if !is_code || symbol.is_undefined() || name.is_empty() || name.starts_with(".L") {
            continue;
        }
        let name = demangled(name);
        functions
            .entry(symbol.address())
            .and_modify(|known| {
                if name < *known {
                    known.clone_from(&name);
                }
            })
            .or_insert(name);
    }
    if functions.is_empty() {
        bail!("reading the kernel's symbols: the file has none; was it stripped?");
    }
    Ok(functions.iter().map(|(address, name)| format!("{address:016x} {name}\n")).collect())
}

/// A name without its hash.
pub(crate) fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_has_sorted_demangled_symbols() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let table = table(&elf).unwrap();
        let addresses: Vec<u64> =
            table.lines().map(|line| u64::from_str_radix(line.split_once(' ').unwrap().0, 16).unwrap()).collect();
        assert!(addresses.is_sorted_by(|a, b| a < b));
        assert!(
            table.lines().any(|line| line.ends_with(" xtask::symbols::table")),
            "the function under test is not in its own table"
        );
    }

    #[test]
    fn what_is_not_a_program_is_refused() {
        assert!(table(b"#!/bin/sh\n").is_err());
    }
}
