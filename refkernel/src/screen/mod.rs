//! The screen: the kernel's log and the inspector's prompt as text, memory as it is beside it, or the picture of both in full.
//!
//! | file | what lives there |
//! |---|---|
//! | [`console`] | the text |
//! | [`view`] | memory as it is |
//! | [`strip`] | the rows that are a program's |
//!
//! Who has which rectangle is `refkernel::surface::layout`'s to say.
//!
//! ```text
//!   log, prompt ──► console (characters in memory) ──┐
//!                                                    ├── a thread, a few times in a second ──► the framebuffer
//!   frames, spaces ──► view (cells in memory) ───────┘         what has changed only
//! ```
//!
//! Whoever logs only changes characters in memory, so a log line costs the same with and without a screen, but for a copy of its bytes. The framebuffer is
//! written by who has the [`Brush`], and never read. No frame is taken after [`start`].

mod console;
pub(crate) mod strip;
mod view;

pub(crate) use console::put;

use crate::boot_picture::PictureError;
use crate::log;
use crate::memory;
use crate::thread::{self, scheduler, sleep};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use refkernel::boot_info::{BootInfo, Framebuffer};
use refkernel::surface::Surface;
use refkernel::surface::layout::Layout;
use spin::Once;

/// How often what has changed is drawn.
const PERIOD_MICROSECONDS: u64 = 50_000;
/// How long somebody who wants the brush sleeps before the next look.
const PAUSE_MICROSECONDS: u64 = 1_000;

/// A framebuffer that is mapped, and its layout.
struct Screen {
    first: u64,
    framebuffer: Framebuffer,
    layout: Layout,
    info: &'static BootInfo,
}

static SCREEN: Once<Screen> = Once::new();

/// Nothing of the kernel's.
const NOTHING: u8 = 0;
/// Console and view.
const TEXT: u8 = 1;
/// The picture, in their place.
const PICTURE: u8 = 2;

/// What the screen shows, or is to show as soon as it is drawn.
static SHOWN: AtomicU8 = AtomicU8::new(NOTHING);

/// Whether somebody draws.
static BRUSH: AtomicBool = AtomicBool::new(false);

/// The layout of a framebuffer that can be drawn on.
fn layout_of(info: &BootInfo) -> Option<(Framebuffer, Layout)> {
    let framebuffer = *info.framebuffer().filter(|framebuffer| framebuffer.is_xrgb())?;
    Some((framebuffer, Layout::new(framebuffer.width, framebuffer.height, framebuffer.pitch)))
}

/// Keeps what is logged from here on for the screen, if the machine has one. The first thing that the kernel does.
pub(crate) fn prepare(info: &BootInfo) {
    if let Some((_, layout)) = layout_of(info) {
        console::prepare(&layout);
    }
}

/// Makes the screen ready for whoever draws, once, with the framebuffer mapped and threads at hand. `kept_up`: shows what was logged and what memory is
/// used for, from now on. `spaces`: also who uses it; a look at a process keeps it for a moment, which whoever counts frames would notice.
pub(crate) fn start(info: &'static BootInfo, kept_up: bool, spaces: bool) {
    let Some((framebuffer, layout)) = layout_of(info) else { return };
    let Some(first) = memory::framebuffer_address(info) else { return };
    let bytes = u64::from(framebuffer.pitch) * u64::from(framebuffer.height);
    let room = memory::framebuffer_area().map_or(0, |area| area.size());
    if framebuffer.physical % refkernel_abi::PAGE_SIZE + bytes > room {
        log!("screen: {}", PictureError::NotMapped);
        return;
    }
    SCREEN.call_once(|| Screen { first, framebuffer, layout, info });
    if !kept_up {
        return;
    }
    if let Some(mut brush) = Brush::take() {
        console::clear(&mut brush, &layout);
        SHOWN.store(TEXT, Ordering::SeqCst);
    }
    if let Err(error) = thread::spawn_for_ever(keep_up, [u64::from(spaces), 0, 0, 0]) {
        log!("screen: what changes is not drawn: {error}");
    }
}

