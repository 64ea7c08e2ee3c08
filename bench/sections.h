/* Threads pass through one short critical section again and again. */
#include "bench.h"
#include <pthread.h>

static pthread_barrier_t start_line;
static void (*section)(void);
static long passes_each;

static inline void *passer(void *arg)
{
	pthread_barrier_wait(&start_line);
	for (long i = 0; i < passes_each; i++)
		section();
	return arg;
}

/* What `passes` passes of `body` by `count` threads cost by `clock`, per pass. */
static inline double pass_cost(int count, long passes, void (*body)(void), uint64_t (*clock)(void))
{
	pthread_t threads[count];
	section = body;
	passes_each = passes / count;
	pthread_barrier_init(&start_line, NULL, count + 1);
	for (int i = 0; i < count; i++)
		check(pthread_create(&threads[i], NULL, passer, NULL) == 0, "pthread_create");
	uint64_t start = clock();
	pthread_barrier_wait(&start_line);
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	double took = clock() - start;
	pthread_barrier_destroy(&start_line);
	return took / (passes_each * count);
}
