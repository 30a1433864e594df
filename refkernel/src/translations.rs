//! How a processor forgets translations: from what a flush names, or a space's activation asks for, to instructions.
//!
//! Intel SDM Vol. 3A, 5.10.4.1. What each instruction drops of what the processor remembers:
//!
//! | instruction | translations | pointers to tables |
//! |---|---|---|
//! | `invlpg` | of the page, under the loaded tag; global ones | under the loaded tag |
//! | write of CR3 | under its tag; no global ones | under its tag |
//! | `invpcid` 0 | of the page, under the tag; no global ones | of the page, under the tag |
//! | `invpcid` 1 | under the tag; no global ones | under the tag |
//! | `invpcid` 2, change of CR4.PGE | all | all |
//!
//! A tag is a process-context identifier (PCID). Where there are none, all is remembered under one tag, which is always loaded, and a space
//! that is left leaves nothing. The kernel uses tags where a processor has both PCID and `invpcid`: without the latter, each change of a space that is
//! not loaded would cost everything that is remembered.

use vmcore::addr::{PageRange, PhysAddr, VirtAddr};
use vmcore::paging::{FlushScope, Tag};
use vmcore::vm_space::{Activation, ActivationFlush};

/// From so many pages of a space on, it is cheaper to forget all of it.
const SINGLE_PAGES_MAX: u64 = 32;

const PAGE_SHIFT: u32 = 12;

/// A processor, by the instructions that concern what it remembers.
pub trait Processor {
    /// The tag that is loaded; `None` where there are no tags.
    fn loaded(&self) -> Option<Tag>;

    /// `invlpg`.
    fn forget_page(&mut self, address: VirtAddr);

    /// A write of CR3 as it is. Only asked for where there are no tags.
    fn forget_loaded(&mut self);

    /// `invpcid` 0. Only asked for where there are tags, as the next one is.
    fn forget_page_of(&mut self, tag: Tag, address: VirtAddr);

    /// `invpcid` 1.
    fn forget_tag(&mut self, tag: Tag);

    /// `invpcid` 2, or a change of CR4.PGE; where there are no global translations, a write of CR3.
    fn forget_everything(&mut self);

    /// A write of CR3 with another root. `keep`: bit 63, so that nothing is forgotten; only asked for where there are tags.
    fn load(&mut self, root: PhysAddr, tag: Tag, keep: bool);
}

/// Makes a processor forget what a flush names. O(pages named, at most 32 of each of a few spaces).
#[inline]
pub fn forget(scope: &FlushScope, processor: &mut impl Processor) {
    match processor.loaded() {
        None => forget_untagged(scope, processor),
        Some(loaded) => forget_tagged(scope, loaded, processor),
    }
}

/// A space that is not loaded has left nothing, and one that is has it at these addresses. So ranges are counted together, whose they may be.
#[inline]
fn forget_untagged(scope: &FlushScope, processor: &mut impl Processor) {
    let pages = scope.entries().try_fold(0_u64, |pages, entry| pages.checked_add(entry.range?.pages(PAGE_SHIFT)));
    let all = scope.is_everything() || pages.is_none_or(|pages| pages > SINGLE_PAGES_MAX);
    if all && scope.globals() {
        processor.forget_everything();
    } else if all {
        processor.forget_loaded();
    } else {
        let ranges = scope.entries().filter_map(|entry| entry.range);
        ranges.for_each(|range| each_page(range, |address| processor.forget_page(address)));
    }
}

#[cold]
fn forget_tagged(scope: &FlushScope, loaded: Tag, processor: &mut impl Processor) {
    let scope = scope.widened(SINGLE_PAGES_MAX, PAGE_SHIFT);
    let whole_space = scope.entries().any(|entry| entry.range.is_none());
    let nameless = scope.tables() && scope.entries().next().is_none();
    if scope.is_everything() || nameless || scope.shared_tables() || (scope.globals() && whole_space) {
        return processor.forget_everything();
    }
    for entry in scope.entries() {
        match entry.range {
            None => processor.forget_tag(entry.tag),
            Some(range) => each_page(range, |address| {
                let is_loaded = entry.tag == loaded;
                if is_loaded || scope.globals() {
                    processor.forget_page(address);
                }
                if !is_loaded {
                    processor.forget_page_of(entry.tag, address);
                }
            }),
        }
    }
}

fn each_page(range: PageRange, mut function: impl FnMut(VirtAddr)) {
    for page in 0..range.pages(PAGE_SHIFT) {
        function(VirtAddr::new(range.start().as_u64() + (page << PAGE_SHIFT)));
    }
}

/// Loads a space's root, and makes the processor forget what is asked with it.
#[inline]
pub fn load(activation: &Activation, processor: &mut impl Processor) {
    let keep = activation.flush == ActivationFlush::Nothing && processor.loaded().is_some();
    processor.load(activation.root, activation.tag, keep);
    if activation.flush > ActivationFlush::Tag {
        processor.forget_everything();
    }
}

#[cfg(test)]
mod tests;
