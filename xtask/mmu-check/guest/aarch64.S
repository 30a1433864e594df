// The guest for AArch64: tries accesses through the tables that it is given, at EL1 and EL0, and writes down what came of each.
//
// See `src/guest.rs` for the layout that it shares with the host. BASE is given to the assembler.
//
// It runs at EL2 without an MMU, so the tables decide nothing about it. EL1's exception vectors, in the page that the host maps
// for EL1, only hand on to EL2.

.set EXCHANGE, BASE + 0x1200000
.set PROBES, EXCHANGE + 0x1000

.text
.globl start
start:
    ldr x20, =EXCHANGE
    ldr x21, =PROBES
    adr x0, vectors
    msr vbar_el2, x0
    ldr x0, [x20, #16]
    msr ttbr0_el1, x0
    ldr x0, [x20, #24]
    msr tcr_el1, x0
    ldr x0, [x20, #32]
    msr mair_el1, x0
    ldr x0, [x20, #40]
    msr sctlr_el1, x0
    ldr x0, [x20, #48]
    msr vbar_el1, x0
    ldr x0, [x20, #56]
    msr hcr_el2, x0
    ldr x0, [x20, #64]
    msr vttbr_el2, x0
    ldr x0, [x20, #72]
    msr vtcr_el2, x0
    ldr x0, [x20, #80]
    msr ttbr1_el1, x0
    isb
    tlbi alle1
    dsb sy
    isb
next:
    ldp x0, x1, [x20]
    cmp x0, x1
    b.eq done
    ldp x0, x1, [x21]           // the address; where to begin
    ldp x2, x3, [x21, #16]      // the mode; what to write
    msr elr_el2, x1
    msr spsr_el2, x2
    mov x1, x3
    isb
    eret

done:
    ldr w0, =0x84000008         // PSCI SYSTEM_OFF
    smc #0
1:  b 1b

// EL2's vectors: only synchronous exceptions from a lower level are expected.
    .balign 2048
vectors:
    .rept 8
    .balign 128
    b dead
    .endr
    .balign 128
    b trap
    .rept 7
    .balign 128
    b dead
    .endr
    .balign 128

dead:
    ldr w0, =0x84000008
    smc #0
    b dead

trap:
    str x0, [x21, #24]
    mrs x0, esr_el2
    lsr x1, x0, #26
    cmp x1, #0x16               // an HVC of EL1's vectors: what happened there is in EL1's registers
    b.eq 1f
    mrs x1, far_el2
    mrs x2, elr_el2
    b 2f
1:  mrs x0, esr_el1
    mrs x1, far_el1
    mrs x2, elr_el1
2:  ldr x3, [x21]               // the translation itself, whoever may use it
    at s1e1r, x3
    isb
    mrs x3, par_el1
    stp x0, x3, [x21, #32]
    stp x1, x2, [x21, #48]
    add x21, x21, #64
    ldr x0, [x20, #8]
    add x0, x0, #1
    str x0, [x20, #8]
    b next
    .ltorg

// The page of EL1: its vectors, and from where it reads and writes.
    .org 0x10000
    .rept 16
    .balign 128
    hvc #0
    .endr
    .org 0x10800
    ldr x0, [x0]
    brk #0
    .org 0x10810
    str x1, [x0, #8]
    brk #0

// The page of EL0.
    .org 0x20800
    ldr x0, [x0]
    brk #0
    .org 0x20810
    str x1, [x0, #8]
    brk #0
    .org 0x30000
