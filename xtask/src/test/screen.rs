//! The screen and the keyboard: questions are typed at the machine's keyboard, the serial line tells what was answered, and a picture of the screen is compared with what
//! the same library draws of the same bytes here.
//!
//! ```text
//!   keyboard ──► the kernel ──► serial line ──► its bytes ──► text, drawn here ─┐
//!                         └──► screen ──► a picture of it ─────────────────────┴──► the same pixels?
//! ```

use std::{collections::HashSet, fs::File, io::BufReader, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use refkernel_surface::{
    Surface,
    layout::Layout,
    text::{FONT, Glyphs, Palette, Place, Terminal},
};

use crate::{
    build::Image,
    places::{self, SEED},
    qemu::{Machine, Memory},
    session::{self, Script, Shot, Wishes},
};

/// How long it may take in all.
const TOTAL: Duration = Duration::from_secs(180);
/// How long nothing may come on the serial line.
const SILENCE: Duration = Duration::from_secs(60);
/// The most characters on the screen.
const CELLS: usize = 1 << 14;
/// Fewer colours than these are not the view of memory, or the picture.
const VIEW_COLOURS: usize = 8;

/// What is typed. Then the picture is shown, and put away by the next key.
const TYPED: [&str; 8] = [
    "help",
    "ps",
    "run check 16",
    "walk refkernel::kernel_main",
    // Home, End and Tab; a mistake that is taken back.
    "ra\u{1}f\u{5}\u{7f}a\t",
    EXPLAIN,
    "map",
    "psx\u{7f}",
];
/// A question about the first page of the program's window, whose address stands in the place of the star.
const EXPLAIN: &str = "explain * write";
/// The question before which the text is looked at for the first time, that before which the picture is, and behind all.
const SHOTS: [usize; 3] = [6, 7, 8];

/// A picture of the screen.
struct Screen {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
}

impl Screen {
    fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut decoder = png::Decoder::new(BufReader::new(file));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        let mut bytes = vec![0; reader.output_buffer_size().context("the picture is too large")?];
        let frame = reader.next_frame(&mut bytes)?;
        let samples = frame.color_type.samples();
        ensure!(samples >= 3, "the picture has no colours");
        let pixel = |pixel: &[u8]| pixel.iter().take(3).fold(0, |value, part| value << 8 | u32::from(*part));
        let pixels = bytes.get(..frame.buffer_size()).unwrap_or_default().chunks_exact(samples).map(pixel).collect();
        Ok(Self { width: frame.width, height: frame.height, pixels })
    }

    /// Its pixels in a rectangle: left, top, width and height.
    fn part(&self, [left, top, width, height]: [u32; 4]) -> Vec<u32> {
        let row = |y: u32| {
            let start = (y * self.width + left) as usize;
            self.pixels.get(start..start + width as usize).unwrap_or_default().iter().copied()
        };
        (top..top + height).flat_map(row).collect()
    }
}

/// What must be on the screen when these bytes have come over the serial line, with the kernel waiting at its prompt.
fn expected(bytes: &[u8], layout: &Layout, width: u32, height: u32) -> Result<Screen> {
    let mut terminal = Box::new(Terminal::<CELLS>::new());
    let (columns, rows) = layout.console_cells();
    terminal.resize(columns, rows);
    terminal.write(bytes);
    terminal.show_cursor(true);
    let mut pixels = vec![0; (width * height) as usize];
    let mut surface = Surface::over(&mut pixels, width, height, width * 4).map_err(anyhow::Error::msg)?;
    let glyphs = Glyphs::of(FONT);
    let place = Place { origin: layout.console.top_left, glyphs: &glyphs, palette: &Palette::DARK };
    let Ok(()) = terminal.draw(&place, &mut surface);
    Ok(Screen { width, height, pixels })
}

/// Boots a machine with so many processors to the prompt, types, and looks at the screen. Gives how many answers were looked at, and the log.
pub(crate) fn run(image: &Image, cpus: u8, logs: &Path, show: bool) -> Result<(usize, Vec<String>)> {
    let window = places::largest(image, cpus, "check 16")?.start;
    let questions = TYPED.map(|question| question.replace('*', &format!("{window:#x}")));
    let files = SHOTS.map(|question| logs.join(format!("screen-{cpus}-{question}.png")));
    for file in &files {
        // Yesterday's picture must not be taken for today's.
        let _ = std::fs::remove_file(file);
    }
    let shots: Vec<Shot<'_>> =
        SHOTS.iter().zip(&files).map(|(question, file)| Shot { question: *question, after: None, file }).collect();
    let machine = Machine::direct(image, cpus, format!("{SEED} inspect"));
    let outcome = session::run(
        &machine,
        Wishes {
            show,
            script: Some(Script { by_keyboard: true, shots: &shots, ..Script::new(&questions) }),
            ..Wishes::within(Some(TOTAL), SILENCE)
        },
    )?;
    ensure!(outcome.end.is_success(), "{}{}", outcome.end, outcome.last_lines());
    outcome.picture.clone().map_err(anyhow::Error::msg)?;

    let said = |text: &str| {
        let found = outcome.lines.iter().any(|line| line.contains(text));
        ensure!(found, "no line has `{text}`{}", outcome.last_lines());
        Ok(())
    };
    for text in [
        "keyboard: ready, by interrupt 1",
        "vm> ps",
        "0 processes",
        "process 1: it exited with 0",
        ", r-x- WB, by a leaf of ",
        "all ",
        "succeeds: without a fault",
        "physical memory:",
        "1 processes",
    ] {
        said(text)?;
    }
    let [text, picture, again] = &files;
    let bytes = |index: usize| outcome.before_shots.get(index).map(Vec::as_slice).context("a picture was not taken");
    compare(text, bytes(0)?).context("the screen after the first questions")?;
    compare(again, bytes(2)?).context("the screen when the picture was put away")?;
    let (shown, text) = (Screen::read(picture)?, Screen::read(text)?);
    let layout = Layout::new(shown.width, shown.height, shown.width * 4);
    let whole = [0, 0, shown.width, layout.upper.size.height];
    ensure!(shown.part(whole) != text.part(whole), "`map` shows nothing");
    ensure!(colours(&shown.part(whole)) >= VIEW_COLOURS, "`map` shows no picture");
    Ok((TYPED.len(), outcome.lines))
}

