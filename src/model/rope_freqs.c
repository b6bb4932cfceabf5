/* rope_freqs: the rotary frequencies of a model, for every scaling that checkpoints use. Computed in f64 with our own
 * functions, rounded to f32 once. */
#include <math.h>

#include "kernel/kernel.h"
#include "model/model.h"

#define PI 3.14159265358979323846

uint32_t model_rope_class(const struct model *m, uint32_t n)
{
    if (m->hp.rope_scaling == ROPE_LONGROPE) return n > m->hp.rope_n_ctx;
    if (m->hp.rope_scaling == ROPE_DYNAMIC) return n > m->hp.rope_n_ctx ? n : 0;
    return 0;
}

/* Llama 3.1: wavelengths longer than the original context / low_freq_factor are stretched by factor, those shorter than
 * context / high_freq_factor kept, between them interpolated. */
static double llama3(const struct hparams *hp, double freq)
{
    double wavelength = 2 * PI / freq, n = hp->rope_n_ctx;
    if (wavelength > n / hp->rope_low) return freq / hp->rope_factor;
    if (wavelength < n / hp->rope_high) return freq;
    double smooth = (n / wavelength - hp->rope_low) / (hp->rope_high - hp->rope_low);
    return (1 - smooth) * freq / hp->rope_factor + smooth * freq;
}

/* YaRN: dimension at which the context holds `turns` rotations. */
static double yarn_dim(const struct hparams *hp, double turns)
{
    return hp->rope_dim * num_log(hp->rope_n_ctx / (turns * 2 * PI)) / (2 * num_log(hp->rope_theta));
}

/* 0: keep the frequency; 1: interpolate it fully. */
static double yarn_ramp(const struct hparams *hp, double i)
{
    double low = yarn_dim(hp, hp->rope_high), high = yarn_dim(hp, hp->rope_low);
    if (hp->rope_truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, hp->rope_dim - 1.0);
    if (low == high) high += 0.001;
    return fmin(fmax((i - low) / (high - low), 0), 1);
}

void model_rope(const struct model *m, uint32_t n, float *inv_freq, float *scale)
{
    const struct hparams *hp = &m->hp;
    double theta = hp->rope_theta;
    if (hp->rope_scaling == ROPE_DYNAMIC && n > hp->rope_n_ctx && hp->rope_dim > 2) {
        double grow = hp->rope_factor * n / hp->rope_n_ctx - (hp->rope_factor - 1);
        theta *= num_pow(grow, hp->rope_dim / (hp->rope_dim - 2.0));
    }
    const float *divisor = hp->rope_scaling == ROPE_LONGROPE && n > hp->rope_n_ctx ? hp->rope_long : hp->rope_short;
    for (uint32_t i = 0; i < hp->rope_dim / 2; i++) {
        double freq = num_pow(theta, -2.0 * i / hp->rope_dim);
        if (hp->rope_scaling == ROPE_LINEAR) freq /= hp->rope_factor;
        if (hp->rope_scaling == ROPE_LLAMA3) freq = llama3(hp, freq);
        if (hp->rope_scaling == ROPE_YARN) {
            double ramp = yarn_ramp(hp, i);
            freq = freq / hp->rope_factor * ramp + freq * (1 - ramp);
        }
        inv_freq[i] = (float)(divisor ? freq / (double)divisor[i] : freq);
    }
    *scale = (float)hp->rope_attn_factor;
}
