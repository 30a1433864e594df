# The guest for EPT: a hypervisor that tries accesses of a virtual machine, whose physical memory the tables given to it make, and
# writes down what came of each.
#
# See `src/guest.rs` for the layout that it shares with the host, and `bochs.S` for who calls it: in 64-bit mode, with all addresses
# below 4 GiB mapped to themselves. BASE is given to the assembler.
#
# The virtual machine runs in 64-bit mode, too. Two pages are all that it has: from one it runs, in the other is what it accesses; its
# own tables, in this image, lead both to wherever the probe wants. The host maps the image at the same guest-physical addresses.

.intel_syntax noprefix
.set EXCHANGE, BASE + 0x1200000
.set PROBES, EXCHANGE + 0x1000
# The two pages, and what its entries of tables hold: present, writable, a program's, accessed, dirty.
.set CODE_PAGE, 0x1000
.set DATA_PAGE, 0x2000
.set LEAF, 0x67

# Fields of the VMCS that change, or that are read.
.set GUEST_CS, 0x0802
.set GUEST_SS, 0x0804
.set EPT_POINTER, 0x201a
.set GUEST_PHYSICAL_ADDRESS, 0x2400
.set PIN_CONTROLS, 0x4000
.set PROCESSOR_CONTROLS, 0x4002
.set EXIT_CONTROLS, 0x400c
.set ENTRY_CONTROLS, 0x4012
.set SECONDARY_CONTROLS, 0x401e
.set INSTRUCTION_ERROR, 0x4400
.set EXIT_REASON, 0x4402
.set EXIT_INTERRUPTION, 0x4404
.set GUEST_CS_RIGHTS, 0x4816
.set GUEST_SS_RIGHTS, 0x4818
.set EXIT_QUALIFICATION, 0x6400
.set GUEST_CR0, 0x6800
.set GUEST_CR4, 0x6804
.set GUEST_RIP, 0x681e
.set GUEST_RFLAGS, 0x6820
.set HOST_CR0, 0x6c00
.set HOST_CR3, 0x6c02
.set HOST_CR4, 0x6c04
.set HOST_RSP, 0x6c14

.text
.code64
.globl start
start:
    mov r12d, EXCHANGE
    mov r13d, PROBES

    mov ecx, 0x3a               # IA32_FEATURE_CONTROL: VMX, locked
    rdmsr
    test al, 1
    jnz 1f
    mov eax, 5
    xor edx, edx
    wrmsr
1:  mov rax, cr4
    or eax, 1 << 13             # VMXE
    mov cr4, rax

    mov ecx, 0x480              # IA32_VMX_BASIC: the revision, with which both regions begin
    rdmsr
    mov vmxon_region, eax
    mov vmcs, eax
    vmxon vmxon_pointer
    jbe failed
    vmclear vmcs_pointer
    jbe failed
    vmptrld vmcs_pointer
    jbe failed

    # Fields that are written once.
    mov esi, offset fields
2:  mov eax, [rsi]
    vmwrite rax, [rsi + 8]
    jbe failed
    add esi, 16
    cmp esi, offset fields_end
    jne 2b
    mov eax, EPT_POINTER
    vmwrite rax, [r12 + 16]
    jbe failed

    # Controls: what is wanted, with what the CPU demands and without what it lacks (IA32_VMX_*_CTLS).
    mov esi, offset controls
3:  mov ecx, [rsi + 4]
    rdmsr
    or eax, [rsi + 8]
    and eax, edx
    mov ecx, [rsi]
    vmwrite rcx, rax
    jbe failed
    add esi, 12
    cmp esi, offset controls_end
    jne 3b

    mov rax, cr0
    mov ecx, GUEST_CR0
    vmwrite rcx, rax
    mov ecx, HOST_CR0
    vmwrite rcx, rax
    mov rax, cr4
    mov ecx, GUEST_CR4
    vmwrite rcx, rax
    mov ecx, HOST_CR4
    vmwrite rcx, rax
    mov rax, cr3
    mov ecx, HOST_CR3
    vmwrite rcx, rax
    mov ecx, HOST_RSP
    vmwrite rcx, rsp
    jbe failed

next:
    mov rax, [r12 + 8]
    cmp rax, [r12]
    je done

    # The page to run from, and the one to access.
    mov rax, [r13 + 8]
    and rax, -4096
    or rax, LEAF
    mov [pages + CODE_PAGE / 512], rax
    mov rax, [r13]
    and rax, -4096
    or rax, LEAF
    mov [pages + DATA_PAGE / 512], rax
    mov rax, [r13 + 8]
    and eax, 4095
    add eax, CODE_PAGE
    mov ecx, GUEST_RIP
    vmwrite rcx, rax
    mov rdi, [r13]
    and edi, 4095
    add edi, DATA_PAGE
    mov rsi, [r13 + 24]

    # The ring, 0 or 3, as selectors and access rights.
    mov eax, 2
    mov ecx, GUEST_RFLAGS
    vmwrite rcx, rax
    mov rbx, [r13 + 16]
    lea rax, [rbx + 0x08]
    mov ecx, GUEST_CS
    vmwrite rcx, rax
    lea rax, [rbx + 0x10]
    mov ecx, GUEST_SS
    vmwrite rcx, rax
    shl ebx, 5
    lea rax, [rbx + 0xa09b]
    mov ecx, GUEST_CS_RIGHTS
    vmwrite rcx, rax
    lea rax, [rbx + 0xc093]
    mov ecx, GUEST_SS_RIGHTS
    vmwrite rcx, rax

    xor eax, eax
    cmp qword ptr [r12 + 8], 0
    jne 1f
    vmlaunch
    jmp failed
