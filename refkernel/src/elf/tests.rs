//! Tests of the loading plan, on files that are assembled byte by byte.

use proptest::prelude::*;

use super::*;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;

/// `ud2; ud2`: enough to be code.
const CODE: &[u8] = &[0x0f, 0x0b, 0x0f, 0x0b];

#[derive(Clone, Debug)]
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

#[derive(Clone, Debug)]
struct File {
    class: u8,
    endianness: u8,
    kind: u16,
    machine: u16,
    entry: u64,
    headers: Vec<Header>,
    /// What lies at which offset.
    contents: Vec<(usize, Vec<u8>)>,
}

impl File {
    /// Text at 0x400000 (file offset 0x1000), data with a zero part at 0x402010 (file offset 0x2010).
    fn small() -> Self {
        Self {
            class: 2,
            endianness: 1,
            kind: 2,
            machine: 62,
            entry: 0x40_0002,
            headers: vec![
                Header {
                    kind: abi::PT_LOAD,
                    flags: abi::PF_R | abi::PF_X,
                    offset: 0x1000,
                    address: 0x40_0000,
                    file_size: CODE.len() as u64,
                    memory_size: CODE.len() as u64,
                    alignment: 0x1000,
                },
                Header {
                    kind: abi::PT_LOAD,
                    flags: abi::PF_R | abi::PF_W,
                    offset: 0x2010,
                    address: 0x40_2010,
                    file_size: 8,
                    memory_size: 0x2000,
                    alignment: 0x1000,
                },
                Header {
                    kind: abi::PT_GNU_STACK,
                    flags: abi::PF_R | abi::PF_W,
                    offset: 0,
                    address: 0,
                    file_size: 0,
                    memory_size: 0,
                    alignment: 16,
                },
            ],
            contents: vec![(0x1000, CODE.to_vec()), (0x2010, (1..=8).collect())],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', self.class, self.endianness, 1, 0];
        bytes.resize(16, 0);
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.machine.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(self.entry.to_le_bytes());
        bytes.extend((HEADER_SIZE as u64).to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        for half in [HEADER_SIZE as u16, PROGRAM_HEADER_SIZE as u16, self.headers.len() as u16, 0, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        assert_eq!(bytes.len(), HEADER_SIZE);
        for header in &self.headers {
            bytes.extend(header.kind.to_le_bytes());
            bytes.extend(header.flags.to_le_bytes());
            for word in
                [header.offset, header.address, header.address, header.file_size, header.memory_size, header.alignment]
            {
                bytes.extend(word.to_le_bytes());
            }
        }
        for (offset, contents) in &self.contents {
            bytes.resize((*offset).max(bytes.len()), 0);
            bytes.truncate(*offset);
            bytes.extend(contents);
        }
        bytes
    }

    fn refusal(&self) -> Refusal {
        let bytes = self.bytes();
        Plan::new(&bytes).expect_err("the file should be refused")
    }
}

/// What the module's head promises of a plan, checked without its help.
fn assert_valid(plan: &Plan<'_>, file: &[u8]) {
    assert!((1..=SEGMENTS_MAX).contains(&plan.segments().len()));
    let mut end = USER_START;
    let mut entry_is_code = false;
    for segment in plan.segments() {
        assert!(segment.address() >= end, "sorted, apart and above the start");
        end = segment.address().checked_add(segment.size()).unwrap();
        assert!(end <= USER_END);
        assert!(segment.size() > 0 && segment.size() <= AREA_SIZE_MAX);
        assert_eq!(segment.address() % PAGE_SIZE, 0);
        assert_eq!(segment.size() % PAGE_SIZE, 0);
        assert!(segment.lead() < PAGE_SIZE);
        assert!(segment.lead() + segment.data().len() as u64 <= segment.size());
        let offset = segment.file_offset() as usize;
        assert_eq!(&file[offset..offset + segment.data().len()], segment.data());
        let access = segment.access();
        assert_eq!(Access::from_bits(access.bits()), Some(access));
        let data_start = segment.address() + segment.lead();
        let data = data_start..data_start + segment.data().len() as u64;
        entry_is_code |= access.contains(Access::EXECUTE) && data.contains(&plan.entry());

        // The pages put together are the segment; looking at the pages around the file's bytes is enough.
        let data_pages = (segment.lead() + segment.data().len() as u64).div_ceil(PAGE_SIZE);
        let mut rebuilt = vec![0; (data_pages * PAGE_SIZE) as usize];
        for page in 0..data_pages {
            let (at, bytes) = segment.page(page);
            assert!(at + bytes.len() <= PAGE_SIZE as usize);
            let start = (page * PAGE_SIZE) as usize + at;
            rebuilt[start..start + bytes.len()].copy_from_slice(bytes);
        }
        let lead = segment.lead() as usize;
        assert!(rebuilt[..lead].iter().all(|byte| *byte == 0));
        assert_eq!(&rebuilt[lead..lead + segment.data().len()], segment.data());
        for page in [data_pages, segment.pages(), u64::MAX / PAGE_SIZE, u64::MAX] {
            assert_eq!(segment.page(page).1, b"");
        }
    }
    assert!(entry_is_code);
}

#[test]
fn small_program_is_planned() {
    let bytes = File::small().bytes();
    let plan = Plan::new(&bytes).unwrap();
    assert_valid(&plan, &bytes);
    assert_eq!(plan.entry(), 0x40_0002);
    let [text, data] = plan.segments() else { panic!("two segments") };
    assert_eq!((text.address(), text.size(), text.lead()), (0x40_0000, 0x1000, 0));
    assert_eq!(text.access(), Access::READ | Access::EXECUTE);
    assert_eq!(text.data(), CODE);
    assert_eq!((data.address(), data.size(), data.lead()), (0x40_2000, 0x3000, 0x10));
    assert_eq!(data.access(), Access::READ | Access::WRITE);
    assert_eq!(data.page(0), (0x10, &[1, 2, 3, 4, 5, 6, 7, 8][..]));
    assert_eq!(data.page(1), (0, &[][..]));
}

#[test]
fn segments_come_sorted() {
    let mut file = File::small();
    file.headers.swap(0, 1);
    let bytes = file.bytes();
    let plan = Plan::new(&bytes).unwrap();
    assert_valid(&plan, &bytes);
    assert_eq!(plan, Plan::new(&File::small().bytes()).map(|_| plan).unwrap());
    assert_eq!(plan.segments()[0].address(), 0x40_0000);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = File::small().bytes();
    for length in 0..bytes.len() {
        let refusal = Plan::new(&bytes[..length]).expect_err("a prefix is not a program");
        assert_eq!(refusal, Refusal::Truncated, "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn other_files_are_refused_by_name() {
    assert_eq!(Plan::new(&[b'#'; 100]), Err(Refusal::NotElf));
    let change = |change: fn(&mut File)| {
        let mut file = File::small();
        change(&mut file);
        file.refusal()
    };
    assert_eq!(change(|file| file.class = 3), Refusal::WrongClass);
    assert_eq!(change(|file| file.class = 0), Refusal::WrongClass);
    assert_eq!(change(|file| file.endianness = 2), Refusal::WrongEndianness);
    assert_eq!(change(|file| file.machine = 183), Refusal::WrongMachine { machine: 183 });
    assert_eq!(change(|file| file.kind = 3), Refusal::WrongType { kind: 3 });
    assert_eq!(change(|file| file.kind = 1), Refusal::WrongType { kind: 1 });
    assert_eq!(change(|file| file.headers.clear()), Refusal::NoSegments);
    assert_eq!(change(|file| file.headers[2].flags |= abi::PF_X), Refusal::ExecutableStack);
    assert_eq!(change(|file| file.headers[2].kind = abi::PT_INTERP), Refusal::Interpreter);
    assert_eq!(change(|file| file.headers[2].kind = abi::PT_DYNAMIC), Refusal::Dynamic);
    assert_eq!(change(|file| file.headers[2].kind = abi::PT_TLS), Refusal::ThreadLocalStorage);
}

#[test]
fn a_32_bit_file_is_refused_as_such() {
    let mut bytes = File::small().bytes();
    bytes[4] = 1;
    // The fields of a 32-bit header lie elsewhere; make those that the parser looks at agree with one.
    bytes[28..36].fill(0);
    assert_eq!(Plan::new(&bytes), Err(Refusal::WrongClass));
}

#[test]
fn bad_segments_are_refused_by_name() {
    let change = |change: fn(&mut Header)| {
        let mut file = File::small();
        change(&mut file.headers[1]);
        file.refusal()
    };
    assert_eq!(
        change(|header| header.flags = abi::PF_R | abi::PF_W | abi::PF_X),
        Refusal::WriteAndExecute { header: 1 }
    );
    assert_eq!(change(|header| header.flags = 0), Refusal::NoAccess { header: 1 });
    assert_eq!(change(|header| header.address += 1), Refusal::Unaligned { header: 1 });
    assert_eq!(change(|header| header.alignment = 3), Refusal::Unaligned { header: 1 });
    assert_eq!(
        change(|header| (header.address, header.alignment) = (0x40_3010, 0x20_0000)),
        Refusal::Unaligned { header: 1 }
    );
    assert_eq!(change(|header| header.memory_size = 7), Refusal::FileLargerThanMemory { header: 1 });
    assert_eq!(change(|header| header.file_size += 1), Refusal::Truncated);
    assert_eq!(change(|header| header.memory_size = u64::MAX), Refusal::Overflow { header: 1 });
    assert_eq!(change(|header| header.offset = 0xffff_ffff_ffff_f010), Refusal::Truncated);
    assert_eq!(change(|header| header.offset = 0x10_0010), Refusal::Truncated);
    assert_eq!(change(|header| header.address = 0x40_0010), Refusal::Overlap { header: 1 });
    for address in [0x10, 0xf010, USER_END - 0x1ff0, USER_END + 0x10, 0x8000_0000_0010] {
        let mut file = File::small();
        file.headers[1].address = address;
        assert_eq!(file.refusal(), Refusal::OutOfRange { header: 1, address });
    }
    let mut file = File::small();
    file.headers[1].address = 0xffff_ffff_8000_0010;
    let address = file.headers[1].address;
    assert_eq!(file.refusal(), Refusal::OutOfRange { header: 1, address });
    assert_eq!(change(|header| header.memory_size = AREA_SIZE_MAX), Refusal::TooLarge { header: 1 });
}

#[test]
fn the_last_user_page_can_be_used() {
    let mut file = File::small();
    file.headers[1].address = USER_END - 0x2000 + 0x10;
    file.headers[1].memory_size = 0x1ff0;
    let bytes = file.bytes();
    let plan = Plan::new(&bytes).unwrap();
    assert_valid(&plan, &bytes);
    assert_eq!(plan.segments()[1].end(), USER_END);
}

#[test]
fn an_entry_elsewhere_is_refused() {
    // Before the text, one past its last byte (zeros), in data, nowhere.
    for entry in [0, 0x3f_ffff, 0x40_0004, 0x40_2010, u64::MAX] {
        let mut file = File::small();
        file.entry = entry;
        assert_eq!(file.refusal(), Refusal::EntryNotExecutable { entry });
    }
}

#[test]
fn too_many_of_anything_is_refused() {
    let mut file = File::small();
    let more = |count: u64| {
        (0..count).map(|index| Header {
            address: 0x50_0000 + index * 0x1000,
            offset: 0x1000,
            ..File::small().headers[0].clone()
        })
    };
    file.headers.truncate(1);
    file.headers.extend(more(SEGMENTS_MAX as u64 - 1));
    let bytes = file.bytes();
    assert_eq!(Plan::new(&bytes).unwrap().segments().len(), SEGMENTS_MAX);
    file.headers.truncate(1);
    file.headers.extend(more(SEGMENTS_MAX as u64));
    assert_eq!(file.refusal(), Refusal::TooManySegments);
    file.headers.extend(more(60));
    assert_eq!(file.refusal(), Refusal::TooManyHeaders { count: 77 });
}

#[test]
fn empty_segments_ask_for_nothing() {
    let mut file = File::small();
    file.headers[1].file_size = 0;
    file.headers[1].memory_size = 0;
    file.headers[1].address = 0;
    let bytes = file.bytes();
    assert_eq!(Plan::new(&bytes).unwrap().segments().len(), 1);
}

/// Numbers as they are found in files, and those at which checks go wrong.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0_u64..0x800).prop_map(|page| page * 0x1000),
        2 => 0_u64..0x4000,
        1 => prop::sample::select(vec![
            0, 1, PAGE_SIZE - 1, USER_START, USER_START - 1, USER_END, USER_END - 1,
            1 << 47, 0xffff_8000_0000_0000, AREA_SIZE_MAX, u64::MAX, u64::MAX - 1, 1 << 63,
        ]),
        1 => any::<u64>(),
    ]
}

prop_compose! {
    fn header()(
        kind in prop::sample::select(vec![
            abi::PT_LOAD, abi::PT_LOAD, abi::PT_LOAD, abi::PT_LOAD, abi::PT_LOAD, abi::PT_LOAD,
            abi::PT_NOTE, abi::PT_GNU_STACK, abi::PT_PHDR, abi::PT_INTERP,
        ]),
        flags in 0_u32..8,
        (offset, address, file_size, memory_size) in (number(), number(), number(), number()),
        agree in prop::bool::weighted(0.8),
        alignment in prop::sample::select(vec![0, 1, 0x1000, 0x1000, 0x1000, 0x20_0000, 3, u64::MAX]),
    ) -> Header {
        let (address, file_size) = if agree {
            (address & !0xfff | offset & 0xfff, file_size.min(memory_size).min(0x3000))
        } else {
            (address, file_size)
        };
        Header { kind, flags, offset, address, file_size, memory_size, alignment }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any headers are refused, or give a plan that keeps every promise.
    #[test]
    fn plans_keep_their_promises(
        headers in prop::collection::vec(header(), 0..6),
        entry in number(),
        text_first in prop::bool::weighted(0.8),
    ) {
        let mut file = File::small();
        file.contents.push((0x6000, vec![0]));
        let text = file.headers[0].clone();
        file.headers = headers;
        if text_first {
            file.headers.insert(0, text);
        } else {
            file.entry = entry;
        }
        let bytes = file.bytes();
        if let Ok(plan) = Plan::new(&bytes) {
            assert_valid(&plan, &bytes);
        }
    }

    /// So are files of which a few bytes were changed.
    #[test]
    fn mutations_never_crash(
        changes in prop::collection::vec((0_usize..0x100, any::<u8>()), 1..6)
    ) {
        let mut bytes = File::small().bytes();
        for (offset, value) in changes {
            bytes[offset] = value;
        }
        if let Ok(plan) = Plan::new(&bytes) {
            assert_valid(&plan, &bytes);
        }
    }

    /// And so is anything at all, with or without the right first bytes.
    #[test]
    fn any_bytes_never_crash(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool) {
        let start = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        if magic && bytes.len() >= start.len() {
            bytes[..start.len()].copy_from_slice(&start);
        }
        if let Ok(plan) = Plan::new(&bytes) {
            assert_valid(&plan, &bytes);
        }
    }
}

/// The programs themselves, where they have been built: `REFKERNEL_PROGRAMS` names the directory.
#[test]
fn built_programs_are_accepted() {
    let Some(directory) = std::env::var_os("REFKERNEL_PROGRAMS") else {
        println!("skipped: set REFKERNEL_PROGRAMS to the directory of built programs");
        return;
    };
    for name in ["demo", "check", "bench"] {
        let path = std::path::Path::new(&directory).join(name);
        let bytes = std::fs::read(&path).unwrap();
        let plan = Plan::new(&bytes).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        assert_valid(&plan, &bytes);
        assert!(plan.segments().len() >= 2, "{name} has text and something else");
    }
}
