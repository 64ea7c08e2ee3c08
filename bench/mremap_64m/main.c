/*
 * mremap of 64 MiB, aligned to 2 MiB, to another address and back: guest instructions per move, best of eight.
 * `_untouched`: no page present. `_touched`: every page written before, as the system backs it by default. `_small`: likewise, but
 * in 4 KiB pages (MADV_NOHUGEPAGE).
 */
#include "../bench.h"
#include <sys/mman.h>

#define HUGE (2ul << 20)
#define SIZE (64ul << 20)

/* Two free ranges of addresses, aligned to 2 MiB; the first is mapped. */
static void ranges(char *range[2])
{
	char *at = mmap(NULL, 2 * SIZE + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(at != MAP_FAILED && munmap(at, 2 * SIZE + HUGE) == 0, "mmap, munmap");
	range[0] = (char *)(((uintptr_t)at + HUGE - 1) & -HUGE);
	range[1] = range[0] + SIZE;
	at = mmap(range[0], SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	check(at == range[0], "mmap");
}

static void move(const char *name, char *range[2])
{
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		uint64_t start = counter();
		void *at = mremap(range[i % 2], SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, range[!(i % 2)]);
		uint64_t took = counter() - start;
		check(at == range[!(i % 2)], "mremap");
		best = smaller(best, took);
	}
	result(name, best);
}

static void fill(char *from)
{
	for (size_t at = 0; at < SIZE; at += 4096)
		((volatile char *)from)[at] = 1;
}

int main(void)
{
	char *range[2];
	ranges(range);
	move("mremap_64m_untouched", range);
	fill(range[0]);
	move("mremap_64m_touched", range);
	munmap(range[0], SIZE);
	ranges(range);
	madvise(range[0], SIZE, MADV_NOHUGEPAGE);
	fill(range[0]);
	move("mremap_64m_small", range);
	return 0;
}
