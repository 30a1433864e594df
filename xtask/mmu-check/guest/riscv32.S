# The guest for 32-bit RISC-V: tries accesses through the tables that it is given, in S and U mode, and writes down what came of each.
#
# See `src/guest.rs` for the layout that it shares with the host: words of 64 bits, of which a register holds the lower half. BASE is
# given to the assembler.
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
    lw t0, 16(s0)
    csrw satp, t0
    sfence.vma
next:
    lw t0, 0(s0)
    lw t1, 8(s0)
    beq t0, t1, done
    lw t0, 8(s1)                # where to begin
    csrw mepc, t0
    lw t0, 16(s1)               # the mode, in MPP; SUM, MXR and MPRV are clear
    csrw mstatus, t0
    lw a2, 24(s1)               # what to write, or what was read: two halves
    lw a3, 28(s1)
    lw a0, 0(s1)
    mret

    .balign 4
trap:
    sw a2, 24(s1)
    sw a3, 28(s1)
    csrr t0, mcause
    sw t0, 32(s1)
    csrr t0, mtval
    sw t0, 48(s1)
    csrr t0, mepc
    sw t0, 56(s1)
    addi s1, s1, 64
    lw t0, 8(s0)
    addi t0, t0, 1
    sw t0, 8(s0)
    j next

done:
    li t0, TEST_DEVICE
    li t1, 0x5555
    sw t1, 0(t0)
1:  j 1b

# The page from which S mode reads and writes.
    .org 0x10800
    lw a2, 0(a0)
    lw a3, 4(a0)
    ebreak
    .org 0x10810
    sw a2, 8(a0)
    sw a3, 12(a0)
    ebreak

# The same for U mode.
    .org 0x20800
    lw a2, 0(a0)
    lw a3, 4(a0)
    ebreak
    .org 0x20810
    sw a2, 8(a0)
    sw a3, 12(a0)
    ebreak
    .org 0x30000
