/* stream: from ids to text that may be shown: whole characters, and never any part of a stop string. What could still become
 * one is held back. */
#include "run/run.h"

/* Where a stop string begins in text, the earliest, *which; text.n where none does. *partial: where the longest tail that could
 * still grow into one begins. */
static size_t find_stop(struct str text, const struct str *stop, size_t n_stop, size_t *partial, uint32_t *which)
{
    size_t first = text.n;
    *partial = text.n;
    for (size_t k = 0; k < n_stop; k++) {
        for (size_t i = 0; i < first && stop[k].n > 0; i++) {
            if (((unsigned char)text.p[i] & 0xc0) == 0x80) continue; /* inside a character */
            size_t n = size_min(stop[k].n, text.n - i);
            if (memcmp(text.p + i, stop[k].p, n) != 0) continue;
            if (n == stop[k].n)
                first = i, *which = (uint32_t)k;
            else
                *partial = size_min(*partial, i);
            break;
        }
    }
    return first;
}

int stream_init(struct stream *s, const struct tok *t, bool show_special, const struct str *stop, size_t n_stop, struct err *e)
{
    *s = (struct stream){.stop = stop, .n_stop = n_stop};
    detok_init(&s->detok, t, show_special);
    return buf_reserve(&s->held, 4096) < 0 ? fail_nomem(e, "text", 4096) : 0;
}

void stream_fini(struct stream *s)
{
    buf_fini(&s->held);
}

static void drop(struct stream *s)
{
    memmove(s->held.p, s->held.p + s->n_ready, s->held.n - s->n_ready);
    s->held.n -= s->n_ready;
    s->n_ready = 0;
}

static struct str ready(struct stream *s)
{
    size_t partial;
    const size_t stop = find_stop(buf_view(&s->held), s->stop, s->n_stop, &partial, &s->stop_index);
    s->stopped = stop < s->held.n;
    s->n_ready = s->stopped ? stop : partial;
    if (s->stopped) s->held.n = stop;
    return (struct str){s->held.p, s->n_ready};
}

int stream_put(struct stream *s, int32_t id, struct str *text, struct err *e)
{
    drop(s);
    TRY(detok_put(&s->detok, id, &s->held, e));
    *text = ready(s);
    return 0;
}

struct str stream_end(struct stream *s)
{
    drop(s);
    if (s->stopped || detok_end(&s->detok, &s->held, NULL) < 0) return (struct str){0};
    const struct str text = ready(s);
    return s->stopped ? text : buf_view(&s->held);
}
