/*
 * malloc of 64 MiB, a write to each of sixteen pages (64 KiB) of it, free: guest instructions for all of it, best of eight.
 * `malloc_64m`: its first pages. `malloc_64m_middle`: sixteen aligned to 2 MiB, where a system may be tempted to clear a large page.
 */
#include "../bench.h"

#define HUGE (2ul << 20)

static uint64_t touch_some(uintptr_t from, uintptr_t align)
{
	uint64_t start = counter();
	char *block = malloc(64ul << 20);
	check(block != NULL, "malloc");
	volatile char *at = (volatile char *)(((uintptr_t)block + from + align - 1) & -align);
	for (int page = 0; page < 16; page++)
		at[page * 4096] = 1;
	free(block);
	return counter() - start;
}

int main(void)
{
	uint64_t first = UINT64_MAX, middle = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		first = smaller(first, touch_some(0, 1));
		middle = smaller(middle, touch_some(32ul << 20, HUGE));
	}
	result("malloc_64m", first);
	result("malloc_64m_middle", middle);
	return 0;
}
