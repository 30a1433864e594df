//! One format, held against the emulator: rounds of random tables, each tried by thousands of accesses.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use vmcore::{
    addr::VirtAddr,
    paging::{Access, EntryWord as _, Mmu},
};

use crate::{
    formats::{Marks, Subject, Translation},
    guest::{MOST_PROBES, Machine, mark},
    model::Window,
    probe::{CODE, Fault, MARK, Outcome, Probe, Raw, Report, SLOT},
    ram::Ram,
    world::World,
};

/// Every kind of access.
const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::EXECUTE,
    Access::READ.union(Access::USER),
    Access::WRITE.union(Access::USER),
    Access::EXECUTE.union(Access::USER),
];
/// How many differences of a round are shown in full.
const SHOWN: usize = 5;

/// How to check.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) seed: u64,
    pub(crate) rounds: u32,
    /// Where the machine's memory and the guests are made.
    pub(crate) directory: PathBuf,
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) addresses: u64,
    pub(crate) accesses: u64,
    pub(crate) reached: u64,
    pub(crate) absent: u64,
    pub(crate) denied: u64,
    /// Leaves in contiguous groups.
    pub(crate) grouped: u64,
    pub(crate) differences: u64,
}

impl Check {
    /// Checks a format whose pages have 2^`SHIFT` bytes; and checks the check, by tables of which an entry is spoiled.
    pub(crate) fn run<M: Mmu, const SHIFT: u32>(&self, subject: &Subject<M>) -> Result<Tally> {
        let tally = self.rounds::<M, SHIFT>(subject, self.rounds, false)?;
        let spoiled = self.rounds::<M, SHIFT>(subject, 1, true)?;
        ensure!(spoiled.differences != 0, "{}: a spoiled entry was not noticed", subject.name);
        Ok(tally)
    }

    fn rounds<M: Mmu, const SHIFT: u32>(&self, subject: &Subject<M>, rounds: u32, spoil: bool) -> Result<Tally> {
        let image = subject.machine.build(&self.directory)?;
        let mut tally = Tally::default();
        for round in 0..rounds {
            let seed = self.seed.wrapping_add(u64::from(round));
            // Each format has its own tables, or those of the same shape would be tried at the same places.
            let name = subject.name.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
            let mut rng = Rng::with_seed(seed ^ name << 32);
            let mut world = World::<M, SHIFT>::new(subject, &mut rng)?;
            let ram = Ram::create(&self.directory.join("ram"), subject.machine.memory)?;
            let probes = choose(subject, &world, &mut rng);
            let expected: Vec<_> = probes.iter().map(|probe| expect(subject, &world, *probe)).collect();
            fill(subject, &ram, &expected)?;
            world.pool.store(&ram)?;
            if spoil {
                spoil_entry(subject.machine, &world, &ram, &probes, &expected)?;
            }
            let registers = (subject.registers)(subject.mmu, world.tables.root().start(SHIFT).as_u64(), world.pages[0]);
            let raw = subject
                .machine
                .run(&image, &ram, &registers, world.pages, &probes)
                .with_context(|| format!("{}, seed {seed}", subject.name))?;

            let mut differences = Vec::new();
            for ((probe, expected), raw) in probes.iter().zip(&expected).zip(&raw) {
                differences.extend(own_walk(&world, *probe).map(|text| (*probe, text)));
                if let Err(text) = compare(subject, &world, *probe, *expected, raw) {
                    differences.push((*probe, format!("vmcore: {expected}; the emulator: {text}")));
                }
            }
            differences.extend(lost_writes(subject, &ram, &probes, &expected)?);
            world.pool.load(&ram)?;
            if subject.marks == Marks::Hardware {
                differences.extend(wrong_marks(&world, &probes, &expected));
            }
            for (probe, text) in differences.iter().take(if spoil { 0 } else { SHOWN }) {
                let walk = world.tables.walk(&world.pool, VirtAddr::new(probe.slot));
                eprintln!("{}, seed {seed}: {} at {:#x}: {text}\n{walk}", subject.name, probe.access, probe.address());
            }
            tally.differences += differences.len() as u64;
            let count = |wanted: fn(&Outcome) -> bool| expected.iter().filter(|outcome| wanted(outcome)).count() as u64;
            tally.grouped += world.grouped;
            tally.addresses += probes.len() as u64 / ACCESSES.len() as u64;
            tally.accesses += probes.len() as u64;
            tally.reached += count(|outcome| matches!(outcome, Outcome::Reached(_)));
            tally.denied += count(|outcome| matches!(outcome, Outcome::Failed(Fault::Denied(_) | Fault::NotMarked(_))));
            tally.absent += count(|outcome| matches!(outcome, Outcome::Failed(Fault::Absent(_) | Fault::NonCanonical)));
        }
        Ok(tally)
    }
}

