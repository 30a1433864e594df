//! The colour of a pixel: the sky at night, which grows lighter towards the ground, stars, and the light that falls on it.

/// A star in so many places.
const STARS: u32 = 601;

/// The colour of a pixel with this light on it, as `0x00RRGGBB`.
pub(crate) fn colour(x: i32, y: i32, height: i32, light: [u16; 3]) -> u32 {
    let low = (y * 64 / height.max(1)) as u16;
    let mut colour = [6 + low / 4, 8 + low / 2, 26 + low];
    let place = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca6b);
    let place = place ^ place >> 15;
    if place.is_multiple_of(STARS) {
        let bright = 90 + (place >> 20 & 127) as u16;
        colour = [bright, bright, bright + 20];
    }
    colour.into_iter().zip(light).fold(0, |sum, (part, light)| sum << 8 | u32::from((part + light).min(255)))
}
