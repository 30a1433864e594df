//! The lines that the bench program writes.
//!
//! ```text
//! bench NAME: MEDIAN instructions (N operations of P pages; least L, 99 % Q, most M; I interrupted left out)
//! bench NAME: COUNT interrupts (N operations of P pages)
//! ```

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) operations: u64,
    /// How many pages an operation is about.
    pub(crate) pages: u64,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Instructions(Instructions),
    Interrupts(u64),
}

/// How many instructions the operations took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instructions {
    pub(crate) median: u64,
    pub(crate) least: u64,
    pub(crate) percentile_99: u64,
    pub(crate) most: u64,
    /// Operations into which a timer's interrupt fell, and whether they are counted for all that.
    pub(crate) interrupted: u64,
    pub(crate) interrupted_counted: bool,
}

impl Figure {
    /// Reads a line; `None` if it is another program's, or nobody's.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let (name, rest) = line.strip_prefix("bench ")?.split_once(": ")?;
        let (value, rest) = rest.split_once(' ')?;
        let value: u64 = value.parse().ok()?;
        let (unit, rest) = rest.split_once(" (")?;
        let mut parts = rest.strip_suffix(')')?.split("; ");
        let (operations, pages) = parts.next()?.split_once(" operations of ")?;
        let value = match unit {
            "instructions" => {
                let mut spread = parts.next()?.split(", ");
                let mut next = |name: &str| -> Option<u64> { spread.next()?.strip_prefix(name)?.trim().parse().ok() };
                let (least, percentile_99, most) = (next("least")?, next("99 %")?, next("most")?);
                let (interrupted, what) = parts.next()?.split_once(" interrupted ")?;
                let interrupted_counted = match what {
                    "left out" => false,
                    "counted" => true,
                    _ => return None,
                };
                let interrupted = interrupted.parse().ok()?;
                let median = value;
                Value::Instructions(Instructions {
                    median,
                    least,
                    percentile_99,
                    most,
                    interrupted,
                    interrupted_counted,
                })
            }
            "interrupts" => Value::Interrupts(value),
            _ => return None,
        };
        let (operations, pages) = (operations.parse().ok()?, pages.strip_suffix(" pages")?.parse().ok()?);
        Some(Self { name: name.to_owned(), value, operations, pages })
    }

    /// Whether operations count into which a timer's interrupt fell.
    pub(crate) fn counts_interrupted(&self) -> bool {
        matches!(self.value, Value::Instructions(Instructions { interrupted_counted: true, .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read() {
        let line = "bench map-unmap: 8751 instructions (1001 operations of 1 pages; least 8700, 99 % 9000, most 12345; 3 interrupted left out)";
        let value = Instructions {
            median: 8751,
            least: 8700,
            percentile_99: 9000,
            most: 12345,
            interrupted: 3,
            interrupted_counted: false,
        };
        let figure = Figure { name: "map-unmap".into(), value: Value::Instructions(value), operations: 1001, pages: 1 };
        assert_eq!(Figure::read(line), Some(figure.clone()));
        let counted = Value::Instructions(Instructions { interrupted_counted: true, ..value });
        assert_eq!(Figure::read(&line.replace("left out", "counted")), Some(Figure { value: counted, ..figure }));
    }

    #[test]
    fn interrupts_are_read() {
        let figure = Figure { name: "flushes".into(), value: Value::Interrupts(0), operations: 768, pages: 16 };
        assert_eq!(Figure::read("bench flushes: 0 interrupts (768 operations of 16 pages)"), Some(figure));
    }

    #[test]
    fn what_is_no_figure_is_not_read() {
        for line in [
            "bench: reading the counter costs 4 instructions, taken off below",
            "bench a: many instructions (3 operations of 1 pages; least 1, 99 % 2, most 3; 0 interrupted left out)",
            "bench a: 2 instructions (3 operations of 1 pages; least 1, 99 % 2, most 3; 0 interrupted somehow)",
            "bench a: 2 instructions (3 operations of 1 pages; least 1, 99 % 2; 0 interrupted left out)",
            "bench a: 2 instructions (3 operations of 1 pages)",
            "bench a: 2 seconds (3 operations of 1 pages)",
            "bench a: 1 instructions",
            "",
        ] {
            assert_eq!(Figure::read(line), None, "{line}");
        }
    }
}
