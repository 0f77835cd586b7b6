/* A JPEG at an eighth of its size, as libjpeg-turbo gives it, in a fraction of the time.

   At that size a pixel of brightness is the mean of an 8 x 8 block, that is its first coefficient. The other 63, most
   of the file, are of no use, and libjpeg decodes them one by one to find where they end. Here a table tells for the next
   bits how many coefficients they hold, several at once (ITU-T T.81, F.2 and annex C).

   Only sequential Huffman pictures whose components come in one scan are decoded, and only without any fault. For all
   else OTHERWISE is returned, and libjpeg has the last word: on what is damaged, and on what is harmless. */

#include "_huffman.h"
#include "_pixels.h"

enum { UNIT_BYTES_MAX = 6 * 64 * 4 }; /* a coefficient has a code of up to 16 bits and as many bits of its value */

typedef struct {
    const uint8_t *data; /* from the first byte of compressed data on */
    ptrdiff_t size;
    int32_t width, height; /* of the whole picture, in pixels */
    int32_t components;    /* 1: grey; 3: YCbCr */
    int32_t across, down;  /* blocks of brightness in a unit, for one block of each colour: 1 1, 2 1 or 2 2 */
    int32_t restart;       /* units between restart markers, 0 for none */
    huffman dc[3], ac[3];  /* of each component */
    uint16_t quantization[3][64]; /* in zigzag order */
} picture;

/* What the next LOOK_BITS bits hold in whole coefficients: how many bits these are (bits 0 to 5, as a shift takes them),
   whether the block ends behind (ENDS), and how many coefficients, with the zeros among them (from bit 7 on). 0: none. */
typedef uint16_t stretch;
enum { LENGTH = 63, ENDS = 64, COEFFICIENTS = 7 };

static void build_stretches(stretch *out, const codes *table) {
    for (uint32_t look = 0; look < 1 << LOOK_BITS; look++) {
        int held = 0, coefficients = 0, ends = 0;
        while (!ends) {
            int entry = table->symbol[look << held & ((1 << LOOK_BITS) - 1)];
            int run = entry >> 4 & 15, size = entry & 15, bits = (entry >> 8) + size;
            if (!entry || held + bits > LOOK_BITS)
                break;
            held += bits;
            if (size || run == 15)
                coefficients += run + 1;
            else
                ends = ENDS;
        }
        out[look] = (stretch)(held | ends | coefficients << COEFFICIENTS);
    }
}

/* Passes over the 63 coefficients behind the first. */
static inline int skip(reader *r, const codes *table, const stretch *stretches) {
    for (int at = 1; at < 64;) {
        fill(r);
        for (int looks = 0; looks < 56 / LOOK_BITS; looks++) {
            uint32_t found = stretches[peek(r, LOOK_BITS)];
            int behind = at + (int)(found >> COEFFICIENTS);
            if (behind > 63 || !found)
                break; /* behind the last coefficient the bits are another block's */
            at = behind;
            drop(r, found & LENGTH);
            if (found & ENDS)
                return DONE;
        }
        fill(r);
        int symbol = symbol_of(r, table);
        if (symbol < 0)
            return OTHERWISE;
        if (!(symbol & 15) && symbol != 0xF0)
            return DONE;
        at += (symbol >> 4) + 1;
        if (at > 64)
            return OTHERWISE;
        drop(r, symbol & 15);
    }
    return DONE;
}

/* The first coefficient of a block less that of the block before, where MEAN_BITS bits hold all of it: its length in
   bits 0 to 5, and from bit 16 on its value. 0: they do not. */
typedef int32_t mean;
enum { MEAN_BITS = 10 };

static void build_means(mean *out, const codes *table) {
    for (uint32_t look = 0; look < 1 << MEAN_BITS; look++) {
        int entry = table->symbol[look << (LOOK_BITS - MEAN_BITS)], size = entry & 255, length = (entry >> 8) + size;
        reader r = {(uint64_t)look << (64 - MEAN_BITS) << (entry >> 8), MEAN_BITS, 0};
        int holds = entry && length <= MEAN_BITS;
        out[look] = !holds ? 0 : (size ? value_of(&r, size) : 0) * 65536 + length;
    }
}

