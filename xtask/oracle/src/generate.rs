//! Random scripts: the same for the same seed, whatever machine and however many workers.
//!
//! A script is made before any of it is done, so it knows only what it asked for. That is enough to aim: most calls concern pages that are probably mapped, near the edges of
//! earlier calls, in a part of the window that is small in many scripts, so that calls meet one another.

use fastrand::Rng;

use crate::script::{Call, FILES, File, NULL, PAGE, PAGES, SLOTS, Script, Setting, Step, THREADS, linux::*};

/// How many pages a file has at the most.
const MOST_OF_A_FILE: u8 = 40;

/// What may be asked of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kinds {
    /// `MADV_GUARD_INSTALL` (6.13).
    pub guards: bool,
    /// `MADV_POPULATE_READ` (5.14).
    pub populates: bool,
    /// `MREMAP_DONTUNMAP` (5.7).
    pub keeps_old: bool,
    /// `mremap` of several regions (6.17).
    pub moves_several: bool,
    /// `process_vm_readv` and its like.
    pub copies: bool,
    /// What is mapped without a place: everything but the window can be filled.
    pub places: bool,
    /// Files in memory.
    pub files: bool,
    /// `mseal` (6.10).
    pub seals: bool,
    /// `mlock` and its like.
    pub locks: bool,
    /// `mlockall`.
    pub locks_all: bool,
    /// Memory that grows downwards.
    pub stacks: bool,
}

impl Kinds {
    /// All of these but the one with this name; `None` where there is no such.
    pub fn without(mut self, name: &str) -> Option<Self> {
        *match name {
            "guards" => &mut self.guards,
            "populates" => &mut self.populates,
            "keeps-old" => &mut self.keeps_old,
            "moves-several" => &mut self.moves_several,
            "copies" => &mut self.copies,
            "places" => &mut self.places,
            "files" => &mut self.files,
            "seals" => &mut self.seals,
            "locks" => &mut self.locks,
            "locks-all" => &mut self.locks_all,
            "stacks" => &mut self.stacks,
            _ => return None,
        } = false;
        Some(self)
    }

    /// All of them.
    pub const ALL: Self = Self {
        guards: true,
        populates: true,
        keeps_old: true,
        moves_several: true,
        copies: true,
        places: true,
        files: true,
        seals: true,
        locks: true,
        locks_all: true,
        stacks: true,
    };
}

/// The script with this number of those that begin with `seed`.
pub fn script(seed: u64, number: u64, steps: usize, kinds: Kinds) -> Script {
    // Neighbouring numbers must not give similar scripts: one generator's output is the other's seed.
    let mut seeds = Rng::with_seed(seed.rotate_left(32) ^ number);
    let mut rng = Rng::with_seed(seeds.u64(..) ^ number);
    let mut setting = setting(&mut rng, kinds);
    let stacks = kinds.stacks && rng.u8(..6) == 0;
    // Linux finds no place in what a stack may grow into.
    setting.placed &= !stacks;
    let one_in = |rng: &mut Rng, of: u8| rng.u8(..of) == 0;
    let mut maker = Maker {
        locks: kinds.locks && one_in(&mut rng, 4),
        seals: kinds.seals && one_in(&mut rng, 8),
        stacks,
        kinds,
        setting,
        width: *choose(&mut rng, &[6, 10, 16, 24, 64, 64]),
        slots: [None; SLOTS],
        actor: (0, 0),
        rng,
    };
    maker.slots[0] = Some(Shadow::default());
    let steps = (0..steps).map(|_| maker.step()).collect();
    Script { setting, steps }
}

fn setting(rng: &mut Rng, kinds: Kinds) -> Setting {
    let mut files = [0; FILES];
    if kinds.files && rng.u8(..3) == 0 {
        files = [rng.u8(1..=24), if rng.bool() { rng.u8(1..=MOST_OF_A_FILE) } else { 0 }];
    }
    let threads = if rng.u8(..4) == 0 { THREADS as u8 } else { 1 };
    Setting { placed: kinds.places && rng.bool(), files, threads }
}

/// What a script believes of a process.
#[derive(Clone, Copy, Default)]
struct Shadow {
    /// The pages that are probably mapped.
    mapped: u64,
    /// The first and last page of what was asked for last.
    edges: [u8; 4],
}

struct Maker {
    rng: Rng,
    /// Whether memory is locked, sealed, and grows downwards in this script.
    locks: bool,
    seals: bool,
    stacks: bool,
    kinds: Kinds,
    setting: Setting,
    /// How many pages of the window are used mostly.
    width: u64,
    slots: [Option<Shadow>; SLOTS],
    /// The process that acts, and the thread.
    actor: (usize, u8),
}

