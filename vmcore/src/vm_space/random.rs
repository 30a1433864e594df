//! Random places: which of all addresses at which a window fits it gets, from 64 random bits.
//!
//! ```text
//!   limits     |.......xxxx......x..xxxxxxxx.......|      x: windows that are there
//!   starts     ^  ^  ^  ^  ^  ^  ^  ^  ^  ^  ^  ^        every step of the alignment at which it ends within the limits
//!   1st draw                        !                    taken: drawn again, as often as DRAWS
//!   2nd draw         !                                   free: this one
//! ```
//!
//! A draw that meets a window is drawn again rather than moved to the next gap: the first place behind a window would be as likely as all
//! places in the window together, and a program could count on it. So the free starts are equally likely, but for the chance that every
//! draw meets a window: `q^DRAWS`, where `q` is the part of the starts that are taken (one in four thousand millions where that is half of them).
//! Then a gap is looked for from the last draw upwards, or else from the lowest address, and a start in that gap is drawn: a window that
//! fits anywhere is never refused.
//!
//! The draws behind the first one are made of the same 64 bits (the finaliser of SplitMix64, a bijection for each draw): whoever does not know the bits
//! knows none of them, and there are more of them than of places.

use crate::addr::VirtAddr;
use crate::platform::Platform;
use crate::vm_space::index::{GapRequest, Index};

/// How often a start is drawn before a gap is looked for.
const DRAWS: u64 = 32;

/// The addresses at which what is looked for could begin, whatever is there.
struct Starts {
    first: u64,
    /// As a power of two.
    step: u32,
    count: u64,
}

impl Starts {
    /// None if it fits nowhere within the limits.
    fn of(request: &GapRequest, page_shift: u32) -> Option<Self> {
        let step = request.alignment.max(page_shift);
        let below = 1_u64.checked_shl(step)?.wrapping_sub(1);
        let first = request.first.checked_add(request.phase.wrapping_sub(request.first) & below)?;
        let last = request.last.checked_sub(request.size.checked_sub(1)?)?;
        Some(Self { first, step, count: (last.checked_sub(first)? >> step).saturating_add(1) })
    }

    /// One of them: the high half of the product spreads the bits over as many starts without a division, and without favour but for
    /// 1 in 2^64 / count.
    fn draw(&self, bits: u64) -> u64 {
        let chosen = (u128::from(bits) * u128::from(self.count)) >> 64;
        self.first.wrapping_add((chosen as u64).wrapping_shl(self.step))
    }
}

/// The bits of a draw; those of the first one as they are.
fn bits(entropy: u64, draw: u64) -> u64 {
    if draw == 0 {
        return entropy;
    }
    let mut bits = entropy.wrapping_add(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A start that is free. O(log n), like the search for a gap.
pub(super) fn random_gap<P: Platform, W>(
    index: &Index<P, W>,
    request: &GapRequest,
    entropy: u64,
    page_shift: u32,
) -> Option<VirtAddr> {
    let starts = Starts::of(request, page_shift)?;
    let mut start = starts.first;
    for draw in 0..DRAWS {
        start = starts.draw(bits(entropy, draw));
        // It ends within the limits.
        let last = start.wrapping_add(request.size.wrapping_sub(1));
        let next = index.first_from(VirtAddr::new(start));
        if next.is_none_or(|slot| slot.range.start().as_u64() > last) {
            return Some(VirtAddr::new(start));
        }
    }
    let above = GapRequest { first: start, ..*request };
    let lowest = index.lowest_gap(&above).or_else(|| index.lowest_gap(request))?;
    // Somewhere in the gap that begins there.
    let end = index.first_from(lowest).and_then(|slot| slot.range.start().as_u64().checked_sub(1));
    let gap = GapRequest { first: lowest.as_u64(), last: end.unwrap_or(u64::MAX).min(request.last), ..*request };
    Some(Starts::of(&gap, page_shift).map_or(lowest, |starts| VirtAddr::new(starts.draw(bits(entropy, DRAWS)))))
}
