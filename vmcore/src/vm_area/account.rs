//! Accounts: who pays for pages, and for how many at the most.
//!
//! ```text
//!   Account (limit, charged) ◄──── area: pages that come into being are charged here
//!        ▲ number
//!   frame's record ──── and taken off when the frame is freed, whoever holds it by then
//! ```
//!
//! A page is charged where it is put into a tree, to the account of the area that made it; it stays charged until its frame
//! is freed, even if it is another area's by then (a clone charges nothing). An operation on many pages charges *ahead*, all of
//! them at once before its first change, and takes off at the end what it did not use: so a full account refuses the
//! operation, and never a part of it.
//!
//! An account is one counter against one limit: no other account, and no area that is charged to none, ever notices that it is full.

use core::fmt;
use core::ptr::NonNull;

use super::inner::{Answer, AreaState, NoPage};
use super::{Area, AreaError, Rights};
use crate::addr::Frame;
use crate::frame::{Need, OutOfFrames, PageSource, Reserve};
use crate::platform::Platform;
use crate::word::{AtomicUsize, Ordering};

/// The account has no room for as many pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfAccount {
    /// How many pages were to be charged at once.
    pub wanted: u64,
    /// For how many more there was room.
    pub left: u64,
}

impl fmt::Display for OutOfAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, left } = self;
        write!(f, "the account has room for {left} more pages, not for {wanted}: free some or raise its limit")
    }
}

impl core::error::Error for OutOfAccount {}

/// What handles, areas and the records of frames refer to.
pub(crate) struct AccountInner {
    /// Handles, areas, and pages that are charged.
    references: AtomicUsize,
    charged: AtomicUsize,
    limit: AtomicUsize,
    number: u32,
}

/// Neither limits nor references go beyond it, so that no sum of them overflows.
const MOST: usize = usize::MAX / 4;

