//! Shows what `refkernel` does with memory, a sentence for each step.
//!
//! The first instance (argument 0) touches memory that nobody has taken yet, looks whether fresh memory is zero, grows an
//! area, shows what else can be done with memory and between processes, and draws into the part of the screen that it was handed. The second (argument 1) reads where nothing is mapped, and
//! must be killed for it.
//!
//! | module | what lives there |
//! |---|---|
//! | `capabilities` | sharing, clones, protection, guards, channels, waits, rings, device memory that is denied |
//! | `window` | the drawing |

#![no_std]
#![no_main]

mod capabilities;
mod window;

use refkernel_runtime::roles::{DEMO_BAD_ACCESS, ScreenSize};
use refkernel_runtime::screen::Screen;
use refkernel_runtime::{Access, ErrorCode, PAGE_SIZE, StartInformation, call, program, program_status, say};

program!(main);

const READ_WRITE: Access = Access::READ_WRITE;

/// Pages of the area before it grows.
const PAGES: u64 = 64;

/// Why the demo stops.
enum Failure {
    /// The kernel refused something that it should do.
    Refused(&'static str, ErrorCode),
    /// Memory did not hold what it should.
    Wrong(&'static str, u64),
}

fn main(start: &StartInformation) -> u32 {
    let (_, part) = ScreenSize::from_argument(start.argument);
    if u64::from(part) == DEMO_BAD_ACCESS {
        return bad_access();
    }
    match work(start) {
        Ok(()) => {
            say!("demo: done");
            program_status::SUCCESS
        }
        Err(Failure::Refused(what, error)) => {
            say!("demo: the kernel refused to {what}: {error}");
            program_status::FAILURE
        }
        Err(Failure::Wrong(what, address)) => {
            say!("demo: {what} at {address:#x}");
            program_status::FAILURE
        }
    }
}

fn work(start: &StartInformation) -> Result<(), Failure> {
    say!("demo: hello from ring 3");
    let refused = |what| move |error| Failure::Refused(what, error);

    let area = call::area_create(PAGES * PAGE_SIZE).map_err(refused("create an area"))?;
    let first = call::area_map(area, 0, 0, PAGES * PAGE_SIZE, READ_WRITE).map_err(refused("map the area"))?;
    say!("demo: mapped an area of {PAGES} pages at {first:#x}; none of them has a frame yet");

    // Every fourth page, so that the map shows an area that is resident in part.
    let touched = (0..PAGES).step_by(4);
    for page in touched.clone() {
        use_fresh_page(first + page * PAGE_SIZE, page)?;
    }
    check_pages(first, touched.clone())?;
    say!("demo: touched {} of them: each was zero, and each keeps what was written", touched.clone().count());

    // SAFETY: growing cuts nothing off.
    unsafe { call::area_resize(area, 2 * PAGES * PAGE_SIZE) }.map_err(refused("grow the area"))?;
    let second = call::area_map(area, 0, PAGES * PAGE_SIZE, PAGES * PAGE_SIZE, READ_WRITE)
        .map_err(refused("map the grown part"))?;
    for page in 0..PAGES {
        use_fresh_page(second + page * PAGE_SIZE, PAGES + page)?;
    }
    check_pages(first, touched)?;
    say!("demo: grew the area to {} pages, used the new half at {second:#x}; the old half is as it was", 2 * PAGES);

    capabilities::show(start, first)?;

    match Screen::given(start) {
        None => say!("demo: was handed no framebuffer, so draws nothing"),
        Some(screen) => {
            let address = screen.map().map_err(refused("map the framebuffer"))?;
            window::draw(address, screen.size);
            let ScreenSize { width, height, .. } = screen.size;
            say!("demo: drew {width}x{height} pixels through a window onto the framebuffer at {address:#x}");
        }
    }
    Ok(())
}

/// What the demo writes into a page.
fn mark(page: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Looks whether a page that was never touched is zero, and marks it at both ends.
fn use_fresh_page(address: u64, page: u64) -> Result<(), Failure> {
    let words = address as *mut u64;
    let count = (PAGE_SIZE / 8) as usize;
    for index in 0..count {
        // SAFETY: the page is mapped to be read and written, and only this function and `check_pages` use it. The read is
        // volatile because the compiler does not know that the kernel supplies the page.
        if unsafe { words.add(index).read_volatile() } != 0 {
            return Err(Failure::Wrong("a fresh page is not zero", address));
        }
    }
    for index in [0, count - 1] {
        // SAFETY: as above.
        unsafe { words.add(index).write_volatile(mark(page)) };
    }
    Ok(())
}

/// Looks whether pages hold what was written.
fn check_pages(first: u64, mut pages: impl Iterator<Item = u64>) -> Result<(), Failure> {
    let bad = pages.find(|page| {
        let words = (first + page * PAGE_SIZE) as *const u64;
        let last = (PAGE_SIZE / 8 - 1) as usize;
        // SAFETY: the page is mapped to be read, and nobody writes it meanwhile.
        let (start, end) = unsafe { (words.read_volatile(), words.add(last).read_volatile()) };
        start != mark(*page) || end != mark(*page)
    });
    match bad {
        Some(page) => Err(Failure::Wrong("a page lost what was written", first + page * PAGE_SIZE)),
        None => Ok(()),
    }
}

/// Reads where nothing is mapped.
fn bad_access() -> u32 {
    let address = 0x10;
    say!("demo: the second instance reads {address:#x}, where nothing is mapped; it must be killed for it");
    // SAFETY: an access that faults ends the program, which is what is meant; nothing is mapped below `USER_START`.
    let value = unsafe { (address as *const u8).read_volatile() };
    say!("demo: it read {value} and lives: memory is not protected");
    program_status::FAILURE
}
