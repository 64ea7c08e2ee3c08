/*
 * MADV_FREE is lazy: what was given up is there until memory is needed, and a write takes it back. Run with 64 MiB: what is given up and what is
 * wanted do not fit together.
 */
#include "memory.h"

#define SMALL (18ul << 20)
#define LARGE (18ul << 20)
#define WANTED (36ul << 20)

static void mark(char *p, size_t page, unsigned seed)
{
	*(unsigned *)(p + page * P) = page * 7 + seed;
	*(unsigned *)(p + page * P + P - 4) = page * 13 + seed;
}
static int is_marked(char *p, size_t page, unsigned seed)
{
	return *(unsigned *)(p + page * P) == page * 7 + seed && *(unsigned *)(p + page * P + P - 4) == page * 13 + seed;
}
static void mark_all(char *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len / P; i++)
		mark(p, i, seed);
}
/* Pages that are neither as they were marked nor zero. */
static size_t odd(char *p, size_t page, unsigned seed)
{
	return !is_marked(p, page, seed) && nonzero(p + page * P, P) != 0;
}

int main(void)
{
	size_t wrong = 0;
	char *small = anon(SMALL, RW), *large = anon(LARGE, RW);
	madvise(small, SMALL, MADV_NOHUGEPAGE);
	mark_all(small, SMALL, 1);
	mark_all(large, LARGE, 1);
	CHECK(madvise(small, SMALL, MADV_FREE) == 0 && madvise(large, LARGE, MADV_FREE) == 0);
	CHECK(!in_oxv() || field("/proc/self/smaps", "LazyFree") == (long)((SMALL + LARGE) >> 10));
	/* One in eight is taken back. */
	for (size_t i = 0; i < SMALL / P; i += 8)
		mark(small, i, 2);
	char *wanted = anon(WANTED, RW);
	mark_all(wanted, WANTED, 3);
	for (size_t i = 0; i < WANTED / P; i++)
		wrong += !is_marked(wanted, i, 3);
	CHECK(wrong == 0);
	for (size_t i = 0; i < SMALL / P; i++)
		wrong += i % 8 ? odd(small, i, 1) : (size_t)!is_marked(small, i, 2);
	CHECK(wrong == 0);
	for (size_t i = 0; i < LARGE / P; i++)
		wrong += odd(large, i, 1);
	CHECK(wrong == 0);
	/* What went is as good as new. */
	CHECK(munmap(wanted, WANTED) == 0);
	mark_all(small, SMALL, 4);
	mark_all(large, LARGE, 4);
	for (size_t i = 0; i < SMALL / P; i++)
		wrong += !is_marked(small, i, 4) + !is_marked(large, i, 4);
	CHECK(wrong == 0);
	return DONE();
}
