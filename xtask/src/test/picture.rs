//! Whether a screenshot shows something.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::BufReader,
    path::Path,
};

/// The program's strip takes at least this part of the screen's rows, at its bottom.
const STRIP: usize = 8;
/// The demo weaves its strip of far more colours, and the kernel's part of the screen has fewer in any such place.
const STRIP_COLOURS: usize = 32;

/// Checks that the picture has several colours and that none of them fills it: the map was drawn; and that the rows that a program is
/// handed show what the demo's program draws.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let wrong = |what: String| format!("the picture {} {what}", path.display());
    let file = File::open(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| wrong(format!("is no PNG: {error}")))?;
    let size = reader.output_buffer_size().ok_or_else(|| wrong("is too large".into()))?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(|error| wrong(format!("is damaged: {error}")))?;
    let samples = frame.color_type.samples();
    let pixels = pixels.get(..frame.buffer_size()).unwrap_or_default();

    let mut colours: HashMap<&[u8], usize> = HashMap::new();
    for pixel in pixels.chunks_exact(samples) {
        *colours.entry(pixel).or_default() += 1;
    }
    let most = colours.values().copied().max().unwrap_or_default();
    let all = pixels.len() / samples;
    // A text screen has two colours; the map has its legend's.
    if colours.len() < 4 {
        return Err(wrong(format!("has only {} colours", colours.len())));
    }
    if most * 100 > all * 98 {
        return Err(wrong(format!("is of one colour but for {} of {all} pixels", all - most)));
    }
    let width = frame.width as usize;
    let first = width * (frame.height as usize - frame.height as usize / STRIP);
    let strip: HashSet<&[u8]> = pixels.chunks_exact(samples).skip(first).collect();
    if strip.len() < STRIP_COLOURS {
        return Err(wrong(format!("has only {} colours where the program draws", strip.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(colour: impl Fn(u32) -> [u8; 3]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.png");
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 40, 25);
        encoder.set_color(png::ColorType::Rgb);
        let pixels: Vec<u8> = (0..1000).flat_map(colour).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        (directory, path)
    }

    #[test]
    fn a_map_shows_something() {
        let (_directory, path) = written(|n| [(n / 100) as u8, (n / 880 * n) as u8, 7]);
        check(&path).unwrap();
    }

    #[test]
    fn a_map_without_the_program_is_not_enough() {
        let (_directory, path) = written(|n| [(n / 100) as u8, 0, 7]);
        assert!(check(&path).unwrap_err().contains("only 2 colours where the program draws"));
    }

    #[test]
    fn an_empty_screen_shows_nothing() {
        let (_directory, path) = written(|_| [0, 0, 0]);
        assert!(check(&path).unwrap_err().contains("only 1 colours"));
        let (_directory, path) = written(|n| [n.min(9) as u8, 0, 0]);
        assert!(check(&path).unwrap_err().contains("but for 9 of 1000"));
        let (_directory, path) = written(|n| [(n % 2) as u8, 0, 0]);
        assert!(check(&path).unwrap_err().contains("only 2 colours"));
    }

    #[test]
    fn what_is_no_picture_is_said_to_be_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.png");
        assert!(check(&path).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, b"P6").unwrap();
        assert!(check(&path).unwrap_err().contains("is no PNG"));
    }
}
