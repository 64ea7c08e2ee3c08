/* Threads that only compute, and what CPU time each got. */
#include "ways.h"

#define MOST_HOGS 16

static volatile int enough;
static uint64_t hog_cpu_ns[MOST_HOGS];

static inline void *hog(void *index)
{
	struct timespec used;
	while (!enough)
		for (volatile int i = 0; i < 1000; i++)
			;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	hog_cpu_ns[(intptr_t)index] = (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
	return NULL;
}

static inline void start_hogs(pthread_t *threads, int count)
{
	enough = 0;
	for (intptr_t i = 0; i < count; i++)
		check(pthread_create(&threads[i], NULL, hog, (void *)i) == 0, "pthread_create");
}

static inline void end_hogs(pthread_t *threads, int count)
{
	enough = 1;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}
