//! The numbers of accounts: a frame's record names the account that pays for it in 32 bits.
//!
//! ```text
//!   meta.account = 7 ──► page tree: 7 ──► the account's object in its pool
//! ```
//!
//! A number is used for as long as the account lives, and an account lives for as long as a frame names it, so a number that is
//! read in a record always leads to the account that was meant.

use core::num::NonZeroU64;
use core::ptr::{NonNull, with_exposed_provenance_mut};

use crate::frame::{Need, OutOfFrames, Reserve};
use crate::lock::{Lock, Rank};
use crate::page_tree::{Context, PageTree, Uncounted};
use crate::platform::Platform;
use crate::vm_area::{AccountInner, TreeSupply};

/// Which account has which number. 0 is nobody's.
pub(super) struct Accounts<P: Platform> {
    numbers: Lock<P, PageTree<NonZeroU64>>,
}

impl<P: Platform> Accounts<P> {
    pub(super) const fn new() -> Self {
        // SAFETY: nodes always come from, and go to, the machine's pools.
        Self { numbers: Lock::new(Rank::Registry, unsafe { PageTree::new() }) }
    }

    /// Gives an account the lowest number that is free. O(depth).
    ///
    /// # Errors
    /// No memory, or 2^32 accounts.
    pub(super) fn number(&self, platform: &P, account: NonNull<AccountInner>) -> Result<u32, OutOfFrames> {
        let lacking = OutOfFrames { wanted: 1 };
        let address = NonZeroU64::new(account.as_ptr().expose_provenance() as u64).ok_or(lacking)?;
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let mut numbers = self.numbers.lock(platform);
            let number = numbers.first_free_run(1..=u64::from(u32::MAX), 1).ok_or(lacking)?;
            need = Need::default().with_nodes(numbers.nodes_needed_to_insert(number));
            if !reserve.covers(&need) {
                continue;
            }
            let mut nodes = TreeSupply { platform, reserve: &mut reserve };
            let mut context = Context { nodes: &mut nodes, values: &mut Uncounted };
            let inserted = numbers.insert(number, address, &mut context);
            drop(numbers);
            return if inserted.is_ok() { u32::try_from(number).map_err(|_| lacking) } else { Err(lacking) };
        }
    }

    /// The account with a number that some frame's record holds. O(depth).
    pub(super) fn account(&self, platform: &P, number: u32) -> Option<NonNull<AccountInner>> {
        let address = self.numbers.lock(platform).get(u64::from(number))?;
        NonNull::new(with_exposed_provenance_mut(usize::try_from(address.get()).ok()?))
    }

    /// Takes a number back. O(depth).
    pub(super) fn take_back(&self, platform: &P, number: u32) {
        let mut reserve = Reserve::new(platform);
        let mut numbers = self.numbers.lock(platform);
        let mut nodes = TreeSupply { platform, reserve: &mut reserve };
        // Nothing of the tree is shared, so nothing is copied.
        let _ = numbers.remove(u64::from(number), &mut Context { nodes: &mut nodes, values: &mut Uncounted });
    }
}
