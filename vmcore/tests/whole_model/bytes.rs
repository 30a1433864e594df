//! Steps with bytes as the source of choices, for a fuzzer: the same operations that `operation` makes at random, in the same ranges.

use arbitrary::{Result, Unstructured};
use vmcore::paging::{AArch64, Granule4K, Half, RiscV64, X86_64};

use super::operation::{AREAS, CPUS, Mapping, Operation, Pages, Part, SPACES, Step, Where};
use super::play;

/// The most steps that an input makes.
const STEPS: usize = 120;

/// Plays what an input says, in one of the three formats. Panics where model and library differ, and where the simulated machine does not accept something.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let Ok([format, end]) = bytes.arbitrary::<[u8; 2]>() else { return };
    let mut steps = Vec::new();
    while !bytes.is_empty() && steps.len() < STEPS {
        steps.extend(step(&mut bytes));
    }
    let spaces_first = end & 1 != 0;
    match format % 3 {
        0 => play(X86_64::new(40).pcid(), &steps, spaces_first),
        1 => play(RiscV64::sv39(40).asid_bits(4), &steps, spaces_first),
        _ => play(AArch64::<Granule4K>::bits_48(Half::Lower, 40), &steps, spaces_first),
    };
}

/// A number below another, out of one byte.
fn below(bytes: &mut Unstructured, end: usize) -> Result<usize> {
    Ok(usize::from(bytes.arbitrary::<u8>()?) % end)
}

fn small(bytes: &mut Unstructured, range: core::ops::Range<u64>) -> Result<u64> {
    Ok(range.start + u64::from(bytes.arbitrary::<u8>()?) % (range.end - range.start))
}

fn code(bytes: &mut Unstructured, end: u8) -> Result<u8> {
    Ok(bytes.arbitrary::<u8>()? % end)
}

fn flag(bytes: &mut Unstructured) -> Result<bool> {
    Ok(bytes.arbitrary::<u8>()? & 1 != 0)
}

fn to(bytes: &mut Unstructured) -> Result<Where> {
    let (form, page) = (bytes.arbitrary::<u8>()?, bytes.arbitrary()?);
    // An even byte is a fixed place; the others try all there is.
    let (place, alignment) = if form & 1 == 0 { (0, 0) } else { (form / 2 % 6, form / 12 % 4) };
    Ok(Where { place, page, entropy: bytes.arbitrary::<u16>()?.into(), alignment, within: form >> 6 == 3 })
}

fn mapping(bytes: &mut Unstructured) -> Result<Mapping> {
    let (area, to) = (below(bytes, AREAS)?, to(bytes)?);
    let (offset, size) = (small(bytes, 0..4)?, small(bytes, 0..6)?);
    let (access, inherit, flags) = (code(bytes, 5)?, code(bytes, 4)?, bytes.arbitrary::<u8>()?);
    Ok(Mapping { area, to, offset, size, access, inherit, populate: flags & 1 != 0, weak: flags & 6 == 6 })
}

fn pages(bytes: &mut Unstructured) -> Result<Pages> {
    Ok(Pages { space: below(bytes, SPACES)?, page: bytes.arbitrary()?, count: small(bytes, 1..6)? })
}

fn part(bytes: &mut Unstructured) -> Result<Part> {
    Ok(Part { area: below(bytes, AREAS)?, page: small(bytes, 0..8)?, count: small(bytes, 1..4)? })
}

fn step(bytes: &mut Unstructured) -> Result<Step> {
    let (kind, how) = (bytes.arbitrary()?, bytes.arbitrary::<u8>()?);
    let operation = operation(kind, bytes)?;
    // A quarter of the steps have a request refused.
    let refused = (how & 6 == 6).then_some((u64::from(how >> 3) % 5, how & 0x80 != 0));
    Ok(Step { operation, late: how & 1 != 0, refused })
}