1:  vmresume
    jmp failed

exit:
    mov [r13 + 24], rax
    mov ecx, EXIT_REASON
    vmread [r13 + 32], rcx
    mov ecx, EXIT_QUALIFICATION
    cmp dword ptr [r13 + 32], 0
    jne 1f
    mov ecx, EXIT_INTERRUPTION  # an exception: which
1:  vmread [r13 + 40], rcx
    mov ecx, GUEST_PHYSICAL_ADDRESS
    vmread [r13 + 48], rcx
    mov ecx, GUEST_RIP
    vmread [r13 + 56], rcx
    add r13, 64
    inc qword ptr [r12 + 8]
    jmp next

# Entering failed, or something before; the host sees how far it came. The reason is left where the probe is.
failed:
    mov ecx, INSTRUCTION_ERROR
    vmread rax, rcx
    mov [r13 + 32], rax
done:
    ret

    .balign 16
vmxon_pointer:
    .quad vmxon_region
vmcs_pointer:
    .quad vmcs

# The field, the register that says what is allowed, and what is wanted.
controls:
    .long PIN_CONTROLS, 0x481, 0
    .long PROCESSOR_CONTROLS, 0x482, 1 << 31    # secondary controls
    .long SECONDARY_CONTROLS, 0x48b, 1 << 1     # EPT
    .long EXIT_CONTROLS, 0x483, 1 << 9          # the host is in 64-bit mode
    .long ENTRY_CONTROLS, 0x484, 1 << 9         # and so is the guest
controls_end:

    .balign 16
fields:
    .quad 0x2800, -1            # no other VMCS
    .quad 0x2802, 0             # IA32_DEBUGCTL
    .quad 0x4004, 0xffffffff    # every exception leaves the guest
    .quad 0x4006, 0, 0x4008, 0  # page faults, too
    .quad 0x400a, 0, 0x400e, 0, 0x4010, 0, 0x4014, 0, 0x4016, 0
    .quad 0x6000, 0, 0x6002, 0, 0x6004, 0, 0x6006, 0
    # The guest's segments: only CS, SS and TR are usable.
    .quad 0x0800, 0, 0x0806, 0, 0x0808, 0, 0x080a, 0, 0x080c, 0, 0x080e, 0x18
    .quad 0x4800, 0, 0x4802, 0xffffffff, 0x4804, 0xffffffff, 0x4806, 0, 0x4808, 0, 0x480a, 0, 0x480c, 0, 0x480e, 0x67
    .quad 0x4810, 0, 0x4812, 0
    .quad 0x4814, 0x10000, 0x481a, 0x10000, 0x481c, 0x10000, 0x481e, 0x10000, 0x4820, 0x10000, 0x4822, 0x8b
    .quad 0x6806, 0, 0x6808, 0, 0x680a, 0, 0x680c, 0, 0x680e, 0, 0x6810, 0, 0x6812, 0, 0x6814, 0, 0x6816, 0, 0x6818, 0
    .quad 0x4824, 0, 0x4826, 0, 0x482a, 0, 0x6822, 0, 0x6824, 0, 0x6826, 0
    .quad 0x6802, root          # CR3
    .quad 0x681a, 0x400         # DR7
    .quad 0x681c, 0             # RSP: it has no stack
    # The host's.
    .quad 0x0c00, 0x10, 0x0c02, 0x08, 0x0c04, 0x10, 0x0c06, 0x10, 0x0c08, 0x10, 0x0c0a, 0x10, 0x0c0c, 0x10
    .quad 0x4c00, 0, 0x6c06, 0, 0x6c08, 0, 0x6c0a, 0, 0x6c0c, 0, 0x6c0e, 0, 0x6c10, 0, 0x6c12, 0
    .quad 0x6c16, exit
fields_end:

    .balign 4096
vmxon_region:
    .fill 4096
vmcs:
    .fill 4096

# The virtual machine's own tables; entries are marked as used.
root:
    .quad third + 0x27
    .balign 4096
third:
    .quad second + 0x27
    .balign 4096
second:
    .quad pages + 0x27
    .balign 4096
pages:
    .fill 4096

# The page from which ring 0 reads and writes.
    .org 0x10800
    mov rax, [rdi]
    vmcall
    .org 0x10810
    mov [rdi + 8], rsi
    vmcall

# The same for ring 3.
    .org 0x20800
    mov rax, [rdi]
    vmcall
    .org 0x20810
    mov [rdi + 8], rsi
    vmcall
    .org 0x30000