/// Addresses at the ends of everything that is mapped, inside, a bit away, and anywhere; each with every access.
fn choose<M: Mmu, const SHIFT: u32>(subject: &Subject<M>, world: &World<'_, M, SHIFT>, rng: &mut Rng) -> Vec<Probe> {
    let windows = world.model.windows();
    let mut slots = Vec::new();
    for window in windows {
        slots.extend([window.first, window.last, window.first.wrapping_sub(1), window.last.wrapping_add(1)]);
    }
    let most = MOST_PROBES / ACCESSES.len();
    let mut probes = Vec::new();
    let mut tried = 0;
    while probes.len() < most * ACCESSES.len() && tried < 4 * most {
        let slot = slots.get(tried).copied().unwrap_or_else(|| {
            let window = windows[rng.usize(0..windows.len())];
            let inside = rng.u64(window.first..=window.last);
            match rng.u32(0..8) {
                0 => World::<M, SHIFT>::address(subject, rng),
                1 => inside ^ 1 << rng.u32(SHIFT..64),
                2 => inside ^ 1 << rng.u32(6..64) ^ 1 << rng.u32(6..64),
                _ => inside,
            }
        });
        let slot = subject.halves.held(slot & !(SLOT - 1), subject.virtual_bits);
        tried += 1;
        let usable = match world.model.find(slot) {
            Some((window, physical)) => {
                !window.fixed && (subject.machine.is_target(physical) || subject.machine.is_nowhere(physical))
            }
            None => true,
        };
        if usable {
            probes.extend(ACCESSES.map(|access| Probe { slot, access }));
        }
    }
    probes
}

/// What should come of an access, by what was asked for.
fn expect<M: Mmu, const SHIFT: u32>(subject: &Subject<M>, world: &World<'_, M, SHIFT>, probe: Probe) -> Outcome {
    let canonical = subject.halves.extend(probe.slot, subject.virtual_bits) == probe.slot;
    // The level is that at which vmcore's own walk ends; architectures that report levels have it compared.
    let level = || world.tables.walk(&world.pool, VirtAddr::new(probe.slot)).steps().last().map(|step| step.level);
    match world.model.find(probe.slot) {
        _ if !canonical => Outcome::Failed(Fault::NonCanonical),
        None => Outcome::Failed(Fault::Absent(level())),
        Some((window, _)) if subject.marks == Marks::Software && !window.accessed => {
            Outcome::Failed(Fault::NotMarked(level()))
        }
        // Privileged code may not use what is programs', on any architecture, as the guests have it; some formats do not tell the two apart.
        Some((window, physical))
            if window.access.contains(probe.access.difference(Access::USER))
                && (M::FORMAT.leaf.user.mask == 0 || window.access.contains(Access::USER) == probe.is_user()) =>
        {
            Outcome::Reached(physical)
        }
        Some(_) => Outcome::Failed(Fault::Denied(level())),
    }
}

/// What the code of a slot says that it is.
fn number(physical: u64) -> u32 {
    let slot = physical / SLOT;
    slot as u32 ^ ((slot >> 32) as u32).wrapping_mul(0x9e37_79b1)
}

/// Prepares the slots that should be reached; elsewhere there is nothing but zeros.
fn fill<M: Mmu>(subject: &Subject<M>, ram: &Ram, expected: &[Outcome]) -> Result<()> {
    for outcome in expected {
        if let Outcome::Reached(physical) = *outcome
            && subject.machine.is_target(physical)
        {
            let mut slot = physical.to_le_bytes().to_vec();
            slot.resize(CODE as usize, 0);
            slot.extend((subject.machine.code)(number(physical)));
            ram.write(physical, &slot)?;
        }
    }
    Ok(())
}

/// Changes the address in the machine's copy of one of the leaves that are used.
fn spoil_entry<M: Mmu, const SHIFT: u32>(
    machine: &Machine,
    world: &World<'_, M, SHIFT>,
    ram: &Ram,
    probes: &[Probe],
    expected: &[Outcome],
) -> Result<()> {
    let reached = probes.iter().zip(expected).find(|(_, outcome)| match outcome {
        Outcome::Reached(physical) => machine.is_target(*physical),
        Outcome::Failed(_) => false,
    });
    let (probe, _) = reached.context("nothing is mapped")?;
    let walk = world.tables.walk(&world.pool, VirtAddr::new(probe.slot));
    let step = walk.steps().last().context("nothing was walked")?;
    let field = world.tables.mmu().level(step.level).context("a level that is not in use")?.leaf_address;
    let entry = step.table.start(SHIFT).as_u64() + ((step.index as u64) << M::Word::SHIFT);
    let bytes = (step.word ^ 1 << field.entry_low).to_le_bytes();
    ram.write(entry, &bytes[..1 << M::Word::SHIFT])
}