/// The rectangles of the screen, if there is one that is drawn on.
pub(crate) fn layout() -> Option<&'static Layout> {
    SCREEN.get().map(|screen| &screen.layout)
}

/// Who has it may draw.
pub(crate) struct Brush(Surface<'static>);

impl Brush {
    /// Waits until nobody draws; `None` without a screen. Not with a lock held.
    pub(crate) fn take() -> Option<Self> {
        let screen = SCREEN.get()?;
        while BRUSH.swap(true, Ordering::Acquire) {
            scheduler::yield_now();
            sleep::sleep_microseconds(PAUSE_MICROSECONDS);
        }
        let surface = surface(screen);
        if surface.is_none() {
            BRUSH.store(false, Ordering::Release);
        }
        surface.map(Self)
    }
}

impl Deref for Brush {
    type Target = Surface<'static>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Brush {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Brush {
    fn drop(&mut self) {
        BRUSH.store(false, Ordering::Release);
    }
}

/// The framebuffer, for who has the brush or is the last that draws.
fn surface(screen: &Screen) -> Option<Surface<'static>> {
    let Framebuffer { width, height, pitch, .. } = screen.framebuffer;
    // SAFETY: the window shows the whole framebuffer (`start` has compared), for as long as the kernel runs, to be written. Nothing else of the
    // kernel's writes there: who calls this has the brush, or has stopped all others. Programs write to their rows alone.
    unsafe { Surface::new(screen.first as *mut u32, width, height, pitch) }.ok()
}

/// Gives the kernel's part of the screen to the picture, which is then drawn with the brush, until [`show_text`].
pub(crate) fn show_picture() -> Option<Brush> {
    let brush = Brush::take()?;
    SHOWN.store(PICTURE, Ordering::SeqCst);
    Some(brush)
}

/// Gives it back to console and view, which are drawn soon.
pub(crate) fn show_text() {
    if SHOWN.load(Ordering::SeqCst) != PICTURE {
        return;
    }
    if let (Some(mut brush), Some(layout)) = (Brush::take(), layout()) {
        console::clear(&mut brush, layout);
        view::redraw(&brush);
        SHOWN.store(TEXT, Ordering::SeqCst);
    }
}

/// Waits until nobody looks at a process for the view: what was given up before is gone then. Not with a lock held.
pub(crate) fn finish_look() {
    drop(Brush::take());
}

/// Shows where the next key goes, or no longer.
pub(crate) fn show_cursor(shown: bool) {
    console::show_cursor(shown);
}

/// What the screen's thread does.
fn keep_up([spaces, ..]: thread::Arguments) {
    let Some(Screen { layout, info, .. }) = SCREEN.get() else { return };
    loop {
        if let Some(mut brush) = Brush::take()
            && SHOWN.load(Ordering::SeqCst) == TEXT
        {
            console::draw(&mut brush, layout);
            view::draw(&mut brush, info, layout, spaces != 0);
        }
        sleep::sleep_microseconds(PERIOD_MICROSECONDS);
    }
}

/// Breaks the lock of the text, for a message that is the kernel's last.
///
/// # Safety
///
/// The holder of the lock must never run again.
pub(crate) unsafe fn seize() {
    // SAFETY: by the contract.
    unsafe { console::seize() };
}

/// Draws the text as it is now: the kernel's last message.
///
/// # Safety
///
/// Nobody else runs any more, nor will.
pub(crate) unsafe fn draw_last() {
    let Some(screen) = SCREEN.get() else { return };
    // By the contract whoever has the brush never uses it again.
    let Some(surface) = surface(screen) else { return };
    let mut brush = Brush(surface);
    if SHOWN.swap(TEXT, Ordering::SeqCst) != TEXT {
        console::clear(&mut brush, &screen.layout);
    }
    console::draw(&mut brush, &screen.layout);
}
