//! Random numbers that programs cannot predict: a key from the machine, and any number of independent generators under it.
//!
//! ```text
//!   RDSEED, else RDRAND, else the time-stamp counter and the boot information; or seed=N
//!        │ absorbed word by word
//!        ▼
//!       key ──ChaCha20, stream n──► generator n: 2^70 bytes
//! ```
//!
//! The generators are `rand_chacha`'s. Which numbers one gives depends on the key and its own number alone, not on what others drew before: with a seed on the command line every
//! process has the same places in each boot, on any number of processors.
//!
//! The key is never changed: who reads the kernel's memory knows all places anyway.

use crate::log;
use core::arch::x86_64::{_rdrand64_step, _rdseed64_step, _rdtsc};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use raw_cpuid::CpuId;
use refkernel::boot_info::BootInfo;
use spin::Once;

/// Where the key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The processor's noise.
    Rdseed,
    /// The processor's generator.
    Rdrand,
    /// When the machine started, and what the loader told.
    Clock,
    /// A word of the command line.
    Fixed(u64),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rdseed => formatter.write_str("256 bits of RDSEED"),
            Self::Rdrand => formatter.write_str("256 bits of RDRAND"),
            Self::Clock => formatter.write_str(
                "the time-stamp counter and the boot information, for want of better: who knows when the machine started may guess it",
            ),
            Self::Fixed(seed) => write!(formatter, "seed={seed}: every boot draws the same"),
        }
    }
}

/// What a generator is made with.
#[derive(Clone, Copy)]
struct Key([u8; 32]);

impl Key {
    /// Takes a word in: what comes out depends on all words so far, and cannot be led back to them.
    fn absorb(&mut self, word: u64) {
        for (byte, more) in self.0.iter_mut().zip(word.to_le_bytes()) {
            *byte ^= more;
        }
        ChaCha20Rng::from_seed(self.0).fill_bytes(&mut self.0);
    }
}

static KEY: Once<Key> = Once::new();
/// The number of the next generator.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Makes the key, and says of what. Before the first process.
pub(crate) fn initialise(info: &BootInfo, seed: Option<u64>) {
    KEY.call_once(|| {
        let (key, source) = key(info, seed);
        log!("random: ChaCha20, its key from {source}");
        key
    });
}

fn key(info: &BootInfo, seed: Option<u64>) -> (Key, Source) {
    let mut key = Key([0; 32]);
    if let Some(seed) = seed {
        key.absorb(seed);
        return (key, Source::Fixed(seed));
    }
    // Whatever else there is, these do no harm.
    key.absorb(clock());
    for region in info.memory.iter() {
        key.absorb(region.start());
        key.absorb(region.length());
    }
    key.absorb(info.kernel.physical_base);
    key.absorb(info.module.map_or(0, |module| module.start() ^ module.end() << 32));
    let source = match hardware() {
        Some((words, source)) => {
            words.into_iter().for_each(|word| key.absorb(word));
            source
        }
        None => Source::Clock,
    };
    key.absorb(clock());
    (key, source)
}

/// The time-stamp counter.
fn clock() -> u64 {
    // SAFETY: every x86-64 processor has it, and the kernel may read it always.
    unsafe { _rdtsc() }
}

/// 256 bits from the processor, if it has any to give.
fn hardware() -> Option<([u64; 4], Source)> {
    let cpuid = CpuId::new();
    let rdseed = cpuid.get_extended_feature_info().is_some_and(|features| features.has_rdseed());
    let rdrand = cpuid.get_feature_info().is_some_and(|features| features.has_rdrand());
    // Intel's manual (Vol. 1, 7.3.17): RDRAND that fails ten times in a row is broken; RDSEED fails while noise is short, and is asked again after a pause.
    let seeded = if rdseed {
        // SAFETY: the processor has the instruction.
        words(100, |word| unsafe { _rdseed64_step(word) == 1 })
    } else {
        None
    };
    if let Some(words) = seeded {
        return Some((words, Source::Rdseed));
    }
    // SAFETY: the processor has the instruction.
    let drawn = if rdrand { words(10, |word| unsafe { _rdrand64_step(word) == 1 }) } else { None };
    drawn.map(|words| (words, Source::Rdrand))
}

/// Four words of a source that is asked again as often as it may fail. None if it gives the same word again: there are processors whose generator, once it has stopped, gives
/// all ones and calls that a success.
fn words(patience: u32, mut step: impl FnMut(&mut u64) -> bool) -> Option<[u64; 4]> {
    let mut words = [0; 4];
    let mut last = None;
    for word in &mut words {
        let mut tries = 0;
        while !step(word) {
            tries += 1;
            if tries == patience {
                return None;
            }
            core::hint::spin_loop();
        }
        if last == Some(*word) {
            return None;
        }
        last = Some(*word);
    }
    Some(words)
}

/// The number of a generator that nobody has yet.
pub(crate) fn number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How many numbers are made at once: as many as the four blocks that `rand_chacha` computes side by side.
const BATCH: usize = 32;

/// Random numbers. It keeps what was made beforehand, and not the crate's generator, which is aligned to 16 bytes: a tag of that size in a process's record is more than gdb can read.
pub(crate) struct Generator {
    number: u64,
    /// Words of 32 bits that were made.
    made: u64,
    /// Of the numbers below, those that nobody has had.
    left: usize,
    numbers: [u64; BATCH],
}

impl Generator {
    /// The one with this number.
    pub(crate) fn new(number: u64) -> Self {
        Self { number, made: 0, left: 0, numbers: [0; BATCH] }
    }

    /// 64 random bits.
    pub(crate) fn draw(&mut self) -> u64 {
        if self.left == 0 {
            // Nothing is drawn before the key is there: `initialise` comes before the first process.
            let mut source = ChaCha20Rng::from_seed(KEY.get().map_or([0; 32], |key| key.0));
            source.set_stream(self.number);
            source.set_word_pos(self.made.into());
            self.numbers.fill_with(|| source.next_u64());
            self.made += 2 * BATCH as u64;
            self.left = BATCH;
        }
        self.left -= 1;
        // What was given away is not kept.
        self.numbers.get_mut(self.left).map_or(0, core::mem::take)
    }
}
