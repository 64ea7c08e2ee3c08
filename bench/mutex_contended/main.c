/*
 * Two, four and eight threads on one CPU pass through one glibc mutex: guest instructions per pass, the section's own included, best of three.
 * `mutex_contended`: they meet only where the system preempts one in the section. `mutex_blocked`: in every sixteenth pass of a thread it yields with
 * the lock held, so that the others have to sleep.
 */
#include "../sections.h"

#define PASSES 200000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile long shared[8];

static void short_section(void)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 8; i++)
		shared[i]++;
	pthread_mutex_unlock(&lock);
}

static void yielding_section(void)
{
	static __thread unsigned passes;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 8; i++)
		shared[i]++;
	if (++passes % 16 == 0)
		sched_yield();
	pthread_mutex_unlock(&lock);
}

static double best(int threads, long passes, void (*section)(void))
{
	double best = 1e18;
	for (int i = 0; i < 3; i++) {
		double cost = pass_cost(threads, passes, section, counter);
		best = cost < best ? cost : best;
	}
	return best;
}

int main(void)
{
	result("mutex_contended_2", best(2, PASSES, short_section));
	result("mutex_contended_4", best(4, PASSES, short_section));
	result("mutex_contended_8", best(8, PASSES, short_section));
	result("mutex_blocked_2", best(2, PASSES / 4, yielding_section));
	result("mutex_blocked_4", best(4, PASSES / 4, yielding_section));
	result("mutex_blocked_8", best(8, PASSES / 4, yielding_section));
	return 0;
}
