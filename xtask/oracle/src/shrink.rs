//! The shortest script that still shows a difference.
//!
//! What follows the step that shows it goes first. Then steps are left out in ever smaller pieces (delta debugging), then what is left is made plainer: fewer pages, one process, one thread, plain values. Each try is done in new
//! processes; one that shows no difference is undone. The result depends on nothing but the script and what shows the difference.

use crate::script::{Call, MOST_COPIED, PAGE, PAGES, SLOTS, Script};

/// Shrinks a script of which `shows` says which step shows the difference, if any does. `shows` is asked at the most `tries` times.
pub fn shrink(script: Script, tries: usize, shows: impl FnMut(&Script) -> Option<usize>) -> Script {
    let mut search = Search { best: Script::default(), tries, shows };
    if !search.take(script.clone()) {
        return script;
    }
    loop {
        let before = search.best.clone();
        search.leave_out_processes();
        search.leave_out();
        search.simplify_setting();
        search.simplify_steps();
        if search.best == before || search.tries == 0 {
            return search.best;
        }
    }
}

struct Search<F> {
    best: Script,
    tries: usize,
    shows: F,
}

impl<F: FnMut(&Script) -> Option<usize>> Search<F> {
    /// Takes a script if it shows the difference.
    fn take(&mut self, script: Script) -> bool {
        let script = script.repaired();
        if self.tries == 0 || script == self.best || script.steps.is_empty() {
            return false;
        }
        self.tries -= 1;
        let shows = (self.shows)(&script);
        if let Some(step) = shows {
            self.best = script;
            // Nothing that comes later shows it.
            self.best.steps.truncate(step + 1);
        }
        shows.is_some()
    }

    /// What a process does, or its children with it.
    fn leave_out_processes(&mut self) {
        for slot in 0..SLOTS as u8 {
            let mut script = self.best.clone();
            script.steps.retain(|step| !matches!(step.call, Call::Fork { child } if child == slot));
            self.take(script);
            let mut script = self.best.clone();
            script.steps.retain(|step| step.slot != slot || matches!(step.call, Call::Fork { .. } | Call::Exit));
            self.take(script);
        }
    }

    fn leave_out(&mut self) {
        let mut size = self.best.steps.len().div_ceil(2);
        while size != 0 {
            // From the end: what is last has the least that depends on it.
            let mut end = self.best.steps.len();
            while end != 0 && self.tries != 0 {
                let start = end.saturating_sub(size);
                let mut script = self.best.clone();
                script.steps.drain(start..end.min(script.steps.len()));
                self.take(script);
                end = start.min(self.best.steps.len());
            }
            size /= 2;
        }
        self.leave_out_pairs();
    }

    /// Two steps that need each other, as a map and its unmap. Few are left.
    fn leave_out_pairs(&mut self) {
        if self.best.steps.len() > 24 {
            return;
        }
        let mut first = 0;
        while first < self.best.steps.len() {
            let mut second = first + 1;
            while second < self.best.steps.len() {
                let mut script = self.best.clone();
                script.steps.remove(second);
                script.steps.remove(first);
                if !self.take(script) {
                    second += 1;
                }
            }
            first += 1;
        }
    }

    fn simplify_setting(&mut self) {
        let mut script = self.best.clone();
        script.setting.threads = 1;
        script.steps.iter_mut().for_each(|step| step.thread = 0);
        self.take(script);
        let mut script = self.best.clone();
        script.setting.placed = false;
        self.take(script);
        for file in 0..script_files(&self.best) {
            let mut script = self.best.clone();
            script.setting.files[file] = 0;
            script.steps.retain(
                |step| !matches!(step.call, Call::Map { file: Some(of), .. } if usize::from(of.number) == file),
            );
            self.take(script);
        }
    }

    fn simplify_steps(&mut self) {
        let mut index = 0;
        while let Some(step) = self.best.steps.get(index).copied() {
            for call in simpler(step.call) {
                let mut script = self.best.clone();
                script.steps[index].call = call;
                if self.take(script) {
                    break;
                }
            }
            for (slot, thread) in [(0, 0), (step.slot, 0), (0, step.thread)] {
                let mut script = self.best.clone();
                if let Some(changed) = script.steps.get_mut(index) {
                    (changed.slot, changed.thread) = (slot, thread);
                }
                if self.take(script) {
                    break;
                }
            }
            index += 1;
        }
    }
}

fn script_files(script: &Script) -> usize {
    script.setting.files.len()
}

