//! Faults: a value that is looked at in stages, and answered by the area.
//!
//! ```text
//!   address ──► window? ──► allowed? ──► mapped already? ──► the area's page ──► a leaf
//!                 │ no         │ no           │ yes              │ guard, outside
//!              NoWindow      Denied        Spurious          Guard, OutsideArea; not there: Request, Wait, Failed
//!         (or the one above grows)
//! ```
//!
//! Where no more is wanted than a leaf in a table that is there, the fault goes on beside others of the space (`fault/beside.rs`); all else
//! has the space's index exclusively, and is here.

mod around;
mod beside;

use self::beside::{Everything, Looked};
use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{Need, OnePage, PageSource, Reserve};
use crate::paging::{Access, Flush, FlushRequest, FlushScope, Found, Gather, Leaf, MemoryType, Mmu, Pending, Tables};
use crate::platform::{CpuSet, Platform};
use crate::vm_area::{Answer, AreaError, AreaInner, AreaState, PageRequest, RequestToken, Want, release_page};
use crate::vm_space::fault::around::put_around;
use crate::vm_space::fill::leaf_for;
use crate::vm_space::index::{Index, page_size};
use crate::vm_space::inner::SpaceInner;
use crate::vm_space::protect::allows_anything;
use crate::vm_space::window::{Window, WindowMarks, WindowState};
use crate::vm_space::{Inherit, Space, SpaceError};

/// A page fault, as the hardware reported it.
///
/// Only faults of translation are this library's: one that a protection key or the kernel's own guards (SMEP, SMAP) caused is for the embedder
/// to tell apart before it asks; the tables allow such an access, so the answer here would be [`Resolution::Spurious`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// The address that was accessed.
    pub address: VirtAddr,
    /// What the access was: [`Access::READ`], [`Access::WRITE`] or [`Access::EXECUTE`], with [`Access::USER`] if a program made it.
    pub access: Access,
    /// Whether the hardware found a translation that does not allow the access.
    present: bool,
}

impl Fault {
    /// A fault at `address` (any number) by this access, where the hardware found no translation.
    pub const fn new(address: u64, access: Access) -> Self {
        Self { address: VirtAddr::new(address), access, present: false }
    }

    /// The same fault, with whether the hardware found a translation (x86: bit 0 of the error code). A hint: what is true is
    /// looked up, but a fault on a page that is there is cheaper if it says so.
    pub const fn present(mut self, present: bool) -> Self {
        self.present = present;
        self
    }
}

/// How a fault was resolved. The access may be tried again, at once or when the page has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Resolution {
    /// A page was mapped, or its permissions were raised.
    Mapped,
    /// The tables allowed the access already: another CPU was faster, or this CPU's TLB was behind. It was flushed here.
    Spurious,
    /// The page is the embedder's to bring, and is asked for herewith, once: hand the request to whoever brings it, and let the access wait
    /// for the answer before it is tried again.
    Request(PageRequest),
    /// The page was asked for before, by this request: let the access wait for the answer before it is tried again.
    Wait(RequestToken),
}

enum Attempt {
    Done(Resolution),
    Short(Need),
}

/// What became of a fault by a look.
enum ByALook {
    /// It is resolved.
    Mapped,
    /// It takes more, or is refused: with the page that is at hand, and what was found if it was looked at.
    More(Option<Frame>, Option<Result<Looked, SpaceError>>),
}

