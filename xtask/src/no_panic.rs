//! `cargo xtask no-panic`: proves with the linker that no public call of `vmcore` can reach a panic.
//!
//! The program `no-panic-probe` contains every public call. Linked with everything known and unused sections left out, it holds a panicking function
//! of `core` only if some path leads there. What is found is named together with whoever refers to it: the relocations are left in the
//! file, and the line tables say which functions were inlined at that place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget, SymbolKind, elf};

use crate::{
    process,
    symbols::demangled,
    workspace::{Workspace, cargo},
};

const PROBE: &str = "no-panic-probe";

/// `cargo xtask no-panic`.
pub(crate) fn command() -> Result<()> {
    let workspace = Workspace::load()?;
    let program = build(&workspace.root, &workspace.root.join("target/no-panic"), &[])?;
    let found = inspect(&workspace.root, &program)?;
    if !found.is_empty() {
        let list: String = found.iter().map(|reference| format!("\n  {reference}")).collect();
        bail!("vmcore can panic: what follows is linked into {}{list}", program.display());
    }
    eprintln!("No panic: nothing in {} can reach a panicking function.", program.display());
    Ok(())
}

/// Builds the probe and returns the linked file.
fn build(root: &Path, target: &Path, features: &[&str]) -> Result<PathBuf> {
    if !cfg!(target_os = "linux") {
        bail!("the linked file is read as ELF with its relocations; run this on Linux");
    }
    process::run(
        cargo(root)
            .args(["build", "--quiet", "--package", PROBE, "--profile", "no-panic", "--features", &features.join(",")])
            .arg("--target-dir")
            .arg(target)
            // Flags in the environment could bring checks, or keep what is unused.
            .env("CARGO_ENCODED_RUSTFLAGS", "")
            .env_remove("CARGO_BUILD_TARGET"),
        "building the probe",
    )?;
    Ok(target.join("no-panic").join(PROBE))
}

/// A panicking function in the linked file, and who refers to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    function: String,
    /// The functions at that place, the innermost inlined one first; empty where nobody refers to it directly.
    callers: Vec<String>,
    /// Where all of those are in `core`, the nearest function outside from which they are called.
    reached_from: Option<String>,
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, rest) = match self.callers.split_first() {
            None => return write!(formatter, "{}", self.function),
            Some(split) => split,
        };
        write!(formatter, "{}, called by {first}", self.function)?;
        for caller in rest {
            write!(formatter, "\n      in {caller}")?;
        }
        if let Some(function) = &self.reached_from {
            write!(formatter, "\n      reached from {function}")?;
        }
        Ok(())
    }
}

/// Whether a function exists only to panic, by its demangled name.
fn is_panicking(name: &str) -> bool {
    let of_core = name.starts_with("core::") || name.starts_with("alloc::") || name.starts_with('<');
    let last = name.rsplit("::").next().unwrap_or(name);
    name.starts_with("core::panicking::")
        || name.ends_with("rust_begin_unwind")
        // The probe's panic handler calls it, and nothing else does.
        || name == "abort"
        || name.starts_with("abort@")
        || (of_core
            && (last.contains("_fail")
                || last.starts_with("panic_")
                || matches!(last, "handle_alloc_error" | "handle_error" | "capacity_overflow")))
}

/// Reads the linked file.
fn inspect(root: &Path, program: &Path) -> Result<BTreeSet<Reference>> {
    let purpose = || format!("reading {}", program.display());
    let contents = std::fs::read(program).with_context(purpose)?;
    let file = object::File::parse(&*contents).with_context(purpose)?;
    let lines = addr2line::Loader::new(program).map_err(|error| anyhow!("{error}")).with_context(purpose)?;

    // Every panicking function there is, also if no reference to it is understood.
    let mut present: BTreeSet<String> = file
        .symbols()
        .filter_map(|symbol| symbol.name().ok().map(demangled))
        .filter(|name| is_panicking(name))
        .collect();
    let mut found = BTreeSet::new();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut code_has_relocations = false;
    for section in file.sections().filter(|section| section.kind() == object::SectionKind::Text) {
        for (place, relocation) in section.relocations() {
            code_has_relocations = true;
            let Some(target) = target_name(&file, &relocation) else { continue };
            let around = symbol_around(&file, place).unwrap_or_else(|| format!("{place:#x}"));
            graph.entry(target.clone()).or_default().insert(around.clone());
            if !is_panicking(&target) {
                continue;
            }
            present.remove(&target);
            // One panicking function calling another says nothing about who began.
            if !is_panicking(&around) {
                found.insert((target, place, around));
            }
        }
    }
    if !code_has_relocations {
        bail!("{} has no relocations: was it linked without `--emit-relocs`?", program.display());
    }
    let mut references: BTreeSet<Reference> = found
        .into_iter()
        .map(|(function, place, around)| {
            let reached_from = outside_core(&graph, &around);
            Reference { function, callers: callers(root, &lines, place, around), reached_from }
        })
        .collect();
    references.extend(present.into_iter().map(|function| Reference {
        function,
        callers: Vec::new(),
        reached_from: None,
    }));
    Ok(references)
}

