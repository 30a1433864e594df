# The guest for 64-bit RISC-V: tries accesses through the tables that it is given, in S and U mode, and writes down what came of each.
#
# See `src/guest.rs` for the layout that it shares with the host. BASE is given to the assembler.
#
# It runs in M mode, where no table applies, and every trap comes back to it.

.set EXCHANGE, BASE + 0x1200000
.set PROBES, EXCHANGE + 0x1000
.set TEST_DEVICE, 0x100000

.option norvc
.option norelax
.text
.globl start
start:
    la t0, trap
    csrw mtvec, t0
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f                 # one region, all of memory, everything allowed
    csrw pmpcfg0, t0
    li s0, EXCHANGE
    li s1, PROBES
    ld t0, 24(s0)
    csrw 0x30a, t0              # menvcfg
    ld t0, 16(s0)
    csrw satp, t0
    sfence.vma
next:
    ld t0, 0(s0)
    ld t1, 8(s0)
    beq t0, t1, done
    ld t0, 8(s1)                # where to begin
    csrw mepc, t0
    ld t0, 16(s1)               # the mode, in MPP; SUM, MXR and MPRV are clear
    csrw mstatus, t0
    ld a1, 24(s1)
    ld a0, 0(s1)
    mret

    .balign 4
trap:
    sd a0, 24(s1)
    csrr t0, mcause
    sd t0, 32(s1)
    csrr t0, mtval
    sd t0, 48(s1)
    csrr t0, mepc
    sd t0, 56(s1)
    addi s1, s1, 64
    ld t0, 8(s0)
    addi t0, t0, 1
    sd t0, 8(s0)
    j next

done:
    li t0, TEST_DEVICE
    li t1, 0x5555
    sw t1, 0(t0)
1:  j 1b

# The page from which S mode reads and writes.
    .org 0x10800
    ld a0, 0(a0)
    ebreak
    .org 0x10810
    sd a1, 8(a0)
    ebreak

# The same for U mode.
    .org 0x20800
    ld a0, 0(a0)
    ebreak
    .org 0x20810
    sd a1, 8(a0)
    ebreak
    .org 0x30000
