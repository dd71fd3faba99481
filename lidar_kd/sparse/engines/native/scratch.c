/* SPDX-License-Identifier: Apache-2.0
 *
 * Working memory of a thread, kept from call to call and outside malloc's heap: a block that came
 * and went there between two activations would keep their memory from growing together again.
 */
#include "kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define UNIT ((size_t)8 << 20)

typedef struct {
    void *at;
    size_t size;
} block;

static _Thread_local block held;
static pthread_key_t at_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void give_back(void *mine)
{
    const block *b = mine;
    if (b->at) munmap(b->at, b->size);
}

static void begin(void)
{
    if (pthread_key_create(&at_end, give_back)) abort();
}

void *lk_scratch(size_t bytes)
{
    if (held.size < bytes) {
        const size_t size = (bytes + UNIT - 1) / UNIT * UNIT;
        if (held.at) munmap(held.at, held.size);
        held = (block){NULL, 0};
        void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) return NULL;
        held = (block){at, size};
        pthread_once(&once, begin);
        pthread_setspecific(at_end, &held); /* given back when the thread ends */
    }
    return held.at;
}