/// What an area has for a fault.
enum Supplied {
    /// The frame, and whether it may be written to.
    Page(Frame, bool),
    /// The same, in the place of another one: [`Answer::Replaced`].
    Replaced(Frame, bool, Option<Frame>),
    /// Nothing to map.
    Ends(Attempt),
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Resolves a page fault. The outcome is true once the flush is complete (it nearly always is empty).
    ///
    /// Cost: O(log n) windows, O(levels) tables; takes at most a frame for the page and one per missing table. A fault
    /// that fails changed nothing. Where the leaf table is there it excludes no fault in another area, and takes four locked operations
    /// beside the embedder's own. Nor does it exclude one in other 64 pages of the same area, once faults have met there, unless the area's first page in those 64, or
    /// one of the first few, is made.
    ///
    /// # Errors
    /// Nothing is mapped there, or the address is not the space's; the access is not allowed; the page is a guard or past the end of
    /// its area, or too far below a growing one or too near to what is below that; its pager could not bring it; a change there is still being flushed ([`SpaceError::Retry`]: return, the access faults again); out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, Resolution, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x1000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::READ)).unwrap();
    /// let fault = Fault::new(0x40_0123, Access::READ | Access::USER);
    /// assert_eq!(space.fault(fault).unwrap().complete(), Resolution::Mapped);
    /// assert!(matches!(space.fault(Fault::new(0x40_0123, Access::WRITE)), Err(SpaceError::Denied { .. })));
    /// assert!(matches!(space.fault(Fault::new(0x1000, Access::READ)), Err(SpaceError::NoWindow(_))));
    /// # }
    /// ```
    pub fn fault(&self, fault: Fault) -> Result<Flush<P, Resolution>, SpaceError> {
        match self.fault_by_a_look(fault) {
            ByALook::Mapped => Ok(Flush::new(self.platform().clone(), Pending::new(), Resolution::Mapped)),
            ByALook::More(page, looked) => self.fault_with(fault, page, looked),
        }
    }

    /// As [`fault`](Self::fault), with its flush completed: for who holds no lock that another CPU may need before it can answer. Nearly all
    /// faults have nothing to flush, and then no flush value is made.
    ///
    /// # Errors
    /// As `fault`.
    pub fn fault_completed(&self, fault: Fault) -> Result<Resolution, SpaceError> {
        match self.fault_by_a_look(fault) {
            ByALook::Mapped => Ok(Resolution::Mapped),
            ByALook::More(page, looked) => self.fault_with(fault, page, looked).map(Flush::complete),
        }
    }

    /// Resolves a fault where one look at window, area and tables is enough, as for most: with a page at hand, if it is a write, or a read in a space whose reads
    /// make pages. (Others find a page, or the zero frame.) Where a page cannot be had, the look says whether it is needed. A write to a page that is there is looked at
    /// with a page to copy it to, if the last one was copied.
    #[inline]
    fn fault_by_a_look(&self, fault: Fault) -> ByALook {
        let inner = self.inner();
        let is_read = !fault.access.contains(Access::WRITE);
        if fault.present {
            return if is_read { ByALook::More(None, None) } else { self.write_by_a_look(fault) };
        }
        let with_page = !is_read || inner.reads_make_pages();
        let mut page: OnePage<'_, P, true> =
            if with_page { OnePage::try_take(self.platform()) } else { OnePage::none(self.platform()) };
        match self.attempt_beside(fault, &mut page, None) {
            Ok(Looked::Copied(old)) => {
                release_page(self.platform(), old);
                ByALook::Mapped
            }
            Ok(Looked::Done(Attempt::Done(Resolution::Mapped))) => {
                if is_read && page.has_page() {
                    inner.note_reads_make_pages(false);
                }
                ByALook::Mapped
            }
            looked => {
                if !with_page && matches!(looked, Ok(Looked::Done(Attempt::Short(_)))) {
                    inner.note_reads_make_pages(true);
                }
                ByALook::More(page.take_page(), Some(looked))
            }
        }
    }

