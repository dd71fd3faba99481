/* SPDX-License-Identifier: Apache-2.0
 *
 * Working memory of a thread, kept from call to call and outside malloc's heap: a block that came
 * and went there between two activations would keep their memory from growing together again.
 */
#include "kernels.h"

#include <stdlib.h>
#include <sys/mman.h>

#define UNIT ((size_t)8 << 20)

void *lk_scratch(size_t bytes)
{
    static _Thread_local struct {
        void *at;
        size_t size;
    } held;
    if (held.size < bytes) {
        if (held.at) munmap(held.at, held.size);
        held.size = (bytes + UNIT - 1) / UNIT * UNIT;
        held.at = mmap(NULL, held.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (held.at == MAP_FAILED) abort(); /* as the system does when memory runs out */
    }
    return held.at;
}
