/* Two threads take turns: a turn is one `give`, one `take` and the switch between them. */
#include "bench.h"
#include <pthread.h>

#define BATCHES 10

/* `give(side)` hands the turn to a side, `take(side)` waits for it. */
struct way {
	void (*give)(int side);
	void (*take)(int side);
	int partner_cpu; /* negative: any */
	int turns;	 /* of each side in a batch */
};

static inline void *partner(void *arg)
{
	struct way *way = arg;
	if (way->partner_cpu >= 0)
		pin(way->partner_cpu);
	for (int i = 0; i < way->turns * BATCHES; i++) {
		way->take(1);
		way->give(0);
	}
	return NULL;
}

/* Fills `batches` with the cost of each batch. */
static inline void take_turns(struct way *way, uint64_t (*clock)(void), uint64_t batches[BATCHES])
{
	pthread_t thread;
	check(pthread_create(&thread, NULL, partner, way) == 0, "pthread_create");
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t start = clock();
		for (int i = 0; i < way->turns; i++) {
			way->give(1);
			way->take(0);
		}
		batches[batch] = clock() - start;
	}
	pthread_join(thread, NULL);
}

/* Instructions per turn, of the best batch. */
static inline double best_turn(void (*give)(int), void (*take)(int))
{
	uint64_t batches[BATCHES];
	struct way way = {give, take, -1, 1000};
	take_turns(&way, counter, batches);
	return (double)percentile(batches, BATCHES, 0) / (2 * way.turns);
}

/* Nanoseconds per turn between CPU 0 and CPU 1, of the best batch: the others met the host's own threads. */
static inline double cross_cpu_turn(void (*give)(int), void (*take)(int))
{
	uint64_t batches[BATCHES];
	struct way way = {give, take, 1, 50};
	pin(0);
	take_turns(&way, now_ns, batches);
	return (double)percentile(batches, BATCHES, 0) / (2 * way.turns);
}
