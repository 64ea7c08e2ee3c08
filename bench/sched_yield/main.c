/* Two threads on one CPU yield to each other: guest instructions per switch, best of ten batches. A yield that returns at once counts as no switch. */
#include "../bench.h"
#include <pthread.h>

#define YIELDS 1000
#define BATCHES 10

static volatile int stop, last;
static volatile uint64_t switches;

static void yield(int me)
{
	if (last != me) {
		last = me;
		switches++;
	}
	sched_yield();
}

static void *partner(void *arg)
{
	while (!stop)
		yield(1);
	return arg;
}

int main(void)
{
	pthread_t thread;
	double best = 1e18;
	check(pthread_create(&thread, NULL, partner, NULL) == 0, "pthread_create");
	sched_yield();
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t before = switches, start = counter();
		for (int i = 0; i < YIELDS; i++)
			yield(0);
		uint64_t took = counter() - start, made = switches - before;
		if (made > YIELDS / 10 && (double)took / made < best)
			best = (double)took / made;
	}
	stop = 1;
	pthread_join(thread, NULL);
	if (best < 1e18)
		result("sched_yield", best);
	else
		unsupported("sched_yield", "a yield does not switch to a thread of the same priority");
	return 0;
}
