/* TFRecord frames and their checksums, called through ctypes without the GIL; native.py loads it. frames.py and
   checksums.py give the same bytes without it. Compiled only where the processor has CRC-32C as an instruction. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE4_2__) && defined(__x86_64__)
#include <nmmintrin.h>
#define ADD_8(crc, word) ((uint32_t)_mm_crc32_u64(crc, word))
#define ADD_1(crc, byte) _mm_crc32_u8(crc, byte)
#elif defined(__ARM_FEATURE_CRC32) && defined(__AARCH64EL__)
#include <arm_acle.h>
#define ADD_8(crc, word) __crc32cd(crc, word)
#define ADD_1(crc, byte) __crc32cb(crc, byte)
#endif

#ifdef ADD_8
#define EXPORTED __attribute__((visibility("default")))

/* An instruction takes three cycles but one can start in each, so independent sums are computed side by side. */
enum { LANES = 4 };

static inline uint32_t add_8(uint32_t crc, const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return ADD_8(crc, word);
}

/* The sums of `size` bytes at four places, each going on from what is in `crc`; returns how many bytes it has taken. */
static ptrdiff_t add_lanes(uint32_t *crc, const uint8_t *const *at, ptrdiff_t size) {
    uint32_t a = crc[0], b = crc[1], c = crc[2], d = crc[3];
    ptrdiff_t done = 0;
    for (; done + 8 <= size; done += 8) {
        a = add_8(a, at[0] + done), b = add_8(b, at[1] + done);
        c = add_8(c, at[2] + done), d = add_8(d, at[3] + done);
    }
    crc[0] = a, crc[1] = b, crc[2] = c, crc[3] = d;
    return done;
}

static uint32_t add(uint32_t crc, const uint8_t *at, ptrdiff_t size) {
    for (; size >= 8; size -= 8, at += 8)
        crc = add_8(crc, at);
    for (; size > 0; size--, at++)
        crc = ADD_1(crc, *at);
    return crc;
}

/* Polynomials over GF(2), modulo that of CRC-32C; the highest bit is the coefficient of x^0. */
static uint32_t product(uint32_t a, uint32_t b) {
    uint32_t sum = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        if (a & bit)
            sum ^= b;
        b = (b >> 1) ^ (b & 1 ? 0x82F63B78u : 0);
    }
    return sum;
}

/* What a sum is multiplied by when so many bytes follow. */
static uint32_t shift(ptrdiff_t bytes) {
    uint32_t result = 1u << 31, power = 1u << 23; /* x^8 */
    for (; bytes; bytes >>= 1, power = product(power, power))
        if (bytes & 1)
            result = product(result, power);
    return result;
}

/* The CRC-32C of what has the sum `crc`, followed by these bytes. */
EXPORTED uint32_t crc32c(uint32_t crc, const uint8_t *data, ptrdiff_t size) {
    crc = ~crc;
    if (size >= 1 << 15) { /* else it takes longer to add up the lanes */
        ptrdiff_t quarter = size / LANES / 8 * 8;
        const uint8_t *at[LANES] = {data, data + quarter, data + 2 * quarter, data + 3 * quarter};
        uint32_t lanes[LANES] = {crc}, by = shift(quarter);
        add_lanes(lanes, at, quarter);
        crc = lanes[0];
        for (int lane = 1; lane < LANES; lane++)
            crc = product(crc, by) ^ lanes[lane];
        data += LANES * quarter, size -= LANES * quarter;
    }
    return ~add(crc, data, size);
}

static inline uint32_t masked(uint32_t crc) {
    crc = ~crc;
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

static inline void put_masked(uint32_t crc, uint8_t *at) {
    crc = masked(crc);
    memcpy(at, &crc, sizeof crc);
}

/* Where a record begins, and each that follows another one without a gap, as far as their headers are valid and in `data`: offsets,
   at most `room` of them. Returns how many. A length above `longest` is not valid. */
EXPORTED ptrdiff_t headers(const uint8_t *data, ptrdiff_t size, uint64_t longest, int64_t *offsets, ptrdiff_t room) {
    ptrdiff_t count = 0, at = 0;
    while (count < room && size - at >= 12) {
        uint64_t length;
        uint32_t crc;
        memcpy(&length, data + at, sizeof length);
        memcpy(&crc, data + at + 8, sizeof crc);
        if (length > longest || crc != masked(add_8(~0u, data + at)))
            break;
        offsets[count++] = at;
        if (length > (uint64_t)(size - at))
            break;
        at += 16 + (ptrdiff_t)length;
    }
    return count;
}

typedef struct {
    const uint8_t *data; /* rows of `size` bytes */
    ptrdiff_t size;
} vectors;

/* Frames records, one after the other, each of which is a piece, a vector, a piece, a vector, ..., a piece.

   `pieces` are those of all records; `sizes` int32 (count, kinds + 1) of each; `rows` (count,) of each record's vectors. */
EXPORTED void frames(const uint8_t *pieces, const int32_t *sizes, const int32_t *rows, ptrdiff_t count,
                     const vectors *table, ptrdiff_t kinds, uint8_t *out) {
    for (int lanes; count > 0; count -= lanes) {
        const uint8_t *record[LANES];
        uint8_t *end[LANES];
        ptrdiff_t shortest = PTRDIFF_MAX, summed = 0;
        lanes = count < LANES ? (int)count : LANES;
        for (int lane = 0; lane < lanes; lane++, rows++) {
            uint8_t *at = out + 12;
            record[lane] = at;
            for (ptrdiff_t kind = 0;; kind++, sizes++) {
                memcpy(at, pieces, (size_t)*sizes);
                at += *sizes, pieces += *sizes;
                if (kind == kinds)
                    break;
                memcpy(at, table[kind].data + *rows * table[kind].size, (size_t)table[kind].size);
                at += table[kind].size;
            }
            sizes++;
            uint64_t length = (uint64_t)(at - record[lane]);
            memcpy(out, &length, sizeof length);
            put_masked(add_8(~0u, out), out + sizeof length);
            if ((ptrdiff_t)length < shortest)
                shortest = (ptrdiff_t)length;
            end[lane] = at;
            out = at + 4;
        }
        uint32_t crc[LANES] = {~0u, ~0u, ~0u, ~0u};
        if (lanes == LANES)
            summed = add_lanes(crc, record, shortest);
        for (int lane = 0; lane < lanes; lane++)
            put_masked(add(crc[lane], record[lane] + summed, end[lane] - record[lane] - summed), end[lane]);
    }
}
#endif
