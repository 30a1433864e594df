//! The area that all threads of all processes share, and messages from one process to the next.
//!
//! Each thread has a word of its own in each page of the area, so that it knows what must be there; what it finds the first time was written in an earlier life.

use refkernel_runtime::{Access, Advice, ErrorCode, Handle, MESSAGE_LENGTH_MAX, PAGE_SIZE, Rights, call};
use refkernel_stress::content::{self, MARKED};
use refkernel_stress::operation::{below, one_of};

use crate::READ_WRITE;
use crate::calls::again;
use crate::control::Count;
use crate::worker::{Thread, Trouble, refused};

/// Pages of the area.
pub(crate) const PAGES: usize = 32;

/// What a thread knows of it.
pub(crate) struct Shared {
    slot: usize,
    values: [Option<u64>; PAGES],
    /// Where it is shown: the address, the first page, how many.
    window: Option<(u64, usize, usize)>,
}

impl Shared {
    /// For the thread with this number among all of them.
    pub(crate) const fn new(slot: usize) -> Self {
        Self { slot, values: [None; PAGES], window: None }
    }

    /// The thread's own word of a page that is shown at this address.
    fn word(&self, address: u64) -> *mut u64 {
        (address + 64 * self.slot as u64) as *mut u64
    }
}

const REQUEST: usize = 2048;

/// Who sends a message says so.
const MAGIC: u64 = 0x7374_7265_7373_0001;

/// The words before the contents.
const HEADER: usize = 5;

/// A message: MAGIC, its seed, its length in bytes, pages of the area that comes with it, what the handle allows; then words made of the seed.
type Buffer = [u64; REQUEST];

const _: () = assert!(size_of::<Buffer>() as u64 == MESSAGE_LENGTH_MAX);

fn bytes(buffer: &[u64]) -> &[u8] {
    // SAFETY: every byte of a word is a byte.
    unsafe { core::slice::from_raw_parts(buffer.as_ptr().cast(), size_of_val(buffer)) }
}

fn bytes_mut(buffer: &mut [u64]) -> &mut [u8] {
    // SAFETY: every byte of a word is a byte, and any bytes make words.
    unsafe { core::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), size_of_val(buffer)) }
}

/// The area's page `page` of the message with this seed.
const fn page_value(seed: u64, page: u64) -> u64 {
    seed.rotate_left(17) | 1 | page << 8
}

impl Thread {
    /// Maps, uses, protects or unmaps the area.
    pub(crate) fn use_shared(&mut self) -> Result<(), Trouble> {
        let (kind, first) = (below(&mut self.random, 12), below(&mut self.random, PAGES));
        let count = 1 + below(&mut self.random, PAGES - first);
        let value = self.random.rand_u64();
        let Some((address, start, pages)) = self.shared.window else {
            let place = 0x3000_0000_0000
                + ((self.shared.slot as u64) << 36)
                + (below(&mut self.random, 1024) as u64 * PAGE_SIZE);
            let (offset, length) = (first as u64 * PAGE_SIZE, count as u64 * PAGE_SIZE);
            let mapped = again(|| call::area_map(self.setup.shared, place, offset, length, READ_WRITE));
            let address = mapped.map_err(refused("map the shared area"))?;
            self.shared.window = Some((address, first, count));
            return Ok(());
        };
        let page = first % pages;
        let place = address + page as u64 * PAGE_SIZE;
        let length = pages as u64 * PAGE_SIZE;
        let word = self.shared.word(place);
        match kind {
            0..4 => {
                // SAFETY: the page is mapped to be written, and the word is this thread's alone.
                unsafe { word.write_volatile(value) };
                if let Some(known) = self.shared.values.get_mut(start + page) {
                    *known = Some(value);
                }
                Ok(())
            }
            4..9 => {
                // SAFETY: as above.
                let found = unsafe { word.read_volatile() };
                let known = self.shared.values.get_mut(start + page).map(|known| *known.get_or_insert(found));
                if known.is_none_or(|known| known == found) {
                    Ok(())
                } else {
                    Err(Trouble::NotSo("a thread's own word of the shared area is as it was written", found))
                }
            }
            9 => {
                self.shared.window = None;
                // SAFETY: nothing of it is used any more.
                again(|| unsafe { call::area_unmap(address, length) }).map_err(refused("unmap the shared area"))
            }
            10 => {
                for access in [Some(Access::READ), None, Some(READ_WRITE)] {
                    // SAFETY: nobody else uses this window, and at the end it is as it was.
                    again(|| unsafe { call::area_protect(place, PAGE_SIZE, access) })
                        .map_err(refused("protect the shared area"))?;
                }
                Ok(())
            }
            _ => {
                let advice = one_of(&mut self.random, &Advice::ALL).unwrap_or(Advice::Needed);
                // SAFETY: the area has handles: nothing of it goes.
                again(|| unsafe { call::area_advise(address, length, advice) }).map_err(refused("advise"))
            }
        }
    }

