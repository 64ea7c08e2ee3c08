/* Large pages: contents survive whatever is done to parts of them, and memory that is not touched is not used. */
#include "memory.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static char *map(size_t len)
{
	char *p = mmap(NULL, len, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}
/* A region that begins at a multiple of 2 MiB. */
static char *aligned(size_t len)
{
	char *p = map(len + L), *start = (char *)(((uintptr_t)p + L - 1) & -L);
	if (start > p)
		munmap(p, start - p);
	munmap(start + len, p + L - start);
	return start;
}
/* Each page gets its index at two places. */
static void mark(char *p, size_t from, size_t to, unsigned seed)
{
	for (size_t i = from; i < to; i++) {
		*(unsigned *)(p + i * P) = i * 7 + seed;
		*(unsigned *)(p + i * P + P - 4) = i * 13 + seed;
	}
}
static size_t wrong(char *p, size_t from, size_t to, unsigned seed)
{
	size_t count = 0;
	for (size_t i = from; i < to; i++)
		count += *(unsigned *)(p + i * P) != i * 7 + seed || *(unsigned *)(p + i * P + P - 4) != i * 13 + seed;
	return count;
}
static size_t nonzero_pages(char *p, size_t from, size_t to)
{
	return nonzero(p + from * P, (to - from) * P);
}

static long resident_kb(void)
{
	return field("/proc/self/status", "VmRSS");
}
static void *toucher(void *region)
{
	static int next;
	unsigned me = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
	for (size_t i = me; i < 8 * 512; i += 4)
		*(unsigned *)((char *)region + i * P + 8) = i + me;
	return NULL;
}

/* fork, both sides write different pages, the child checks its view. */
static int child_sees(char *p, size_t pages, unsigned seed)
{
	pid_t child = fork();
	if (child == 0) {
		size_t bad = wrong(p, 0, pages, seed);
		mark(p, 100, 200, 77);
		bad += wrong(p, 0, 100, seed) + wrong(p, 100, 200, 77) + wrong(p, 200, pages, seed);
		_exit(bad != 0);
	}
	mark(p, 150, 300, 99);
	int status = -1;
	waitpid(child, &status, 0);
	size_t bad = wrong(p, 0, 150, seed) + wrong(p, 150, 300, 99) + wrong(p, 300, pages, seed);
	mark(p, 150, 300, seed);
	return status == 0 && bad == 0;
}

int main(void)
{
	catch_faults();
	int oxv = in_oxv();

	/* Walking up, walking down, in strides: everything is zero before and there afterwards. */
	char *p = map(8 * L);
	CHECK(p && (!oxv || (uintptr_t)p % L == 0));
	CHECK(nonzero_pages(p, 0, 64) == 0);
	mark(p, 0, 8 * 512, 1);
	CHECK(wrong(p, 0, 8 * 512, 1) == 0);
	CHECK(munmap(p, 8 * L) == 0);
	p = map(4 * L);
	for (size_t i = 4 * 512; i-- > 0;)
		mark(p, i, i + 1, 2);
	CHECK(wrong(p, 0, 4 * 512, 2) == 0 && munmap(p, 4 * L) == 0);
	p = map(4 * L);
	for (size_t first = 0; first < 7; first++)
		for (size_t i = first; i < 4 * 512; i += 7)
			mark(p, i, i + 1, 3);
	CHECK(wrong(p, 0, 4 * 512, 3) == 0);

	/* Parts: unmapped, protected, dropped. */
	CHECK(munmap(p + 10 * P, P) == 0 && faults(p + 10 * P, 0) == SIGSEGV);
	CHECK(wrong(p, 0, 10, 3) == 0 && wrong(p, 11, 4 * 512, 3) == 0);
	CHECK(mprotect(p + 520 * P, 3 * P, PROT_READ) == 0);
	CHECK(faults(p + 520 * P, 1) == SIGSEGV && faults(p + 522 * P, 1) == SIGSEGV && faults(p + 522 * P, 0) == 0);
	CHECK(faults(p + 519 * P, 1) == 0 && faults(p + 523 * P, 1) == 0);
	CHECK(mprotect(p + 512 * P, L, PROT_NONE) == 0 && faults(p + 700 * P, 0) == SIGSEGV);
	CHECK(mprotect(p + 512 * P, L, RW) == 0 && wrong(p, 11, 4 * 512, 3) == 0 && faults(p + 521 * P, 1) == 0);
	CHECK(madvise(p + 1100 * P, 5 * P, MADV_DONTNEED) == 0);
	CHECK(nonzero_pages(p, 1100, 1105) == 0 && wrong(p, 11, 1100, 3) == 0 && wrong(p, 1105, 4 * 512, 3) == 0);
	CHECK(mprotect(p + 3 * L, L, PROT_NONE) == 0 && faults(p + 3 * L, 0) == SIGSEGV && mprotect(p + 3 * L, L, PROT_READ) == 0);
	CHECK(wrong(p, 3 * 512, 4 * 512, 3) == 0 && faults(p + 3 * L + 9, 1) == SIGSEGV);
	CHECK(mlock(p + 1200 * P, P) == 0 && munlock(p + 1200 * P, P) == 0 && wrong(p, 1105, 4 * 512, 3) == 0);
	CHECK(munmap(p, 4 * L) == 0);

	/* mremap: as a whole to a like and to an unlike place, a part, shrinking and growing. */
	p = aligned(6 * L);
	mark(p, 0, 6 * 512, 4);
	char *room = aligned(8 * L);
	CHECK(mremap(p, 6 * L, 6 * L, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
	CHECK(wrong(room, 0, 6 * 512, 4) == 0 && faults(p, 0) == SIGSEGV);
	CHECK(mremap(room, 6 * L, 6 * L, MREMAP_MAYMOVE | MREMAP_FIXED, p + 3 * P) == p + 3 * P);
	CHECK(wrong(p + 3 * P, 0, 6 * 512, 4) == 0 && faults(room + 5 * P, 0) == SIGSEGV);
	CHECK(mremap(p + 3 * P, 6 * L, 6 * L, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
	CHECK(mremap(room + 700 * P, 10 * P, 10 * P, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p);
	CHECK(faults(room + 700 * P, 0) == SIGSEGV && wrong(room, 0, 700, 4) == 0 && wrong(room, 710, 6 * 512, 4) == 0);
	CHECK(*(unsigned *)(p + 9 * P) == 709 * 7 + 4);
	CHECK(munmap(room, 6 * L) == 0 && munmap(p, 10 * P) == 0);
	p = aligned(4 * L);
	mark(p, 0, 4 * 512, 5);
	p = mremap(p, 4 * L, 3 * L - P, 0);
	CHECK(p != MAP_FAILED && faults(p + 3 * L - P, 0) == SIGSEGV);
	char *wall = mmap(p + 3 * L - P, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	char *q = mremap(p, 3 * L - P, 9 * L, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED && q != p && wrong(q, 0, 3 * 512 - 1, 5) == 0 && nonzero_pages(q, 3 * 512 - 1, 9 * 512) == 0);
	q = mremap(q, 9 * L, 9 * L, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	CHECK(q != MAP_FAILED && wrong(q, 0, 3 * 512 - 1, 5) == 0);
	CHECK(munmap(wall, P) == 0 && munmap(q, 9 * L) == 0);

	/* fork: shared until written, by 4 KiB. */
	p = aligned(3 * L);
	madvise(p, 3 * L, MADV_HUGEPAGE);
	mark(p, 0, 3 * 512, 6);
	CHECK(child_sees(p, 3 * 512, 6));
	CHECK(child_sees(p, 3 * 512, 6));
	CHECK(madvise(p + L, L, MADV_DONTFORK) == 0 && madvise(p + L, L, MADV_DOFORK) == 0);
	CHECK(child_sees(p, 3 * 512, 6) && wrong(p, 0, 3 * 512, 6) == 0);
	CHECK(munmap(p, 3 * L) == 0);

	/* Advice. */
	p = aligned(4 * L);
	CHECK(madvise(p, 4 * L, MADV_NOHUGEPAGE) == 0);
	mark(p, 0, 4 * 512, 7);
	CHECK(field("/proc/self/smaps", "AnonHugePages") <= field("/proc/self/smaps", "Rss"));
	CHECK(madvise(p, 4 * L, MADV_HUGEPAGE) == 0);
	CHECK(madvise(p + 2 * L, L, MADV_DONTNEED) == 0);
	madvise(p, 4 * L, MADV_COLLAPSE); /* may fail where there are no large pages */
	CHECK(wrong(p, 0, 2 * 512, 7) == 0 && nonzero_pages(p, 2 * 512, 3 * 512) == 0 && wrong(p, 3 * 512, 4 * 512, 7) == 0);
	CHECK(munmap(p + P, 4 * L - 2 * P) == 0 && wrong(p, 0, 1, 7) == 0 && wrong(p, 4 * 512 - 1, 4 * 512, 7) == 0);
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
	p = map(2 * L);
	mark(p, 0, 2 * 512, 8);
	CHECK(wrong(p, 0, 2 * 512, 8) == 0 && munmap(p, 2 * L) == 0);
	CHECK(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0 && prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0);

	/* Threads meet in the same 2 MiB. */
	p = aligned(8 * L);
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, toucher, p);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	size_t bad = 0;
	for (size_t i = 0; i < 8 * 512; i++)
		bad += *(unsigned *)(p + i * P + 8) != i + i % 4;
	CHECK(bad == 0 && munmap(p, 8 * L) == 0);

	/* Reading gives zeros, also through the kernel; a heap that grows page by page. */
	p = aligned(2 * L);
	CHECK(nonzero_pages(p, 0, 2 * 512) == 0);
	mark(p, 0, 2 * 512, 9);
	CHECK(wrong(p, 0, 2 * 512, 9) == 0 && munmap(p, 2 * L) == 0);
	char *heap = sbrk(0);
	size_t grown = 0;
	for (size_t i = 0; i < 3 * 512; i++) {
		grown += sbrk(P) == heap + i * P;
		mark(heap, i, i + 1, 10);
	}
	CHECK(grown == 3 * 512 && wrong(heap, 0, 3 * 512, 10) == 0);
	CHECK(brk(heap + 700 * P) == 0 && wrong(heap, 0, 700, 10) == 0 && faults(heap + 700 * P, 0) == SIGSEGV);

	/* What is not touched is not used: 64 pages, each in 2 MiB of its own, and 40 in a row. */
	long before = resident_kb();
	p = map(64 * L);
	for (size_t i = 0; i < 64; i++)
		p[i * L + (i * 37 % 512) * P] = 1;
	mark(p, 0, 40, 11);
	long used = resident_kb() - before;
	CHECK(!oxv || used < 64 * 4 + 40 * 8 + 512);
	CHECK(munmap(p, 64 * L) == 0);
	/* And what is used comes in large pages. */
	p = map(16 * L);
	mark(p, 0, 16 * 512, 12);
	CHECK(!oxv || field("/proc/self/smaps", "AnonHugePages") >= 15 * 2048);
	CHECK(!oxv || field("/proc/meminfo", "AnonHugePages") >= 15 * 2048);
	CHECK(wrong(p, 0, 16 * 512, 12) == 0);
	return DONE();
}
