# The two ways in. AT&T syntax, since the first part is 32-bit code whose addresses are physical.

# --- The PVH note -------------------------------------------------------------------------------------------------
# Xen "PVH" boot ABI (docs/misc/pvh.pandoc; elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY = 18). QEMU reads eight bytes of
# descriptor from a 64-bit file, so the address is a quad.
.section .note.pvh, "a", @note
.balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad pvh_start_physical

# --- 32-bit entry -------------------------------------------------------------------------------------------------
# PVH: protected mode, flat segments, paging off, interrupts off, ebx = physical address of hvm_start_info.
.section .text.pvh_start, "ax", @progbits
.code32
.global pvh_start
pvh_start:
    cli
    cld

    # Four page directories of 2 MiB leaves (present, writable, large: 0x83) for the first 4 GiB.
    # SDM Vol. 3A, 4.5.4, tables 4-15 to 4-18.
    movl $boot_directories_physical, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b

    # One page-directory-pointer table shows them from its start: the identity map, and the map of physical memory.
    movl $boot_directories_physical + 3, %eax
    movl %eax, boot_pdpt_physical
    addl $0x1000, %eax
    movl %eax, boot_pdpt_physical + 8
    addl $0x1000, %eax
    movl %eax, boot_pdpt_physical + 16
    addl $0x1000, %eax
    movl %eax, boot_pdpt_physical + 24
    # The other shows the first GiB at the kernel's offset, 0xffffffff80000000: slot 510 of root slot 511.
    movl $boot_directories_physical + 3, boot_pdpt_kernel_physical + 510 * 8

    movl $boot_pdpt_physical + 3, boot_pml4_physical
    movl $boot_pdpt_physical + 3, boot_pml4_physical + 256 * 8
    movl $boot_pdpt_kernel_physical + 3, boot_pml4_physical + 511 * 8

    # Long mode: SDM Vol. 3A, 10.8.5. CR4.PAE, CR3, EFER.LME, CR0.PG.
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $boot_pml4_physical, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0

    lgdtl boot_gdt_pointer_physical
    ljmpl $0x08, $pvh_long_mode_physical

.code64
.global pvh_long_mode
pvh_long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $boot_stack_top, %rsp
    movl %ebx, %edi
    movq $pvh_high, %rax
    jmpq *%rax
pvh_high:
    # The identity map has served: from here on address zero faults. Reloading CR3 drops it from the TLB.
    movq $0, boot_pml4(%rip)
    movq %cr3, %rax
    movq %rax, %cr3
    leaq boot_pvh(%rip), %rax
    jmp enter_rust

# --- Limine entry -------------------------------------------------------------------------------------------------
# Limine boot protocol, "Entry machine state", x86-64: long mode, own page tables, interrupts off. Its stack is left
# at once for the kernel's own, so that both ways in run on the same one.
.global limine_start
limine_start:
    cli
    cld
    movq $boot_stack_top, %rsp
    leaq boot_limine(%rip), %rax

# Common: compiled code uses SSE, so it is enabled before the first Rust instruction. SDM Vol. 3A, 14.1.3:
# CR0.EM (2) and CR0.TS (3) clear, CR0.MP (1) and CR0.NE (5) set; CR4.OSFXSR (9) and CR4.OSXMMEXCPT (10) set.
.global enter_rust
enter_rust:
    movq %cr0, %rcx
    andq $~0xc, %rcx
    orq $0x22, %rcx
    movq %rcx, %cr0
    movq %cr4, %rcx
    orq $0x600, %rcx
    movq %rcx, %cr4
    fninit
    pushq $0x1f80
    ldmxcsr (%rsp)
    # Zero frame pointer and zero return address: where a backtrace ends. The stack is as if called.
    movq $0, (%rsp)
    xorl %ebp, %ebp
    jmpq *%rax

.section .rodata.boot_gdt, "a", @progbits
.balign 8
.global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
.global boot_gdt_pointer
boot_gdt_pointer:
    .short 23
    .long boot_gdt_physical

# --- Memory of the first steps, given back when the kernel's own tables and stacks stand ---------------------------
.section .boot_tables, "aw", @nobits
.balign 4096
.global boot_pml4
boot_pml4: .skip 4096
.global boot_pdpt
boot_pdpt: .skip 4096
.global boot_pdpt_kernel
boot_pdpt_kernel: .skip 4096
.global boot_directories
boot_directories: .skip 4 * 4096

.section .boot_stack, "aw", @nobits
.balign 4096
.global boot_stack_bottom
# Unoptimised code copies the map of memory several times on its way.
boot_stack_bottom: .skip 256 * 1024
.global boot_stack_top
boot_stack_top:
.text
