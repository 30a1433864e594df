//! What waits for a flush, whoever acknowledges it and whatever is gone by then.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use shuttle::sync::mpsc::channel;
use shuttle::sync::{Condvar, Mutex};
use vmcore::CpuSet as _;
use vmcore::paging::DetachedFlush;
use vmcore::vm_space::SpaceError;

use super::super::platform::Modelled;
use super::super::point;
use super::super::world::{Cpu, PAGE, Signal, TAGGED, UNTAGGED, World, forget, map, mapped};

/// Interrupts every CPU of a flush, one after another, and says so.
fn acknowledge(cpu: &Cpu, flush: DetachedFlush<Modelled, ()>) {
    for each in 0..cpu.sim().cpu_count() {
        point();
        cpu.sim().apply_on(each, flush.request());
    }
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() };
}

/// A flush is acknowledged by one CPU while another destroys the space that it is of, and drops the area.
pub(crate) fn destroy() {
    let world = World::new(2, TAGGED);
    let (space, area) = (world.user(), world.open(2));
    let range = mapped(&space, &area, 2 * PAGE, 1);
    map(&space, &area, 3 * PAGE, 1, 1).expect("nothing is there");
    world.enter(0, &space);
    let (sender, receiver) = channel::<DetachedFlush<Modelled, ()>>();
    let (one, kernel) = (area.clone(), world.kernel.clone());
    world.run([
        Box::new(move |cpu| {
            for page in [2, 3] {
                cpu.store(&space, page * PAGE, page).expect("mapped for writing");
            }
            sender.send(space.unmap(range).expect("it is whole").detach()).expect("it is waited for");
            cpu.sim().activate(cpu.number, &kernel.activate(cpu.number));
            forget(cpu.number, &space);
            space.take().destroy().map_err(|(_, error)| error).expect("it is active nowhere").complete();
            kernel.give_up();
            one.give_up();
        }),
        Box::new(move |cpu| acknowledge(&cpu, receiver.recv().expect("one is sent"))),
    ]);
    assert_eq!(world.pages(), 2, "the area keeps them");
    assert_eq!(area.windows(), 0);
    drop(area.take());
    world.finish();
}

