/*
 * What grows with the number of threads: guest instructions with 10 to 10,000 other threads.
 * `thread_growth_switch`: a futex turn beside threads that sleep. `thread_growth_create`: create and join of one more.
 * `thread_growth_yield`: a yield among threads that all yield.
 */
#include "../sleepers.h"

#define MOST 10000
#define CREATES 50
#define WARM_UP 1000
#define YIELDS 20000

static volatile int yielding;
static volatile uint64_t began, ended;
static uint64_t yields;

/* The thread that makes the first and the last of the counted yields takes the time. */
static void *yielder(void *arg)
{
	sleeper(arg);
	while (yielding) {
		uint64_t mine = __atomic_fetch_add(&yields, 1, __ATOMIC_RELAXED);
		if (mine == WARM_UP)
			began = counter();
		if (mine == WARM_UP + YIELDS) {
			ended = counter();
			yielding = 0;
		}
		sched_yield();
	}
	return NULL;
}

static void *nothing(void *arg)
{
	return arg;
}

static double create_cost(void)
{
	uint64_t best = UINT64_MAX;
	for (int batch = 0; batch < 4; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < CREATES; i++) {
			pthread_t thread;
			check(pthread_create(&thread, NULL, nothing, NULL) == 0, "pthread_create");
			pthread_join(thread, NULL);
		}
		best = smaller(best, counter() - start);
	}
	return (double)best / CREATES;
}

/* Lets the sleepers yield to each other, and end. */
static double yield_cost(pthread_t *threads, int have)
{
	yielding = 1;
	yields = 0;
	let_go(threads, have);
	gate = 0;
	return (double)(ended - began) / YIELDS;
}

int main(void)
{
	static pthread_t threads[MOST];
	for (int size = 10; size <= MOST; size *= 10) {
		int have = grow_to(threads, 0, size, yielder);
		if (have < size) {
			char text[80];
			snprintf(text, sizeof text, "no more than %d threads", have);
			unsupported("thread_growth", text);
			let_go(threads, have);
			break;
		}
		point("thread_growth_switch", size, best_turn(futex_give, futex_take));
		point("thread_growth_create", size, create_cost());
		point("thread_growth_yield", size, yield_cost(threads, size));
	}
	return 0;
}