    /// The same for a write to a page that is there.
    #[inline(never)]
    fn write_by_a_look(&self, fault: Fault) -> ByALook {
        let (platform, inner) = (self.platform(), self.inner());
        let with_page = inner.writes_copy_pages();
        let mut page: OnePage<'_, P, false> =
            if with_page { OnePage::try_take(platform) } else { OnePage::none(platform) };
        match self.attempt_beside(fault, &mut page, None) {
            Ok(Looked::Copied(old)) => {
                release_page(platform, old);
                ByALook::Mapped
            }
            Ok(Looked::Done(Attempt::Done(Resolution::Mapped))) => {
                if with_page {
                    inner.note_writes_copy_pages(false);
                }
                ByALook::Mapped
            }
            // With everything, it is not looked at in this way again.
            Ok(Looked::Lacks) => ByALook::More(None, None),
            looked => {
                if !with_page && matches!(looked, Ok(Looked::Exclusive { replaces: true })) {
                    inner.note_writes_copy_pages(true);
                }
                ByALook::More(None, Some(looked))
            }
        }
    }

    /// Resolves a fault by all that it takes, with a page that is at hand, and what was found if it was looked at.
    #[inline(never)]
    fn fault_with(
        &self,
        fault: Fault,
        page: Option<Frame>,
        mut looked: Option<Result<Looked, SpaceError>>,
    ) -> Result<Flush<P, Resolution>, SpaceError> {
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut pending = Pending::new();
        if let Some(frame) = page {
            reserve.put_page(frame);
        }
        // Once it was seen that it takes the index exclusively, it is looked at in no other way.
        let mut exclusive = false;
        let resolution = loop {
            let mut waiting = None;
            let attempt = loop {
                if exclusive {
                    break self.attempt(fault, &mut reserve, &mut pending)?;
                }
                let mut everything = Everything { reserve: &mut reserve, pending: &mut pending };
                let found = match looked.take() {
                    Some(found) => found?,
                    None => self.attempt_beside(fault, &mut everything, waiting)?,
                };
                match found {
                    Looked::Done(attempt) => break attempt,
                    Looked::Copied(old) => {
                        release_page(platform, old);
                        break Attempt::Done(Resolution::Mapped);
                    }
                    // Twice at the most: who has the area alone waits for nothing more.
                    Looked::Waits(more) => waiting = Some(more),
                    // With everything in hand, nothing lacks.
                    Looked::Lacks => {}
                    Looked::Exclusive { replaces } => {
                        exclusive = true;
                        if replaces {
                            // Had beforehand, so that it need not be looked at twice.
                            reserve.top_up(&AreaState::<P>::need_to_replace())?;
                        }
                    }
                }
            };
            match attempt {
                Attempt::Done(resolution) => break resolution,
                Attempt::Short(need) => reserve.top_up(&need)?,
            }
        };
        if resolution == Resolution::Spurious {
            // Formats whose fault does not drop the stale entry by itself would fault for ever. It may be one above the leaf:
            // RISC-V lets a CPU remember that there was no table.
            let mut scope = FlushScope::new();
            let page = PageRange::from_checked(fault.address.align_down(P::PAGE_SHIFT), page_size::<P>());
            let inner = self.inner();
            scope.add(inner.tag, page, inner.global);
            // The CPU may remember that a table was not there (RISC-V), or have the root's entries in registers (x86's PAE).
            scope.note_tables();
            let mut cpus = P::CpuSet::EMPTY;
            cpus.insert(platform.cpu());
            platform.flush_local(&FlushRequest { cpus, scope });
        }
        Ok(Flush::new(platform.clone(), pending, resolution))
    }

    fn attempt(&self, fault: Fault, reserve: &mut Reserve<P>, pending: &mut Pending<P>) -> Result<Attempt, SpaceError> {
        let mut index = self.inner().lock_index(self.platform());
        match self.attempt_in(&index, fault, reserve, pending) {
            Err(SpaceError::NoWindow(_)) => {}
            outcome => return outcome,
        }
        let growth = self.grow(&mut index, fault.address)?;
        let outcome = self.attempt_in(&index, fault, reserve, pending);
        if !matches!(outcome, Ok(Attempt::Done(_))) {
            self.ungrow(&mut index, &growth);
        }
        outcome
    }

