/* From coefficients to pixels, with the integer arithmetic of libjpeg (T.81, A.3.3; JFIF 1.02). */

#ifndef PIXELS_H
#define PIXELS_H

#include "_native.h"

enum {
    VALUE_MAX = 4096,   /* of a coefficient, and below, of a sum of them, in a sound file; */
    COLUMN_MAX = 16383, /* above them not all builds of libjpeg give the same */
};

/* One dimension of an inverse cosine transform of eight values to two, in 13 bits behind the point: the weights are
   sqrt(2) times sums of cosines of odd multiples of pi / 16. */
static inline void reduce(const int32_t in[5], int shift, int32_t *a, int32_t *b) {
    int32_t even = in[0] * 32768, half = 1 << (shift - 1);
    int32_t odd = in[1] * 29692 - in[2] * 10426 + in[3] * 6967 - in[4] * 5906;
    *a = (even + odd + half) >> shift;
    *b = (even - odd + half) >> shift;
}

static inline int level(int32_t value, uint8_t *out) {
    if (value < -512 || value > 511)
        return OTHERWISE;
    *out = (uint8_t)(value < -128 ? 0 : value > 127 ? 255 : value + 128);
    return DONE;
}

static inline int reduce_block(int32_t block[5][5], uint8_t out[4]) {
    int32_t columns[2][5];
    for (int i = 0; i < 5; i++) {
        int32_t column[5] = {block[0][i], block[1][i], block[2][i], block[3][i], block[4][i]};
        reduce(column, 13, &columns[0][i], &columns[1][i]);
        if (abs(columns[0][i]) > COLUMN_MAX || abs(columns[1][i]) > COLUMN_MAX)
            return OTHERWISE;
    }
    int status = DONE;
    for (int row = 0; row < 2; row++) {
        int32_t a, b;
        reduce(columns[row], 20, &a, &b);
        status |= level(a, out + 2 * row) | level(b, out + 2 * row + 1);
    }
    return status;
}

static inline uint8_t limited(int32_t value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* JFIF's conversion, in 16 bits behind the point. */
static inline void to_rgb(int32_t y, int32_t cb, int32_t cr, uint8_t out[3]) {
    cb -= 128, cr -= 128;
    out[0] = limited(y + ((91881 * cr + 32768) >> 16));
    out[1] = limited(y + ((-22554 * cb - 46802 * cr + 32768) >> 16));
    out[2] = limited(y + ((116130 * cb + 32768) >> 16));
}

#endif
