//! Which frames of a region are free: one bit each, and above them bits that say where to look.
//!
//! ```text
//!   level 2   | 1 |                                    one word
//!               └─► bit k: word k of level 1 is not zero
//!   level 1   | 1 1 0 1 … |                            one bit for 64 frames
//!               └─► bit k: word k of level 0 is not zero
//!   level 0   | 0110… | 1111… | 0000… | 1000… | …      one bit for a frame, set while it is free
//! ```
//!
//! A free frame is found by one look at each level, so taking and giving back cost O(log₆₄ frames): three looks for 1 GiB.
//! Runs of frames are searched for in level 0, word by word.
//!
//! # Invariants
//!
//! A bit above level 0 is set exactly if the word below it has a bit set. Bits beyond the last frame are clear.

use core::fmt;

/// Levels that 2^40 frames (all that x86-64 can name) take.
const LEVELS_MAX: usize = 7;

/// A frame was given back that is free already, or is not in the region: the bitmap was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTaken(
    /// The frame's index in the region.
    pub u64,
);

impl fmt::Display for NotTaken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "frame {:#x} of its region is not taken: it was given back twice", self.0)
    }
}

impl core::error::Error for NotTaken {}

/// The free frames of a region. All are taken at first.
#[derive(Debug)]
pub struct FrameBitmap<'a> {
    words: &'a mut [u64],
    /// Where each level begins in `words`, level 0 first.
    starts: [usize; LEVELS_MAX],
    levels: usize,
    frames: u64,
    free: u64,
}

/// Words of one level above (or for) `count` bits.
const fn words_for(count: u64) -> u64 {
    count.div_ceil(64)
}

/// The words that hold the bits of `count` frames from `first` on, and which bits of each those are.
fn words_of(first: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let (mut frame, end) = (first, first + count);
    core::iter::from_fn(move || {
        let (index, bit) = (frame / 64, frame % 64);
        let rest = (64 - bit).min(end - frame);
        frame += rest;
        (rest != 0).then(|| (index, (u64::MAX >> (64 - rest)) << bit))
    })
}

impl<'a> FrameBitmap<'a> {
    /// How many words a bitmap of so many frames takes.
    #[must_use]
    pub const fn words_needed(frames: u64) -> u64 {
        let mut level = words_for(frames);
        let mut sum = level;
        while level > 1 {
            level = words_for(level);
            sum += level;
        }
        sum
    }

    /// A bitmap in `words`, which are all zero. `None` if they are fewer than [`words_needed`](Self::words_needed) or there is no frame.
    pub fn new(words: &'a mut [u64], frames: u64) -> Option<Self> {
        if frames == 0 || (words.len() as u64) < Self::words_needed(frames) {
            return None;
        }
        let mut starts = [0; LEVELS_MAX];
        let mut level = words_for(frames);
        let mut levels = 1;
        while level > 1 {
            let below = starts.get(levels - 1).copied()?;
            *starts.get_mut(levels)? = below + level as usize;
            levels += 1;
            level = words_for(level);
        }
        Some(Self { words, starts, levels, frames, free: 0 })
    }

