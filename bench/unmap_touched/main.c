/* munmap of touched memory in 4 KiB pages: guest instructions per page of a region of 512, best of eight. `_single`: the call for one page. */
#include "../bench.h"
#include <sys/mman.h>

#define PAGES 512

static uint64_t unmap(size_t pages)
{
	char *region = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(region != MAP_FAILED, "mmap");
	madvise(region, pages * 4096, MADV_NOHUGEPAGE);
	for (size_t page = 0; page < pages; page++)
		((volatile char *)region)[page * 4096] = 1;
	uint64_t start = counter();
	munmap(region, pages * 4096);
	return counter() - start;
}

int main(void)
{
	uint64_t many = UINT64_MAX, one = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		many = smaller(many, unmap(PAGES));
		one = smaller(one, unmap(1));
	}
	result("unmap_touched", (double)many / PAGES);
	result("unmap_touched_single", one);
	return 0;
}
