/* thread: how every thread of Quern is started, and what threads wait in. Signals stay with the thread of the host program that
 * wants them. */
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

struct worker_thread {
    pthread_t thread;
    void (*fn)(void *arg);
    void *arg;
};

static void *run_worker(void *arg)
{
    struct worker_thread *w = arg;
    w->fn(w->arg);
    return NULL;
}

int worker_start(void (*fn)(void *arg), void *arg, struct worker_thread **out, struct err *e)
{
    struct worker_thread *w = mem_zalloc(sizeof *w);
    if (!w) return fail_nomem(e, "a thread", sizeof *w);
    w->fn = fn;
    w->arg = arg;
    const int rc = thread_start(&w->thread, run_worker, w);
    if (rc) {
        mem_free(w);
        return fail(e, ERR_LIMIT, "no thread could be started (system error %d)", rc);
    }
    *out = w;
    return 0;
}

void worker_join(struct worker_thread **w)
{
    pthread_join((*w)->thread, NULL);
    mem_free(*w);
    *w = NULL;
}

struct monitor {
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

int monitor_new(struct monitor **out, struct err *e)
{
    struct monitor *m = mem_zalloc(sizeof *m);
    if (!m) return fail_nomem(e, "a lock", sizeof *m);
    if (pthread_mutex_init(&m->lock, NULL) == 0) {
        if (pthread_cond_init(&m->changed, NULL) == 0) {
            *out = m;
            return 0;
        }
        pthread_mutex_destroy(&m->lock);
    }
    mem_free(m);
    return fail(e, ERR_LIMIT, "no lock could be made");
}

void monitor_free(struct monitor **m)
{
    if (!*m) return;
    pthread_cond_destroy(&(*m)->changed);
    pthread_mutex_destroy(&(*m)->lock);
    mem_free(*m);
    *m = NULL;
}

void monitor_enter(struct monitor *m)
{
    pthread_mutex_lock(&m->lock);
}
void monitor_leave(struct monitor *m)
{
    pthread_mutex_unlock(&m->lock);
}
void monitor_wait(struct monitor *m)
{
    pthread_cond_wait(&m->changed, &m->lock);
}
void monitor_wait_for(struct monitor *m, unsigned milliseconds)
{
    struct timespec until;
    if (clock_gettime(CLOCK_REALTIME, &until) != 0) return;
    const uint64_t ns = (uint64_t)until.tv_nsec + (uint64_t)milliseconds * 1000000u;
    until.tv_sec += (time_t)(ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    pthread_cond_timedwait(&m->changed, &m->lock, &until);
}
void monitor_wake(struct monitor *m)
{
    pthread_cond_broadcast(&m->changed);
}
