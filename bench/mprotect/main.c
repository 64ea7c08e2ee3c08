/*
 * mprotect of one touched 4 KiB page to read-only and back: guest instructions per call, best of ten batches.
 * `mprotect_4k`: the page is a mapping of its own. `mprotect_split`: it lies in the middle of one of three pages, which each pair of calls
 * splits and joins again.
 */
#include "../bench.h"
#include <sys/mman.h>

#define CALLS 400
#define BATCHES 10

static double toggle(char *page)
{
	uint64_t best = UINT64_MAX;
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < CALLS; i++)
			check(mprotect(page, 4096, i % 2 ? PROT_READ | PROT_WRITE : PROT_READ) == 0, "mprotect");
		best = smaller(best, counter() - start);
	}
	return (double)best / CALLS;
}

/* Three touched pages. */
static char *three(void)
{
	char *at = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(at != MAP_FAILED, "mmap");
	for (int i = 0; i < 3; i++)
		((volatile char *)at)[i * 4096] = 1;
	return at;
}

int main(void)
{
	char *alone = three();
	check(mprotect(alone, 4096, PROT_NONE) == 0 && mprotect(alone + 2 * 4096, 4096, PROT_NONE) == 0, "mprotect");
	result("mprotect_4k", toggle(alone + 4096));
	result("mprotect_edge", toggle(three()));
	result("mprotect_split", toggle(three() + 4096));
	return 0;
}