static inline int first(reader *r, const codes *table, const mean *means, int32_t *before) {
    fill(r);
    mean found = means[peek(r, MEAN_BITS)];
    if (found) {
        drop(r, found & LENGTH);
        *before += found >> 16;
    } else {
        int size = symbol_of(r, table);
        if (size < 0 || size > 11)
            return OTHERWISE;
        if (size)
            *before += value_of(r, size);
    }
    return *before < -VALUE_MAX || *before > VALUE_MAX ? OTHERWISE : DONE;
}

/* Rows and columns of a block that its reduction to 2 x 2 looks at, numbered as in `reduce`; -1: not at all. */
static const int8_t USED[8] = {0, 1, -1, 2, -1, 3, -1, 4};
static const uint8_t ZIGZAG[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                   41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                   30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* Reads the 63 coefficients behind the first; *plain tells whether none of those looked at is there. */
static inline int rest(reader *r, const codes *table, const uint16_t *quantization, int32_t block[5][5], int *plain) {
    for (int at = 1; at < 64; at++) {
        fill(r);
        int symbol = symbol_of(r, table);
        if (symbol < 0)
            return OTHERWISE;
        int size = symbol & 15;
        at += symbol >> 4;
        if (!size) {
            if (symbol != 0xF0)
                return DONE;
            continue;
        }
        if (at > 63)
            return OTHERWISE;
        int32_t value = value_of(r, size) * quantization[at];
        if (value < -VALUE_MAX || value > VALUE_MAX)
            return OTHERWISE;
        int row = USED[ZIGZAG[at] >> 3], column = USED[ZIGZAG[at] & 7];
        if (row >= 0 && column >= 0)
            block[row][column] = value, *plain = 0;
    }
    return DONE;
}

/* Copies compressed data up to the next marker and takes the stuffed zeros out. Returns how many bytes it wrote; *from
   then stands at the marker, or at the end of the data. */
static ptrdiff_t unstuff(const uint8_t **from, const uint8_t *end, uint8_t *out) {
    uint8_t *into = out;
    while (*from < end) {
        const uint8_t *found = memchr(*from, 0xFF, (size_t)(end - *from));
        size_t plain = (size_t)((found ? found : end) - *from);
        memcpy(into, *from, plain);
        into += plain, *from += plain;
        if (!found || found + 1 >= end || found[1])
            break;
        *into++ = 0xFF, *from += 2;
    }
    return into - out;
}

typedef struct {
    codes dc[3], ac[3];
    mean means[3][1 << MEAN_BITS];
    stretch stretches[3][1 << LOOK_BITS];
} tables;

static int prepare(const picture *p, tables *t) {
    for (int i = 0; i < p->components; i++) {
        if (build(&t->dc[i], &p->dc[i], 15) || build(&t->ac[i], &p->ac[i], 255))
            return OTHERWISE;
        build_means(t->means[i], &t->dc[i]);
        build_stretches(t->stretches[i], &t->ac[i]);
    }
    return DONE;
}

/* How many components, and how many blocks of brightness a unit has across and down, known to the compiler. */
typedef struct {
    int components, across, down;
} layout;

/* One unit's samples: 2 x 2 of brightness and of each colour, in rows; where there is one block, the first counts. */
ALWAYS_INLINE int unit(reader *r, const picture *p, const tables *t, layout is, int32_t before[3], uint8_t samples[3][4]) {
    for (int row = 0; row < is.down; row++) {
        for (int column = 0; column < is.across; column++) {
            if (first(r, &t->dc[0], t->means[0], before) || skip(r, &t->ac[0], t->stretches[0]) ||
                level((before[0] * p->quantization[0][0] + 4) >> 3, &samples[0][2 * row + column]))
                return OTHERWISE;
        }
    }
    for (int i = 1; i < is.components; i++) {
        if (first(r, &t->dc[i], t->means[i], before + i))
            return OTHERWISE;
        int32_t value = before[i] * p->quantization[i][0];
        int32_t block[5][5] = {{value}};
        int plain = 1;
        if (is.down == 2 ? rest(r, &t->ac[i], p->quantization[i], block, &plain) : skip(r, &t->ac[i], t->stretches[i]))
            return OTHERWISE;
        if (!plain && (value < -VALUE_MAX || value > VALUE_MAX || reduce_block(block, samples[i])))
            return OTHERWISE;
        if (plain && level((value + 4) >> 3, samples[i]))
            return OTHERWISE;
        if (plain)
            memset(samples[i], samples[i][0], 4); /* what a reduction gives, too */
    }
    return DONE;
}

ALWAYS_INLINE int decode(const picture *p, const tables *t, layout is, uint8_t *scratch, uint8_t *out) {
    int32_t width = (p->width + 7) / 8, height = (p->height + 7) / 8;
    int32_t units_across = (width + is.across - 1) / is.across, units_down = (height + is.down - 1) / is.down;
    const uint8_t *from = p->data, *end = p->data + p->size, *scratch_end = scratch;
    reader r = {0, 0, scratch};
    int32_t before[3] = {0, 0, 0}, left = 0;
    int marker = 0;
    for (int32_t v = 0; v < units_down; v++) {
        for (int32_t u = 0; u < units_across; u++) {
            if (!left) {
                if (v || u) {
                    /* All of the stretch before was used, and the right marker follows. */
                    if (scratch_end - r.next + (r.count >> 3) != 0 || end - from < 2 || from[1] != 0xD0 + marker)
                        return OTHERWISE;
                    marker = (marker + 1) & 7, from += 2;
                }
                ptrdiff_t size = unstuff(&from, end, scratch);
                scratch_end = scratch + size;
                memset(scratch + size, 0, UNIT_BYTES_MAX + 16);
                r = (reader){0, 0, scratch};
                memset(before, 0, sizeof before);
                left = p->restart ? p->restart : -1;
            }
            left -= left > 0;
            uint8_t samples[3][4];
            if (unit(&r, p, t, is, before, samples) || r.next - (r.count >> 3) > scratch_end)
                return OTHERWISE;
            for (int32_t y = v * is.down, row = 0; row < is.down && y < height; y++, row++) {
                for (int32_t x = u * is.across, column = 0; column < is.across && x < width; x++, column++) {
                    int i = 2 * row + column;
                    uint8_t *into = out + 3 * ((ptrdiff_t)y * width + x);
                    if (is.components == 3)
                        to_rgb(samples[0][i], samples[1][i], samples[2][i], into);
                    else
                        memset(into, samples[0][i], 3);
                }
            }
        }
    }
    return scratch_end - r.next + (r.count >> 3) == 0 && end - from >= 2 && from[1] == 0xD9 ? DONE : OTHERWISE;
}

/* Writes uint8 ((height + 7) / 8, (width + 7) / 8, 3), RGB. `scratch` has room for the data and UNIT_BYTES_MAX + 16 bytes. */
EXPORTED int decode_eighth(const picture *p, uint8_t *scratch, uint8_t *out) {
    tables *t = malloc(sizeof *t);
    if (!t)
        return NO_MEMORY;
    int status = prepare(p, t);
    if (status == DONE) {
        if (p->components == 1)
            status = decode(p, t, (layout){1, 1, 1}, scratch, out);
        else if (p->across == 1)
            status = decode(p, t, (layout){3, 1, 1}, scratch, out);
        else if (p->down == 1)
            status = decode(p, t, (layout){3, 2, 1}, scratch, out);
        else
            status = decode(p, t, (layout){3, 2, 2}, scratch, out);
    }
    free(t);
    return status;
}