impl AccountInner {
    /// Charges `pages` more pages. None can always be charged, also beyond a limit that was lowered.
    fn charge(&self, pages: u64) -> Result<(), OutOfAccount> {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |charged: usize| {
            let sum = charged.checked_add(usize::try_from(pages).ok()?)?;
            (pages == 0 || sum <= limit).then_some(sum)
        };
        match self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => {
                self.references.fetch_add(pages as usize, Ordering::Relaxed);
                Ok(())
            }
            Err(charged) => Err(OutOfAccount { wanted: pages, left: limit.saturating_sub(charged) as u64 }),
        }
    }

    /// Counts one more handle or area. False if there are too many.
    fn add_reference(&self) -> bool {
        let more = |count: usize| (count <= MOST).then_some(count + 1);
        self.references.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// Takes charged pages off an account.
///
/// # Safety
/// As many pages were charged to it and not taken off since. The account is not used any more on the strength of them.
unsafe fn uncharge<P: Platform>(platform: &P, account: NonNull<AccountInner>, pages: u64) {
    // SAFETY: the charged pages keep the account alive.
    unsafe { account.as_ref() }.charged.fetch_sub(pages as usize, Ordering::Relaxed);
    // SAFETY: a charged page is a reference.
    unsafe { release_account(platform, account, pages as usize) };
}

/// Takes a page's charge off the account that its record names, when the frame is freed.
///
/// # Safety
/// The number was in the record of a frame that was freed by this caller.
#[inline(never)]
pub(super) unsafe fn uncharge_frame<P: Platform>(platform: &P, number: u32) {
    if let Some(account) = platform.machine().account(platform, number) {
        // SAFETY: the record says that one page is charged, and the frame was freed once.
        unsafe { uncharge(platform, account, 1) };
    }
}

/// Gives up references to an account; with the last one it goes.
///
/// # Safety
/// The caller held as many references, which it does not use any more.
pub(super) unsafe fn release_account<P: Platform>(platform: &P, account: NonNull<AccountInner>, count: usize) {
    // SAFETY: the references that are given up kept the account alive.
    let (references, number) = unsafe { (&account.as_ref().references, account.as_ref().number) };
    if count == 0 || references.fetch_sub(count, Ordering::AcqRel) != count {
        return;
    }
    platform.machine().take_account_back(platform, number);
    // SAFETY: these were the last references; the memory came from the pool for this type, which has nothing to drop.
    unsafe { Reserve::new(platform).put_object(account) };
}

/// Who pays for pages: a limit, and how many are charged. A handle of it; the account lives while a handle, an area that is
/// charged to it, or a page does. Other systems: a memory control group, a job's quota, a commit charge.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use vmcore::sim::Sim;
/// use vmcore::vm_area::{Account, Area, AreaError, AreaKind};
/// let sim = Sim::builder().build();
/// let account = Account::new(&sim, 2).unwrap();
/// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, 0).unwrap();
/// area.charge_to(&account).unwrap();
/// area.write(0, &[1; 0x2000]).unwrap();
/// assert!(matches!(area.write(0x2000, &[1]), Err(AreaError::OutOfAccount(full)) if full.left == 0));
/// area.resize(0x1000).unwrap().complete();
/// assert_eq!(account.charged(), 1);
/// # }
/// ```
pub struct Account<P: Platform> {
    platform: P,
    inner: NonNull<AccountInner>,
}

// SAFETY: a handle is a counted reference to atomics.
unsafe impl<P: Platform + Send + Sync> Send for Account<P> {}
// SAFETY: as above.
unsafe impl<P: Platform + Send + Sync> Sync for Account<P> {}

impl<P: Platform> Account<P> {
    /// An account with room for `limit` pages. O(depth of a tree of accounts); takes a pool object, and a node for some.
    ///
    /// # Errors
    /// Out of frames.
    pub fn new(platform: &P, limit: u64) -> Result<Self, OutOfFrames> {
        let mut reserve = Reserve::new(platform);
        reserve.top_up(&Need::object::<AccountInner>())?;
        let object = reserve.take_object::<AccountInner>().ok_or(OutOfFrames { wanted: 1 })?;
        let number = match platform.machine().number_account(platform, object) {
            Ok(number) => number,
            Err(error) => {
                // SAFETY: the memory is unused still.
                unsafe { reserve.put_object(object) };
                return Err(error);
            }
        };
        let inner = AccountInner {
            references: AtomicUsize::new(1),
            charged: AtomicUsize::new(0),
            limit: AtomicUsize::new(pages_at_most(limit)),
            number,
        };
        // SAFETY: the memory was just taken for this type; whoever finds it by its number has read that in a record, where it
        // is not yet.
        unsafe { object.write(inner) };
        Ok(Self { platform: platform.clone(), inner: object })
    }

    fn inner(&self) -> &AccountInner {
        // SAFETY: the handle's reference keeps the account alive.
        unsafe { self.inner.as_ref() }
    }

    /// How many pages may be charged.
    pub fn limit(&self) -> u64 {
        self.inner().limit.load(Ordering::Relaxed) as u64
    }

    /// Sets the limit in pages. One that is below what is charged takes nothing away, but nothing more is charged. Whoever charges at
    /// the same moment may still go by the old one.
    pub fn set_limit(&self, pages: u64) {
        self.inner().limit.store(pages_at_most(pages), Ordering::Relaxed);
    }

    /// How many pages are charged, those included that an operation which is under way has charged ahead.
    pub fn charged(&self) -> u64 {
        self.inner().charged.load(Ordering::Relaxed) as u64
    }

    /// Another handle of the same account; `None` if there are as many as can be counted.
    pub fn handle(&self) -> Option<Self> {
        self.inner().add_reference().then(|| Self { platform: self.platform.clone(), inner: self.inner })
    }
}

impl<P: Platform> Drop for Account<P> {
    fn drop(&mut self) {
        // SAFETY: the handle's reference is given up.
        unsafe { release_account(&self.platform, self.inner, 1) };
    }
}

impl<P: Platform> fmt::Debug for Account<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("limit", &self.limit())
            .field("charged", &self.charged())
            .finish_non_exhaustive()
    }
}

fn pages_at_most(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(MOST).min(MOST)
}

