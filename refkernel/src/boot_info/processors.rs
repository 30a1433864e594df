//! The machine's processors, by their interrupt controllers' numbers, and where the ACPI table of them (the MADT) names them.
//!
//! ```text
//!   MADT   | header 36 | address 4 | flags 4 | entry | entry | ...          ACPI 6.5, 5.2.12
//!   entry  | type 1 | length 1 | ...
//!   type 0 | processor 1 | APIC id 1 | flags 4                              a local APIC
//!   type 9 | reserved 2 | x2APIC id 4 | flags 4 | processor 4               one whose number may be above 254
//! ```
//!
//! The table comes from outside: an entry that is too short, or longer than what is left, ends the reading.

/// The most processors that are remembered: a set of them is one word.
pub const PROCESSORS_MAX: usize = 64;

/// The fixed part of the MADT.
pub(super) const MADT_HEADER: usize = 44;
/// Bit 0 of an entry's flags: the processor can be used. (Bit 1, it could be plugged in later, is not looked at.)
const ENABLED: u32 = 1;
/// An xAPIC's broadcast number is no processor's.
const BROADCAST: u32 = 0xff;

/// One processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The number of its local interrupt controller.
    pub apic_id: u32,
    /// Physical address of the loader's record, at which it waits to be told where to go; `None` for a processor that has to be started by
    /// interrupts.
    pub parked_at: Option<u64>,
}

/// All processors that the loader told of, the one that boots among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processors {
    all: [Processor; PROCESSORS_MAX],
    count: usize,
    left_out: usize,
}

impl Default for Processors {
    fn default() -> Self {
        Self::new()
    }
}

impl Processors {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { all: [Processor { apic_id: 0, parked_at: None }; PROCESSORS_MAX], count: 0, left_out: 0 }
    }

    /// Adds one. Of two with the same number the first is kept; beyond [`PROCESSORS_MAX`] they are counted only.
    pub fn add(&mut self, processor: Processor) {
        if self.iter().any(|known| known.apic_id == processor.apic_id) {
            return;
        }
        match self.all.get_mut(self.count) {
            Some(slot) => {
                *slot = processor;
                self.count += 1;
            }
            None => self.left_out += 1,
        }
    }

    /// Adds those of a MADT, whose bytes begin with its header.
    pub fn add_table(&mut self, table: &[u8]) {
        let mut rest = table.get(MADT_HEADER..).unwrap_or_default();
        while let Some((entry, behind)) = split_entry(rest) {
            rest = behind;
            let (id, flags) = match entry.first() {
                Some(0) => (entry.get(3).map(|id| u32::from(*id)).filter(|id| *id != BROADCAST), word(entry, 4)),
                Some(9) => (word(entry, 4), word(entry, 8)),
                _ => continue,
            };
            if let (Some(apic_id), Some(flags)) = (id, flags)
                && flags & ENABLED != 0
            {
                self.add(Processor { apic_id, parked_at: None });
            }
        }
    }

    /// Those that are remembered, in the order in which they were told.
    pub fn iter(&self) -> impl Iterator<Item = Processor> + '_ {
        self.all.iter().take(self.count).copied()
    }

    /// How many there are beyond those that are remembered.
    #[must_use]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }
}

/// The first entry and what follows it; `None` at the end, and where an entry does not fit.
pub(super) fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(*bytes.get(1)?);
    if length < 2 { None } else { bytes.split_at_checked(length) }
}

/// The little-endian word at an offset.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As QEMU makes it: two processors, one that is disabled, an I/O APIC, an override, a large number, a NMI line.
    fn table() -> Vec<u8> {
        let mut table = vec![0; MADT_HEADER];
        table.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        table.extend([0, 8, 1, 4, 1, 0, 0, 0]);
        table.extend([0, 8, 2, 5, 0, 0, 0, 0]);
        table.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        table.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
        table.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0]);
        table.extend([4, 6, 0xff, 0, 0, 1]);
        table
    }

    fn ids(table: &[u8]) -> Vec<u32> {
        let mut processors = Processors::new();
        processors.add_table(table);
        processors.iter().map(|processor| processor.apic_id).collect()
    }

    #[test]
    fn enabled_processors_are_found() {
        assert_eq!(ids(&table()), [0, 4, 300]);
    }

    #[test]
    fn a_table_that_ends_early_gives_what_is_whole() {
        let table = table();
        for length in 0..table.len() {
            let found = ids(&table[..length]);
            assert!([0, 4, 300].starts_with(&found), "{found:?}");
        }
        assert_eq!(ids(&table[..MADT_HEADER + 16]), [0, 4]);
        assert_eq!(ids(&table[..MADT_HEADER + 15]), [0]);
    }

    #[test]
    fn an_entry_without_length_ends_the_reading() {
        let mut table = table();
        table[MADT_HEADER + 9] = 0;
        assert_eq!(ids(&table), [0]);
        table[MADT_HEADER + 9] = 1;
        assert_eq!(ids(&table), [0]);
    }

    #[test]
    fn an_entry_too_short_for_its_type_is_passed_over() {
        let mut table = vec![0; MADT_HEADER];
        table.extend([0, 6, 0, 7, 1, 0]);
        table.extend([0, 8, 0, 8, 1, 0, 0, 0]);
        table.extend([9, 8, 0, 0, 9, 0, 0, 0]);
        assert_eq!(ids(&table), [8]);
    }

    #[test]
    fn more_than_are_remembered_are_counted() {
        let mut processors = Processors::new();
        for apic_id in 0..PROCESSORS_MAX as u32 + 3 {
            processors.add(Processor { apic_id, parked_at: None });
            processors.add(Processor { apic_id, parked_at: Some(7) });
        }
        assert_eq!(processors.iter().count(), PROCESSORS_MAX);
        assert!(processors.iter().all(|processor| processor.parked_at.is_none()));
        assert_eq!(processors.left_out(), 6);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(table in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(ids(&table).len() <= PROCESSORS_MAX);
        }
    }
}
