# The guest for 32-bit x86: tries accesses through the tables that it is given, in ring 0 and ring 3, and writes down what came of each.
#
# See `src/guest.rs` for the layout that it shares with the host: words of 64 bits, of which a register holds the lower half. BASE is
# given to the assembler.
#
# Ring 0 runs under the same tables, so the host maps this image and the exchange at their physical addresses. The tables decide
# nothing about a trap: its stack, and the gates, are there.

.intel_syntax noprefix
.set EXCHANGE, BASE + 0x1200000
.set PROBES, EXCHANGE + 0x1000
.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set PROGRAM_DATA, 0x1b
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
    lgdt [gdt_pointer]
    ljmp KERNEL_CODE, offset segments
segments:
    mov eax, KERNEL_DATA
    mov ss, eax
    mov eax, PROGRAM_DATA       # which both rings may use, and iret to ring 3 does not clear
    mov ds, eax
    mov es, eax
    mov esp, offset stack_top

    # 32 gates to the entries below, open to ring 3.
    mov edi, offset idt
    mov esi, offset entries
    mov ecx, 32
1:  mov eax, esi
    mov [edi], ax
    mov word ptr [edi + 2], KERNEL_CODE
    mov word ptr [edi + 4], 0xee00
    shr eax, 16
    mov [edi + 6], ax
    add edi, 8
    add esi, 16
    dec ecx
    jnz 1b
    lidt [idt_pointer]

    mov eax, offset task
    mov [task_descriptor + 2], ax
    shr eax, 16
    mov [task_descriptor + 4], al
    mov [task_descriptor + 7], ah
    mov dword ptr [task + 4], offset stack_top
    mov dword ptr [task + 8], KERNEL_DATA
    mov eax, TASK
    ltr ax

    mov ecx, 0x277              # IA32_PAT
    mov eax, [ebx + 32]
    mov edx, [ebx + 36]
    wrmsr
    mov ecx, 0xc0000080         # IA32_EFER: NXE, if the format has it
    mov eax, [ebx + 40]
    xor edx, edx
    wrmsr
    mov eax, [ebx + 24]         # PSE or PAE, and what else the format needs
    mov cr4, eax
    mov eax, [ebx + 16]
    mov cr3, eax
    mov eax, 0x80010011         # PG, WP, ET, PE
    mov cr0, eax

    mov ebp, PROBES
next:
    mov esp, offset stack_top
    mov eax, [EXCHANGE + 8]
    cmp eax, [EXCHANGE]
    je done
    movzx ecx, word ptr [ebp + 18]
    push ecx                    # SS; taken only on the way to ring 3, as is ESP
    push offset stack_top       # ESP: never used there
    push 2                      # EFLAGS: no interrupts, and AC clear
    movzx ecx, word ptr [ebp + 16]
    push ecx                    # CS
    push [ebp + 8]              # where to begin
    mov edi, [ebp]
    mov esi, [ebp + 24]         # what to write: two halves
    mov ecx, [ebp + 28]
    xor eax, eax
    xor edx, edx
    iretd

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
    mov [ebp + 24], eax
    mov [ebp + 28], edx
    pop eax
    mov [ebp + 32], eax         # the vector
    pop eax
    mov [ebp + 40], eax         # the error code
    mov eax, cr2
    mov [ebp + 48], eax
    pop eax
    mov [ebp + 56], eax         # where it happened
    add ebp, 64
    inc dword ptr [EXCHANGE + 8]
    jmp next

done:
    mov al, 0x10
    out 0xf4, al
1:  hlt
    jmp 1b

    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    # code, ring 0
    .quad 0x00cf93000000ffff    # data, ring 0
    .quad 0x00cff3000000ffff    # data, ring 3
    .quad 0x00cffb000000ffff    # code, ring 3
task_descriptor:
    .quad 0x0000890000000067
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
idt_pointer:
    .word 32 * 8 - 1
    .long idt
    .balign 16
idt:
    .fill 32 * 8
task:
    .fill 104
    .balign 16
    .fill 4096
stack_top:

# The page from which ring 0 reads and writes.
    .org 0x10800
    mov eax, [edi]
    mov edx, [edi + 4]
    int3
    .org 0x10810
    mov [edi + 8], esi
    mov [edi + 12], ecx
    int3

# The same for ring 3.
    .org 0x20800
    mov eax, [edi]
    mov edx, [edi + 4]
    int3
    .org 0x20810
    mov [edi + 8], esi
    mov [edi + 12], ecx
    int3
    .org 0x30000
