/* Bilinear interpolation, called through ctypes without the GIL; native.py loads it. resize.py gives the same bits with
   NumPy: only single float32 additions and multiplications in TensorFlow's order, so setup.py turns off their contraction
   into fused operations. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

#define EXPORTED __attribute__((visibility("default")))

EXPORTED const int version = 5; /* of the functions and their arguments: native.py accepts no other */

typedef uint32_t words4 __attribute__((vector_size(16)));
typedef int32_t ints4 __attribute__((vector_size(16)));
typedef float floats4 __attribute__((vector_size(16)));

/* The two source pixels behind each output pixel along one side, and their weights. */
typedef struct {
    const int32_t *lower; /* (side,), not decreasing; the upper one is the next pixel, or the same at the end */
    const float *share;   /* (side,): weight of the upper one, in [0, 1); 0 where TensorFlow uses one pixel only */
    ptrdiff_t inside;     /* number of output pixels, from the first on, with two pixels behind `lower` */
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

/* One row of source pixels to `side` pixels; writes one float beyond its result. */
static inline void across(const uint8_t *restrict row, ptrdiff_t width, axis columns, ptrdiff_t side, float *restrict out) {
    ptrdiff_t x = 0;
    /* Each pixel reads a fourth byte and writes a fourth float, which the next pixel overwrites. */
    for (; x < columns.inside; x++) {
        const uint8_t *at = row + 3 * (ptrdiff_t)columns.lower[x];
        floats4 left = four(at), right = four(at + 3);
        floats4 value = left + (right - left) * columns.share[x];
        memcpy(out + 3 * x, &value, sizeof value);
    }
    for (; x < side; x++) {
        const uint8_t *at = row + 3 * (ptrdiff_t)columns.lower[x];
        ptrdiff_t next = columns.lower[x] + 1 < width ? 3 : 0;
        for (int channel = 0; channel < 3; channel++) {
            float left = at[channel], right = at[next + channel];
            out[3 * x + channel] = left + (right - left) * columns.share[x];
        }
    }
}

/* uint8 (height, width, 3) to float32 (side, side, 3). Returns 0, or 1 if out of memory. */
EXPORTED int resize(const uint8_t *pixels, ptrdiff_t height, ptrdiff_t width, ptrdiff_t side, const axis *rows,
                    const axis *columns, float *out) {
    ptrdiff_t values = 3 * side;
    float *upper = malloc(2 * (size_t)(values + 1) * sizeof(float));
    if (!upper)
        return 1;
    float *lower = upper + values + 1;
    void *memory = upper;
    ptrdiff_t upper_is = -1, lower_is = -1; /* the source rows in these buffers */
    for (ptrdiff_t y = 0; y < side; y++) {
        ptrdiff_t first = rows->lower[y], second = first + 1 < height ? first + 1 : first;
        if (first == lower_is) {
            float *other = upper;
            upper = lower, lower = other;
            lower_is = upper_is, upper_is = first;
        }
        if (first != upper_is)
            across(pixels + 3 * width * (upper_is = first), width, *columns, side, upper);
        if (second != lower_is)
            across(pixels + 3 * width * (lower_is = second), width, *columns, side, lower);
        float share = rows->share[y];
        float *into = out + y * values;
        for (ptrdiff_t i = 0; i < values; i++)
            into[i] = upper[i] + (lower[i] - upper[i]) * share;
    }
    free(memory);
    return 0;
}