    /// The window at an address, where its page can be asked for: no change there is outstanding, and it is no guard.
    pub(super) fn usable_window<'a>(
        &self,
        index: &'a Index<P, Window<P, M>>,
        address: VirtAddr,
    ) -> Result<&'a Window<P, M>, SpaceError> {
        let window = index.find(address).and_then(|slot| slot.window).ok_or(SpaceError::NoWindow(address))?;
        // SAFETY: windows in the index are alive while it is locked.
        let window = unsafe { window.as_ref() };
        if window.state == WindowState::Gated {
            return Err(SpaceError::Retry(address));
        }
        let page = PageRange::from_checked(address.align_down(P::PAGE_SHIFT), page_size::<P>());
        match self.first_guard(window, page) {
            Some(_) => Err(SpaceError::Guard(address)),
            None => Ok(window),
        }
    }

    /// The same, if it allows what faulted.
    pub(super) fn window_for_fault<'a>(
        &self,
        index: &'a Index<P, Window<P, M>>,
        fault: Fault,
    ) -> Result<&'a Window<P, M>, SpaceError> {
        let window = self.usable_window(index, fault.address)?;
        if allows(window, fault.access) {
            Ok(window)
        } else {
            Err(SpaceError::Denied { address: fault.address, wanted: fault.access, allowed: window.access })
        }
    }

    fn attempt_in(
        &self,
        index: &Index<P, Window<P, M>>,
        fault: Fault,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<Attempt, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let address = fault.address;
        let window = self.window_for_fault(index, fault)?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let area = unsafe { window.area.as_ref() };
        let page = PageRange::from_checked(address.align_down(P::PAGE_SHIFT), page_size::<P>());
        let mut state = area.lock(platform);
        let mut tables = inner.tables.lock(platform);
        let found = tables.find(platform, address).ok_or(SpaceError::Foreign(address))?;
        let present = tables.found_leaf(&found);
        if present.is_some_and(|leaf| leaf.access.contains(fault.access.difference(Access::USER))) {
            return Ok(Attempt::Done(Resolution::Spurious));
        }
        let index_in_area = window.area_page(address);
        // A page that is to be brought first needs no tables yet. A large leaf of which only a part is changed is split.
        let missing = match part_of_large(&tables, &found, present, (area, window), page) {
            Some(part) => tables.tables_to_split(platform, part),
            None if area.awaits(&state, index_in_area) => 0,
            None => tables.tables_missing(&found),
        };
        match area.first_refused(&state, index_in_area, 1) {
            Some((_, Answer::Guard)) => return Err(SpaceError::Guard(address)),
            Some((_, Answer::Retry)) => return Err(SpaceError::Retry(address)),
            Some(_) => return Err(SpaceError::OutsideArea(address)),
            None => {}
        }
        match self.fault_large(window, (area, &mut state), &mut tables, &found, (address, fault.access), reserve)? {
            Some(Ok(())) => return Ok(Attempt::Done(Resolution::Mapped)),
            Some(Err(need)) => return Ok(Attempt::Short(need)),
            None => {}
        }
        if reserve.tables.len() < missing {
            // What the area will ask for is asked for at the same time.
            let mut need = Need::default();
            if area.is_untracked() {
                need.pages = 1;
            } else if !area.is_fixed() {
                need = state.need_for(index_in_area, 1);
            }
            return Ok(Attempt::Short(need.with_tables(missing)));
        }
        self.check_shown(&tables, u64::from(present.is_none()), missing)?;
        let want = wanted(window, area, &state, fault.access);
        let resident = state.resident();
        let shown = present.map(|leaf| leaf.frame);
        let (frame, writable, replaced) =
            match supplied(platform, (area, &mut state), (address, index_in_area), want, shown, reserve)? {
                Supplied::Page(frame, writable) => (frame, writable, None),
                Supplied::Replaced(frame, writable, old) => (frame, writable, Some(old)),
                Supplied::Ends(Attempt::Short(need)) => return Ok(Attempt::Short(need.with_tables(missing))),
                Supplied::Ends(attempt) => return Ok(attempt),
            };
        let leaf = leaf_for(area, window.access, inner.global, frame, writable);
        let mut tables = Some(tables);
        if let Some(old) = replaced {
            let mut done = false;
            // Taken out of the tables without being unmapped, it may be remembered still.
            let was_shown = present.is_some() || window.marks.contains(WindowMarks::DROPPED);
            if let (true, false, Some(mut tables)) =
                (state.is_shown_at_one_place(), state.is_unsettled(), tables.take())
            {
                done = show_alone(platform, inner, &mut tables, page, (leaf, was_shown), reserve);
            }
            if done {
                AreaState::let_go(platform, old, pending);
            } else {
                drop(tables);
                let index = (index_in_area, old);
                state.withdraw(platform, window.area, index, reserve, pending);
            }
            return Ok(Attempt::Done(Resolution::Mapped));
        }
        let Some(mut tables) = tables else { return Err(SpaceError::Foreign(address)) };
        let mut gather = Gather::default();
        let mut found = found;
        if leaf.access.contains(Access::WRITE) && tables.writes_are_forbidden_above(&found) {
            // The space was cloned since: what a whole subtree may not, its other pages may not from now on.
            let below = tables.push_down(platform, page.start()).map(|_| tables.find(platform, address));
            match below {
                Ok(Some(below)) => found = below,
                other => {
                    if area.is_untracked() && present.is_none() {
                        reserve.put_untracked_page(frame);
                    }
                    return Err(other.map_or_else(SpaceError::from, |_| SpaceError::Foreign(address)));
                }
            }
        }
        let lingers = present.is_none() && window.may_be_remembered(&state);
        let alone = inner.tally.limits_shown();
        let reads_on = present.is_none() && !alone && area.is_tracked() && state.resident() == resident;
        // All of the leaf table: it was empty, or nearly so, or somebody would have been here before.
        let around = if reads_on { self.around(window, area, page, tables.mmu().index_bits(0)) } else { None };
        let set = match part_of_large(&tables, &found, present, (area, window), page) {
            Some(part) => tables.protect(platform, part, leaf.access, &mut reserve.tables, &mut gather),
            None => inner
                .break_before_make(platform, lingers, around.map_or(page, |around| around.pages))
                .and_then(|()| tables.set_found(platform, &found, page, leaf, &mut reserve.tables, &mut gather))
                .map(drop),
        };
        if let Err(error) = set {
            if area.is_untracked() && present.is_none() {
                reserve.put_untracked_page(frame);
            }
            return Err(error.into());
        }
        if let Some(around) = around {
            tables.map_around(platform, &around, |filler| put_around(platform, window, &state, &around, filler));
        }
        drop(tables);
        if !gather.scope.is_empty() {
            inner.absorb(platform, gather, pending);
        }
        Ok(Attempt::Done(Resolution::Mapped))
    }
}

