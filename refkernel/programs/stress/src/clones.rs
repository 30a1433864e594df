//! Clones of a worker: copies of its memory, and of the model of it, that look whether the one is as the other says.
//!
//! | kind | the clone | its parent meanwhile |
//! |---|---|---|
//! | look | looks at all that it has, changes what is its own, and one page that both share | waits, and finds the one page changed, and nothing else |
//! | go on | does what a worker does, on copies of memory that was private | does so too; then waits, or kills it |
//! | die | makes an access that must kill it | waits |
//! | be cut off | writes a page of a shared area over and over | cuts that page off the area, on another processor as it may be: which must kill it |

use core::sync::atomic::Ordering;

use refkernel_runtime::{Access, ErrorCode, Handle, KILLED, Rights, call};
use refkernel_stress::content::Content;
use refkernel_stress::operation::{Operation, below};
use refkernel_stress::world::Kind;
use refkernel_stress::{Kernel, Rand64};

use crate::calls::{again, stack};
use crate::control::Count;
use crate::worker::{Thread, Trouble, refused};

/// What a clone does.
#[derive(Clone, Copy)]
enum Order {
    /// Changes this page too, if it is given, to this value.
    Look { page: Option<usize>, value: u64 },
    /// So many operations, from this seed on.
    GoOn { count: u64, seed: u64 },
    /// Accesses this address so, which must kill it.
    Die { address: u64, access: Access },
    /// Writes there until it is killed for it.
    Hammer { address: u64 },
}

/// An order, and whose it is.
struct Letter {
    thread: *mut Thread,
    order: Order,
}

/// What a hammering clone exits with when nobody is interested any more.
const LEFT_ALONE: u32 = 9;

/// Makes a clone, and sees to it.
pub(crate) fn step(thread: &mut Thread) -> Result<(), Trouble> {
    match below(&mut thread.random, 8) {
        0..3 => look(thread),
        3..6 => go_on(thread),
        6 => die(thread),
        _ => cut_off(thread),
    }
}

/// `None` where there are too many processes.
fn clone(thread: &mut Thread, order: Order) -> Result<Option<Handle>, Trouble> {
    let letter = Letter { thread: &raw mut *thread, order };
    // SAFETY: the stack is the clone's: in its memory it is a copy that nothing else uses. The letter is in the copy too.
    let made = again(|| unsafe { call::process_clone(begin, thread.clone_stack, &raw const letter as u64) });
    match made {
        Ok(process) => {
            thread.setup.control.count(Count::Clones);
            Ok(Some(process))
        }
        Err(ErrorCode::TooMany) => Ok(None),
        Err(error) => Err(Trouble::Refused("clone", error)),
    }
}

/// Waits for a clone, which must end so.
fn ends(process: Handle, is_right: impl Fn(u64) -> bool, what: &'static str) -> Result<(), Trouble> {
    let ending = call::process_wait(process).map_err(refused("wait for a clone"))?;
    call::handle_close(process).map_err(refused("close a clone's handle"))?;
    if is_right(ending) { Ok(()) } else { Err(Trouble::NotSo(what, ending)) }
}

fn kind_at(thread: &Thread, at: usize) -> Option<Kind> {
    let shown = thread.world.shown.get(at).copied().flatten()?;
    Some(thread.world.areas.get(shown.area)?.as_ref()?.kind)
}

fn look(thread: &mut Thread) -> Result<(), Trouble> {
    let pages = thread.world.shown.len();
    let at = below(&mut thread.random, pages);
    let value = thread.random.rand_u64() | 1;
    let writable = thread.world.accessible(at, Access::WRITE).is_some();
    let shared = kind_at(thread, at).is_some_and(|kind| kind != Kind::Private);
    let page = Some(at).filter(|_| writable && shared);
    let Some(process) = clone(thread, Order::Look { page, value })? else { return Ok(()) };
    ends(process, |ending| ending == 0, "a clone finds what its parent had")?;
    if let Some(content) = page.and_then(|at| thread.world.content_mut(at)) {
        *content = Content::certain(value);
    }
    thread.check_all()
}

fn go_on(thread: &mut Thread) -> Result<(), Trouble> {
    thread.drop_named()?;
    let count = below(&mut thread.random, 80) as u64;
    let order = Order::GoOn { count, seed: thread.random.rand_u64() };
    let (own, kills) = (below(&mut thread.random, 60) as u64, below(&mut thread.random, 2) == 0);
    let Some(process) = clone(thread, order)? else { return Ok(()) };
    // No clones beside this one: each of them would leave less room for all others.
    for _ in 0..own {
        let operation = refkernel_stress::operation::choose(&thread.world, &mut thread.random);
        thread.world.step(&mut thread.calls, operation)?;
    }
    if kills {
        call::process_kill(process).map_err(refused("kill a clone"))?;
        thread.setup.control.count(Count::Kills);
        return ends(process, |ending| ending == 0 || ending == KILLED, "a clone comes to its end or is killed");
    }
    ends(process, |ending| ending == 0, "a clone goes on with its own memory")
}

fn die(thread: &mut Thread) -> Result<(), Trouble> {
    let pages = thread.world.shown.len();
    let at = below(&mut thread.random, pages);
    let access = match (thread.world.accessible(at, Access::READ), thread.world.accessible(at, Access::WRITE)) {
        (None, _) => Access::READ,
        (_, None) => Access::WRITE,
        _ => Access::EXECUTE,
    };
    if !thread.setup.control.may_die() {
        return Ok(());
    }
    let order = Order::Die { address: thread.world.address(at), access };
    let Some(process) = clone(thread, order)? else { return Ok(()) };
    thread.setup.control.count(Count::Deaths);
    ends(process, |ending| ending == KILLED, "an access that is not allowed kills")
}

