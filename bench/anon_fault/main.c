/* First touch of anonymous 4 KiB pages: guest instructions per page, best of eight regions. */
#include "../bench.h"
#include <sys/mman.h>

#define PAGES 512

int main(void)
{
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		char *region = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (region == MAP_FAILED)
			return 1;
		madvise(region, PAGES * 4096, MADV_NOHUGEPAGE);
		uint64_t start = counter();
		for (int page = 0; page < PAGES; page++)
			((volatile char *)region)[page * 4096] = 1;
		uint64_t took = counter() - start;
		best = took < best ? took : best;
		munmap(region, PAGES * 4096);
	}
	result("anon_fault", (double)best / PAGES);
	return 0;
}
