# What Bochs starts instead of a BIOS: the last 64 KiB below 4 GiB. It fills the memory from a disk, calls the guest, and puts the
# memory back.
#
# See `src/bochs.rs` for the disk. Everything runs in 64-bit mode, by tables in this image that map the lowest 4 GiB to themselves.

.intel_syntax noprefix
.set GUEST, BASE + 0x1000000
# Memory that nothing else uses: the addresses of the pages, and the stack, which grows down.
.set INDEX, 0x100000
.set STACK, 0x80000
.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
# The disk's registers.
.set DATA, 0x1f0
.set COUNT, 0x1f2
.set STATUS, 0x1f7
.set CONTROL, 0x3f6
.set READ_SECTORS, 0x20
.set WRITE_SECTORS, 0x30

.text
.globl start
start:
.code32
protected:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, STACK
    mov eax, 0x620              # CR4: PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset root
    mov cr3, eax
    mov ecx, 0xc0000080         # IA32_EFER: LME, NXE
    mov eax, 0x900
    xor edx, edx
    wrmsr
    mov eax, 0x80010031         # PG, WP, NE, ET, PE
    mov cr0, eax
    ljmp KERNEL_CODE, offset long_mode

.code64
long_mode:
    mov dx, CONTROL
    mov al, 2                   # no interrupts
    out dx, al

    # The first sector says how many pages there are; their addresses follow, 64 in a sector.
    xor ebp, ebp
    mov ebx, 1
    mov edi, INDEX
    call read
    mov r12, [INDEX]
    lea r13, [r12 + 63]
    shr r13, 6
    inc r13                     # the pages' first sector
    mov edi, INDEX
1:  cmp rbp, r13
    je 2f
    mov ebx, 1
    call read
    jmp 1b
2:  mov r14d, INDEX
    mov r15, r12
3:  mov rdi, [r14]
    mov ebx, 8
    call read
    add r14, 8
    dec r15
    jnz 3b

    push r12
    push r13
    mov eax, GUEST
    call rax
    pop rbp
    pop r15

    mov r14d, INDEX
4:  mov rsi, [r14]
    mov ebx, 8
    call write
    add r14, 8
    dec r15
    jnz 4b

stop:
    mov dx, 0x8900
    lea rsi, shutdown[rip]
    mov ecx, 8
    rep outsb
5:  hlt
    jmp 5b
shutdown:
    .ascii "Shutdown"

# Reads ebx sectors to rdi, from sector ebp on; both move on.
read:
    mov r8d, READ_SECTORS
    call command
1:  call ready
    mov ecx, 256
    mov dx, DATA
    rep insw
    inc ebp
    dec ebx
    jnz 1b
    ret

# Writes ebx sectors from rsi.
write:
    mov r8d, WRITE_SECTORS
    call command
1:  call ready
    mov ecx, 256
    mov dx, DATA
    rep outsw
    inc ebp
    dec ebx
    jnz 1b
    ret

# Begins a command (r8) for ebx sectors from ebp on.
command:
    mov dx, STATUS
1:  in al, dx
    test al, 0x80               # busy
    jnz 1b
    mov dx, COUNT
    mov al, bl
    out dx, al
    mov eax, ebp
    inc dx
    out dx, al
    shr eax, 8
    inc dx
    out dx, al
    shr eax, 8
    inc dx
    out dx, al
    shr eax, 8
    or al, 0xe0                 # the first disk, by numbers of sectors
    inc dx
    out dx, al
    mov eax, r8d
    inc dx
    out dx, al
    ret

# Waits until a sector can be moved.
ready:
    mov dx, STATUS
1:  in al, dx
    test al, 0x80
    jnz 1b
    test al, 0x21               # an error: the host will find nothing done
    jnz stop
    test al, 8
    jz 1b
    ret

    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # code
    .quad 0x00cf93000000ffff    # data
    .quad 0x00cf9b000000ffff    # code, 32-bit
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

# Tables of 1 GiB pages, marked as used: nothing can be written here.
    .balign 4096
root:
    .quad third + 0x27
    .balign 4096
third:
    .set page, 0
    .rept 4
    .quad page << 30 | 0xe7
    .set page, page + 1
    .endr

    .org 0xff00
.code16
real:
    lgdtd cs:[gdt_pointer - start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmpd 0x18, offset protected
    .org 0xfff0
    jmp real
    .org 0x10000
