/* convert_tmpl: floats to and from the types of a KV cache, in the vocabulary of a vec_ header. elem_<isa>.c includes it once.
 */
#ifndef QUERN_CONVERT_TMPL_H
#define QUERN_CONVERT_TMPL_H

/* A key or value of the cache, in blocks; the last one is filled up with zeros. */
ALWAYS void kv_blocks(const struct kv_rule *rule, const float *x, size_t n, uint8_t *q, uint16_t *d)
{
    const vec magic = v_set1(0x1.8p+23f);
    for (size_t b = 0; b < n; b += KV_BLOCK, d++) {
        vec v[KV_BLOCK / VL], low = v_zero(), high = v_zero(), odd = v_zero();
        UNROLL for (size_t i = 0; i < KV_BLOCK / VL; i++)
        {
            v[i] = n - b > i * VL ? v_load_n(x + b + i * VL, n - b - i * VL) : v_zero();
            low = v_min(v[i], low);
            high = v_max(v[i], high);
            odd = v_fma(v[i], v_zero(), odd); /* NaN where v is not finite */
        }
        float id;
        *d = kv_scale(rule, -v_max_all(v_neg(low)), v_max_all(high), !v_any_nan(odd), &id);
        UNROLL for (size_t i = 0; i < KV_BLOCK / VL; i++)
        {
            vec r = id != 0.0f ? v_sub(v_add(v_mul(v[i], v_set1(id)), magic), magic) : v_zero();
            r = v_max(v_min(r, v_set1(rule->top)), v_set1(rule->bottom));
            v_store_i8(q + b + i * VL, v_add(r, v_set1(rule->off)));
        }
    }
}

static void KERNEL(from_float_f16)(const float *src, size_t n, void *q, uint16_t *d)
{
    (void)d;
    for (size_t i = 0; i < n; i += VL) v_store_f16_n((uint8_t *)q + 2 * i, v_load_n(src + i, n - i), n - i);
}

static void KERNEL(from_float_q8_0)(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q8_0, src, n, q, d);
}

static void KERNEL(from_float_q4_0)(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q4_0, src, n, q, d);
}

static void KERNEL(to_float_f16)(const struct qrow *row, float *dst, size_t n)
{
    const uint8_t *p = row->data;
    for (size_t i = 0; i < n; i += VL)
        v_store_n(dst + i, n - i < VL ? v_load_as_n(p + 2 * i, n - i, QTYPE_F16) : v_load_as(p + 2 * i, QTYPE_F16), n - i);
}

static void KERNEL(to_float_bf16)(const struct qrow *row, float *dst, size_t n)
{
    const uint8_t *p = row->data;
    for (size_t i = 0; i < n; i += VL)
        v_store_n(dst + i, n - i < VL ? v_load_as_n(p + 2 * i, n - i, QTYPE_BF16) : v_load_as(p + 2 * i, QTYPE_BF16), n - i);
}

static void KERNEL(to_float_q8_0)(const struct qrow *row, float *dst, size_t n)
{
    const uint8_t *p = row->data;
    for (size_t b = 0; b < n / 32; b++, dst += 32, p += 34)
        for (size_t i = 0; i < 32; i += VL) v_store(dst + i, v_mul(v_set1(_cvtsh_ss(load_u16(p))), v_load_i8(p + 2 + i)));
}

static void KERNEL(convert_init)(struct kernels *k)
{
    k->to_float[QTYPE_F16] = KERNEL(to_float_f16);
    k->to_float[QTYPE_BF16] = KERNEL(to_float_bf16);
    k->to_float[QTYPE_Q8_0] = KERNEL(to_float_q8_0);
    k->from_float[QTYPE_F16] = KERNEL(from_float_f16);
    k->from_float[QTYPE_Q8_0] = KERNEL(from_float_q8_0);
    k->from_float[QTYPE_Q4_0] = KERNEL(from_float_q4_0);
}

#endif
