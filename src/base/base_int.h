/* What the files of base share among themselves. */
#ifndef QUERN_BASE_INT_H
#define QUERN_BASE_INT_H

#include <pthread.h>

#include "base/base.h"

/* True when a test wants this call to fail. */
bool fault_hit(enum fault_kind kind);

/* The same for a call of the system that works on files, with errno set. */
bool vfs_injected(void);
/* Fails with the system's error in plain words: "path: cannot action: reason". */
int vfs_fail(struct err *e, const char *path, const char *action, int code);

/* Turns s into one printable line in place, and returns its new length: white space becomes a space, other control
 * characters and bytes that are not UTF-8 become '?'. Texts from files end up in messages, and messages in terminals. */
size_t plain_line(char *s, size_t n);

/* Bytes nobody can guess, for hash seeds and names of temporary files. */
void random_bytes(void *p, size_t n);

/* cpu_threads as it would be with the system files found below root ("" for the real ones), of the n_allowed
 * CPUs whose numbers are in allowed. */
unsigned cpu_threads_under(const char *root, const unsigned *allowed, unsigned n_allowed);

/* Starts a thread that gets no signals; 0 or the system's error. */
int thread_start(pthread_t *out, void *(*fn)(void *), void *arg);

/* Tells a spinning core that it spins. */
static inline void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

#endif
