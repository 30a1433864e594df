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
//! | `offences` | what must kill the program |
//! | `sharing` | an area that two programs were handed |

#![no_std]
#![no_main]

mod areas;
mod calls;
mod life;
mod memory;
mod offences;
mod registers;
mod report;
mod sharing;

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
    let Some(role) = CheckRole::from_argument(start.argument) else {
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
        CheckRole::Panic => panic!("this is the part that panics"),
        offence => {
            offences::commit(offence, start, &mut report);
            report.check("the program is killed", false);
        }
    }
    report.status()
}
