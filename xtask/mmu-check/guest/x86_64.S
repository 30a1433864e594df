# The guest for x86-64: tries accesses through the tables that it is given, in ring 0 and ring 3, and writes down what came of each.
#
# See `src/guest.rs` for the layout that it shares with the host. BASE is given to the assembler.
#
# Ring 0 runs under the same tables, so the host maps this image and the exchange at their physical addresses. Every trap is taken
# on a stack of its own (IST): the tables decide nothing about it.

.intel_syntax noprefix
.set EXCHANGE, BASE + 0x1200000
.set PROBES, EXCHANGE + 0x1000
.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set TASK, 0x28

.section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18              # the name's and the value's length; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start

.text
.globl start
.code32
start:
    mov ebx, EXCHANGE
    mov eax, [ebx + 24]         # PAE and what else the format needs
    mov cr4, eax
    mov eax, [ebx + 16]
    mov cr3, eax
    mov ecx, 0xc0000080         # IA32_EFER: LME, NXE
    mov eax, 0x900
    xor edx, edx
    wrmsr
    mov ecx, 0x277              # IA32_PAT
    mov eax, [ebx + 32]
    mov edx, [ebx + 36]
    wrmsr
    mov eax, 0x80010011         # PG, WP, ET, PE
    mov cr0, eax
    lgdt [gdt_pointer]
    ljmp KERNEL_CODE, offset long_mode

.code64
long_mode:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, offset stack_top

    # 32 gates to the entries below, open to ring 3, on IST 1.
    mov edi, offset idt
    mov esi, offset entries
    mov ecx, 32
1:  mov eax, esi
    mov [rdi], ax
    mov word ptr [rdi + 2], KERNEL_CODE
    mov word ptr [rdi + 4], 0xee01
    shr eax, 16
    mov [rdi + 6], ax
    mov qword ptr [rdi + 8], 0
    add edi, 16
    add esi, 16
    dec ecx
    jnz 1b
    lidt [idt_pointer]

    mov eax, offset task
    mov [task_descriptor + 2], ax
    shr eax, 16
    mov [task_descriptor + 4], al
    mov [task_descriptor + 7], ah
    mov eax, offset stack_top
    mov [task + 36], rax        # IST 1
    mov eax, TASK
    ltr ax

    mov r15d, EXCHANGE
    mov r13d, PROBES
next:
    mov rax, [r15 + 8]
    cmp rax, [r15]
    je done
    mov esp, offset stack_top
    movzx ecx, word ptr [r13 + 18]
    push rcx                    # SS
    push offset stack_top       # RSP: never used, there is no trap that does not change it
    push 2                      # RFLAGS: no interrupts, and AC clear
    movzx ecx, word ptr [r13 + 16]
    push rcx                    # CS
    push [r13 + 8]              # where to begin
    mov rdi, [r13]
    mov rsi, [r13 + 24]
    xor eax, eax
    iretq

# An entry is 16 bytes. Vectors 8, 10 to 14, 17, 21, 29 and 30 push an error code; for others, 0 takes its place.
    .balign 16
entries:
    .set vector, 0
    .rept 32
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    push 0
    .endif
    push vector
    jmp trap
    .set vector, vector + 1
    .endr
    .balign 16

trap:
    mov [r13 + 24], rax
    pop rax
    mov [r13 + 32], rax         # the vector
    pop rax
    mov [r13 + 40], rax         # the error code
    mov rax, cr2
    mov [r13 + 48], rax
    pop rax
    mov [r13 + 56], rax         # where it happened
    add r13, 64
    inc qword ptr [r15 + 8]
    jmp next

done:
    mov al, 0x10
    out 0xf4, al
1:  hlt
    jmp 1b

    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # code, ring 0
    .quad 0x00cf93000000ffff    # data, ring 0
    .quad 0x00cff3000000ffff    # data, ring 3
    .quad 0x00affb000000ffff    # code, ring 3
task_descriptor:
    .quad 0x0000890000000067
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 32 * 16 - 1
    .quad idt
    .balign 16
idt:
    .fill 32 * 16
task:
    .fill 104
    .balign 16
    .fill 4096
stack_top:

# The page from which ring 0 reads and writes.
    .org 0x10800
    mov rax, [rdi]
    int3
    .org 0x10810
    mov [rdi + 8], rsi
    int3

# The same for ring 3.
    .org 0x20800
    mov rax, [rdi]
    int3
    .org 0x20810
    mov [rdi + 8], rsi
    int3
    .org 0x30000