/// Calls that say less, the plainest first.
fn simpler(call: Call) -> Vec<Call> {
    // A length that is none stays: half of it would reach over everything.
    let shorter = |length: u64| {
        let less = [PAGE, length / 2 / PAGE * PAGE, length.wrapping_sub(PAGE)].into_iter();
        less.filter(move |less| length <= PAGES * PAGE && *less != 0 && *less < length)
    };
    match call {
        Call::Map { address, length, protection, flags, file } => {
            let plain = Call::Map { address, length, protection: 3, flags, file };
            let lengths = shorter(length).map(|length| Call::Map { address, length, protection, flags, file });
            [plain].into_iter().filter(|plain| *plain != call).chain(lengths).collect()
        }
        Call::Unmap { address, length } => shorter(length).map(|length| Call::Unmap { address, length }).collect(),
        Call::Protect { address, length, protection } => {
            shorter(length).map(|length| Call::Protect { address, length, protection }).collect()
        }
        Call::Advise { address, length, advice } => {
            shorter(length).map(|length| Call::Advise { address, length, advice }).collect()
        }
        Call::Remap { old, old_length, new_length, flags, new } => {
            let mut all: Vec<Call> = shorter(old_length.max(new_length))
                .map(|length| Call::Remap {
                    old,
                    old_length: old_length.min(length),
                    new_length: new_length.min(length),
                    flags,
                    new,
                })
                .filter(|less| *less != call)
                .collect();
            all.extend(shorter(new_length).map(|new_length| Call::Remap { old, old_length, new_length, flags, new }));
            all
        }
        Call::Write { address, value } => {
            let plain = Call::Write { address: address / PAGE * PAGE, value: 1 };
            let word = Call::Write { address: address / PAGE * PAGE, value };
            let value = Call::Write { address, value: 1 };
            [plain, word, value].into_iter().filter(|less| *less != call).collect()
        }
        Call::Read { address } => {
            let plain = Call::Read { address: address / PAGE * PAGE };
            if plain == call { Vec::new() } else { vec![plain] }
        }
        Call::CopyIn { address, length } => {
            let word = Call::CopyIn { address, length: 8 };
            let aligned = Call::CopyIn {
                address: address / PAGE * PAGE,
                length: length.next_multiple_of(PAGE).min(MOST_COPIED as u64),
            };
            [word, aligned].into_iter().filter(|less| *less != call).collect()
        }
        Call::CopyOut { address, length, pattern } => {
            let word = Call::CopyOut { address, length: 8, pattern };
            let plain = Call::CopyOut { address, length, pattern: 1 };
            [word, plain].into_iter().filter(|less| *less != call).collect()
        }
        Call::Sync { address, length, flags } => {
            shorter(length).map(|length| Call::Sync { address, length, flags }).collect()
        }
        Call::Core { address, length } => shorter(length).map(|length| Call::Core { address, length }).collect(),
        Call::Lock { address, length } => shorter(length).map(|length| Call::Lock { address, length }).collect(),
        Call::Unlock { address, length } => shorter(length).map(|length| Call::Unlock { address, length }).collect(),
        Call::Seal { address, length } => shorter(length).map(|length| Call::Seal { address, length }).collect(),
        Call::LockAll { .. } | Call::UnlockAll | Call::Truncate { .. } | Call::Fork { .. } | Call::Exit => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Kinds, script};

    /// What shows it is that some process writes after a fork: two steps are enough.
    #[test]
    fn the_shortest_is_found() {
        let shows = |script: &Script| {
            let fork = script.steps.iter().position(|step| matches!(step.call, Call::Fork { .. }))?;
            let write = script.steps[fork..].iter().position(|step| matches!(step.call, Call::Write { .. }))?;
            Some(fork + write)
        };
        let mut made = (0..).map(|number| script(1, number, 600, Kinds::ALL));
        let made = made.find(|script| shows(script).is_some()).unwrap();
        let small = shrink(made, 10_000, shows);
        assert_eq!((small.steps.len(), shows(&small)), (2, Some(1)), "{small:?}");
        assert_eq!(small.clone().repaired(), small);
        assert!(matches!(small.steps[1].call, Call::Write { value: 1, address } if address % PAGE == 0));
        assert_eq!((small.setting.threads, small.setting.placed), (1, false));
    }

    #[test]
    fn it_ends_after_so_many_tries() {
        let mut tries = 0;
        shrink(script(1, 1, 600, Kinds::ALL), 50, |script| {
            tries += 1;
            Some(script.steps.len() - 1)
        });
        assert!(tries <= 50);
    }

    #[test]
    fn what_shows_nothing_stays() {
        let made = script(1, 1, 100, Kinds::ALL);
        assert_eq!(shrink(made.clone(), 50, |_| None), made);
    }
}
