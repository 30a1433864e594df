//! What must be true of places, asked in the machine: over many processes each bit of an address that is said not to be known is set as often as not.

use super::{ARENA_SHIFT, LARGE_BITS, LARGE_SHIFT, SMALL_BITS, STACK_BITS, START};
use crate::boot_tests::{Failure, require};
use crate::memory::Kernel;
use crate::process::{Process, ProcessRef, Start, calls};
use crate::programs::Programs;
use alloc::vec::Vec;
use refkernel_abi::{PAGE_SIZE, USER_END};
use vmcore::addr::{PageRange, VirtAddr};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::MapRequest;

/// A test: why it failed.
type Test = fn(&Programs<'_>) -> Result<(), Failure>;

/// Every test of places, by name.
pub(crate) const ALL: &[(&str, Test)] = &[
    ("addresses_have_the_bits_that_are_stated", addresses_have_their_bits),
    ("a_copy_keeps_its_places_and_draws_others", a_copy_draws_others),
    ("full_pockets_and_arenas_refuse_nothing", full_ones_refuse_nothing),
];

/// Where a window of a process goes.
fn window(process: &Process, area: &Area<Kernel>) -> Result<u64, Failure> {
    let found = process.placement().in_turn(
        process.space(),
        area.size(),
        || true,
        |place, alignment| {
            let request = MapRequest::new(area).place(place).aligned(alignment);
            process.space().map(&request).map_err(calls::space_error)
        },
    );
    found.map(|range| range.start().as_u64()).map_err(|_| Failure::NotSo("there is room for a window"))
}

fn stack(process: &Process) -> u64 {
    process.labels.iter().find(|(_, label)| *label == "stack").map_or(0, |(address, _)| *address)
}

/// How often each bit was set, of addresses counted in steps from the lowest on.
struct Tally {
    bits: u32,
    shift: u32,
    set: [u32; 36],
    /// How often a bit was as the one above it.
    alike: [u32; 36],
    seen: Vec<u64>,
}

impl Tally {
    const SAMPLES: u32 = 256;

    fn new(bits: u32, shift: u32) -> Self {
        Self { bits, shift, set: [0; 36], alike: [0; 36], seen: Vec::new() }
    }

    fn note(&mut self, address: u64) -> Result<(), Failure> {
        require(address.is_multiple_of(1 << self.shift), "an address is aligned as its window needs it")?;
        require((START..USER_END).contains(&address), "an address is one of those that are drawn")?;
        require(self.seen.try_reserve(1).is_ok(), "the heap has room")?;
        self.seen.push(address);
        let number = (address - START) >> self.shift;
        for bit in 0..=self.bits as usize {
            if let (Some(set), Some(alike)) = (self.set.get_mut(bit), self.alike.get_mut(bit)) {
                *set += (number >> bit & 1) as u32;
                *alike += u32::from((number >> bit ^ number >> (bit + 1)) & 1 == 0);
            }
        }
        Ok(())
    }

    /// Each as often as not, within six times the deviation (half of the square root of the samples), which chance misses once in some millions of boots: with a seed, never or always.
    /// There are as many bits as are stated and a little less than one more, which is as even as the others.
    fn check(mut self, twice: u64) -> Result<(), Failure> {
        const FAR: u32 = 6 * 8;
        let fair = Self::SAMPLES / 2 - FAR..=Self::SAMPLES / 2 + FAR;
        let (bits, last) = (self.bits as usize + 1, self.bits as usize);
        require(self.set.iter().take(bits).all(|count| fair.contains(count)), "each bit is set as often as not")?;
        let alike = self.alike.iter().take(last);
        require(alike.into_iter().all(|count| fair.contains(count)), "no bit follows from the one above it")?;
        self.seen.sort_unstable();
        let again = self.seen.iter().zip(self.seen.iter().skip(1)).filter(|(one, other)| one == other).count() as u64;
        require(again <= twice, "no address comes again")
    }
}

/// Many processes, each with a stack, a small and a large window.
fn addresses_have_their_bits(programs: &Programs<'_>) -> Result<(), Failure> {
    let small = Area::new(&Kernel, AreaKind::Open { size: PAGE_SIZE }, ())?;
    let large = Area::new(&Kernel, AreaKind::Open { size: 1 << LARGE_SHIFT }, ())?;
    let mut stacks = Tally::new(STACK_BITS, 12);
    let mut windows = [Tally::new(SMALL_BITS, 12), Tally::new(LARGE_BITS, LARGE_SHIFT)];
    let mut relative = 0;
    for _ in 0..Tally::SAMPLES {
        let process = programs.load("check", Start::default())?;
        stacks.note(stack(&process))?;
        let mut first = 0;
        for (tally, area) in windows.iter_mut().zip([&small, &large]) {
            let address = window(&process, area)?;
            tally.note(address)?;
            first = if area.size() == PAGE_SIZE { address } else { first };
        }
        let second = window(&process, &small)?;
        require(first >> ARENA_SHIFT == second >> ARENA_SHIFT, "small windows share a gibibyte")?;
        relative += u32::from(second > first);
    }
    let [small, large] = windows;
    require((80..=176).contains(&relative), "the second window is above the first as often as below")?;
    small.check(0)?;
    // Among 2^26 one of 256 comes again in one boot of two thousand.
    large.check(1)?;
    stacks.check(0)
}

/// A copy of a process: what there is stays where it is, what comes is drawn anew.
fn a_copy_draws_others(programs: &Programs<'_>) -> Result<(), Failure> {
    let area = Area::new(&Kernel, AreaKind::Open { size: PAGE_SIZE }, ())?;
    let process = programs.load("check", Start::default())?;
    let there = window(&process, &area)?;
    let copy: ProcessRef = process.copy().map_err(|_| Failure::NotSo("there is memory for a copy"))?;
    let starts =
        |process: &ProcessRef| process.space().windows().fold(0, |sum, window| sum ^ window.range.start().as_u64());
    require(starts(&process) == starts(&copy), "a copy has its windows where the original has them")?;
    require(copy.space().windows().any(|window| window.range.start().as_u64() == there), "the drawn one too")?;
    for _ in 0..8 {
        let (one, other) = (window(&process, &area)?, window(&copy, &area)?);
        require(one != other, "windows to come are elsewhere")?;
    }
    Ok(())
}

/// Where the pocket is full there is another one, and where the arena is there are other addresses.
fn full_ones_refuse_nothing(programs: &Programs<'_>) -> Result<(), Failure> {
    let area = Area::new(&Kernel, AreaKind::Open { size: PAGE_SIZE }, ())?;
    let process = programs.load("check", Start::default())?;
    let ranges = || process.placement().with(process.space(), |drawn| [drawn.pocket, drawn.arena]);
    let fill = |range: PageRange| -> Result<(), Failure> {
        let full = Area::new(&Kernel, AreaKind::Open { size: range.size() }, ())?;
        let taken = process.space().map(&MapRequest::new(&full).at(range.start().as_u64()));
        require(taken.is_ok(), "what is free is mapped")
    };
    let [pocket, arena] = ranges();
    require(arena.covers(pocket) && pocket.size() == 1 << LARGE_SHIFT, "the pocket is a part of the arena")?;
    fill(pocket)?;
    let address = VirtAddr::new(window(&process, &area)?);
    require(arena.contains(address) && !pocket.contains(address), "the next window is in another pocket")?;
    require(ranges().first().is_some_and(|pocket| pocket.contains(address)), "which is the process's now")?;
    // All of the arena but for the window that is there.
    let below = process.space().range(arena.start().as_u64(), address.as_u64() - arena.start().as_u64());
    let above = address.as_u64() + PAGE_SIZE;
    let above = process.space().range(above, arena.last().as_u64() + 1 - above);
    for part in [below, above].into_iter().flatten() {
        let part = if part.overlaps(pocket) { [part.before(pocket), part.after(pocket)] } else { [Some(part), None] };
        part.into_iter().flatten().try_for_each(fill)?;
    }
    let address = VirtAddr::new(window(&process, &area)?);
    require(!arena.contains(address), "the next window lies elsewhere")
}
