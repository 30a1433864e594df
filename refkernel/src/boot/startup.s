# The way of a further processor into the kernel. AT&T syntax, as in entry.s.
#
#   INIT, SIPI ──> startup page (real mode) ──> startup_long_mode ─┐
#                                                                  ├──> startup_enter ──> enter_rust ──> processor_main
#   Limine ──────> limine_processor ───────────────────────────────┘    (the kernel's tables and a stack)

# --- The startup page ----------------------------------------------------------------------------------------------
# Copied to a page below 1 MiB, where a start-up interrupt begins: real mode, cs = page / 16, ip = 0, interrupts off (Intel
# SDM Vol. 3A, 10.4.4). From there to long mode at once: CR4.PAE, CR3 and EFER.LME before CR0.PG and CR0.PE, with the
# page identity-mapped by the boot tables. CR0 is written outright: INIT leaves the caches off (CD and NW set).
.section .rodata.startup, "a", @progbits
.code16
.global startup_page_begin
startup_page_begin:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl startup_gdt_pointer - startup_page_begin
    movl $0x20, %eax
    movl %eax, %cr4
    movl $boot_pml4_physical, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80000011, %eax
    movl %eax, %cr0
    ljmpl $0x08, $startup_long_mode_physical
startup_gdt_pointer:
    .short 23
    .long boot_gdt_physical
.global startup_page_end
startup_page_end:

# --- Long mode -----------------------------------------------------------------------------------------------------
.section .text.startup, "ax", @progbits
.code64
# Runs where the image lies physically: the boot tables show it there, and at its own place.
.global startup_long_mode
startup_long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $startup_enter, %rax
    jmpq *%rax

# Limine boot protocol, "MP (multiprocessor) feature": entered as the first processor was, on a stack of Limine's.
.global limine_processor
limine_processor:
    cli
    cld

# Common. The kernel's tables have pages without execute permission, so that must be on before they are loaded; the image is at the same
# place in all three sets of tables. A processor that cannot have it stays here.
startup_enter:
    movl $0x80000001, %eax
    cpuid
    btl $20, %edx
    jnc 2f
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x800, %eax
    wrmsr
    movq startup_root(%rip), %rax
    movq %rax, %cr3
    movq startup_stack(%rip), %rsp
    leaq {processor_main}(%rip), %rax
    jmp enter_rust
2:  hlt
    jmp 2b

.section .data.startup, "aw", @progbits
.balign 8
# Written by the processor that starts another, one at a time.
.global startup_root
startup_root: .quad 0
.global startup_stack
startup_stack: .quad 0
.text
