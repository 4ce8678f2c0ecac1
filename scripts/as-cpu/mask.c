// Hides instruction sets from a program that asks the processor for them, so that one machine measures the kernels
// that libraries choose on another. Loaded by LD_PRELOAD; `run` beside it builds and uses it.
//
// Linux can make the CPUID instruction fault in user space, where the processor supports it (`cpuid_fault` in
// /proc/cpuinfo). The fault is answered here with the processor's own answer, less the bits of the sets to hide.
// Threads and forked processes inherit the setting; a program that this one executes starts afresh, and loads this
// library again. The C library has asked before any constructor runs: its own memory copies stay as they are.
// Where the processor cannot, `run` has the library to be measured ask by an instruction that traps, see `trap.py`.

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (UINT32_C(1) << (n))

// Bits of leaf 7, subleaves 0 and 1 (Intel's manual, volume 2A, CPUID).
struct sets {
    uint32_t ebx_0, ecx_0, edx_0, eax_1, edx_1;
};

static const struct sets AMX = {
    .edx_0 = BIT(22) | BIT(24) | BIT(25), // BF16, TILE, INT8
    .eax_1 = BIT(21),                     // FP16
    .edx_1 = BIT(8),                      // COMPLEX
};
static const struct sets AVX_VNNI = {
    .eax_1 = BIT(4) | BIT(23),  // AVX-VNNI, AVX-IFMA
    .edx_1 = BIT(4) | BIT(5) | BIT(10), // VNNI-INT8, NE-CONVERT, VNNI-INT16
};
static const struct sets AVX512_VNNI = {
    .ecx_0 = BIT(11), // VNNI
    .edx_0 = BIT(23), // FP16
    .eax_1 = BIT(5),  // BF16
};
static const struct sets AVX512 = {
    .ebx_0 = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31), // F DQ IFMA PF ER CD BW VL
    .ecx_0 = BIT(1) | BIT(6) | BIT(12) | BIT(14),                                           // VBMI VBMI2 BITALG VPOPCNTDQ
    .edx_0 = BIT(2) | BIT(3) | BIT(8),                                                      // 4VNNIW 4FMAPS VP2INTERSECT
    .edx_1 = BIT(19),                                                                       // AVX10
};

static struct sets hidden;

static void hide(struct sets sets) {
    hidden.ebx_0 |= sets.ebx_0;
    hidden.ecx_0 |= sets.ecx_0;
    hidden.edx_0 |= sets.edx_0;
    hidden.eax_1 |= sets.eax_1;
    hidden.edx_1 |= sets.edx_1;
}

static int faults; // or traps

static long fault_on_cpuid(int fault) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, fault ? 0 : 1); }

static void answer(int signal_number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)registers[REG_RIP];
    // A jump to no code faults with the address itself in RIP: reading there would fault again. A trap's address is its own.
    int readable = !faults || (uintptr_t)info->si_addr != (uintptr_t)at;
    if (!readable || at[0] != 0x0f || at[1] != (faults ? 0xa2 : 0x0b)) {
        signal(signal_number, SIG_DFL); // not ours: the instruction runs again and ends the program as it would have
        return;
    }
    int saved_errno = errno;
    uint32_t leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX];
    uint32_t a = leaf, b, c = subleaf, d;
    if (faults) fault_on_cpuid(0);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (faults) fault_on_cpuid(1);
    if (leaf == 7 && subleaf == 0) {
        b &= ~hidden.ebx_0;
        c &= ~hidden.ecx_0;
        d &= ~hidden.edx_0;
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~hidden.eax_1;
        d &= ~hidden.edx_1;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
    errno = saved_errno;
}

static void give_up(const char *what) {
    fprintf(stderr, "as-cpu: %s\n", what);
    _exit(2);
}

__attribute__((constructor)) static void start(void) {
    const char *kind = getenv("AS_CPU");
    if (kind == NULL) give_up("AS_CPU names no kind of processor");
    hide(AMX);
    if (strcmp(kind, "avx512-vnni") == 0) {
        hide(AVX_VNNI);
    } else if (strcmp(kind, "avx512") == 0) {
        hide(AVX_VNNI), hide(AVX512_VNNI);
    } else if (strcmp(kind, "avx-vnni") == 0) {
        hide(AVX512_VNNI), hide(AVX512);
    } else if (strcmp(kind, "avx2") == 0) {
        hide(AVX_VNNI), hide(AVX512_VNNI), hide(AVX512);
    } else if (strcmp(kind, "no-amx") != 0) {
        give_up("AS_CPU is not avx2, avx-vnni, avx512, avx512-vnni or no-amx");
    }
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    faults = getenv("AS_CPU_TRAPS") == NULL;
    if (sigaction(faults ? SIGSEGV : SIGILL, &action, NULL) != 0) give_up("no handler can be set");
    if (faults && fault_on_cpuid(1) != 0) give_up("this processor cannot make CPUID fault (cpuid_fault in /proc/cpuinfo)");
}
