/* Huffman codes of JPEG (ITU-T T.81, annexes C and F.2), read from data without stuffed zeros. */

#ifndef HUFFMAN_H
#define HUFFMAN_H

#include "_native.h"

enum { LOOK_BITS = 12 }; /* what the tables are indexed by */

typedef struct {
    uint8_t counts[16]; /* of codes of 1 to 16 bits, then their symbols, as a DHT segment holds them */
    uint8_t symbols[256];
} huffman;

/* Bits not yet read, the next one on top. `next` never passes the end by more than the padding behind it. */
typedef struct {
    uint64_t bits;
    int count;
    const uint8_t *next;
} reader;

static inline void fill(reader *r) { /* to 56 bits or more */
    uint64_t word;
    memcpy(&word, r->next, 8);
    r->bits |= __builtin_bswap64(word) >> r->count;
    r->next += (63 - r->count) >> 3;
    r->count |= 56;
}

static inline uint32_t peek(const reader *r, int bits) { return (uint32_t)(r->bits >> (64 - bits)); }

static inline void drop(reader *r, int bits) {
    r->bits <<= bits;
    r->count -= bits;
}

typedef struct {
    uint16_t symbol[1 << LOOK_BITS]; /* length of the code << 8 | symbol; 0 where the code is longer or there is none */
    int32_t beyond[18];              /* the first code of each length that is none, left-aligned to 16 bits */
    int32_t first[17];               /* index of the first symbol of each length less its code */
    const uint8_t *symbols;
} codes;

static int build(codes *out, const huffman *table, int symbol_max) {
    memset(out->symbol, 0, sizeof out->symbol);
    int32_t code = 0, index = 0;
    for (int length = 1; length <= 16; length++) {
        out->first[length] = index - code;
        for (int i = 0; i < table->counts[length - 1]; i++, code++, index++) {
            if (index > 255 || code >= (1 << length) - 1 || table->symbols[index] > symbol_max)
                return OTHERWISE; /* a code of ones only is none */
            if (length <= LOOK_BITS) {
                int free = LOOK_BITS - length;
                for (int32_t at = code << free; at < (code + 1) << free; at++)
                    out->symbol[at] = (uint16_t)(length << 8 | table->symbols[index]);
            }
        }
        out->beyond[length] = code << (16 - length);
        code <<= 1;
    }
    out->symbols = table->symbols;
    return DONE;
}

/* The next symbol, or -1; needs 16 bits. */
static inline int symbol_of(reader *r, const codes *table) {
    int found = table->symbol[peek(r, LOOK_BITS)];
    if (found) {
        drop(r, found >> 8);
        return found & 255;
    }
    int32_t code = (int32_t)peek(r, 16);
    for (int length = LOOK_BITS + 1; length <= 16; length++) {
        if (code < table->beyond[length]) {
            drop(r, length);
            return table->symbols[(code >> (16 - length)) + table->first[length]];
        }
    }
    return -1;
}

/* A value of so many bits, at least one (T.81, table F.1). */
static inline int32_t value_of(reader *r, int bits) {
    int32_t raw = (int32_t)peek(r, bits);
    drop(r, bits);
    return raw < 1 << (bits - 1) ? raw - (1 << bits) + 1 : raw;
}

#endif