/// What of a larger leaf that is present a fault changes: of a fixed area's, which was write-protected with what surrounds it, all that the window shows; of
/// others, whose pages need not agree, the page.
fn part_of_large<P: Platform, M: Mmu>(
    tables: &Tables<M>,
    found: &Found<'_, M>,
    present: Option<Leaf>,
    (area, window): (&AreaInner<P>, &Window<P, M>),
    page: PageRange,
) -> Option<PageRange> {
    let _ = present.filter(|_| found.level() > 0)?;
    let shown = tables.span_of_found(found).intersection(window.range());
    Some(shown.filter(|_| area.is_fixed()).unwrap_or(page))
}

/// Whether a window allows an access.
fn allows<P: Platform, M: Mmu>(window: &Window<P, M>, access: Access) -> bool {
    // The kernel never executes a program's pages, whatever a window allows.
    let kernel_executes = access.contains(Access::EXECUTE) && !access.contains(Access::USER);
    let denied = !window.access.contains(access) || !allows_anything(window.access);
    !(denied || kernel_executes && window.access.contains(Access::USER))
}

/// What a fault in a window wants of a page.
pub(super) fn wanted<P: Platform, M: Mmu>(
    window: &Window<P, M>,
    area: &AreaInner<P>,
    state: &AreaState<P>,
    access: Access,
) -> Want {
    if access.contains(Access::WRITE) {
        return Want::Write;
    }
    // Only this window shows the memory, so what it shows of a page that does not exist is nobody else's concern.
    let alone = window.inherit() == Inherit::Copy && state.view_count() == 1 && area.memory() == MemoryType::WriteBack;
    if alone { Want::Look } else { Want::Read }
}