fn choose<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}

fn bits(first: u64, count: u64) -> u64 {
    if first >= PAGES || count == 0 {
        return 0;
    }
    (u64::MAX >> (PAGES - count.min(PAGES))) << first
}

impl Maker {
    fn step(&mut self) -> Step {
        // Mostly the one that acted last goes on.
        if self.rng.u8(..6) == 0 || self.slots[self.actor.0].is_none() {
            let alive: Vec<usize> = (0..SLOTS).filter(|slot| self.slots[*slot].is_some()).collect();
            self.actor = (*choose(&mut self.rng, &alive), self.rng.u8(..self.setting.threads));
        }
        let (slot, thread) = self.actor;
        Step { slot: slot as u8, thread, call: self.call() }
    }

    fn shadow(&mut self) -> &mut Shadow {
        self.slots[self.actor.0].get_or_insert_default()
    }

    fn call(&mut self) -> Call {
        if (self.locks || self.seals) && self.rng.u8(..10) == 0 {
            return self.lock_or_seal();
        }
        loop {
            return match self.rng.u16(..1000) {
                0..150 => self.map(),
                150..235 => self.unmap(),
                // A refused access has a stack grow on Linux, and not here.
                235..375 if self.stacks => continue,
                235..375 => {
                    let (address, length) = self.range();
                    let protection = *choose(&mut self.rng, &[3, 3, 3, 1, 1, 0, 7, 5, 2, 6, 4]);
                    Call::Protect { address, length, protection }
                }
                375..470 => match self.remap() {
                    Some(call) => call,
                    None => continue,
                },
                470..590 => self.advise(),
                590..600 => {
                    let (address, length) = self.range();
                    Call::Core { address, length }
                }
                600..755 => Call::Write { address: self.word(), value: u64::from(self.rng.u32(1..=16_000_000)) },
                755..910 => Call::Read { address: self.word() },
                910..950 if self.kinds.copies => {
                    let (address, length) = self.bytes();
                    Call::CopyIn { address, length }
                }
                910..975 if self.kinds.copies => {
                    let (address, length) = self.bytes();
                    Call::CopyOut { address, length, pattern: self.rng.u64(..) }
                }
                975..986 => {
                    let Some(child) = self.slots.iter().position(Option::is_none) else { continue };
                    self.slots[child] = self.slots[self.actor.0];
                    Call::Fork { child: child as u8 }
                }
                986..993 => {
                    if self.slots.iter().flatten().count() < 2 {
                        continue;
                    }
                    self.slots[self.actor.0] = None;
                    Call::Exit
                }
                993..995 => {
                    let (address, length) = self.range();
                    Call::Sync { address, length, flags: *choose(&mut self.rng, &[1, 2, 4, 5, 6, 8, 0]) }
                }
                _ => {
                    let file = self.rng.u8(..FILES as u8);
                    let pages = &mut self.setting.files[usize::from(file)];
                    if *pages == 0 {
                        continue;
                    }
                    *pages = self.rng.u8(1..=MOST_OF_A_FILE);
                    Call::Truncate { file, size: u64::from(*pages) * PAGE }
                }
            };
        }
    }

    /// Locks something, unlocks it, or seals it: what is sealed stays, so that there is little of it.
    fn lock_or_seal(&mut self) -> Call {
        let (address, mut length) = self.range();
        let shadow = *self.shadow();
        match self.rng.u8(..24) {
            0 if self.locks && self.kinds.locks_all => {
                Call::LockAll { flags: *choose(&mut self.rng, &[1, 1, 2, 3, 0, 8]) }
            }
            1 if self.locks => Call::UnlockAll,
            2..14 if self.locks => {
                // Mostly what is probably mapped: a refusal is the end of the script.
                let first = address / PAGE;
                let mapped = u64::from((!(shadow.mapped >> first.min(PAGES - 1))).trailing_zeros()) * PAGE;
                if mapped == 0 && self.rng.u8(..32) != 0 {
                    return Call::Unlock { address, length };
                }
                if self.rng.u8(..32) != 0 && length <= PAGES * PAGE {
                    length = length.min(mapped.saturating_sub(address % PAGE).max(1));
                }
                Call::Lock { address, length }
            }
            14..24 if self.locks => Call::Unlock { address, length },
            _ if self.seals && self.rng.u8(..3) == 0 => {
                let length = if length > PAGES * PAGE { length } else { length.min(4 * PAGE) };
                Call::Seal { address, length }
            }
            _ => Call::Core { address, length },
        }
    }

