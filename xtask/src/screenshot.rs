//! `cargo xtask screenshot`: the pictures of the README, taken of the running kernel.
//!
//! Each is what the screen of a machine shows at a moment that a script has brought about. They are written again in as few bytes as they need, without a
//! date, so that the same screen gives the same file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Image, Profile},
    places::{self, SEED, Window},
    qemu::Machine,
    session::{self, Script, Shot, Wishes},
    setup::{self, Need},
    workspace::Workspace,
};

/// The programs that draw: the first one that there is, is shown.
const DRAWING: [&str; 2] = ["draw", "demo"];
/// How long it has drawn when the picture is taken.
const DRAWN: Duration = Duration::from_secs(3);
/// How long a machine may take.
const TOTAL: Duration = Duration::from_secs(180);
const SILENCE: Duration = Duration::from_secs(60);

/// What is typed for the picture of the console. Behind Ctrl-L, which clears the screen of what the kernel has said of the machine and of the time. The star is the address
/// of a window of the program's.
const TYPED: [&str; 5] = ["\u{c}run demo", "maps 1", "walk *", "explain 0x10 write in 1", "dump *+64K"];

/// Take the pictures of the README: the map, the console, and a program's animation
///
/// Boots the kernel three times without a window, types at the machine's keyboard, and writes what its screen shows.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the pictures go [default: the directory `docs`]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Take this one alone
    #[arg(value_enum, value_name = "PICTURE")]
    only: Option<Subject>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    /// Physical memory by use, and the live spaces: refkernel.png
    Map,
    /// The inspector's prompt, with a few questions: console.png
    Console,
    /// A program that draws, with memory beside it: animation.png
    Animation,
}

impl Subject {
    const ALL: [Self; 3] = [Self::Map, Self::Console, Self::Animation];

    fn file(self) -> &'static str {
        match self {
            Self::Map => "refkernel.png",
            Self::Console => "console.png",
            Self::Animation => "animation.png",
        }
    }
}

/// `cargo xtask screenshot`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Qemu], arguments.yes)?;
    let workspace = Workspace::load()?;
    let directory = arguments.to.clone().unwrap_or_else(|| workspace.root.join("docs"));
    if !directory.is_dir() {
        bail!("there is no directory {} to write to: make it, or name another one with `--to`", directory.display());
    }
    let image = build::image(&workspace, Profile::Optimised)?;
    let programs: Vec<String> = workspace.programs().map(|program| program.name.clone()).collect();
    let subjects = Subject::ALL.into_iter().filter(|subject| arguments.only.is_none_or(|only| only == *subject));
    for subject in subjects {
        eprintln!("Taking {}: booting", subject.file());
        let taken = tempfile::tempdir().context("making a directory for the picture")?;
        let picture = taken.path().join("screen.png");
        take(subject, &image, &programs, &picture).with_context(|| format!("taking {}", subject.file()))?;
        let file = directory.join(subject.file());
        let size = write_small(&picture, &file)?;
        eprintln!("Wrote {} ({} KiB)", file.display(), size.div_ceil(1024));
    }
    Ok(())
}

/// Boots, brings the screen to where the picture is to be taken, and takes it.
fn take(subject: Subject, image: &Image, programs: &[String], picture: &Path) -> Result<()> {
    let drawing = || DRAWING.into_iter().find(|name| programs.iter().any(|program| program == name));
    let questions: Vec<String> = match subject {
        Subject::Map => Vec::new(),
        Subject::Console => {
            // The same seed, so the same places.
            let (windows, _) = places::windows(image, 1, SEED, "demo")?;
            let wanted = |window: &&Window| window.start >= 1 << 32 && window.rest.starts_with("rw-u open");
            let window = windows.iter().find(wanted).context("the program has no window")?.start;
            TYPED.map(|question| question.replace('*', &format!("{window:#x}"))).to_vec()
        }
        Subject::Animation => vec![format!("\u{c}run {}", drawing().context("no program draws")?)],
    };
    let shot = match subject {
        Subject::Map => None,
        Subject::Console => Some(Shot { question: questions.len(), after: None, file: picture }),
        Subject::Animation => Some(Shot { question: 0, after: Some(DRAWN), file: picture }),
    };
    let mode = if subject == Subject::Map { "demo hold" } else { "inspect" };
    let machine = Machine::direct(image, 1, format!("{SEED} {mode}"));
    let outcome = session::run(
        &machine,
        Wishes {
            script: shot.is_some().then(|| Script {
                by_keyboard: true,
                shots: shot.as_slice(),
                ..Script::new(&questions)
            }),
            picture: shot.is_none().then_some(picture),
            ..Wishes::within(Some(TOTAL), SILENCE)
        },
    )?;
    if let Err(reason) = &outcome.picture {
        bail!("{reason}{}", outcome.last_lines());
    }
    if !outcome.end.is_success() {
        bail!("{}{}", outcome.end, outcome.last_lines());
    }
    Ok(())
}

/// Writes a picture again, with a palette where its colours fit one. Gives the size of the file.
fn write_small(from: &Path, to: &Path) -> Result<u64> {
    let purpose = || format!("writing {}", to.display());
    let mut decoder = png::Decoder::new(BufReader::new(File::open(from).context("opening what QEMU has written")?));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().context("reading what QEMU has written")?;
    let mut bytes = vec![0; reader.output_buffer_size().context("the picture is too large")?];
    let frame = reader.next_frame(&mut bytes).context("reading what QEMU has written")?;
    let samples = frame.color_type.samples();
    let pixels: Vec<[u8; 3]> = bytes
        .get(..frame.buffer_size())
        .unwrap_or_default()
        .chunks_exact(samples)
        .filter_map(|pixel| pixel.first_chunk().copied())
        .collect();
    let mut colours = BTreeMap::new();
    for pixel in &pixels {
        colours.insert(*pixel, 0_u8);
    }
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, frame.width, frame.height);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    let data = if colours.len() <= 256 {
        for (number, index) in (0..=u8::MAX).zip(colours.values_mut()) {
            *index = number;
        }
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(colours.keys().flatten().copied().collect::<Vec<_>>());
        // Neighbours in a palette are not neighbours in colour.
        encoder.set_filter(png::Filter::NoFilter);
        pixels.iter().filter_map(|pixel| colours.get(pixel).copied()).collect()
    } else {
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_filter(png::Filter::Adaptive);
        pixels.concat()
    };
    let mut writer = encoder.write_header().with_context(purpose)?;
    writer.write_image_data(&data).with_context(purpose)?;
    writer.finish().with_context(purpose)?;
    std::fs::write(to, &out).with_context(purpose)?;
    Ok(out.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_is_written_again_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a.png"), directory.path().join("b.png"));
        for colours in [3_u32, 5000] {
            let data: Vec<u8> = (0..64 * 100).flat_map(|n| (n % colours * 3301).to_be_bytes()[1..].to_vec()).collect();
            let mut encoder = png::Encoder::new(File::create(&from).unwrap(), 64, 100);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&data).unwrap();
            let size = write_small(&from, &to).unwrap();
            assert_eq!(size, std::fs::metadata(&to).unwrap().len());
            let mut decoder = png::Decoder::new(BufReader::new(File::open(&to).unwrap()));
            decoder.set_transformations(png::Transformations::normalize_to_color8());
            let mut reader = decoder.read_info().unwrap();
            let mut again = vec![0; reader.output_buffer_size().unwrap()];
            let frame = reader.next_frame(&mut again).unwrap();
            assert_eq!((frame.width, frame.height), (64, 100));
            assert!(again[..frame.buffer_size()] == data, "{colours} colours");
        }
    }
}
