//! Memory as it is, beside the text: where the numbers come from.

use super::{Brush, console};
use crate::boot_picture::{self, Name, RANGES_MAX, WINDOWS_MAX};
use crate::cpu::trap;
use crate::memory::{self, heap};
use crate::{process, thread};
use core::fmt::Write;
use refkernel::boot_info::BootInfo;
use refkernel::picture::live::{LiveView, SPACES};
use refkernel::picture::{Counter, CounterValue, MemoryRange, Space, Window};
use refkernel::surface::layout::Layout;
use refkernel::surface::text::{Palette, Place};
use spin::Mutex;

/// Frames that are looked at each time: 256 MiB take eight steps.
const FRAMES_PER_STEP: u64 = 1 << 13;
/// Counters are written every so many steps, spaces are looked at every so many.
const COUNTERS_EVERY: u32 = 4;
const SPACES_EVERY: u32 = 10;
/// A window with more pages is not looked at page by page.
const PAGES_MAX: u64 = 2048;

struct State {
    view: LiveView,
    begun: bool,
    steps: u32,
}

/// Only used with the brush: nobody ever waits for it.
static STATE: Mutex<State> = Mutex::new(State { view: LiveView::new(), begun: false, steps: 0 });

/// Everything is to be drawn again. With the brush.
pub(super) fn redraw(_: &Brush) {
    STATE.lock().view.redraw();
}

/// Looks at a part of memory, and draws what has changed.
pub(super) fn draw(brush: &mut Brush, info: &BootInfo, layout: &Layout, with_processes: bool) {
    let Some(place) = layout.view else { return };
    let mut state = STATE.lock();
    let State { view, begun, steps } = &mut *state;
    if !*begun {
        *begun = true;
        let mut ranges = [MemoryRange { first_frame: 0, frames: 0 }; RANGES_MAX];
        view.begin(boot_picture::memory_ranges(info, &mut ranges), place.size);
    }
    view.sweep(FRAMES_PER_STEP, &memory::use_of_frame);
    if steps.is_multiple_of(COUNTERS_EVERY) {
        set_counters(view);
    }
    if steps.is_multiple_of(SPACES_EVERY) {
        set_spaces(view, with_processes);
    }
    *steps = steps.wrapping_add(1);
    let place = Place { origin: place.top_left, glyphs: console::glyphs(), palette: &Palette::DARK };
    let Ok(()) = view.draw(&place, &mut **brush);
}

fn set_counters(view: &mut LiveView) {
    let count = CounterValue::Count;
    let mut threads = 0;
    thread::for_each(|_| threads += 1);
    view.set_counters(
        &[
            ("frames in use", count(memory::frames_in_use())),
            ("faults answered", count(trap::faults_answered())),
            ("kernel heap", CounterValue::Bytes(heap::usage().0)),
            ("flush interrupts", count(memory::interrupts_sent())),
            ("threads", count(threads)),
            ("processes", count(process::count() as u64)),
        ]
        .map(|(name, value)| Counter { name, value }),
    );
}

/// The kernel's space, and those of the youngest processes, if they may be looked at.
fn set_spaces(view: &mut LiveView, with_processes: bool) {
    let mut windows = [Window::NONE; WINDOWS_MAX];
    let named = |info: &vmcore::vm_space::WindowInfo| memory::purpose(info.range.start().as_u64());
    let kernel = boot_picture::list_windows(memory::kernel_space(), &mut windows, PAGES_MAX, named);
    view.set_space(0, Some(&Space { name: "kernel", windows: kernel }));
    let mut places = 1..SPACES;
    if with_processes {
        let hidden = process::count().saturating_sub(places.len());
        for process in process::all().skip(hidden) {
            let Some(place) = places.next() else { break };
            let mut name = Name::new();
            let _ = write!(name, "{}: {}", process::pid(&process), &*process);
            let mut windows = [Window::NONE; WINDOWS_MAX];
            let windows = boot_picture::list_windows(process.space(), &mut windows, PAGES_MAX, |_| "");
            view.set_space(place, Some(&Space { name: name.as_str(), windows }));
        }
    }
    places.for_each(|place| view.set_space(place, None));
}
