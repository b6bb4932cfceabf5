/* num: elementary functions with one definition on every machine. libm differs between systems in the last bit, so nothing
 * that reaches a result may call it; only fma and sqrt, which IEEE 754 defines to the bit, are used.
 *
 * The f64 functions serve set-up work (rotary tables, sampling), a few per token: clarity over speed. */
#include <math.h>

#include "kernel/kernel.h"

/* exp of docs/arithmetic.md. |r| <= ln2 / 2 after the reduction; 1 + r + r^2 g(r), where g of degree 4 interpolates at the
 * Chebyshev nodes of that interval (relative error 1.1e-8, a fifth of a last place). */
float num_exp(float x)
{
    if (x > 88.0f) return INFINITY;
    if (x < -87.0f) return 0.0f;
    float t = fmaf(x, 0x1.715476p+0f, 0x1.8p+23f);
    float n = t - 0x1.8p+23f;
    float r = fmaf(n, -0x1.62ep-1f, x);
    r = fmaf(n, -0x1.0bfbe8p-15f, r);
    float p = 0x1.6d110ap-10f;
    p = fmaf(p, r, 0x1.120b6ep-7f);
    p = fmaf(p, r, 0x1.55551ap-5f);
    p = fmaf(p, r, 0x1.5554dcp-3f);
    p = fmaf(p, r, 0x1p-1f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 127u) << 23; /* the low bits of t hold n; 0x4b400000 shifts out */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* tanh of docs/arithmetic.md. Below 0.625, where the quotient would lose what 1 - e cancels, a + a^3 g(a^2) with g of degree 4
 * interpolating at the Chebyshev nodes (relative error 1.7e-8). */
float num_tanh(float x)
{
    float a = fabsf(x), z = a * a;
    float p = -0x1.8f8de4p-8f;
    p = fmaf(p, z, 0x1.58048ep-6f);
    p = fmaf(p, z, -0x1.b9258ap-5f);
    p = fmaf(p, z, 0x1.110e1cp-3f);
    p = fmaf(p, z, -0x1.555552p-2f);
    float e = num_exp(-2.0f * a);
    float t = a < 0.625f ? fmaf(a * z, p, a) : (1.0f - e) / (1.0f + e);
    return copysignf(t, x);
}

float num_sigmoid(float x)
{
    return 1.0f / (1.0f + num_exp(-x));
}

/* Beyond 20 the rest is below half an ulp of x; below -10 three terms of the series are more exact than 1 + y. */
float num_softplus(float x)
{
    if (!(x <= 20.0f)) return x;
    const double y = num_exp_f64((double)x);
    return (float)(x < -10.0f ? y * fma(y, fma(y, 1.0 / 3.0, -0.5), 1.0) : num_log(1.0 + y));
}

/* x = m * 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(f), f = (m - 1) / (m + 1), |f| < 0.172: 13 odd terms
 * leave less than 2^-53. */
double num_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    double f = (m - 1.0) / (m + 1.0);
    double z = f * f;
    double p = 0.0;
    for (int k = 25; k >= 1; k -= 2) p = fma(p, z, 1.0 / (double)k);
    const double ln2_hi = 0x1.62e42fefap-1, ln2_lo = 0x1.cf79abc9e3b3ap-40;
    return fma((double)e, ln2_hi, fma(2.0 * f, p, (double)e * ln2_lo));
}

/* 2^n from its exponent bits, -1022 <= n <= 1023. */
static double pow2_f64(int n)
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

double num_exp_f64(double x)
{
    if (!(x <= 709.0)) return x > 0 ? (double)INFINITY : x; /* NaN stays NaN */
    if (x < -708.0) return 0.0;
    double n = x * 0x1.71547652b82fep+0;
    n = (n + 0x1.8p+52) - 0x1.8p+52; /* to nearest */
    double r = fma(n, -0x1.62e42fefap-1, x);
    r = fma(n, -0x1.cf79abc9e3b3ap-40, r);
    double p = 1.0;
    for (int k = 17; k >= 1; k--) p = fma(p, r / (double)k, 1.0);
    int i = (int)n;
    return p * pow2_f64(i / 2) * pow2_f64(i - i / 2);
}

double num_pow(double base, double y)
{
    return num_exp_f64(y * num_log(base));
}

/* Reduction by multiples of pi/2 in three parts (the first two have 33 bits, so n * part is exact for n < 2^20), then Taylor
 * on |r| <= pi/4, where the terms left out are below 2^-55. */
void num_sincos(double x, double *s, double *c)
{
    double n = x * 0x1.45f306dc9c883p-1;
    n = (n + 0x1.8p+52) - 0x1.8p+52;
    double r = fma(n, -0x1.921fb544p+0, x);
    r = fma(n, -0x1.0b4611a6p-34, r);
    r = fma(n, -0x1.3198a2e037073p-69, r);
    double z = r * r;
    double ps = 1.0, pc = 1.0;
    for (int k = 19; k >= 3; k -= 2) ps = fma(-ps * z, 1.0 / (double)(k * (k - 1)), 1.0);
    for (int k = 20; k >= 2; k -= 2) pc = fma(-pc * z, 1.0 / (double)(k * (k - 1)), 1.0);
    ps *= r;
    switch ((unsigned)(int64_t)n & 3u) {
    case 0:
        *s = ps, *c = pc;
        break;
    case 1:
        *s = pc, *c = -ps;
        break;
    case 2:
        *s = -ps, *c = -pc;
        break;
    default:
        *s = -pc, *c = ps;
        break;
    }
}

void rope_angles(uint32_t pos, const float *inv_freq, size_t n, float scale, float *cos_out, float *sin_out)
{
    for (size_t i = 0; i < n; i++) {
        float angle = (float)pos * inv_freq[i];
        double s, c;
        num_sincos((double)angle, &s, &c);
        cos_out[i] = (float)c * scale;
        sin_out[i] = (float)s * scale;
    }
}
