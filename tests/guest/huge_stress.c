/* Threads work on large pages of their own side by side, with forks between: every page always holds what was last written to it. */
#include "check.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define P 4096ul
#define L (2ul << 20)
#define PAGES (4 * 512ul)
#define RW (PROT_READ | PROT_WRITE)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static int rounds = 60;
static pthread_barrier_t ready; /* nobody may map anything while a range is away */

struct work {
	unsigned seed;
	char *memory, *room;
	unsigned wanted[PAGES]; /* what each page must hold, at its beginning and end */
	long wrong;
};

static unsigned next(struct work *w)
{
	w->seed = w->seed * 1664525 + 1013904223;
	return w->seed >> 8;
}
static void put(struct work *w, size_t page, unsigned value)
{
	*(unsigned *)(w->memory + page * P) = value;
	*(unsigned *)(w->memory + page * P + P - 4) = value;
	w->wanted[page] = value;
}
static void verify(struct work *w, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		w->wrong += *(unsigned *)(w->memory + i * P) != w->wanted[i] || *(unsigned *)(w->memory + i * P + P - 4) != w->wanted[i];
}

static void step(struct work *w)
{
	size_t from = next(w) % PAGES, to = from + 1 + next(w) % (PAGES - from);
	char *start = w->memory + from * P;
	size_t len = (to - from) * P;
	switch (next(w) % 9) {
	case 0:
		w->wrong += madvise(start, len, MADV_DONTNEED) != 0;
		memset(w->wanted + from, 0, (to - from) * sizeof *w->wanted);
		break;
	case 1:
		w->wrong += mprotect(start, len, PROT_READ) != 0;
		verify(w, from, to);
		w->wrong += mprotect(start, len, RW) != 0;
		break;
	case 2:
		w->wrong += mprotect(start, len, PROT_NONE) != 0;
		w->wrong += mprotect(start, len, RW) != 0;
		break;
	case 3:
		mmap(start, len, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		memset(w->wanted + from, 0, (to - from) * sizeof *w->wanted);
		break;
	case 4: { /* away and back, at like and unlike places; not possible where the advice differs within the range */
		char *place = w->room + next(w) % 512 * P;
		if (mremap(start, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place)
			w->wrong += mremap(place, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, start) != start;
		else
			w->wrong += errno != EFAULT;
		break;
	}
	case 5:
		madvise(start, len, next(w) % 2 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
		break;
	case 6:
		madvise(w->memory, PAGES * P, MADV_COLLAPSE);
		break;
	default:
		for (size_t i = from; i < to; i++)
			put(w, i, next(w));
	}
	for (int i = 0; i < 20; i++) {
		size_t page = next(w) % PAGES;
		verify(w, page, page + 1);
		put(w, page, next(w));
	}
}

static void *worker(void *arg)
{
	struct work *w = arg;
	char *memory = mmap(NULL, PAGES * P + L, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	w->memory = (char *)(((uintptr_t)memory + L - 1) & -L);
	w->room = mmap(NULL, PAGES * P + 2 * L, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_barrier_wait(&ready);
	for (int i = 0; i < rounds; i++) {
		step(w);
		if (i % 8 == 7)
			verify(w, 0, PAGES);
	}
	verify(w, 0, PAGES);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct work work[4];
	pthread_t threads[4];
	if (argc > 1)
		rounds = atoi(argv[1]);
	pthread_barrier_init(&ready, NULL, 5);
	for (int i = 0; i < 4; i++) {
		work[i].seed = 17 * i + 1;
		pthread_create(&threads[i], NULL, worker, &work[i]);
	}
	pthread_barrier_wait(&ready);
	/* Children come and go meanwhile, and see a memory that stands still. */
	int good = 1;
	for (int i = 0; i < 6; i++) {
		pid_t child = fork();
		if (child == 0) {
			for (int k = 0; k < 4; k++) {
				volatile char *memory = work[k].memory;
				for (size_t page = 0; memory && page < PAGES; page += 61) {
					unsigned char vec;
					if (mincore((void *)((uintptr_t)memory + page * P), P, &vec) == 0 && vec)
						(void)vec;
				}
			}
			_exit(0);
		}
		int status = -1;
		good &= child > 0 && waitpid(child, &status, 0) == child && status == 0;
	}
	long wrong = 0;
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		wrong += work[i].wrong;
	}
	CHECK(good);
	CHECK(wrong == 0);
	return DONE();
}
