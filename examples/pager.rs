//! A pager: a file in a `Vec`, shown in a program's space on the simulated machine. Pages are read when they are touched, asked for ahead,
//! written back when they were written to, and given up when memory is short. Run it with `cargo run -p examples --example pager`.
//!
//! The library never waits. A fault on a page that is not there yields a request, which goes into a queue; the thread would sleep; the pager takes the
//! request out, reads the file, answers, and wakes who waits for the token.

use std::collections::VecDeque;

use vmcore::Platform;
use vmcore::addr::VirtAddr;
use vmcore::paging::{Access, Mmu};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, PageRequest, PageState};
use vmcore::vm_space::{Fault, MapRequest, Resolution, Space, SpaceError};

const PAGE: u64 = 4096;
const TEXT: u64 = 0x40_0000;

/// Brings the pages of one file.
struct Pager {
    file: Vec<u8>,
    area: Area<Sim>,
    /// Requests that faults have yielded.
    queue: VecDeque<PageRequest>,
    reads: usize,
}

impl Pager {
    /// One step of the pager's own thread: the next request, answered.
    fn work(&mut self) {
        let Some(request) = self.queue.pop_front() else { return };
        let start = request.offset as usize;
        let end = (start + request.size as usize).min(self.file.len());
        let answer = match self.file.get(start..end) {
            Some(bytes) => self.area.supply(request.token, request.offset, bytes),
            None => self.area.fail(request.token, request.offset, request.size),
        };
        match answer {
            Ok(pages) => {
                println!("pager   request {}: {pages} pages at {:#x} (area {})", request.token.0, start, request.key)
            }
            // The area was truncated meanwhile: nobody wants these pages any more.
            Err(AreaError::Stale(token)) => println!("pager   request {}: too late", token.0),
            Err(error) => println!("pager   {error}"),
        }
        self.reads += 1;
        // Here a kernel wakes every thread that waits for `request.token`.
    }

    /// Writes everything that is dirty back to the file.
    fn sync(&mut self) -> Result<(), AreaError> {
        let mut offset = 0;
        while let Some(flush) = self.area.begin_write_back(offset, u64::MAX)? {
            // Every CPU loses its permission to write before the contents come out.
            let pages = flush.complete();
            let (start, size) = (pages.offset(), pages.size());
            let mut bytes = vec![0; size as usize];
            pages.read(0, &mut bytes)?;
            for (place, byte) in self.file.iter_mut().skip(start as usize).zip(bytes) {
                *place = byte;
            }
            pages.written();
            println!("pager   wrote {} pages at {start:#x} back", size / PAGE);
            offset = start + size;
        }
        Ok(())
    }
}

/// A program's access: it faults, waits where it has to, and tries again.
fn access(sim: &Sim, space: &Space<Sim>, pager: &mut Pager, address: u64, access: Access) -> Result<(), SpaceError> {
    while let Err(fault) = sim.access(0, VirtAddr::new(address), access | Access::USER) {
        match space.fault(Fault::new(fault.address.as_u64(), fault.access))?.complete() {
            Resolution::Request(request) => {
                println!("program {address:#x}: request {} for {} pages", request.token.0, request.size / PAGE);
                pager.queue.push_back(request);
                pager.work();
            }
            // Somebody else has asked: the thread sleeps until the pager says that this token was answered.
            Resolution::Wait(_) => pager.work(),
            _ => {}
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sim = Sim::builder().build();
    let upper = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000)?;
    let kernel = Space::kernel(&sim, upper, None, ())?;
    let space = Space::user(&kernel, ())?;
    sim.activate(0, &space.activate(0));

    let file: Vec<u8> = (0..10 * PAGE + 100).map(|at| b'a' + (at / PAGE) as u8).collect();
    let size = (file.len() as u64).next_multiple_of(PAGE);
    let area = Area::new(&sim, AreaKind::Paged { size, key: 7 }, 0)?;
    area.set_read_ahead(4)?;
    space.map(&MapRequest::new(&area).at(TEXT).access(Access::USER_DATA))?;
    let mut pager = Pager { file, area, queue: VecDeque::new(), reads: 0 };

    // Reading: one request brings four pages.
    let mut word = [0; 8];
    for page in 0..4 {
        access(&sim, &space, &mut pager, TEXT + page * PAGE, Access::READ)?;
    }
    sim.read(0, VirtAddr::new(TEXT + 3 * PAGE), true, &mut word).map_err(|fault| format!("{fault:?}"))?;
    println!("program reads {:?} after {} read of the file", str::from_utf8(&word)?, pager.reads);
    assert_eq!((&word, pager.reads), (b"dddddddd", 1));

    // Writing: the first write marks the page, and the file follows when it is told to.
    access(&sim, &space, &mut pager, TEXT + PAGE, Access::KERNEL_DATA)?;
    sim.write(0, VirtAddr::new(TEXT + PAGE), true, b"written!").map_err(|fault| format!("{fault:?}"))?;
    assert_eq!(pager.area.page_state(PAGE), Some(PageState::Dirty));
    assert_eq!(pager.file.get(4096), Some(&b'b'), "not yet");
    let evicted = pager.area.evict(0, size)?.complete();
    println!("evicted {} clean pages, {} stays dirty", evicted.pages, evicted.dirty);
    pager.sync()?;
    assert_eq!(pager.file.get(4096..4104), Some(&b"written!"[..]));

    // Memory is short: clean pages go, and come again when they are touched.
    let evicted = pager.area.evict(0, size)?.complete();
    println!("evicted {} clean page, {} are resident", evicted.pages, pager.area.resident_pages());
    access(&sim, &space, &mut pager, TEXT + PAGE, Access::READ)?;
    sim.read(0, VirtAddr::new(TEXT + PAGE), true, &mut word).map_err(|fault| format!("{fault:?}"))?;
    assert_eq!(&word, b"written!");

    // The end of the file: zeros behind its last byte.
    access(&sim, &space, &mut pager, TEXT + 10 * PAGE, Access::READ)?;
    sim.read(0, VirtAddr::new(TEXT + 10 * PAGE + 96), true, &mut word).map_err(|fault| format!("{fault:?}"))?;
    assert_eq!(&word, b"kkkk\0\0\0\0");

    // A late answer: the file is truncated while a page of it is on its way.
    let Resolution::Request(late) = space.fault(Fault::new(TEXT + 8 * PAGE, Access::READ | Access::USER))?.complete()
    else {
        return Err("that page was not touched before".into());
    };
    pager.area.resize(8 * PAGE)?.complete();
    pager.queue.push_back(late);
    pager.work();
    let fault = access(&sim, &space, &mut pager, TEXT + 8 * PAGE, Access::READ);
    println!("program {}", fault.expect_err("the file ends before"));
    Ok(())
}

#[test]
fn the_file_is_read_written_back_and_truncated() {
    main().expect("every step has the outcome that it prints");
}