fn operation(kind: u8, bytes: &mut Unstructured) -> Result<Operation> {
    use Operation as O;
    Ok(match kind % 64 {
        0 | 1 => O::NewArea { slot: below(bytes, AREAS)?, kind: code(bytes, 12)?, pages: small(bytes, 1..9)? },
        2 => O::DropArea { slot: below(bytes, AREAS)? },
        3 => O::NewSpace { slot: below(bytes, SPACES)? },
        4 => O::Destroy { space: below(bytes, SPACES)? },
        5 | 6 => O::Clone { from: below(bytes, SPACES)?, to: below(bytes, SPACES)? },
        7 => O::Snapshot { from: below(bytes, AREAS)?, to: below(bytes, AREAS)? },
        8 | 9 => O::Enter { cpu: below(bytes, CPUS)?, space: below(bytes, SPACES)? },
        10 => O::Leave { cpu: below(bytes, CPUS)? },
        11..=15 => O::Map { space: below(bytes, SPACES)?, mapping: mapping(bytes)? },
        16 => {
            let (space, count) = (below(bytes, SPACES)?, 1 + below(bytes, 3)?);
            let mappings = (0..count).map(|_| mapping(bytes)).collect::<Result<_>>()?;
            O::MapMany { space, mappings }
        }
        17 | 18 => {
            let (space, to, pages) = (below(bytes, SPACES)?, to(bytes)?, small(bytes, 1..5)?);
            O::Anonymous { space, to, pages, access: code(bytes, 4)?, inherit: code(bytes, 4)? }
        }
        19 | 20 => O::Unmap(pages(bytes)?),
        21 | 22 => O::Protect { pages: pages(bytes)?, access: code(bytes, 5)? },
        23 | 24 => {
            let (pages, size, how) = (pages(bytes)?, small(bytes, 0..8)?, code(bytes, 4)?);
            O::Relocate { pages, size, how, to: to(bytes)? }
        }
        25 | 26 => O::Advise { pages: pages(bytes)?, advice: code(bytes, 5)? },
        27 => O::Guard { pages: pages(bytes)?, install: flag(bytes)? },
        28 => O::Seal(pages(bytes)?),
        29 => O::Lock { pages: pages(bytes)?, lock: flag(bytes)? },
        30 => {
            let (space, windows, pages) = (below(bytes, SPACES)?, small(bytes, 0..25)?, small(bytes, 0..100)?);
            let windows = (1..8).contains(&windows).then_some(windows as usize);
            O::Limits { space, windows, pages: (1..30).contains(&pages).then_some(pages) }
        }
        31 => O::ForbidWriteExecute { space: below(bytes, SPACES)? },
        32 | 33 => O::Populate { pages: pages(bytes)?, access: code(bytes, 5)? },
        34 => O::Resize { area: below(bytes, AREAS)?, pages: small(bytes, 0..9)? },
        35 => O::TakeSection { area: below(bytes, AREAS)? },
        36 => O::GiveSection { area: below(bytes, AREAS)?, section: bytes.arbitrary::<u8>()? as u32 % 3 },
        37 | 38 => {
            let (area, page, word) = (below(bytes, AREAS)?, small(bytes, 0..9)?, below(bytes, 3)?);
            O::Write { area, page, word, across: flag(bytes)? }
        }
        39 => O::Read(part(bytes)?),
        40 => O::Pin(part(bytes)?),
        41 => O::Unpin { which: below(bytes, 8)? },
        42 => O::SetMemory { area: below(bytes, AREAS)?, combining: flag(bytes)? },
        43 => O::Ask(part(bytes)?),
        44 | 45 => O::Supply { which: below(bytes, 8)?, page: small(bytes, 0..3)?, count: small(bytes, 1..4)? },
        46 => O::Fail { which: below(bytes, 8)?, cancel: flag(bytes)? },
        47 => O::Retry(part(bytes)?),
        48 => O::BeginWriteBack(part(bytes)?),
        49 => O::EndWriteBack { which: below(bytes, 8)?, written: flag(bytes)? },
        50 => O::Evict(part(bytes)?),
        51..=59 => {
            let (cpu, page) = (below(bytes, CPUS)?, bytes.arbitrary()?);
            O::Access { cpu, page, access: code(bytes, 8)?, word: below(bytes, 3)? }
        }
        60 => O::Prefetch { cpu: below(bytes, CPUS)?, page: bytes.arbitrary()? },
        _ => O::Acknowledge { which: below(bytes, 8)? },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::strategy::{Strategy, ValueTree};
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    use super::*;

    /// Bytes, the same every time.
    fn random(count: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let byte = |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        };
        (0..count).map(byte).collect()
    }

    fn name(operation: &Operation) -> String {
        let text = format!("{operation:?}");
        text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned()
    }

    #[test]
    fn every_operation_comes_out_of_bytes() {
        let bytes = random(200_000, 1);
        let mut bytes = Unstructured::new(&bytes);
        let mut found = BTreeSet::new();
        while !bytes.is_empty() {
            found.extend(step(&mut bytes).map(|step| name(&step.operation)));
        }
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let (strategy, mut seen) = (super::super::operation::step(), BTreeSet::new());
        for _ in 0..20_000 {
            seen.insert(name(&strategy.new_tree(&mut runner).unwrap().current().operation));
        }
        assert_eq!(found, seen, "operations of the fuzzer, and those at random");
    }

    #[test]
    fn inputs_of_a_fuzzer() {
        for seed in 0..60 {
            run(&random(seed as usize * 20, seed + 1));
        }
    }
}