/// Whether vmcore's own walk agrees with what was asked for.
fn own_walk<M: Mmu, const SHIFT: u32>(world: &World<'_, M, SHIFT>, probe: Probe) -> Option<String> {
    let walk = world.tables.walk(&world.pool, VirtAddr::new(probe.slot));
    let asked = world.model.find(probe.slot).map(|(window, physical)| (physical, window.access));
    let walked = walk.physical().map(|physical| (physical.as_u64(), walk.access()));
    (asked != walked).then(|| format!("asked for was {asked:x?}, vmcore's own walk gives {walked:x?}"))
}

fn compare<M: Mmu, const SHIFT: u32>(
    subject: &Subject<M>,
    world: &World<'_, M, SHIFT>,
    probe: Probe,
    expected: Outcome,
    raw: &Raw,
) -> Result<(), String> {
    if let Some(translation) = subject.translation {
        let marked = |window: &Window| window.accessed || subject.marks == Marks::Hardware;
        let wanted = world
            .model
            .find(probe.slot)
            .filter(|(window, _)| marked(window))
            .map(|(window, physical)| Translation { page: physical >> 12, memory: window.memory });
        let found = translation(raw);
        if found != wanted {
            return Err(format!("its own instruction finds {found:x?} where {wanted:x?} should be, from {raw:x?}"));
        }
    }
    let kind = probe.access.difference(Access::USER);
    let agrees = match (expected, (subject.report)(raw)) {
        (Outcome::Reached(physical), report) if !subject.machine.is_target(physical) => report == Report::Nowhere,
        (Outcome::Reached(physical), Report::Done) => match kind {
            Access::READ => raw.value == physical,
            Access::EXECUTE => raw.value as u32 == number(physical),
            // Looked at in memory.
            _ => true,
        },
        (Outcome::Failed(wanted), Report::Fault { fault, access, user, address }) => {
            fault == (subject.reported)(wanted)
                && access.is_none_or(|access| access == kind)
                && user.is_none_or(|user| user == probe.is_user())
                && address.is_none_or(|address| address == probe.address())
        }
        _ => false,
    };
    if agrees { Ok(()) } else { Err(format!("{:x?}, from {raw:x?}", (subject.report)(raw))) }
}

/// Writes that did not arrive where they should.
fn lost_writes<M>(
    subject: &Subject<M>,
    ram: &Ram,
    probes: &[Probe],
    expected: &[Outcome],
) -> Result<Vec<(Probe, String)>> {
    let mut last = BTreeMap::new();
    for (index, (probe, outcome)) in probes.iter().zip(expected).enumerate() {
        if let (Outcome::Reached(physical), true) = (outcome, probe.access.contains(Access::WRITE))
            && subject.machine.is_target(*physical)
        {
            last.insert(*physical, (index, *probe));
        }
    }
    let mut lost = Vec::new();
    for (physical, (index, probe)) in last {
        let found = ram.read_words(physical + MARK, 1)?.first().copied();
        if found != Some(mark(index)) {
            lost.push((
                probe,
                format!("it should have written {:#x} to {physical:#x}, where {found:x?} is", mark(index)),
            ));
        }
    }
    Ok(lost)
}

/// Leaves whose marks of use, as vmcore reads them, are not what the accesses should have left.
fn wrong_marks<M: Mmu, const SHIFT: u32>(
    world: &World<'_, M, SHIFT>,
    probes: &[Probe],
    expected: &[Outcome],
) -> Vec<(Probe, String)> {
    // By leaf: a probe, and whether there was any access, and any write.
    let mut used = BTreeMap::<u64, (Probe, bool, bool)>::new();
    for (probe, outcome) in probes.iter().zip(expected) {
        let Some((pages, _)) = world.tables.translate(&world.pool, VirtAddr::new(probe.slot)) else { continue };
        let reached = matches!(outcome, Outcome::Reached(_));
        let entry = used.entry(pages.start().as_u64()).or_insert((*probe, false, false));
        entry.1 |= reached;
        entry.2 |= reached && probe.access.contains(Access::WRITE);
    }
    let mut wrong = Vec::new();
    for (probe, accessed, dirty) in used.into_values() {
        let (Some((_, leaf)), Some((window, _))) =
            (world.tables.translate(&world.pool, VirtAddr::new(probe.slot)), world.model.find(probe.slot))
        else {
            continue;
        };
        let wanted = (window.accessed || accessed, window.dirty || dirty);
        if (leaf.accessed, leaf.dirty) != wanted {
            wrong.push((probe, format!("accessed and dirty should be {wanted:?}, and {leaf:?} is there")));
        }
    }
    wrong
}
