#include "clinux.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

// A bit at a time, for machines without the instruction.
static uint32_t slowly(uint32_t remainder, const uint8_t *bytes, size_t count) {
    while (count-- > 0) {
        remainder ^= *bytes++;
        for (int bit = 0; bit < 8; bit++) remainder = (remainder >> 1) ^ (0x82f63b78 & -(remainder & 1));
    }
    return remainder;
}

#if defined(__x86_64__) || defined(__aarch64__)
#if defined(__x86_64__)
__attribute__((target("sse4.2")))
#else
__attribute__((target("+crc")))
#endif
static uint32_t quickly(uint32_t remainder, const uint8_t *bytes, size_t count) {
    uint64_t word;
    for (; count >= sizeof word; bytes += sizeof word, count -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
#if defined(__x86_64__)
        remainder = (uint32_t)_mm_crc32_u64(remainder, word);
#else
        remainder = __crc32cd(remainder, word);
#endif
    }
    return slowly(remainder, bytes, count);
}
#endif

uint32_t clinux_crc32c(uint32_t remainder, const void *bytes, size_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return quickly(remainder, bytes, count);
#elif defined(__aarch64__)
    if (getauxval(AT_HWCAP) & HWCAP_CRC32) return quickly(remainder, bytes, count);
#endif
    return slowly(remainder, bytes, count);
}