    /// Sends something to the next worker, with an area now and then.
    pub(crate) fn send_message(&mut self) -> Result<(), Trouble> {
        let seed = self.random.rand_u64();
        let length = 8 * (HEADER + below(&mut self.random, REQUEST - HEADER + 1));
        let pages = if below(&mut self.random, 3) == 0 { 1 + below(&mut self.random, 3) as u64 } else { 0 };
        let rights = [Rights::OWN_AREA, Rights::READ | Rights::MAP | Rights::SHARE, Rights::READ | Rights::SHARE];
        let rights = one_of(&mut self.random, &rights).unwrap_or(Rights::OWN_AREA);
        let mut buffer: Buffer = [0; REQUEST];
        for (index, word) in buffer.iter_mut().enumerate().take(length / 8) {
            *word = seed.rotate_left(index as u32) ^ index as u64;
        }
        buffer[..HEADER].copy_from_slice(&[MAGIC, seed, length as u64, pages, rights.bits()]);
        let mut handles = [Handle::NONE; 1];
        if pages > 0 {
            handles[0] = make_area(seed, pages, rights).map_err(refused("make an area to send"))?;
        }
        let handles = &handles[..usize::from(pages > 0)];
        match again(|| call::channel_send(self.setup.next, &bytes(&buffer)[..length], handles)) {
            Ok(()) => Ok(()),
            // The next one has enough to do.
            Err(ErrorCode::QueueFull) => {
                handles.iter().try_for_each(|handle| call::handle_close(*handle)).map_err(refused("keep a handle"))
            }
            Err(error) => Err(Trouble::Refused("send a message", error)),
        }
    }

    /// Receives what the worker before has sent, if it has.
    pub(crate) fn receive_message(&mut self) -> Result<(), Trouble> {
        let time = below(&mut self.random, 2000) as u64;
        let mut buffer: Buffer = [0; REQUEST];
        let mut handles = [Handle::NONE; 2];
        let received = again(|| call::channel_receive(self.setup.inbox, bytes_mut(&mut buffer), &mut handles, time));
        let (length, count) = match received {
            Ok(received) => received,
            Err(ErrorCode::TimedOut) => return Ok(()),
            Err(error) => return Err(Trouble::Refused("receive a message", error)),
        };
        let [magic, seed, said, pages, rights, ..] = buffer;
        if magic != MAGIC || said != length as u64 || count != usize::from(pages > 0) {
            return Err(Trouble::NotSo("a message is one that was sent", magic));
        }
        for (index, word) in buffer.iter().enumerate().take(length / 8).skip(HEADER) {
            if *word != seed.rotate_left(index as u32) ^ index as u64 {
                return Err(Trouble::NotSo("a message holds what was sent", index as u64));
            }
        }
        if pages > 0 {
            let [handle, _] = handles;
            check_area(handle, seed, pages, rights)?;
        }
        self.setup.control.count(Count::Messages);
        Ok(())
    }
}

/// An area with something in it, and a handle that allows this.
fn make_area(seed: u64, pages: u64, rights: Rights) -> Result<Handle, ErrorCode> {
    let area = call::area_create(pages * PAGE_SIZE)?;
    let address = again(|| call::area_map(area, 0, 0, pages * PAGE_SIZE, READ_WRITE))?;
    for page in 0..pages {
        for index in MARKED {
            let word = content::word(page_value(seed, page), index);
            // SAFETY: the window was just made, and is nobody else's.
            unsafe { ((address + page * PAGE_SIZE + 8 * index as u64) as *mut u64).write_volatile(word) };
        }
    }
    // SAFETY: nothing of it is used any more.
    again(|| unsafe { call::area_unmap(address, pages * PAGE_SIZE) })?;
    let sent = call::handle_duplicate(area, rights)?;
    call::handle_close(area)?;
    Ok(sent)
}

/// Looks whether an area came as it was sent, and gives it up.
fn check_area(area: Handle, seed: u64, pages: u64, rights: u64) -> Result<(), Trouble> {
    let (_, found) = call::handle_inspect(area).map_err(refused("inspect what came"))?;
    if found.bits() != rights {
        return Err(Trouble::NotSo("a handle comes with the rights that it was sent with", found.bits()));
    }
    match again(|| call::area_map(area, 0, 0, pages * PAGE_SIZE, Access::READ)) {
        Ok(address) => {
            for page in 0..pages {
                for index in MARKED {
                    // SAFETY: the window was just made.
                    let word =
                        unsafe { ((address + page * PAGE_SIZE + 8 * index as u64) as *const u64).read_volatile() };
                    if word != content::word(page_value(seed, page), index) {
                        return Err(Trouble::NotSo("an area comes as it was sent", word));
                    }
                }
            }
            // SAFETY: nothing of it is used any more.
            again(|| unsafe { call::area_unmap(address, pages * PAGE_SIZE) }).map_err(refused("unmap what came"))?;
        }
        Err(ErrorCode::Denied) if !found.contains(Rights::MAP) => {}
        Err(error) => return Err(Trouble::Refused("map what came", error)),
    }
    call::handle_close(area).map_err(refused("close what came"))
}
