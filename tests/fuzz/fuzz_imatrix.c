/* fuzz_imatrix: imatrix_parse on any bytes, in both formats. What it accepts must be finite and findable by its names; what it
 * refuses must carry a message and leave nothing behind. */
#include "convert/convert.h"

static void check(bool ok)
{
    if (!ok) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct imatrix *m;
    struct err e = {0};
    size_t before = mem_stats().current;
    int rc = imatrix_parse((struct str){(const char *)data, size}, "input", &m, &e);
    if (rc < 0) {
        check(!m && e.code == rc && e.msg[0]);
    } else {
        for (size_t i = 0; i < m->n; i++) {
            const struct imatrix_entry *x = &m->entries[i];
            float *squares = mem_array(x->n_values, sizeof *squares), *means = mem_array(x->n_values, sizeof *means);
            check(imatrix_find(m, x->name) == x && x->n_values > 0 && x->n_counts > 0);
            check(!squares || !means || imatrix_columns(x, x->n_values / x->n_counts, x->n_counts, squares, means));
            for (size_t k = 0; squares && means && k < x->n_values; k++) check(squares[k] >= 0);
            mem_free(squares);
            mem_free(means);
        }
        imatrix_free(&m);
    }
    check(mem_stats().current == before);
    return 0;
}
