//! An animation in the part of the screen that the program was handed: glowing bodies on their ways through a night sky.
//!
//! The argument says for how many pictures (16 bits); 0 goes on until the program is ended. Each picture redraws what has changed, the places where bodies were and where they are, pixel by
//! pixel through a write-combining window: pixels are written once each and never read. Everything is integer arithmetic.
//!
//! | module | what lives there |
//! |---|---|
//! | `bodies` | where the bodies are at which time |
//! | `sky` | the colour of a pixel |

#![no_std]
#![no_main]

mod bodies;
mod sky;

use bodies::{Bodies, RADIUS};
use refkernel_runtime::roles::ScreenSize;
use refkernel_runtime::screen::Screen;
use refkernel_runtime::{StartInformation, call, program, program_status, say};

program!(main);

/// Microseconds from one picture to the next.
const PERIOD: u64 = 40_000;

/// Pictures after which it says how far it is, where it goes on until it is ended.
const REPORT_EVERY: u32 = 250;

fn main(start: &StartInformation) -> u32 {
    let (_, pictures) = ScreenSize::from_argument(start.argument);
    let Some(screen) = Screen::given(start) else {
        say!("draw: was handed no part of the screen, so draws nothing");
        return program_status::SUCCESS;
    };
    let address = match screen.map() {
        Ok(address) => address,
        Err(error) => {
            say!("draw: the part of the screen cannot be mapped: {error}");
            return program_status::FAILURE;
        }
    };
    let mut canvas = Canvas { address, size: screen.size, written: 0 };
    let mut bodies = Bodies::new(screen.size.width as i32, screen.size.height as i32);
    canvas.draw(Part::whole(screen.size), &bodies);
    let first = canvas.written;
    let mut drawn = 0_u32;
    while pictures == 0 || drawn < pictures.into() {
        let before = bodies;
        bodies.step();
        for (old, new) in before.places().zip(bodies.places()) {
            canvas.draw(Part::around(old, screen.size).union(Part::around(new, screen.size)), &bodies);
        }
        drawn += 1;
        if call::thread_sleep(PERIOD).is_err() {
            return program_status::FAILURE;
        }
        if pictures == 0 && drawn.is_multiple_of(REPORT_EVERY) {
            say!("draw: {drawn} pictures");
        }
    }
    let (width, height) = (screen.size.width, screen.size.height);
    let changed = (canvas.written - first) / u64::from(drawn.max(1));
    say!("draw: {drawn} pictures of {width}x{height} pixels, of which each changed {changed} on average");
    program_status::SUCCESS
}

/// A rectangle of pixels; the ends are not in it.
#[derive(Clone, Copy)]
struct Part {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Part {
    const fn whole(size: ScreenSize) -> Self {
        Self { left: 0, right: size.width as i32, top: 0, bottom: size.height as i32 }
    }

    /// What a body covers, as far as it is on the screen.
    fn around((x, y): (i32, i32), size: ScreenSize) -> Self {
        let all = Self::whole(size);
        Self {
            left: (x - RADIUS).clamp(0, all.right),
            right: (x + RADIUS + 1).clamp(0, all.right),
            top: (y - RADIUS).clamp(0, all.bottom),
            bottom: (y + RADIUS + 1).clamp(0, all.bottom),
        }
    }

    fn union(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            right: self.right.max(other.right),
            top: self.top.min(other.top),
            bottom: self.bottom.max(other.bottom),
        }
    }
}

/// The window onto the screen.
struct Canvas {
    address: u64,
    size: ScreenSize,
    /// Pixels written so far.
    written: u64,
}

impl Canvas {
    /// Draws all that belongs into a part of the screen.
    fn draw(&mut self, part: Part, bodies: &Bodies) {
        for y in part.top..part.bottom {
            let row = self.address + y as u64 * u64::from(self.size.pitch);
            let near = bodies.near_row(y);
            for x in part.left..part.right {
                let colour = sky::colour(x, y, self.size.height as i32, near.glow(x, y));
                // SAFETY: `pitch * height` bytes are mapped there to be written, the part is inside of that, and nobody else of this program uses it.
                unsafe { ((row + 4 * x as u64) as *mut u32).write_volatile(colour) };
            }
        }
        self.written += (part.right - part.left) as u64 * (part.bottom - part.top) as u64;
    }
}
