/* One to four threads on two CPUs keep 256 blocks each of 16 B to 8 KiB and replace one at random; every eighth comes from another thread: nanoseconds per block. */
#include "../bench.h"
#include <pthread.h>

#define BLOCKS 256
#define ROUNDS 100000

static void *exchange[64];

static void *worker(void *seed)
{
	static __thread char *blocks[BLOCKS];
	uint64_t random = (uintptr_t)seed * 0x9E3779B97F4A7C15;
	for (int i = 0; i < ROUNDS; i++) {
		random = random * 6364136223846793005 + 1442695040888963407;
		unsigned slot = random >> 56, size = 16 << (random >> 40) % 10;
		free(blocks[slot]);
		blocks[slot] = malloc(size);
		check(blocks[slot] != NULL, "malloc");
		blocks[slot][0] = 1;
		if (i % 8 == 0)
			blocks[slot] = __atomic_exchange_n(&exchange[random >> 50 & 63], blocks[slot], __ATOMIC_ACQ_REL);
	}
	for (int slot = 0; slot < BLOCKS; slot++)
		free(blocks[slot]);
	return NULL;
}

static void stress(const char *name, int count)
{
	pthread_t threads[4];
	uint64_t start = now_ns();
	for (intptr_t i = 0; i < count; i++)
		check(pthread_create(&threads[i], NULL, worker, (void *)(i + 1)) == 0, "pthread_create");
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	result(name, (double)(now_ns() - start) / ((double)ROUNDS * count));
}

int main(void)
{
	stress("malloc_stress_1", 1);
	stress("malloc_stress_2", 2);
	stress("malloc_stress_3", 3);
	stress("malloc_stress_4", 4);
	return 0;
}
