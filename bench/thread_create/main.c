/* pthread_create and pthread_join of a thread that does nothing: guest instructions for both, best of ten batches. */
#include "../bench.h"
#include <pthread.h>

#define THREADS 50
#define BATCHES 10

static void *nothing(void *arg)
{
	return arg;
}

int main(void)
{
	uint64_t best = UINT64_MAX;
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < THREADS; i++) {
			pthread_t thread;
			check(pthread_create(&thread, NULL, nothing, NULL) == 0, "pthread_create");
			pthread_join(thread, NULL);
		}
		best = smaller(best, counter() - start);
	}
	result("thread_create", (double)best / THREADS);
	return 0;
}