    /// A page to begin with, and how many.
    fn pages(&mut self) -> (u64, u64) {
        let width = if self.rng.u8(..16) == 0 { PAGES } else { self.width };
        let Shadow { mapped, edges } = *self.shadow();
        let first = match self.rng.u8(..8) {
            0..3 => u64::from(*choose(&mut self.rng, &edges)).min(PAGES - 1),
            3..6 if mapped != 0 => {
                // The n-th of those.
                let nth = self.rng.u32(..mapped.count_ones());
                (0..nth).fold(mapped, |set, _| set & (set - 1)).trailing_zeros().into()
            }
            _ => self.rng.u64(..width),
        };
        let most = (PAGES - first).min(match self.rng.u8(..8) {
            0..2 => 1,
            2..5 => 4,
            5..7 => 12,
            _ => width,
        });
        (first, self.rng.u64(1..=most))
    }

    fn note(&mut self, first: u64, count: u64) {
        let shadow = self.shadow();
        shadow.edges = [first as u8, (first + count) as u8, shadow.edges[0], shadow.edges[1]];
    }

    /// A range of whole pages; one in forty is none.
    fn range(&mut self) -> (u64, u64) {
        let (first, count) = self.pages();
        self.note(first, count);
        let (address, length) = (first * PAGE, count * PAGE);
        match self.rng.u16(..200) {
            0 => (address + self.rng.u64(1..PAGE), length),
            1 => (address, 0),
            2 => (address, if self.rng.bool() { u64::MAX } else { PAGE.wrapping_neg() }),
            // Rounded up to whole pages.
            3 | 4 => (address, length - self.rng.u64(1..PAGE)),
            _ => (address, length),
        }
    }

    /// A word of some page.
    fn word(&mut self) -> u64 {
        let (first, _) = self.pages();
        first * PAGE + 8 * self.rng.u64(..4).min(1) * self.rng.u64(..512)
    }

    fn bytes(&mut self) -> (u64, u64) {
        let (first, count) = self.pages();
        let start = first * PAGE + self.rng.u64(..PAGE);
        let most = (PAGES * PAGE - start).min(count.min(7) * PAGE);
        (start, self.rng.u64(1..=most))
    }

    fn map(&mut self) -> Call {
        let protection = *choose(&mut self.rng, &[3, 3, 3, 3, 3, 1, 0, 7, 5, 2]);
        // What Linux leaves cut where something sealed refuses a change is seen by what it maps around pages of shared memory.
        let mut flags = if self.rng.u8(..4) == 0 && !self.seals { MAP_SHARED } else { MAP_PRIVATE };
        let mut file = None;
        let sizes = self.setting.files;
        let number = self.rng.u8(..FILES as u8);
        let pages = u64::from(sizes[usize::from(number)]);
        if pages != 0 && self.rng.u8(..3) != 0 {
            let offset = self.rng.u64(..pages + 2) * PAGE;
            file = Some(File { number, offset });
        } else {
            flags |= MAP_ANONYMOUS;
        }
        if self.rng.u8(..8) == 0 {
            flags |= MAP_POPULATE;
        }
        if self.rng.u8(..24) == 0 {
            flags |= MAP_NORESERVE;
        }
        let mut protection = protection;
        if self.stacks && self.rng.u8(..6) == 0 {
            (flags, protection) = (flags | MAP_GROWSDOWN, 3);
        }
        if self.locks && self.rng.u8(..12) == 0 {
            flags |= MAP_LOCKED;
        }
        let (mut address, mut length) = self.range();
        if self.setting.placed && self.rng.u8(..2) == 0 {
            // A length that is none is refused anywhere; others fit.
            address = if self.rng.bool() { NULL } else { address };
            if address != NULL && address.saturating_add(length) > PAGES * PAGE {
                length = PAGE;
            }
            return Call::Map { address, length, protection, flags, file };
        }
        flags |= if self.rng.u8(..3) == 0 { MAP_FIXED_NOREPLACE } else { MAP_FIXED };
        self.shadow().mapped |= bits(address / PAGE, length.div_ceil(PAGE));
        Call::Map { address, length, protection, flags, file }
    }

    fn unmap(&mut self) -> Call {
        let (address, length) = self.range();
        if length <= PAGES * PAGE {
            self.shadow().mapped &= !bits(address / PAGE, length.div_ceil(PAGE));
        }
        Call::Unmap { address, length }
    }

