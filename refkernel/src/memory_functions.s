# The memory functions that compiled code calls by name, under names of their own so that a host can test them beside its C
# library's. System V ABI, direction flag clear. Intel syntax.
# memcpy(rdi to, rsi from, rdx count) -> rax = to. Forward copy.

.section .text.kernel_memcpy, "ax", @progbits
.global kernel_memcpy
kernel_memcpy:
    mov rax, rdi
2:  cmp rdx, 64
    jb 3f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    jmp 2b
# Fewer than 64 bytes are left. From 8 on: the last ones once more, which overlap what is copied. All is loaded before anything is stored, since
# memmove comes here too.
3:  cmp rdx, 16
    jb 4f
    cmp rdx, 32
    jbe 6f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    ret
6:  movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
4:  cmp rdx, 8
    jb 5f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
5:  mov rcx, rdx
    rep movsb
    ret
# memmove(rdi to, rsi from, rdx count) -> rax = to. Backward where the target begins inside of the source.

.section .text.kernel_memmove, "ax", @progbits
.global kernel_memmove
kernel_memmove:
    mov rax, rdi
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
# Unsigned: a target below the source wraps to a large distance and is copied forward as well.
    jae 2b
4:  cmp rdx, 16
    jb 5f
    movups xmm0, [rsi + rdx - 16]
    movups [rdi + rdx - 16], xmm0
    sub rdx, 16
    jmp 4b
5:  test rdx, rdx
    jz 6f
    mov cl, [rsi + rdx - 1]
    mov [rdi + rdx - 1], cl
    dec rdx
    jmp 5b
6:  ret
# memset(rdi to, esi byte, rdx count) -> rax = to. 256 bytes at a time: most of what is cleared is whole pages.

.section .text.kernel_memset, "ax", @progbits
.global kernel_memset
kernel_memset:
    mov r8, rdi
    movzx eax, sil
    mov r9, 0x0101010101010101
    imul rax, r9
    cmp rdx, 16
    jb 4f
    movq xmm0, rax
    punpcklqdq xmm0, xmm0
    mov rcx, rdx
    and rcx, -256
    jz 3f
    add rcx, rdi
2:  movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    movups [rdi + 64], xmm0
    movups [rdi + 80], xmm0
    movups [rdi + 96], xmm0
    movups [rdi + 112], xmm0
    movups [rdi + 128], xmm0
    movups [rdi + 144], xmm0
    movups [rdi + 160], xmm0
    movups [rdi + 176], xmm0
    movups [rdi + 192], xmm0
    movups [rdi + 208], xmm0
    movups [rdi + 224], xmm0
    movups [rdi + 240], xmm0
    add rdi, 256
    cmp rdi, rcx
    jne 2b
    and edx, 255
3:  cmp rdx, 16
    jb 4f
    movups [rdi], xmm0
    add rdi, 16
    sub rdx, 16
    jmp 3b
4:  mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
# bcmp and memcmp(rdi left, rsi right, rdx count) -> eax: difference of the first bytes that differ.

.section .text.kernel_memcmp, "ax", @progbits
.global kernel_memcmp
.global kernel_bcmp
kernel_memcmp:
kernel_bcmp:
    xor ecx, ecx
2:  cmp rcx, rdx
    je 4f
    lea r8, [rcx + 8]
    cmp r8, rdx
    ja 3f
    mov r9, [rdi + rcx]
    cmp r9, [rsi + rcx]
    jne 3f
    mov rcx, r8
    jmp 2b
# Eight bytes differ, or fewer are left: byte by byte.
3:  movzx eax, byte ptr [rdi + rcx]
    movzx r9d, byte ptr [rsi + rcx]
    sub eax, r9d
    jne 5f
    inc rcx
    cmp rcx, rdx
    jne 3b
4:  xor eax, eax
5:  ret
# strlen(rdi) -> rax, for C strings of a loader's.

.section .text.kernel_strlen, "ax", @progbits
.global kernel_strlen
kernel_strlen:
    xor eax, eax
2:  cmp byte ptr [rdi + rax], 0
    je 3f
    inc rax
    jmp 2b
3:  ret
.text