/// Asks a machine that has neither screen nor keyboard: both are missed in a sentence, and nothing else is. Some questions come when nobody looks at the serial
/// line any more, so that it has to interrupt.
pub(crate) fn run_without(image: &Image, show: bool) -> Result<Vec<String>> {
    let questions = ["ps", "map", "run demo", "kill 1"].map(str::to_owned);
    let pause = || std::thread::sleep(Duration::from_millis(500));
    let machine = Machine {
        memory: Memory(64),
        options: ["-vga", "none", "-machine", "pc,i8042=off"].map(str::to_owned).to_vec(),
        ..Machine::direct(image, 1, "inspect".into())
    };
    let outcome = session::run(
        &machine,
        Wishes {
            show,
            script: Some(Script { between: &[(1, &pause), (3, &pause)], ..Script::new(&questions) }),
            ..Wishes::within(Some(TOTAL), SILENCE)
        },
    )?;
    ensure!(outcome.end.is_success(), "{}{}", outcome.end, outcome.last_lines());
    for text in [
        "framebuffer: none",
        "keyboard: none: the machine has no controller for one",
        "picture: there is no framebuffer to draw it on",
        "physical memory:",
        "demo: was handed no framebuffer, so draws nothing",
        "process 1: it exited with 0",
    ] {
        let found = outcome.lines.iter().any(|line| line.contains(text));
        ensure!(found, "no line has `{text}`{}", outcome.last_lines());
    }
    Ok(outcome.lines)
}

fn colours(pixels: &[u32]) -> usize {
    pixels.iter().collect::<HashSet<_>>().len()
}

/// Requires that the text of a picture is what these bytes make, that memory is shown beside it, and that the program's rows are nobody's.
fn compare(file: &Path, bytes: &[u8]) -> Result<()> {
    let screen = Screen::read(file)?;
    let layout = Layout::new(screen.width, screen.height, screen.width * 4);
    let expected = expected(bytes, &layout, screen.width, screen.height)?;
    let (corner, size) = (layout.console.top_left, FONT.character_size);
    let (columns, rows) = layout.console_cells();
    for row in 0..rows as u32 {
        for column in 0..columns as u32 {
            let cell =
                [corner.x as u32 + column * size.width, corner.y as u32 + row * size.height, size.width, size.height];
            ensure!(
                screen.part(cell) == expected.part(cell),
                "{}: the character in column {column} of row {row} is not what the serial line says",
                file.display()
            );
        }
    }
    let view = layout.view.context("the screen is too small for the view")?;
    let place = [view.top_left.x as u32, view.top_left.y as u32, view.size.width, view.size.height];
    ensure!(colours(&screen.part(place)) >= VIEW_COLOURS, "{}: memory is not shown beside the text", file.display());
    let program = layout.program.context("no rows are a program's")?;
    let rows = [0, program.first_row, screen.width, program.rows];
    ensure!(colours(&screen.part(rows)) == 1, "{}: something is drawn in a program's rows", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_differs_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.png");
        let bytes = b"refkernel: booted\nvm> ";
        let (width, height) = (1024, 768);
        let layout = Layout::new(width, height, width * 4);
        let write = |bytes: &[u8]| {
            let mut screen = expected(bytes, &layout, width, height).unwrap();
            // A view of many colours, and a ground in the program's rows.
            for (index, pixel) in screen.pixels.iter_mut().enumerate() {
                let (x, y) = (index as u32 % width, index as u32 / width);
                if x >= layout.view.unwrap().top_left.x as u32 && y < layout.upper.size.height {
                    *pixel = x;
                }
            }
            let mut encoder = png::Encoder::new(File::create(&path).unwrap(), width, height);
            encoder.set_color(png::ColorType::Rgb);
            let data: Vec<u8> = screen.pixels.iter().flat_map(|pixel| pixel.to_be_bytes()[1..].to_vec()).collect();
            encoder.write_header().unwrap().write_image_data(&data).unwrap();
        };
        write(bytes);
        compare(&path, bytes).unwrap();
        for other in [&b"refkernel: hooted\nvm> "[..], b"refkernel: booted\nvm>  ", b"refkernel: booted\n\nvm> ", b""] {
            assert!(compare(&path, other).unwrap_err().to_string().contains("is not what the serial line says"));
        }
    }
}