impl<P: Platform> Area<P> {
    /// From now on, charges pages that come into being in the area to `account`. Pages that are there stay charged to whom they
    /// are, or to nobody. O(1).
    ///
    /// # Errors
    /// No right to resize, a fixed or untracked area, an account of another machine, an operation of another CPU that has charged pages ahead
    /// ([`AreaError::Retry`]), too many handles.
    pub fn charge_to(&self, account: &Account<P>) -> Result<(), AreaError> {
        self.require(Rights::RESIZE)?;
        if self.inner().is_fixed() || self.inner().is_untracked() {
            return Err(AreaError::Kind);
        }
        if !core::ptr::eq(self.platform().machine(), account.platform.machine()) {
            return Err(AreaError::OtherMachine);
        }
        if !account.inner().add_reference() {
            return Err(AreaError::TooManyHandles);
        }
        let exchanged = {
            let mut state = self.inner().lock(self.platform());
            match state.rest().ahead {
                0 => Ok(state.exchange_account(Some(account.inner))),
                _ => Err(AreaError::Retry),
            }
        };
        let (unused, result) = match exchanged {
            Ok(former) => (former, Ok(())),
            Err(error) => (Some(account.inner), Err(error)),
        };
        if let Some(unused) = unused {
            // SAFETY: the reference was the area's, or is the one just counted.
            unsafe { release_account(self.platform(), unused, 1) };
        }
        result
    }
}

impl<P: Platform> AreaState<P> {
    /// Charges pages before the operation that makes them changes anything. While any are charged ahead the account stays, and so does the
    /// memory type.
    ///
    /// # Errors
    /// The account is full, or the memory type is being changed since this was last looked at.
    pub(crate) fn charge_ahead(&mut self, pages: u64) -> Result<(), AreaError> {
        if self.is_retyping() {
            return Err(AreaError::Retry);
        }
        if let Some(account) = self.account() {
            // SAFETY: the area's reference keeps the account alive.
            unsafe { account.as_ref() }.charge(pages).map_err(AreaError::OutOfAccount)?;
        }
        let rest = self.rest_mut();
        rest.ahead = rest.ahead.saturating_add(pages);
        Ok(())
    }

    /// Takes off what was charged ahead and not used.
    pub(crate) fn take_off(&mut self, platform: &P, pages: u64) {
        let rest = self.rest_mut();
        rest.ahead = rest.ahead.saturating_sub(pages);
        if let Some(account) = self.account() {
            // SAFETY: as many were charged, to this account: it was not exchanged meanwhile. The area holds a reference too.
            unsafe { uncharge(platform, account, pages) };
        }
    }

    /// Takes off what the reserve still holds of what was charged ahead.
    pub(crate) fn settle(&mut self, platform: &P, reserve: &mut Reserve<P>) {
        let unused = core::mem::take(&mut reserve.charged);
        self.take_off(platform, unused);
    }

    /// Takes a zeroed frame for a new page, charged to the area's account.
    pub(super) fn new_page(&mut self, platform: &P, reserve: &mut Reserve<P>) -> Result<Frame, Answer> {
        if reserve.charged == 0 || !reserve.has_pages(1) {
            return Ok(self.new_page_for_one(platform, reserve)?);
        }
        reserve.charged -= 1;
        let rest = self.rest_mut();
        rest.ahead = rest.ahead.saturating_sub(1);
        let frame = reserve.take_page().ok_or(Answer::Short(Need::pages(1)))?;
        self.note_charged(platform, frame);
        Ok(frame)
    }

    /// The same for who charged nothing ahead, and may have the area beside others.
    #[inline]
    pub(super) fn new_page_for_one(&self, platform: &P, source: &mut impl PageSource) -> Result<Frame, NoPage> {
        if !source.has_page() {
            return Err(NoPage::Short);
        }
        self.charge_one()?;
        let frame = source.take_page().ok_or(NoPage::Short)?;
        self.note_charged(platform, frame);
        Ok(frame)
    }

    /// Charges a page to the area's account. It is [noted](Self::note_charged) then.
    #[inline]
    pub(super) fn charge_one(&self) -> Result<(), NoPage> {
        match self.account() {
            // SAFETY: the area's reference keeps the account alive.
            Some(account) => unsafe { account.as_ref() }.charge(1).map_err(NoPage::Full),
            None => Ok(()),
        }
    }

    /// Notes in the frame's record which account the page was charged to.
    pub(super) fn note_charged(&self, platform: &P, frame: Frame) {
        if let (Some(account), Some(meta)) = (self.account(), platform.frame_meta(frame)) {
            // SAFETY: the area's reference keeps the account alive.
            meta.set_account(unsafe { account.as_ref() }.number);
        }
    }

    /// Charges from now on what the other area charges to: for a copy of it.
    pub(super) fn charge_like(&mut self, other: &Self) {
        // SAFETY: the other area's reference keeps the account alive.
        let account = other.account().filter(|account| unsafe { account.as_ref() }.add_reference());
        debug_assert!(self.account().is_none(), "the area is new");
        self.exchange_account(account);
    }
}
