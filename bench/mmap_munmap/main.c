/* mmap and munmap of untouched anonymous memory: guest instructions for the pair, best of ten batches. */
#include "../bench.h"
#include <sys/mman.h>

#define PAIRS 200
#define BATCHES 10

static double pair(size_t size)
{
	uint64_t best = UINT64_MAX;
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < PAIRS; i++) {
			void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			check(at != MAP_FAILED && munmap(at, size) == 0, "mmap, munmap");
		}
		best = smaller(best, counter() - start);
	}
	return (double)best / PAIRS;
}

int main(void)
{
	result("mmap_munmap_4k", pair(4096));
	result("mmap_munmap_64m", pair(64ul << 20));
	return 0;
}
