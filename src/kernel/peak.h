/* peak: loops that keep the arithmetic units of a level busy and do nothing else. What they reach is the limit beside which the
 * speed of matrix products is printed. Private to this room; each instruction set says how one step of one chain looks.
 *
 * The chains of a loop are independent, as many as hide the latency of a step on every unit and fit the registers. */
#ifndef QUERN_PEAK_H
#define QUERN_PEAK_H

#include "kernel/kernel.h"

#define TWELVE(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)
#define SIXTEEN(x) TWELVE(x) x(12) x(13) x(14) x(15)

/* Defines name. chains: TWELVE or SIXTEEN, of n chains; start(c) declares chain c, step(c) carries it on by macs multiply-adds
 * and ends with KEEP, which makes the compiler believe that the value is used. */
#define PEAK(name, chains, n, start, step, macs) \
    static uint64_t name(void)                   \
    {                                            \
        enum { LOOPS = 1 << 16 };                \
        chains(start);                           \
        for (int i = 0; i < LOOPS; i++) {        \
            chains(step)                         \
        }                                        \
        return (uint64_t)LOOPS * (n) * (macs);   \
    }
#define KEEP(class, v) __asm__ volatile("" : "+" class(v))

#endif
