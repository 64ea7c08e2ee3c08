/* A glibc mutex goes from its holder on one CPU to a waiter asleep on the other: microseconds from unlock to running with it. */
#include "../bench.h"
#include <pthread.h>

#define TIMES 300

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t round_line;
static volatile uint64_t unlocked;
static uint64_t took[TIMES];

static void *waiter(void *arg)
{
	pin(1);
	for (int i = 0; i < TIMES; i++) {
		pthread_barrier_wait(&round_line);
		pthread_mutex_lock(&lock);
		took[i] = now_ns() - unlocked;
		pthread_mutex_unlock(&lock);
		pthread_barrier_wait(&round_line);
	}
	return arg;
}

int main(void)
{
	pthread_t thread;
	pthread_barrier_init(&round_line, NULL, 2);
	check(pthread_create(&thread, NULL, waiter, NULL) == 0, "pthread_create");
	pin(0);
	for (int i = 0; i < TIMES; i++) {
		pthread_mutex_lock(&lock);
		pthread_barrier_wait(&round_line);
		sleep_ms(3); /* the waiter falls asleep */
		unlocked = now_ns();
		pthread_mutex_unlock(&lock);
		pthread_barrier_wait(&round_line);
	}
	pthread_join(thread, NULL);
	result("mutex_handoff_p50", percentile(took, TIMES, 50) / 1e3);
	result("mutex_handoff_p99", percentile(took, TIMES, 99) / 1e3);
	return 0;
}