    /// How many frames are free.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// How many frames the region has.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    fn word(&self, level: usize, index: u64) -> u64 {
        let start = self.starts.get(level).copied().unwrap_or(0);
        self.words.get(start + index as usize).copied().unwrap_or(0)
    }

    fn word_mut(&mut self, level: usize, index: u64) -> Option<&mut u64> {
        let start = self.starts.get(level).copied()?;
        self.words.get_mut(start + index as usize)
    }

    /// Whether the frame is free; false outside of the region.
    #[must_use]
    pub fn is_free(&self, frame: u64) -> bool {
        frame < self.frames && self.word(0, frame / 64) >> (frame % 64) & 1 != 0
    }

    /// Takes the free frame with the lowest index.
    pub fn take(&mut self) -> Option<u64> {
        let mut index = 0;
        for level in (0..self.levels).rev() {
            let word = self.word(level, index);
            if word == 0 {
                return None;
            }
            index = index * 64 + u64::from(word.trailing_zeros());
        }
        self.clear(index);
        Some(index)
    }

    /// Takes the lowest run of `count` free frames that begins where `base` plus the index is a multiple of 2^`alignment`.
    /// O(frames / 64).
    pub fn take_run(&mut self, count: u64, alignment: u32, base: u64) -> Option<u64> {
        let unit = 1_u64.checked_shl(alignment)?;
        let mut first = 0;
        loop {
            first = self.next_free(first)?;
            first = base.checked_add(first)?.checked_next_multiple_of(unit)? - base;
            let end = first.checked_add(count).filter(|end| count != 0 && *end <= self.frames)?;
            match self.first_taken(first, end) {
                Some(taken) => first = taken + 1,
                None => {
                    for frame in first..end {
                        self.clear(frame);
                    }
                    return Some(first);
                }
            }
        }
    }

    /// Gives a taken frame back.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] for one that is free already or not in the region.
    pub fn give(&mut self, frame: u64) -> Result<(), NotTaken> {
        let bit = 1 << (frame % 64);
        // Level 0 begins the words.
        let word = self.words.get_mut((frame / 64) as usize).filter(|word| frame < self.frames && **word & bit == 0);
        let word = word.ok_or(NotTaken(frame))?;
        let was_empty = *word == 0;
        *word |= bit;
        self.free += 1;
        if was_empty {
            self.note_not_empty(frame / 64);
        }
        Ok(())
    }

    /// Gives `count` taken frames back that lie side by side. O(count / 64).
    ///
    /// # Errors
    ///
    /// [`NotTaken`] for the first of them that is free already or not in the region: none was given back.
    pub fn give_run(&mut self, first: u64, count: u64) -> Result<(), NotTaken> {
        let inside = first.checked_add(count).is_some_and(|end| end <= self.frames);
        if !inside {
            return Err(NotTaken(self.frames.max(first)));
        }
        for (index, bits) in words_of(first, count) {
            let free = self.word(0, index) & bits;
            if free != 0 {
                return Err(NotTaken(index * 64 + u64::from(free.trailing_zeros())));
            }
        }
        for (index, bits) in words_of(first, count) {
            // Level 0 begins the words.
            let Some(word) = self.words.get_mut(index as usize) else { break };
            let was_empty = *word == 0;
            *word |= bits;
            if was_empty {
                self.note_not_empty(index);
            }
        }
        self.free += count;
        Ok(())
    }

    /// Notes above level 0 that a word of it is not zero any more.
    fn note_not_empty(&mut self, mut index: u64) {
        for level in 1..self.levels {
            let Some(word) = self.word_mut(level, index / 64) else { break };
            let was_empty = *word == 0;
            *word |= 1 << (index % 64);
            if !was_empty {
                break;
            }
            index /= 64;
        }
    }

    /// Makes a free frame taken.
    fn clear(&mut self, frame: u64) {
        self.free -= 1;
        let mut index = frame;
        for level in 0..self.levels {
            let Some(word) = self.word_mut(level, index / 64) else { break };
            *word &= !(1 << (index % 64));
            if *word != 0 {
                break;
            }
            index /= 64;
        }
    }

    /// The first free frame from `frame` on.
    fn next_free(&self, frame: u64) -> Option<u64> {
        let mut index = frame / 64;
        let mut word = self.word(0, index) & (u64::MAX << (frame % 64));
        loop {
            if word != 0 {
                return Some(index * 64 + u64::from(word.trailing_zeros()));
            }
            index += 1;
            if index >= words_for(self.frames) {
                return None;
            }
            word = self.word(0, index);
        }
    }

    /// The first frame of `first..end` that is taken.
    fn first_taken(&self, first: u64, end: u64) -> Option<u64> {
        let mut frame = first;
        while frame < end {
            let taken = !self.word(0, frame / 64) >> (frame % 64);
            let rest = (64 - frame % 64).min(end - frame);
            if u64::from(taken.trailing_zeros()) < rest {
                return Some(frame + u64::from(taken.trailing_zeros()));
            }
            frame += rest;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn words(frames: u64) -> Vec<u64> {
        vec![0; FrameBitmap::words_needed(frames) as usize]
    }

    fn all_free(words: &mut [u64], frames: u64) -> FrameBitmap<'_> {
        let mut bitmap = FrameBitmap::new(words, frames).unwrap();
        (0..frames).for_each(|frame| bitmap.give(frame).unwrap());
        bitmap
    }

    #[test]
    fn sizes() {
        assert_eq!([1, 64, 65, 4096, 4097].map(FrameBitmap::words_needed), [1, 1, 3, 65, 68]);
        assert!(FrameBitmap::new(&mut [0; 2], 65).is_none(), "too few words");
        assert!(FrameBitmap::new(&mut [0; 2], 0).is_none(), "no frame");
        // All that x86-64 can name still has a place for each level.
        assert!(FrameBitmap::words_needed(1 << 40) < 1 << 35);
    }

    #[test]
    fn free_other_memory_word() {
        // One free frame in the last word of the last word of each level is found.
        for frames in [64, 65, 4096, 4097, 300_000] {
            let mut memory = words(frames);
            let mut bitmap = FrameBitmap::new(&mut memory, frames).unwrap();
            assert_eq!(bitmap.take(), None);
            bitmap.give(frames - 1).unwrap();
            assert_eq!((bitmap.take(), bitmap.take(), bitmap.free()), (Some(frames - 1), None, 0));
        }
    }

    #[test]
    fn double_free_detected() {
        let mut memory = words(100);
        let mut bitmap = all_free(&mut memory, 100);
        let frame = bitmap.take().unwrap();
        bitmap.give(frame).unwrap();
        assert_eq!(bitmap.give(frame), Err(NotTaken(frame)));
        assert_eq!(bitmap.give(100), Err(NotTaken(100)));
        let run = bitmap.take_run(70, 0, 0).unwrap();
        bitmap.give(run + 66).unwrap();
        assert_eq!(bitmap.give_run(run, 70), Err(NotTaken(run + 66)));
        assert_eq!(bitmap.free(), 31, "a refused run changes nothing");
        assert_eq!(bitmap.give_run(90, 11), Err(NotTaken(100)));
        assert_eq!((bitmap.give_run(run, 66), bitmap.give_run(run + 67, 3)), (Ok(()), Ok(())));
        assert_eq!(bitmap.free(), 100);
    }

    #[test]
    fn runs_are_aligned_by_frame_number() {
        let mut memory = words(2000);
        let mut bitmap = all_free(&mut memory, 2000);
        // The region begins at frame 0x103: the first multiple of 512 is 0x200.
        assert_eq!(bitmap.take_run(512, 9, 0x103), Some(0x200 - 0x103));
        assert_eq!(bitmap.take_run(512, 9, 0x103), Some(0x400 - 0x103));
        assert_eq!(bitmap.take_run(512, 9, 0x103), Some(0x600 - 0x103));
        assert_eq!(bitmap.take_run(512, 9, 0x103), None);
        assert_eq!(bitmap.take_run(0, 0, 0), None);
        assert_eq!(bitmap.take_run(1, 64, 0), None);
        assert_eq!(bitmap.take_run(u64::MAX, 0, 0), None);
        assert_eq!(bitmap.free(), 2000 - 3 * 512);
    }

    proptest! {
        #[test]
        fn like_a_set(frames in 1_u64..700, steps in prop::collection::vec((0_u8..4, 0_u64..700, 1_u64..90, 0_u32..7), 1..200)) {
            let mut memory = words(frames);
            let mut bitmap = all_free(&mut memory, frames);
            let mut model: BTreeSet<u64> = (0..frames).collect();
            for (what, frame, count, alignment) in steps {
                match what {
                    0 => prop_assert_eq!(bitmap.take(), model.pop_first()),
                    1 => prop_assert_eq!(bitmap.give(frame).is_ok(), frame < frames && model.insert(frame)),
                    2 => {
                        let mut run = frame..frame + count;
                        let fits = run.end <= frames && !run.any(|each| model.contains(&each));
                        prop_assert_eq!(bitmap.give_run(frame, count).is_ok(), fits);
                        if fits {
                            model.extend(frame..frame + count);
                        }
                    }
                    _ => {
                        let fits = |first: &u64| (*first..first + count).all(|frame| model.contains(&frame));
                        let expected = (0..frames).filter(|first| (first + 5) % (1 << alignment) == 0).find(fits);
                        prop_assert_eq!(bitmap.take_run(count, alignment, 5), expected);
                        if let Some(first) = expected {
                            (first..first + count).for_each(|frame| { model.remove(&frame); });
                        }
                    }
                }
                prop_assert_eq!(bitmap.free(), model.len() as u64);
            }
        }
    }
}
