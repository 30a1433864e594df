//! Words and leaves of every format, with bytes as the source of choices.

use arbitrary::{Result, Unstructured};

use super::every::{Can, Visit, each_format};
use super::*;

/// The most records that an input has.
const RECORDS: usize = 4;

/// What a record says of a leaf.
#[derive(Clone, Copy, Debug)]
struct Asked {
    frame: u64,
    access: Access,
    memory: MemoryType,
    marks: u8,
    software: u8,
    key: u8,
}

/// Leaves are written and read back, or refused as the manuals say; words are decoded, and what they mean is written again. Panics where something is not as
/// it should be.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let mut records = 0;
    while !bytes.is_empty() && records < RECORDS {
        let Ok((word, index, asked)) = record(&mut bytes) else { break };
        each_format(&mut Decode { words: &[word, word | 1], index: usize::from(index) });
        each_format(&mut Leaves(asked));
        records += 1;
    }
}

fn record(bytes: &mut Unstructured) -> Result<(u64, u16, Asked)> {
    let (word, frame) = (bytes.arbitrary()?, bytes.arbitrary::<u64>()?);
    let (index, shift) = (bytes.arbitrary()?, bytes.arbitrary::<u8>()?);
    let [access, memory, marks, software, key] = bytes.arbitrary::<[u8; 5]>()?;
    let asked = Asked {
        // Most frames are of a width that some format has.
        frame: frame >> (shift % 64),
        access: Access::from_bits_truncate(access),
        memory: MemoryType::ALL[usize::from(memory) % MemoryType::ALL.len()],
        marks,
        software,
        key,
    };
    Ok((word, index, asked))
}

/// One leaf at every level of every format.
struct Leaves(Asked);

impl Visit for Leaves {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can) {
        let Asked { frame, access, memory, marks, software, key } = self.0;
        let has = |flag| access.contains(flag);
        let expressible = (can.access)(has(Access::READ), has(Access::WRITE), has(Access::EXECUTE), has(Access::USER));
        for (level, &shift) in can.shifts.iter().enumerate() {
            let reach = if level == 0 { can.small_bits } else { mmu.physical_bits() };
            let step = 1_u64 << (shift - can.shifts[0]);
            // As it is, and where a leaf of the level can be.
            for frame in [frame, frame & !(step - 1)] {
                let mut leaf = Leaf::new(Frame::new(frame)).access(access).memory(memory).software(software).key(key);
                (leaf.global, leaf.accessed, leaf.dirty) = (marks & 1 != 0, marks & 2 != 0, marks & 4 != 0);
                let reasons = [
                    (!can.leaf_levels.contains(&level), EncodeError::NoLeafAtLevel(level)),
                    (frame >> (reach - can.shifts[0]) != 0 || frame % step != 0, EncodeError::Frame(leaf.frame)),
                    (!expressible, EncodeError::Access(access)),
                    (!can.types.contains(&memory), EncodeError::MemoryType(memory)),
                    (leaf.global && !can.global, EncodeError::Global),
                    (u32::from(software) >> can.software_bits != 0, EncodeError::Software(software)),
                    (u32::from(key) >> can.key_bits != 0, EncodeError::Key(key)),
                ];
                let mut reasons = reasons.into_iter().filter(|(is_one, _)| *is_one).map(|(_, error)| error);
                match mmu.encode_leaf(level, leaf) {
                    Ok(word) => {
                        assert_eq!(reasons.next(), None, "{mmu:?} level {level} takes {leaf:?}");
                        assert_eq!(word & !word_mask::<M>(), 0, "{mmu:?} level {level}: {leaf:?}");
                        assert_eq!(mmu.decode(level, word), Entry::Leaf(leaf), "{mmu:?} level {level}: {word:#x}");
                        assert!(mmu.is_present(word) && mmu.decode_table(level, word).is_none());
                    }
                    Err(error) => assert!(
                        reasons.any(|reason| reason == error),
                        "{mmu:?} level {level} refuses {leaf:?} with {error:?}"
                    ),
                }
            }
        }
    }
}

#[test]
fn inputs_of_a_fuzzer() {
    crate::fuzzing::inputs(40, 100).for_each(|input| run(&input));
}