fn cut_off(thread: &mut Thread) -> Result<(), Trouble> {
    // A page that is not its area's first, may be written, and belongs to an area that can be cut.
    let found = (0..thread.world.shown.len()).find_map(|at| {
        thread.world.accessible(at, Access::WRITE)?;
        let shown = thread.world.shown.get(at).copied().flatten()?;
        let area = thread.world.areas.get(shown.area)?.as_ref()?;
        let allows = |slot: &Option<(Handle, Rights)>| slot.is_some_and(|(_, rights)| rights.contains(Rights::RESIZE));
        let handle = area.handles.iter().position(allows)?;
        (area.kind == Kind::Open && shown.page > 0).then_some((at, shown.area, handle, shown.page))
    });
    let Some((at, area, handle, page)) = found else { return Ok(()) };
    let control = thread.setup.control;
    let Some(signal) = control.signal.get(thread.setup.worker).and_then(|all| all.get(thread.thread)) else {
        return Ok(());
    };
    // A clone's clone would share the word with its parent's parent.
    if thread.depth != 0 || !control.may_die() {
        return Ok(());
    }
    signal.store(0, Ordering::SeqCst);
    let order = Order::Hammer { address: thread.world.address(at) };
    let Some(process) = clone(thread, order)? else { return Ok(()) };
    // Until it is seen to write.
    let mut patience = 1000;
    while signal.load(Ordering::Acquire) == 0 && patience > 0 {
        let _ = call::address_wait(signal, 0, 100_000);
        patience -= 1;
    }
    spin_while(|| signal.load(Ordering::Acquire) == 1);
    thread.world.step(&mut thread.calls, Operation::Resize { area, handle, pages: page })?;
    // It counts behind each write: once more at the most for one that came before the page was taken away.
    let before = signal.load(Ordering::Acquire);
    spin_while(|| true);
    let more = signal.load(Ordering::Acquire).wrapping_sub(before);
    if more > 1 {
        return Err(Trouble::NotSo("nobody writes to what was cut off when the call is over", more.into()));
    }
    control.count(Count::Deaths);
    ends(process, |ending| ending == KILLED, "who writes what was cut off is killed")
}

/// Turns for a while, so that another processor gets on.
fn spin_while(mut is_so: impl FnMut() -> bool) {
    for _ in 0..5000 {
        if !is_so() {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Where a clone begins, on its own copy of the stack that its parent keeps for this.
extern "C" fn begin(letter: u64) -> ! {
    // SAFETY: the parent has put it on its stack, of which this is the copy.
    let letter = unsafe { &*(letter as *const Letter) };
    // SAFETY: the same of the thread: its thread is not in this copy, so nothing else uses it.
    let thread = unsafe { &mut *letter.thread };
    thread.depth += 1;
    match letter.order {
        Order::Look { page, value } => {
            if let Err(trouble) = look_around(thread, page, value) {
                thread.fail(&trouble);
            }
        }
        Order::GoOn { count, seed } => {
            thread.random = Rand64::new(seed.into());
            let done = go_on_alone(thread, count);
            if let Err(trouble) = done {
                thread.fail(&trouble);
            }
        }
        Order::Die { address, access } => die_of(address, access),
        Order::Hammer { address } => hammer(thread, address),
    }
    call::exit(0)
}

fn look_around(thread: &mut Thread, page: Option<usize>, value: u64) -> Result<(), Trouble> {
    thread.check_all()?;
    for at in 0..thread.world.shown.len() {
        if kind_at(thread, at) == Some(Kind::Private) || page == Some(at) {
            thread.world.step(&mut thread.calls, Operation::Write { at, pages: 1, value })?;
        }
    }
    thread.check_all()
}

fn go_on_alone(thread: &mut Thread, count: u64) -> Result<(), Trouble> {
    thread.calls.renew().map_err(refused("make a channel in a clone"))?;
    // It stands on the old one.
    thread.clone_stack = stack().map_err(refused("make a stack in a clone"))?;
    thread.check_all()?;
    thread.operations(count)?;
    thread.check_all()
}

fn die_of(address: u64, access: Access) {
    match access {
        // SAFETY (of each): the access must end the process. If it does not, the process exits, and its parent notices.
        Access::EXECUTE => {
            // SAFETY: see above.
            unsafe { core::arch::asm!("call {address}", address = in(reg) address, clobber_abi("C")) };
        }
        Access::WRITE => {
            // SAFETY: see above.
            unsafe { (address as *mut u64).write_volatile(1) };
        }
        _ => {
            // SAFETY: see above.
            unsafe { (address as *const u64).read_volatile() };
        }
    }
}

fn hammer(thread: &mut Thread, address: u64) -> ! {
    let control = thread.setup.control;
    let signal = control.signal.get(thread.setup.worker).and_then(|all| all.get(thread.thread));
    let mut turn = 0_u32;
    loop {
        thread.calls.write(address, turn.into());
        // The first count says that it has begun, and wakes its parent; 0 says nothing.
        turn = turn.wrapping_add(1).max(1);
        if let Some(signal) = signal {
            signal.store(turn, Ordering::Release);
            if turn == 1 {
                let _ = call::address_wake(signal, 1);
            }
        }
        let life = control.life.get(thread.setup.worker).map(|life| life.load(Ordering::Relaxed));
        if life != Some(thread.setup.life) || control.stop.load(Ordering::Relaxed) > 1 {
            call::exit(LEFT_ALONE);
        }
    }
}
