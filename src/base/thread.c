/* thread: how every thread of Quern is started. Signals stay with the thread of the host program that wants them. */
#include "base/base_int.h"

#include <errno.h>
#include <signal.h>

#define STACK_BYTES ((size_t)2 << 20)

int thread_start(pthread_t *out, void *(*fn)(void *), void *arg)
{
    if (fault_hit(FAULT_THREAD)) return EAGAIN;
    sigset_t all, old;
    pthread_attr_t attr;
    int rc = pthread_attr_init(&attr);
    if (rc) return rc;
    sigfillset(&all);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(out, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return rc;
}
