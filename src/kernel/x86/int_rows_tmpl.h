/* int_rows_tmpl: rows of integer weights, in the vocabulary of a vec_ header. */
#ifndef QUERN_INT_ROWS_TMPL_H
#define QUERN_INT_ROWS_TMPL_H

/* Rows from row r on: n of them, then the last again. */
struct rows {
    const struct mm *a;
    size_t r, n;
};
ALWAYS struct qrow row_at(const struct rows *w, size_t i)
{
    return mm_row(w->a, w->r + (i < w->n ? i : w->n - 1));
}

/* The scale of a block as 16 bits: an f16, or an exponent (v_scales). */
typedef uint16_t half_fn(const uint8_t *block);
ALWAYS uint16_t half_at_0(const uint8_t *block)
{
    return load_u16(block);
}
ALWAYS uint16_t exponent_at_0(const uint8_t *block)
{
    return *block;
}

#endif