/// The nearest function outside `core` from which `function`, which is in it, is called: that is where the mistake is.
fn outside_core(graph: &BTreeMap<String, BTreeSet<String>>, function: &str) -> Option<String> {
    let of_core = |name: &str| name.trim_start_matches(['<', '&']).starts_with("core::") || is_of_primitive(name);
    if !of_core(function) {
        return None;
    }
    let mut seen = BTreeSet::from([function]);
    let mut waiting = std::collections::VecDeque::from([function]);
    while let Some(callee) = waiting.pop_front() {
        for caller in graph.get(callee).into_iter().flatten() {
            if !of_core(caller) {
                return Some(caller.clone());
            }
            if seen.insert(caller) {
                waiting.push_back(caller);
            }
        }
    }
    None
}

/// Whether a function belongs to a type that only `core` can give functions to, as `<char>::escape_debug` and `<[T]>::sort`.
fn is_of_primitive(name: &str) -> bool {
    name.strip_prefix('<').is_some_and(|rest| {
        let of = rest.split(['>', ' ']).next().unwrap_or(rest);
        !of.contains("::")
    })
}

/// What a relocation refers to, by its demangled name.
fn target_name(file: &object::File<'_>, relocation: &object::Relocation) -> Option<String> {
    let RelocationTarget::Symbol(index) = relocation.target() else {
        return None;
    };
    let symbol = file.symbol_by_index(index).ok()?;
    if symbol.kind() != SymbolKind::Section {
        return symbol.name().ok().map(demangled);
    }
    // A function that is local to its object may be written as an offset into its section; a relative reference is then short by the
    // four bytes up to the next instruction.
    let relative =
        matches!(relocation.flags(), RelocationFlags::Elf { r_type: elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 });
    let offset = relocation.addend() + if relative { 4 } else { 0 };
    symbol_around(file, symbol.address().wrapping_add_signed(offset))
}

/// The function that covers an address, by its demangled name.
fn symbol_around(file: &object::File<'_>, address: u64) -> Option<String> {
    file.symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .find(|symbol| (symbol.address()..symbol.address() + symbol.size().max(1)).contains(&address))
        .and_then(|symbol| symbol.name().ok().map(demangled))
}

/// The functions at an address, the innermost inlined one first, with their lines; `around` where the line tables know nothing.
fn callers(root: &Path, lines: &addr2line::Loader, address: u64, around: String) -> Vec<String> {
    let mut callers = Vec::new();
    if let Ok(mut frames) = lines.find_frames(address) {
        while let Ok(Some(frame)) = frames.next() {
            let name = frame
                .function
                .as_ref()
                .and_then(|function| function.raw_name().ok().map(|name| demangled(&name)))
                .unwrap_or_else(|| around.clone());
            let line = frame
                .location
                .and_then(|location| {
                    let file = Path::new(location.file?);
                    Some(format!(" ({}:{})", file.strip_prefix(root).unwrap_or(file).display(), location.line?))
                })
                .unwrap_or_default();
            callers.push(format!("{name}{line}"));
        }
    }
    if callers.is_empty() {
        callers.push(around);
    }
    callers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panicking_functions_are_known_by_name() {
        for name in [
            "core::panicking::panic_fmt",
            "core::panicking::panic_bounds_check",
            "core::option::unwrap_failed",
            "core::option::expect_failed",
            "core::result::unwrap_failed",
            "core::slice::index::slice_index_fail",
            "core::slice::index::slice_end_index_len_fail",
            "core::cell::panic_already_borrowed",
            "core::str::slice_error_fail",
            "<[T]>::copy_from_slice::len_mismatch_fail",
            "alloc::alloc::handle_alloc_error",
            "__rustc::rust_begin_unwind",
            "abort@GLIBC_2.2.5",
        ] {
            assert!(is_panicking(name), "{name}");
        }
        for name in ["main", "vmcore::static_vec::grow_failed", "core::fmt::write", "memcpy@GLIBC_2.14", "abortive"] {
            assert!(!is_panicking(name), "{name}");
        }
    }

    #[test]
    fn the_way_out_of_core_is_found() {
        let graph = BTreeMap::from([
            ("core::a".to_owned(), BTreeSet::from(["core::b".to_owned(), "core::a".to_owned()])),
            ("core::b".to_owned(), BTreeSet::from(["<char>::c".to_owned()])),
            ("<char>::c".to_owned(), BTreeSet::from(["<vmcore::space::Space as core::fmt::Debug>::fmt".to_owned()])),
        ]);
        assert_eq!(outside_core(&graph, "core::a").as_deref(), Some("<vmcore::space::Space as core::fmt::Debug>::fmt"));
        assert_eq!(outside_core(&graph, "vmcore::space::map"), None);
        assert_eq!(outside_core(&graph, "core::z"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_planted_panic_is_found_and_its_caller_named() {
        let root = crate::workspace::root();
        let program = build(&root, &root.join("target/no-panic-planted"), &["planted-panic"]).unwrap();
        let found: Vec<String> = inspect(&root, &program).unwrap().iter().map(Reference::to_string).collect();
        assert!(
            found.iter().any(|line| line
                .starts_with("core::panicking::panic_bounds_check, called by no_panic_probe::planted (xtask/no-panic-probe/src/main.rs:")),
            "{found:#?}"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_without_relocations_proves_nothing() {
        let error = inspect(Path::new("/"), &std::env::current_exe().unwrap()).unwrap_err().to_string();
        assert!(error.contains("no relocations"), "{error}");
    }
}
