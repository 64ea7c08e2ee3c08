/* Threads that sleep on one futex word until they are let go. */
#include "ways.h"

static uint32_t gate;

static inline void *sleeper(void *arg)
{
	while (!__atomic_load_n(&gate, __ATOMIC_ACQUIRE))
		futex(&gate, FUTEX_WAIT_PRIVATE, 0);
	return arg;
}

/* Makes threads until there are `wanted`; returns how many there are. */
static inline int grow_to(pthread_t *threads, int have, int wanted, void *(*body)(void *))
{
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	while (have < wanted && pthread_create(&threads[have], &attr, body, NULL) == 0)
		have++;
	pthread_attr_destroy(&attr);
	sleep_ms(100); /* they reach their wait */
	return have;
}

static inline void let_go(pthread_t *threads, int have)
{
	__atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
	futex(&gate, FUTEX_WAKE_PRIVATE, INT_MAX);
	for (int i = 0; i < have; i++)
		pthread_join(threads[i], NULL);
}
