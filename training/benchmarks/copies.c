/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a process, it counts the bytes of all large copies that go through the C library:
 * those of middleware and Python, which copy a cloud as one block.
 */
#include <stddef.h>

#define LEAST 65536 /* bytes of a copy that is counted */

static unsigned long copied;

unsigned long take_copied_bytes(void)
{
    return __atomic_exchange_n(&copied, 0, __ATOMIC_RELAXED);
}

static void *move_forward(unsigned char *to, const unsigned char *from, size_t count)
{
    unsigned char *const begin = to;
    for (; count >= 8; count -= 8, to += 8, from += 8) {
        unsigned long word;
        __builtin_memcpy(&word, from, 8);
        __builtin_memcpy(to, &word, 8);
    }
    while (count--) *to++ = *from++;
    return begin;
}

static void *move(unsigned char *to, const unsigned char *from, size_t count)
{
    if (count >= LEAST) __atomic_fetch_add(&copied, count, __ATOMIC_RELAXED);
    if (to <= from || to >= from + count) return move_forward(to, from, count);
    while (count--) to[count] = from[count];
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    return move(to, from, count);
}

void *memmove(void *to, const void *from, size_t count)
{
    return move(to, from, count);
}
