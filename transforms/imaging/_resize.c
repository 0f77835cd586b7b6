/* Bilinear interpolation. resize.py does the same with NumPy, to the bit: only single additions and multiplications of
   float32 in TensorFlow's order, which is why setup.py turns contraction into fused ones off. */

#include "_native.h"
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

EXPORTED const int version = 2; /* of all functions and their arguments: native.py takes no other */

typedef uint32_t words4 __attribute__((vector_size(16)));
typedef int32_t ints4 __attribute__((vector_size(16)));
typedef float floats4 __attribute__((vector_size(16)));

/* Between which source pixels the output pixels along one side fall. */
typedef struct {
    const int32_t *lower, *upper; /* (side,) each, not decreasing; upper is lower, or the one behind it */
    const float *share;           /* of the upper one, (side,), in [0, 1) */
    ptrdiff_t inside;             /* how many output pixels, from the first on, do not look at the last source pixel */
} axis;

static inline floats4 four(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
#ifdef __SSE4_1__
    return (floats4)_mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128((int)word)));
#else
    words4 values = ((words4){word, word, word, word} >> (words4){0, 8, 16, 24}) & 255;
    return __builtin_convertvector((ints4)values, floats4);
#endif
}

/* One row of source pixels to `side` pixels; writes one float more than it gives. */
static inline void across(const uint8_t *restrict row, axis columns, ptrdiff_t side, float *restrict out) {
    ptrdiff_t x = 0;
    /* A fourth byte is read with each pixel and a fourth float written, which the next pixel replaces. */
    for (; x < columns.inside; x++) {
        floats4 left = four(row + 3 * (ptrdiff_t)columns.lower[x]);
        floats4 right = four(row + 3 * (ptrdiff_t)columns.upper[x]);
        floats4 value = left + (right - left) * columns.share[x];
        memcpy(out + 3 * x, &value, sizeof value);
    }
    for (; x < side; x++) {
        for (int channel = 0; channel < 3; channel++) {
            float left = row[3 * (ptrdiff_t)columns.lower[x] + channel];
            float right = row[3 * (ptrdiff_t)columns.upper[x] + channel];
            out[3 * x + channel] = left + (right - left) * columns.share[x];
        }
    }
}

/* uint8 (height, width, 3) to float32 (side, side, 3). Returns 0, or 1 for want of memory. */
EXPORTED int resize(const uint8_t *pixels, ptrdiff_t width, ptrdiff_t side, const axis *rows, const axis *columns,
                    float *out) {
    ptrdiff_t values = 3 * side;
    float *upper = malloc(2 * (size_t)(values + 1) * sizeof(float));
    if (!upper)
        return 1;
    float *lower = upper + values + 1;
    void *memory = upper;
    int32_t upper_is = -1, lower_is = -1; /* which source rows these hold */
    for (ptrdiff_t y = 0; y < side; y++) {
        if (rows->lower[y] == lower_is) {
            float *other = upper;
            upper = lower, lower = other;
            lower_is = upper_is, upper_is = rows->lower[y];
        }
        if (rows->lower[y] != upper_is)
            across(pixels + 3 * width * (ptrdiff_t)(upper_is = rows->lower[y]), *columns, side, upper);
        if (rows->upper[y] != lower_is)
            across(pixels + 3 * width * (ptrdiff_t)(lower_is = rows->upper[y]), *columns, side, lower);
        float share = rows->share[y];
        float *into = out + y * values;
        for (ptrdiff_t i = 0; i < values; i++)
            into[i] = upper[i] + (lower[i] - upper[i]) * share;
    }
    free(memory);
    return 0;
}
