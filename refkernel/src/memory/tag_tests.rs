//! What must be true where translations are told apart by tags, asked in the machine. QEMU's processors have none.

use super::{Kernel, UserSpace, in_space, new_user_space};
use crate::cpu::{features, user_copy};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{MapRequest, SpaceError};
use x86_64::registers::control::Cr3;

/// Every test of tags, by name.
pub(crate) const ALL: &[(&str, super::tests::Test)] =
    &[("spaces_have_tags_of_their_own", spaces_have_tags_of_their_own)];

const PAGE: u64 = super::frames::FRAME_SIZE;
const ADDRESS: u64 = 0x40_0000;

/// Whether there are tags to ask about.
pub(crate) fn can_run() -> bool {
    features::has_tags()
}

fn found(error: SpaceError) -> &'static str {
    crate::log!("  {error}");
    "see the line above"
}

fn space_with_page(byte: u8) -> Result<UserSpace, &'static str> {
    let space = new_user_space().map_err(found)?;
    let area = Area::new(&Kernel, AreaKind::Open { size: PAGE }, ()).map_err(|_| "no area can be made")?;
    space.map(&MapRequest::new(&area).at(ADDRESS)).map_err(found)?;
    let written = in_space(&space, || user_copy::copy_to_user(ADDRESS, &[byte]).is_ok());
    if written { Ok(space) } else { Err("the page cannot be written") }
}

fn read() -> Option<u8> {
    let mut byte = [0];
    user_copy::copy_from_user(&mut byte, ADDRESS).is_ok().then_some(byte[0])
}

/// Spaces show their own pages at one address, also when they are come back to without forgetting; what was taken from one meanwhile is gone.
fn spaces_have_tags_of_their_own() -> Result<(), &'static str> {
    let (one, other) = (space_with_page(1)?, space_with_page(2)?);
    let loaded = || Cr3::read_raw().1;
    let tags = [in_space(&one, loaded), in_space(&other, loaded)];
    if tags != [one.tag().0, other.tag().0] || tags[0] == tags[1] || tags.contains(&0) {
        return Err("a space is not loaded under a tag of its own");
    }
    for _ in 0..8 {
        if [in_space(&one, read), in_space(&other, read)] != [Some(1), Some(2)] {
            return Err("a space shows the page of another");
        }
    }
    let range = one.range(ADDRESS, PAGE).map_err(|_| "the page is no range")?;
    in_space(&other, || -> Result<(), SpaceError> {
        one.unmap(range)?.complete();
        Ok(())
    })
    .map_err(found)?;
    if [in_space(&one, read), in_space(&other, read)] != [None, Some(2)] {
        return Err("a page is there that was taken while another space was loaded");
    }
    Ok(())
}
