/*
 * Threads that map, touch, protect, unmap and advise in parallel, each checking what it finds: its own pages keep their contents, new ones
 * are zero, and a shared region that one thread keeps cutting and another one keeps reading never shows a wrong byte.
 */
#include "check.h"
#include <pthread.h>
#include <sys/mman.h>

#define RW (PROT_READ | PROT_WRITE)
#define THREADS 6
#define ROUNDS 300
static const size_t P = 4096;
static int wrong;
static char *neighbours; /* one page for each thread, in one mapping */

static void bad(const char *what)
{
	if (__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED) == 0)
		printf("wrong: %s\n", what);
}

static char *anon(size_t len)
{
	char *p = mmap(NULL, len, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		bad("mmap");
	return p;
}

static void *work(void *argument)
{
	long me = (long)argument;
	unsigned seed = me * 2654435761u + 1;
	char *own = neighbours + me * P;
	memset(own, me + 1, P);
	for (int round = 0; round < ROUNDS; round++) {
		seed = seed * 1103515245 + 12345;
		size_t pages = 1 + (seed >> 16) % 40;
		char *p = anon(pages * P);
		for (size_t i = 0; i < pages; i++) {
			if (p[i * P] != 0 || p[i * P + 4095] != 0)
				bad("a new page is not zero");
			p[i * P] = (char)(me + i);
		}
		size_t cut = (seed >> 8) % pages;
		if (mprotect(p + cut * P, P, PROT_READ) != 0)
			bad("mprotect");
		if (p[cut * P] != (char)(me + cut))
			bad("a protected page changed");
		if (mprotect(p + cut * P, P, RW) != 0 || (p[cut * P] = (char)(me + cut)) != (char)(me + cut))
			bad("mprotect back");
		if (madvise(p + cut * P, P, MADV_DONTNEED) != 0 || p[cut * P] != 0)
			bad("a dropped page is not zero");
		p[cut * P] = (char)(me + cut);
		if (munmap(p + cut * P, P) != 0)
			bad("munmap of a page");
		for (size_t i = 0; i < pages; i++)
			if (i != cut && p[i * P] != (char)(me + i))
				bad("a page changed");
		/* Another thread may have taken the hole by now: it is not ours. */
		if (cut != 0 && munmap(p, cut * P) != 0)
			bad("munmap below");
		if (cut + 1 < pages && munmap(p + (cut + 1) * P, (pages - cut - 1) * P) != 0)
			bad("munmap above");
		for (size_t i = 0; i < P; i += 512)
			if (own[i] != (char)(me + 1))
				bad("a neighbour wrote my page");
		/* Our page among neighbours, dropped and made again. */
		if (round % 16 == me) {
			if (madvise(own, P, MADV_DONTNEED) != 0 || own[77] != 0)
				bad("own page is not zero");
			memset(own, me + 1, P);
		}
	}
	return NULL;
}

static volatile int stop;
static char *board;
#define BOARD 64

/* Replaces pages of the board by new ones that are filled before they get there. */
static void *cutter(void *argument)
{
	(void)argument;
	for (int i = 0; i < 400; i++) {
		char *fresh = anon(P);
		memset(fresh, 'b', P);
		if (mremap(fresh, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, board + (i * 7 % BOARD) * P) == MAP_FAILED)
			bad("mremap");
		mprotect(board + (i * 5 % BOARD) * P, P, PROT_READ);
		mprotect(board + (i * 5 % BOARD) * P, P, RW);
	}
	stop = 1;
	return NULL;
}

static void *reader(void *argument)
{
	unsigned seed = (unsigned)(long)argument;
	/* A page that is being replaced is not there for a moment: ask the kernel, which answers EFAULT then. */
	int null = memfd_create("sink", 0);
	while (!stop) {
		char byte = 0;
		seed = seed * 1103515245 + 12345;
		if (pwrite(null, board + (seed >> 12) % BOARD * P + (seed >> 20) % P, 1, 0) == 1 && pread(null, &byte, 1, 0) == 1 && byte != 'b')
			bad("the board shows a wrong byte");
	}
	close(null);
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	neighbours = anon(THREADS * P);
	for (long i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	CHECK(wrong == 0);
	board = anon(BOARD * P);
	memset(board, 'b', BOARD * P);
	pthread_create(&threads[0], NULL, cutter, NULL);
	for (long i = 1; i < 4; i++)
		pthread_create(&threads[i], NULL, reader, (void *)i);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK(wrong == 0);
	return DONE();
}
