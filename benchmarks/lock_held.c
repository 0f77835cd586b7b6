/* The CPU time of threads while they hold the interpreter's lock: preloaded, this stands before the functions that let go of it and take it.
   What the interpreter hands over by itself, every 5 ms if another thread waits, is counted for both threads. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static _Atomic int64_t total;
static __thread int64_t since;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void *PyEval_SaveThread(void) {
  static void *(*save)(void);
  if (!save) save = (void *(*)(void))dlsym(RTLD_NEXT, "PyEval_SaveThread");
  if (since) {
    atomic_fetch_add(&total, now() - since);
    since = 0;
  }
  return save();
}

void PyEval_RestoreThread(void *state) {
  static void (*restore)(void *);
  if (!restore) restore = (void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
  restore(state);
  since = now();
}

int64_t held_nanoseconds(void) { return atomic_load(&total) + (since ? now() - since : 0); }
