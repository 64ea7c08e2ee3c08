/*
 * What grows with the number of mappings: guest instructions with 10 to 100,000 of them.
 * `vma_growth_map`: mmap and munmap of 4 KiB. `vma_growth_fault`: first touch of a 4 KiB page. `vma_growth_protect`: mprotect of one.
 * Neighbours differ in protection, so that they stay apart.
 */
#include "../bench.h"
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#define TIMES 256

static void *map(size_t size, int prot)
{
	void *at = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

static uint64_t map_cost(void)
{
	uint64_t start = counter();
	for (int i = 0; i < TIMES; i++) {
		void *at = map(4096, PROT_READ | PROT_EXEC);
		check(at != NULL && munmap(at, 4096) == 0, "mmap, munmap");
	}
	return counter() - start;
}

static uint64_t fault_cost(void)
{
	volatile char *at = map(TIMES * 4096, PROT_READ | PROT_WRITE);
	check(at != NULL, "mmap");
	madvise((void *)at, TIMES * 4096, MADV_NOHUGEPAGE);
	uint64_t start = counter();
	for (int i = 0; i < TIMES; i++)
		at[i * 4096] = 1;
	uint64_t took = counter() - start;
	munmap((void *)at, TIMES * 4096);
	return took;
}

static char *middle;

static uint64_t protect_cost(void)
{
	uint64_t start = counter();
	for (int i = 0; i < TIMES; i++)
		check(mprotect(middle, 4096, i % 2 ? PROT_NONE : PROT_READ | PROT_EXEC) == 0, "mprotect");
	return counter() - start;
}

static void report(const char *series, int size, uint64_t (*cost)(void))
{
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 4; i++)
		best = smaller(best, cost());
	point(series, size, (double)best / TIMES);
}

/* As a program with many mappings asks its administrator to; without the right the series ends sooner. */
static void lift_limit(void)
{
	int file = open("/proc/sys/vm/max_map_count", O_WRONLY);
	if (file < 0 || write(file, "1000000", 7) != 7)
		perror("max_map_count");
	close(file);
}

int main(void)
{
	lift_limit();
	static const int sizes[] = {10, 100, 1000, 10000, 50000, 100000};
	int have = 0;
	for (size_t step = 0; step < sizeof sizes / sizeof *sizes; step++) {
		int size = sizes[step];
		for (; have < size; have++) {
			void *at = map(4096, have % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
			if (at == NULL)
				break;
			if (have == size / 2)
				middle = at;
		}
		if (have < size) {
			char text[80];
			snprintf(text, sizeof text, "no more than %d mappings: %s", have, strerror(errno));
			unsupported("vma_growth", text);
			break;
		}
		check(mprotect(middle, 4096, PROT_NONE) == 0, "mprotect");
		report("vma_growth_map", size, map_cost);
		report("vma_growth_fault", size, fault_cost);
		report("vma_growth_protect", size, protect_cost);
	}
	return 0;
}
