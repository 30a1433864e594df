//! `vmcore::static_vec`, in lent memory and beyond it.

use vmcore::{
    FrameMemory,
    static_vec::{GrowthMemory, OutOfMemory, Rejected, StaticMemory, StaticVec},
};

use super::{debugged, displayed, hidden, shown};
use crate::platform::Probe;

static SLOTS: StaticMemory<u64, 8> = StaticMemory::new();

pub(super) fn all() {
    debugged(&SLOTS);
    displayed(OutOfMemory::new(hidden(1)));
    if let Some(memory) = SLOTS.take() {
        edit(&mut hidden(StaticVec::<u64>::lent(memory)));
    }
    if let Some(memory) = SLOTS.take() {
        edit(&mut hidden(StaticVec::lent_with_memory(memory, FrameMemory::new(Probe))));
    }
    if let Some(memory) = SLOTS.take() {
        let mut list = hidden(StaticVec::<u64>::new());
        shown(list.lend(memory));
        edit(&mut list.growing(FrameMemory::new(Probe)));
    }
    edit(&mut hidden(StaticVec::with_memory(&FrameMemory::new(Probe))));
}

fn edit<M: GrowthMemory + Clone>(list: &mut StaticVec<u64, M>) {
    shown(list.len());
    shown(list.is_empty());
    shown(list.capacity());
    shown(list.is_grown());
    shown(list.memory());
    shown(list.as_slice());
    shown(list.as_mut_slice());
    for element in list.iter() {
        shown(element);
    }
    for element in list.iter_mut() {
        shown(element);
    }
    for element in &*list {
        shown(element);
    }
    for element in &mut *list {
        shown(element);
    }
    if let Err(error) = list.reserve(hidden(1)) {
        displayed(error);
    }
    shown(list.reserve_exact(hidden(1)));
    shown(list.shrink_to_fit());
    if let Err(Rejected { error, .. }) = list.push(hidden(1)) {
        displayed(error);
    }
    shown(list.push_within_capacity(hidden(1)));
    if let Err(rejected) = list.insert(hidden(1), hidden(1)) {
        displayed(rejected);
        debugged(rejected);
    }
    shown(list.insert_sorted_by_key(hidden(1), |element| hidden(*element)));
    shown(list.pop());
    shown(list.remove(hidden(1)));
    shown(list.swap_remove(hidden(1)));
    list.truncate(hidden(1));
    match list.drain(hidden(1)..hidden(3)) {
        Ok(mut drain) => {
            shown(drain.next());
            shown(drain.next_back());
            shown(drain.len());
        }
        Err(error) => displayed(error),
    }
    shown(list.drain(..).is_ok());
    shown(list.drain(..=hidden(1)).is_ok());
    list.retain(|element| hidden(*element) != 0);
    list.retain_mut(|element| hidden(*element) != 0);
    debugged(&*list);
    if let Ok(copy) = list.try_clone() {
        let mut elements = copy.into_iter();
        shown(elements.next());
        shown(elements.next_back());
        shown(elements.len());
    }
    list.clear();
}
