/* malloc of 64 MiB, a write to each of its first sixteen pages (64 KiB), free: guest instructions for all of it, best of eight. */
#include "../bench.h"

int main(void)
{
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		uint64_t start = counter();
		volatile char *block = malloc(64ul << 20);
		check(block != NULL, "malloc");
		for (int page = 0; page < 16; page++)
			block[page * 4096] = 1;
		free((void *)block);
		best = smaller(best, counter() - start);
	}
	result("malloc_64m", best);
	return 0;
}
