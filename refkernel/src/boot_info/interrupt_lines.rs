//! Where the interrupt lines of old devices arrive, as the ACPI table of processors (the MADT) tells.
//!
//! ```text
//!   type 1 | length 1 | id 1 | reserved 1 | address 4 | first line 4              an I/O APIC: its lines from that number on
//!   type 2 | length 1 | bus 1 | line of the bus 1 | line 4 | flags 2              where a line of the ISA bus arrives instead
//!   flags  | 3..2 trigger: 3 is by level | 1..0 polarity: 3 is low                0: as the bus has it, by edge and high
//! ```
//!
//! ACPI 6.5, 5.2.12.3 and 5.2.12.5. The table comes from outside: an entry that is too short, or longer than what is left, ends the reading.

use super::processors::{MADT_HEADER, split_entry, word};

/// The most controllers that are remembered.
const CONTROLLERS_MAX: usize = 8;
/// The lines of the ISA bus.
const ISA_LINES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Controller {
    address: u32,
    first: u32,
}

/// How a line of the ISA bus arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptLine {
    /// Physical address of the I/O APIC.
    pub controller: u64,
    /// Its pin.
    pub pin: u32,
    /// Whether low is active.
    pub active_low: bool,
    /// Whether it is triggered by level.
    pub by_level: bool,
}

/// The I/O APICs, and where the lines of the ISA bus arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptLines {
    controllers: [Option<Controller>; CONTROLLERS_MAX],
    /// Line and flags of those that do not arrive at the line of the same number, by edge and high.
    others: [Option<(u32, u8)>; ISA_LINES],
}

impl Default for InterruptLines {
    fn default() -> Self {
        Self::new()
    }
}

impl InterruptLines {
    /// No controller.
    #[must_use]
    pub const fn new() -> Self {
        Self { controllers: [None; CONTROLLERS_MAX], others: [None; ISA_LINES] }
    }

    /// Adds what a MADT says, whose bytes begin with its header.
    pub fn add_table(&mut self, table: &[u8]) {
        let mut rest = table.get(MADT_HEADER..).unwrap_or_default();
        while let Some((entry, behind)) = split_entry(rest) {
            rest = behind;
            match entry.first() {
                Some(1) => {
                    if let (Some(address), Some(first)) = (word(entry, 4), word(entry, 8))
                        && let Some(slot) = self.controllers.iter_mut().find(|slot| slot.is_none())
                    {
                        *slot = Some(Controller { address, first });
                    }
                }
                Some(2) => {
                    if let (Some(line), Some(global), Some(flags)) = (entry.get(3), word(entry, 4), entry.get(8))
                        && let Some(slot) = self.others.get_mut(usize::from(*line))
                    {
                        *slot = Some((global, *flags));
                    }
                }
                _ => {}
            }
        }
    }

    /// How a line of the ISA bus arrives; `None` where no controller has it.
    #[must_use]
    pub fn isa(&self, line: u8) -> Option<InterruptLine> {
        let (global, flags) = self.others.get(usize::from(line))?.unwrap_or((line.into(), 0));
        let known = self.controllers.iter().flatten().filter(|controller| controller.first <= global);
        let controller = known.max_by_key(|controller| controller.first)?;
        Some(InterruptLine {
            controller: controller.address.into(),
            pin: global - controller.first,
            active_low: flags & 3 == 3,
            by_level: flags >> 2 & 3 == 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(entries: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; MADT_HEADER];
        entries.iter().for_each(|entry| bytes.extend_from_slice(entry));
        bytes
    }

    /// As QEMU writes it: one I/O APIC, the timer on line 2, and the PCI lines by level.
    fn usual() -> InterruptLines {
        let mut lines = InterruptLines::new();
        lines.add_table(&table(&[
            &[0, 8, 0, 0, 1, 0, 0, 0],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
            &[2, 10, 0, 9, 9, 0, 0, 0, 0x0f, 0],
        ]));
        lines
    }

    #[test]
    fn lines_arrive_where_the_table_says() {
        let line =
            |pin, active_low, by_level| Some(InterruptLine { controller: 0xfec0_0000, pin, active_low, by_level });
        assert_eq!(usual().isa(1), line(1, false, false));
        assert_eq!(usual().isa(0), line(2, false, false));
        assert_eq!(usual().isa(9), line(9, true, true));
        assert_eq!(usual().isa(16), None);
        assert_eq!(InterruptLines::new().isa(1), None);
    }

    #[test]
    fn of_several_controllers_the_one_with_the_line() {
        let mut lines = InterruptLines::new();
        lines.add_table(&table(&[
            &[1, 12, 0, 0, 0, 0x10, 0, 0, 24, 0, 0, 0],
            &[1, 12, 1, 0, 0, 0x20, 0, 0, 0, 0, 0, 0],
            &[2, 10, 0, 4, 30, 0, 0, 0, 5, 0],
        ]));
        assert_eq!(lines.isa(1).map(|line| (line.controller, line.pin)), Some((0x2000, 1)));
        assert_eq!(lines.isa(4).map(|line| (line.controller, line.pin)), Some((0x1000, 6)));
        // Said to be by edge and high.
        assert_eq!(lines.isa(4).map(|line| (line.active_low, line.by_level)), Some((false, false)));
    }

    #[test]
    fn a_table_that_is_cut_is_read_as_far_as_it_goes() {
        let whole = table(&[&[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0], &[2, 10, 0, 1, 7, 0, 0, 0, 0, 0]]);
        for length in 0..=whole.len() {
            let mut lines = InterruptLines::new();
            lines.add_table(&whole[..length]);
            let known = length >= MADT_HEADER + 12;
            let moved = length >= whole.len();
            let pin = if moved { 7 } else { 1 };
            assert_eq!(lines.isa(1).map(|line| line.pin), known.then_some(pin), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), line: u8) {
            let mut lines = InterruptLines::new();
            lines.add_table(&bytes);
            let _ = lines.isa(line);
        }
    }
}