    fn advise(&mut self) -> Call {
        loop {
            let advice = *choose(
                &mut self.rng,
                &[
                    MADV_DONTNEED,
                    MADV_DONTNEED,
                    MADV_DONTFORK,
                    MADV_DOFORK,
                    MADV_WIPEONFORK,
                    MADV_KEEPONFORK,
                    MADV_POPULATE_READ,
                    MADV_POPULATE_WRITE,
                    MADV_GUARD_INSTALL,
                    MADV_GUARD_REMOVE,
                ],
            );
            match advice {
                MADV_POPULATE_READ | MADV_POPULATE_WRITE if !self.kinds.populates => continue,
                MADV_GUARD_INSTALL | MADV_GUARD_REMOVE if !self.kinds.guards => continue,
                // A stack that a child gets wiped, or of which it gets a part, grows no more there.
                MADV_WIPEONFORK | MADV_DONTFORK if self.stacks => continue,
                // Of what is sealed nothing is discarded here; Linux allows it where the program may write.
                MADV_DONTNEED | MADV_GUARD_INSTALL | MADV_GUARD_REMOVE if self.seals => continue,
                _ => {}
            }
            let (address, length) = self.range();
            return Call::Advise { address, length, advice };
        }
    }

    fn remap(&mut self) -> Option<Call> {
        // A part of a stack that was moved away grows no more here, nor is it kept at the old addresses. And where Linux refuses a change since something is sealed, it
        // may have cut what lies before, as no other call shows.
        if self.stacks || self.seals {
            return None;
        }
        let (first, count) = self.pages();
        let most = *choose(&mut self.rng, &[2, 6, 16, self.width]);
        let new_count = if self.rng.u8(..3) == 0 { count } else { self.rng.u64(1..=most) };
        let new = match self.rng.u8(..4) {
            0 => self.rng.u64(..PAGES),
            _ => self.rng.u64(..self.width),
        };
        let fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
        let kept = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
        let flags = match self.rng.u8(..10) {
            0..3 => 0,
            3..5 if self.setting.placed => MREMAP_MAYMOVE,
            // Of locked memory that is kept at the old addresses, Linux unlocks all that lies around it.
            5..6 if self.setting.placed && self.kinds.keeps_old && !self.locks => kept,
            6..8 if self.kinds.keeps_old && !self.locks => kept | fixed,
            _ => fixed,
        };
        let new_count = if flags & MREMAP_DONTUNMAP != 0 && self.rng.u8(..8) != 0 { count } else { new_count };
        // The last pages of the window are grown over only where nothing lies behind.
        let new_count = if flags & MREMAP_FIXED != 0 { new_count.min(PAGES - new) } else { new_count };
        if flags & MREMAP_FIXED != 0 && new_count == count && count > 1 && !self.kinds.moves_several {
            return None;
        }
        // Several regions that are moved without a fixed place are each put anywhere by Linux, and refused by vmcore: one page lies in one.
        let (count, new_count) = if flags == kept { (1, 1) } else { (count, new_count) };
        self.note(first, count);
        if flags & MREMAP_FIXED != 0 {
            self.shadow().mapped |= bits(new, new_count);
        }
        if flags & MREMAP_DONTUNMAP == 0 {
            self.shadow().mapped &= !bits(first, if flags & MREMAP_FIXED != 0 { count } else { 0 });
        }
        let (mut old, mut old_length, mut new_length) = (first * PAGE, count * PAGE, new_count * PAGE);
        match self.rng.u16(..160) {
            0 => old += self.rng.u64(1..PAGE),
            1 => new_length = 0,
            2 => old_length -= self.rng.u64(1..PAGE),
            // What is shared is shown a second time.
            3..8 => old_length = 0,
            _ => {}
        }
        Some(Call::Remap { old, old_length, new_length, flags, new: new * PAGE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_all() {
        let of = |seed, number| script(seed, number, 300, Kinds::ALL);
        assert_eq!(of(1, 2), of(1, 2));
        assert_ne!(of(1, 2), of(1, 3));
        assert_ne!(of(1, 2), of(2, 2));
        // What was said with a result must be done again by later versions: change it on purpose only.
        assert_eq!(of(1, 2).steps.len(), 300);
    }

    #[test]
    fn scripts_stay_in_the_window_and_among_the_living() {
        for number in 0..200 {
            let made = script(7, number, 400, Kinds::ALL);
            assert_eq!(made.clone().repaired(), made, "no process acts that is not there");
            for step in &made.steps {
                if let Call::Map { address, length, .. } = step.call {
                    let inside = length > PAGES * PAGE || address == NULL || address + length <= PAGES * PAGE + PAGE;
                    assert!(inside, "{step:?}");
                }
            }
        }
    }
}
