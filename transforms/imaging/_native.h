/* The inner loops of transforms.imaging, called through ctypes without Python's lock; native.py loads them. */

#ifndef NATIVE_H
#define NATIVE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Of all functions. OTHERWISE: the caller has to do it in another way. */
enum { DONE, OTHERWISE, NO_MEMORY };

#endif
