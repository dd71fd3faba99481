/* SPDX-License-Identifier: Apache-2.0
 *
 * The face of the library: picks the kernels for this CPU when it is first used.
 */
#include "kernels.h"

#include <string.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#if HAVE_AVX512
extern const lk_engine lk_engine_avx512;
#endif
#if HAVE_AVX2
extern const lk_engine lk_engine_avx2;
#endif
#if HAVE_AVX512BF16
extern const lk_engine lk_engine_avx512bf16;
#endif
#if HAVE_AMX
extern const lk_engine lk_engine_amx, lk_engine_split;
extern int lk_amx_permitted(void);
#endif
extern const lk_engine lk_engine_portable;

typedef struct {
    const char *name;
    const lk_engine *engine;
} lk_choice;

static int supported(const char *isa)
{
    if (!strcmp(isa, "portable")) return 1;
#if HAVE_AVX512
    if (!strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
#if HAVE_AVX2
    if (!strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if HAVE_AVX512BF16
    if (!strcmp(isa, "avx512bf16"))
        return supported("avx512") && __builtin_cpu_supports("avx512bf16");
#endif
#if HAVE_AMX
    if (!strcmp(isa, "amx") || !strcmp(isa, "split"))
        return supported("avx512") && lk_amx_permitted();
#endif
    return 0;
}

static const lk_choice choices[] = {
#if HAVE_AVX512
    {"avx512", &lk_engine_avx512},
#endif
#if HAVE_AVX2
    {"avx2", &lk_engine_avx2},
#endif
    {"portable", &lk_engine_portable},
#if HAVE_AVX512BF16
    {"avx512bf16", &lk_engine_avx512bf16},
#endif
#if HAVE_AMX
    {"amx", &lk_engine_amx},
    {"split", &lk_engine_split},
#endif
    {NULL, NULL},
};

/* The kernels called `isa`, or the best float32 ones when isa is NULL; NULL when this machine
 * or this build has none. */
LK_EXPORT const lk_engine *lk_find(const char *isa)
{
    for (const lk_choice *c = choices; c->name; c++)
        if (isa ? !strcmp(isa, c->name) && supported(c->name) : supported(c->name)) return c->engine;
    return NULL;
}

/* Of which sources this library was compiled. */
LK_EXPORT const char *lk_sources(void) { return LK_SOURCES; }

LK_EXPORT const char *lk_name(const lk_engine *engine)
{
    for (const lk_choice *c = choices; c->name; c++)
        if (c->engine == engine) return c->name;
    return "";
}

/* Those below return LK_DONE, or what went wrong. */
LK_EXPORT int lk_run(const lk_engine *engine, const lk_map *map, const lk_conv *job)
{
    return map->rows > 0 ? engine->conv(map, job) : LK_DONE;
}

LK_EXPORT int lk_grad_weight(const lk_engine *engine, const lk_map *map, const lk_gradient *job)
{
    return engine->grad_weight(map, job);
}

LK_EXPORT int lk_attend(const lk_engine *engine, const lk_attention *job)
{
    return engine->attend(job);
}

LK_EXPORT int64_t lk_packed(const lk_engine *engine, int64_t slots, int64_t cin, int64_t cout)
{
    return engine->packed(slots, cin, cout);
}

LK_EXPORT void lk_pack(const lk_engine *engine, const lk_packing *job) { engine->pack(job); }

LK_EXPORT void lk_gelu(const lk_engine *engine, const float *x, const float *dy, int64_t count,
                       int threads, float *to)
{
    engine->gelu(x, dy, count, threads, to);
}

/* Live, freed memory stays in the process: given back after every layer it would return page by
 * page, 10 % of the time. In training the largest blocks go back, because the next scan's sizes
 * cut up what is kept: 0.2 GB of 1.5; smaller ones stay, else the step takes 1.5 times as long. */
LK_EXPORT void lk_memory(int live)
{
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, (live ? 32 : 16) << 20); /* 32 MB is the most glibc accepts */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
#else
    (void)live;
#endif
}

/* Gives back what is free; between training steps, so that the next scans' sizes find no holes. */
LK_EXPORT void lk_release(void)
{
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}