/// Two CPUs put their flushes into a queue that a third works off, and go on.
pub(crate) fn queue() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(4));
    mapped(&space, &area, 2 * PAGE, 4);
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let (sender, receiver) = channel::<DetachedFlush<Modelled, ()>>();
    let thread = |mine: u64, others: u64| {
        let (space, sender) = (space.clone(), sender.clone());
        Box::new(move |cpu: Cpu| {
            cpu.store(&space, mine * PAGE, mine).expect("nobody else unmaps it");
            let range = space.range(mine * PAGE, PAGE).expect("a range of the space");
            sender.send(space.unmap(range).expect("memory for it").detach()).expect("it is waited for");
            // Its own page is gone or gated.
            let after = space.fault(vmcore::vm_space::Fault::new(mine * PAGE, vmcore::paging::Access::READ));
            assert!(matches!(after, Err(SpaceError::NoWindow(_) | SpaceError::Retry(_))), "{after:?}");
            match cpu.load(&space, others * PAGE) {
                Ok(seen) => assert!(seen == 0 || seen == others, "{seen}"),
                Err(SpaceError::NoWindow(_) | SpaceError::Retry(_)) => {}
                Err(error) => panic!("{error}"),
            }
            drop(sender);
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    let threads = [
        thread(2, 4),
        thread(4, 2),
        Box::new(move |cpu: Cpu| {
            while let Ok(flush) = receiver.recv() {
                acknowledge(&cpu, flush);
            }
        }) as Box<dyn FnOnce(_) + Send>,
    ];
    drop(sender);
    world.run(threads);
    assert_eq!(space.windows().filter(|window| window.gated).count(), 0, "a gate stayed shut");
    super::super::world::unmap(&space, PAGE, 7);
    drop(area.take());
    world.destroy(space, 2);
    world.finish();
}

/// A CPU's mail: what the others want it to forget.
struct Mail {
    waiting: Mutex<Vec<(vmcore::paging::FlushRequest<vmcore::CpuMask>, Arc<Signal>)>>,
    arrived: Condvar,
}

/// Every CPU acknowledges for itself, between two of its own operations and while it waits for others, never with a lock held. So what
/// waits for an acknowledgement under a lock that another CPU wants is a deadlock.
pub(crate) fn interrupts() {
    const CPUS: usize = 3;
    let world = World::new(CPUS, TAGGED);
    let (space, area) = (world.user(), world.open(3));
    mapped(&space, &area, 2 * PAGE, 3);
    (0..CPUS).for_each(|cpu| world.enter(cpu, &space));
    let mail: Arc<[Mail; CPUS]> =
        Arc::new([const { Mail { waiting: Mutex::new(Vec::new()), arrived: Condvar::new() } }; CPUS]);
    let over = Arc::new(Signal::new(0));
    fn serve(cpu: &Cpu, mail: &Mail) {
        let waiting = std::mem::take(&mut *mail.waiting.lock().expect("no panic under it"));
        for (request, acknowledged) in waiting {
            cpu.sim().apply_on(cpu.number, &request);
            acknowledged.fetch_add(1, SeqCst);
        }
    }
    let thread = |change: bool, page: u64| {
        let (space, mail, over) = (space.clone(), mail.clone(), over.clone());
        Box::new(move |cpu: Cpu| {
            match cpu.store(&space, page * PAGE, page) {
                Ok(()) | Err(SpaceError::NoWindow(_) | SpaceError::Retry(_)) => {}
                Err(error) => panic!("{error}"),
            }
            serve(&cpu, &mail[cpu.number]);
            if change {
                let range = space.range(page * PAGE, 2 * PAGE).expect("a range of the space");
                let flush = space.unmap(range).expect("memory for it").detach();
                let acknowledged = Arc::new(Signal::new(0));
                let mut asked = 0;
                for each in (0..CPUS).filter(|each| flush.request().cpus.contains(*each)) {
                    asked += 1;
                    mail[each]
                        .waiting
                        .lock()
                        .expect("no panic under it")
                        .push((flush.request().clone(), acknowledged.clone()));
                    mail[each].arrived.notify_one();
                }
                while acknowledged.load(SeqCst) < asked {
                    serve(&cpu, &mail[cpu.number]);
                    shuttle::thread::yield_now();
                }
                // SAFETY: every CPU of the request has said that it has carried it out.
                unsafe { flush.acknowledged() };
            }
            // The idle loop: until all are over.
            if over.fetch_add(1, SeqCst) + 1 == CPUS as u64 {
                for mail in &*mail {
                    let _waiting = mail.waiting.lock().expect("no panic under it");
                    mail.arrived.notify_one();
                }
            }
            loop {
                serve(&cpu, &mail[cpu.number]);
                let waiting = mail[cpu.number].waiting.lock().expect("no panic under it");
                if over.load(SeqCst) == CPUS as u64 {
                    break;
                }
                if waiting.is_empty() {
                    drop(mail[cpu.number].arrived.wait(waiting));
                }
            }
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    world.run([thread(true, 2), thread(true, 3), thread(false, 3)]);
    drop(area.take());
    assert_eq!(world.pages(), 0);
    world.destroy(space, CPUS);
    world.finish();
}

/// The last handle of an area is dropped while its last window's flush is acknowledged, and again while another window is made of a
/// second handle.
pub(crate) fn last_reference() {
    let world = World::new(3, UNTAGGED);
    let (space, area) = (world.user(), world.open(1));
    let range = mapped(&space, &area, 2 * PAGE, 1);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let second = super::super::world::Kept::new(area.handle(area.rights()).expect("all of its rights"));
    let (one, two) = (space.clone(), space.clone());
    world.run([
        Box::new(move |cpu| {
            cpu.store(&one, 2 * PAGE, 1).expect("mapped for writing");
            one.unmap(range).expect("it is whole").complete();
            one.give_up();
        }),
        Box::new(move |_| drop(area.take())),
        Box::new(move |cpu| {
            mapped(&two, &second, 4 * PAGE, 1);
            drop(second.take());
            let seen = cpu.load(&two, 4 * PAGE).expect("the window keeps the area");
            assert!(seen <= 1, "{seen}");
            super::super::world::unmap(&two, 4 * PAGE, 1);
            two.give_up();
        }),
    ]);
    assert_eq!(world.pages(), 0);
    world.destroy(space, 3);
    world.finish();
}
