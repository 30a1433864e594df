//! Checks from ring 3 what `refkernel` promises to programs.
//!
//! The argument chooses the part ([`CheckRole`] in `refkernel-abi`, which also says how each must end). One part survives everything
//! that it tries and exits with 0; most others do one thing that must kill them, and exit with 1 if they live.
//!
//! | module | what lives there |
//! |---|---|
//! | `registers` | what faults and calls leave in the registers |
//! | `calls` | system calls with bad numbers, handles, ranges and pointers |
//! | `life` | processes and threads |
//! | `areas` | what areas and windows do when they are used as meant |
//! | `memory` | the runtime's own memory functions |
//! | `attacks` | the table of attacks |
//! | `faults` | the table of faults |
//! | `arguments` | what no argument of a call may be |
//! | `offences` | what must kill the program |
//! | `sharing` | an area that two programs were handed |
//! | `handles` | rights, and what a process is started with |
//! | `windows` | private memory, protection, advice |
//! | `moves` | windows that move and change their length; what the kernel counts |
//! | `sealing` | windows that stay as they are |
//! | `pointers` | bad pointers, for every call that takes one |
//! | `channels` | messages within one process |
//! | `between` | messages between threads and processes that wait |
//! | `waits` | waiting for words in memory |
//! | `scarce` | messages without memory |
//! | `physical` | device memory |
//! | `rings` | memory that comes twice in a row |
//! | `pressure` | more memory than there is |
//! | `taken_away` | every kind of call while memory goes and comes back |

#![no_std]
#![no_main]

mod areas;
mod arguments;
mod attacks;
mod between;
mod calls;
mod channels;
mod faults;
mod handles;
mod life;
mod memory;
mod moves;
mod offences;
mod physical;
mod pointers;
mod pressure;
mod registers;
mod report;
mod rings;
mod scarce;
mod sealing;
mod sharing;
mod taken_away;
mod waits;
mod windows;

use refkernel_runtime::{
    Access, StartInformation, program, program_status, registers_at_start, roles, roles::CheckRole, say,
};
use report::Report;

program!(main);

const READ_WRITE: Access = Access::READ_WRITE;

fn main(start: &StartInformation) -> u32 {
    if start.argument == roles::SPIN {
        life::spin();
    }
    if start.argument == roles::ECHO {
        return between::echo(start);
    }
    if start.argument & 0xffff_ffff == roles::PRESSURE {
        return pressure::by_hand(start);
    }
    if let Some(attack) = refkernel_runtime::attacks::Attack::from_number(start.argument) {
        return attacks::make(attack, start);
    }
    if start.argument == refkernel_runtime::faults::BYSTANDER {
        return faults::stand_by(start);
    }
    if let Some(fault) = refkernel_runtime::faults::Fault::from_argument(start.argument) {
        return faults::make(fault, start);
    }
    let Some(role) = CheckRole::from_number(start.argument) else {
        say!("check: there is no part {}", start.argument);
        return program_status::FAILURE;
    };
    let mut report = Report::new(role.test_name());
    report.check("every register but two is zero at the start", registers_at_start() == 0);
    match role {
        CheckRole::Survivor => {
            memory::check(&mut report);
            registers::check(&mut report);
            calls::check(start, &mut report);
            areas::check(&mut report);
            registers::leave_selectors(&mut report);
        }
        CheckRole::ShareWriter => sharing::write(start, &mut report),
        CheckRole::ShareReader => sharing::read(start, &mut report),
        CheckRole::LeaveEverything => areas::leave_everything(&mut report),
        CheckRole::Processes => life::processes(&mut report),
        CheckRole::Clones => life::clones(&mut report),
        CheckRole::Threads => life::threads(&mut report),
        CheckRole::FaultInThread => life::fault_in_thread(&mut report),
        CheckRole::Handles => handles::check(&mut report),
        CheckRole::Windows => {
            windows::check(&mut report);
            moves::check(&mut report);
            sealing::check(&mut report);
        }
        CheckRole::BadPointers => pointers::check(start, &mut report),
        CheckRole::Channels => channels::check(&mut report),
        CheckRole::ChannelsBetween => between::check(&mut report),
        CheckRole::AddressWaits => waits::check(&mut report),
        CheckRole::ScarceChannels => scarce::check(&mut report),
        CheckRole::Physical => physical::check(start, &mut report),
        CheckRole::Rings => rings::check(&mut report),
        CheckRole::Pressure => pressure::check(&mut report),
        CheckRole::TakenAway => taken_away::check(start, true, &mut report),
        CheckRole::TakenAwayUntouched => taken_away::check(start, false, &mut report),
        CheckRole::Panic => panic!("this is the part that panics"),
        offence => {
            offences::commit(offence, start, &mut report);
            report.check("the program is killed", false);
        }
    }
    report.status()
}
