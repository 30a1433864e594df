# The way into the kernel by a trap and back. Intel syntax.
#
# Every stub leaves this on its interrupt stack (Intel SDM Vol. 3A, 7.14.2 and 7.14.5):
#
#   rsp +0 vector | +8 error code | +16 rip | +24 cs | +32 rflags | +40 rsp | +48 ss
#
# The frame is then moved: to the process's kernel stack if a program was interrupted, else below the red zone
# of the stack that was interrupted. So the interrupt stack is free again before any Rust code runs, and handlers may
# trap. It stays where it is, and the trap is fatal, if the move could not succeed: the address is in a stack's guard,
# or the move itself trapped.

.section .text.trap, "ax", @progbits

.balign 16
.global trap_stubs
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    # Vectors for which the processor pushes an error code: 8, 10 to 14, 17, 21, 29, 30.
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    push 0
    .endif
    .if vector < 128
    push vector
    .else
    # A push of one byte would be taken as negative.
    push vector
    .endif
    .if vector == 2 || vector == 8 || vector == 18
    jmp trap_on_own_stack
    .elseif vector == 1
    jmp trap_debug
    .else
    jmp trap_common
    .endif
    .set vector, vector + 1
.endr

# A program that single-steps through `syscall`, where the processor traps right behind it: nothing has been done for the kernel yet, the GS base is the
# program's. SFMASK has cleared the trap flag, so the call goes on; the flag comes back with the program's own flags, and then the program traps.
.balign 16
trap_debug:
    push rax
    lea rax, [rip + system_call_entry]
    # +0 rax | +8 vector | +16 error code | +24 rip
    cmp rax, [rsp + 24]
    pop rax
    jne trap_common
    add rsp, 16
    iretq

.balign 16
trap_common:
    push rax
    push rcx
    push rdx
    # +0 rdx, rcx, rax | +24 vector | +32 error code | +40 rip | +48 cs | +56 rflags | +64 rsp | +72 ss
    test byte ptr [rsp + 48], 3
    jz 1f
    swapgs
    mov rax, gs:[{KERNEL_STACK}]
    jmp trap_move

    # The kernel was interrupted. A trap inside of the move: the stack that it goes to cannot be written.
1:  mov rax, [rsp + 40]
    lea rcx, [rip + trap_move]
    cmp rax, rcx
    jb 1f
    lea rcx, [rip + trap_move_end]
    cmp rax, rcx
    jb trap_save
    # A page fault in the guard of the slot that the stack pointer is in: the stack is used up.
1:  cmp dword ptr [rsp + 24], 14
    jne 3f
    mov rax, cr2
    mov rcx, [rsp + 64]
    xor rcx, rax
    shr rcx, {SLOT_SHIFT}
    jnz 3f
    test eax, {GUARD_SIZE}
    jnz 3f
    movabs rcx, {SLOTS_START}
    sub rax, rcx
    cmp rax, {SLOTS_SIZE}
    jb trap_save
    # Below the red zone (System V ABI, 3.2.2) of the interrupted function.
3:  mov rax, [rsp + 64]
    sub rax, 128
    and rax, -16

trap_move:
    mov rdx, rsp
    mov rsp, rax
    push [rdx + 72]
    push [rdx + 64]
    push [rdx + 56]
    push [rdx + 48]
    push [rdx + 40]
    push [rdx + 32]
    push [rdx + 24]
    push [rdx + 16]
    push [rdx + 8]
    push [rdx]
trap_move_end:

trap_save:
    push rbx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    # 22 words on a 16-byte boundary: still on one, as fxsave64 demands.
    sub rsp, 512
    fxsave64 [rsp]
    ldmxcsr [rip + kernel_mxcsr]
    # Clears AC (which would lift SMAP), DF, NT and TF, whatever the interrupted program had set. IF is clear already.
    push 2
    popfq
    mov rdi, rsp
    call {trap_dispatch}

    fxrstor64 [rsp]
    add rsp, 512
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    test byte ptr [rsp + 8], 3
    jz 4f
    swapgs
4:  iretq

# Double fault, NMI and machine check can come at any instruction, also where the GS base is a program's: its sign says so, since programs
# cannot set it to an address of the kernel's half. These traps use nothing but their own stack, and do not return.
trap_on_own_stack:
    push rax
    push rcx
    push rdx
    mov ecx, 0xc0000101
    rdmsr
    test edx, edx
    js trap_save
    swapgs
    jmp trap_save

.section .rodata.trap, "a", @progbits
.balign 16
# What a program starts with, and what compiled code expects: x87 control word 0x37f, MXCSR 0x1f80 (all exceptions
# masked, round to nearest), every register zero. Intel SDM Vol. 1, 10.5.1, layout of the fxsave area.
.global initial_sse_state
initial_sse_state:
    .short 0x37f
    .skip 22
.global kernel_mxcsr
kernel_mxcsr:
    .long 0x1f80
    .skip 512 - 28
.text