/// Asks the area for the page with this index, at `address`; `shown` is the frame that the tables show there.
///
/// # Errors
/// As for [`Space::fault`].
fn supplied<P: Platform>(
    platform: &P,
    (area, state): (&AreaInner<P>, &mut AreaState<P>),
    (address, index): (VirtAddr, u64),
    want: Want,
    shown: Option<Frame>,
    reserve: &mut Reserve<P>,
) -> Result<Supplied, SpaceError> {
    let short = |need| Supplied::Ends(Attempt::Short(need));
    Ok(match area.page(platform, state, index, want, reserve) {
        Answer::Page { frame, writable, .. } => Supplied::Page(frame, writable),
        Answer::Replaced { frame, writable, old } => Supplied::Replaced(frame, writable, old),
        Answer::Zero => match state.zero_frame(platform, reserve) {
            Some(frame) => Supplied::Page(frame, false),
            None => short(Need::pages(1)),
        },
        // The leaf is all that knows of an untracked page: one that is there stays.
        Answer::Untracked => match shown.or_else(|| reserve.take_untracked_page()) {
            Some(frame) => Supplied::Page(frame, true),
            None => short(Need::pages(1)),
        },
        Answer::Short(need) => short(need),
        Answer::Retry => return Err(SpaceError::Retry(address)),
        Answer::Full(error) => return Err(AreaError::OutOfAccount(error).into()),
        Answer::Guard => return Err(SpaceError::Guard(address)),
        Answer::Outside => return Err(SpaceError::OutsideArea(address)),
        Answer::Request(request) => Supplied::Ends(Attempt::Done(Resolution::Request(request))),
        Answer::Wait(token) => Supplied::Ends(Attempt::Done(Resolution::Wait(token))),
        Answer::Failed => return Err(SpaceError::Failed(address)),
    })
}

/// Shows a page in another frame than before, where only this space showed it and no CPU but this one runs in it; what the CPU
/// remembers is flushed at once. False, and nothing is changed, if others have to forget it first.
fn show_alone<P: Platform, M: Mmu>(
    platform: &P,
    inner: &SpaceInner<P, M>,
    tables: &mut Tables<M>,
    page: PageRange,
    (leaf, was_shown): (Leaf, bool),
    reserve: &mut Reserve<P>,
) -> bool {
    // Locked until the change is noted, so that no CPU begins to use the space meanwhile.
    let mut cpus = inner.cpus.lock(platform);
    let mut others = cpus.active().clone();
    others.remove(platform.cpu());
    if was_shown && !others.is_empty() {
        return false;
    }
    let address = page.start();
    let Some(mut found) = tables.find(platform, address) else { return false };
    if tables.writes_are_forbidden_above(&found) {
        let below = tables.push_down(platform, address).map(|_| tables.find(platform, address));
        let Ok(Some(below)) = below else { return false };
        found = below;
    }
    let mut gather = Gather::default();
    if tables.set_found(platform, &found, page, leaf, &mut reserve.tables, &mut gather).is_err() {
        // A format that wants every CPU to forget the old entry before the new one is made: as with other CPUs.
        return false;
    }
    if !gather.scope.is_empty() {
        inner.note_change(&mut cpus);
        let mut cpus = P::CpuSet::EMPTY;
        cpus.insert(platform.cpu());
        platform.flush_local(&FlushRequest { cpus, scope: gather.scope });
    }
    true
}
