/* Two threads on one CPU take turns through a futex word: guest instructions per turn, which is one wake, one wait and one switch. */
#include "../bench.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

#define TURNS 2000
#define BATCHES 10

static uint32_t word;

static void futex(int op, uint32_t value)
{
	register long timeout __asm__("r10") = 0;
	long result;
	__asm__ volatile("mov $202, %%eax\n syscall"
			 : "=a"(result)
			 : "D"(&word), "S"((long)op), "d"((long)value), "r"(timeout)
			 : "rcx", "r11", "memory");
}

static void wait_for(uint32_t mine, uint32_t other)
{
	while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) != mine)
		futex(FUTEX_WAIT_PRIVATE, other);
}

static void give(uint32_t other)
{
	__atomic_store_n(&word, other, __ATOMIC_RELEASE);
	futex(FUTEX_WAKE_PRIVATE, 1);
}

static void *partner(void *arg)
{
	for (int i = 0; i < TURNS * BATCHES; i++) {
		wait_for(1, 0);
		give(0);
	}
	return arg;
}

int main(void)
{
	pthread_t thread;
	uint64_t best = UINT64_MAX;
	pthread_create(&thread, NULL, partner, NULL);
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < TURNS; i++) {
			give(1);
			wait_for(0, 1);
		}
		uint64_t took = counter() - start;
		best = took < best ? took : best;
	}
	pthread_join(thread, NULL);
	result("futex_pingpong", (double)best / (2 * TURNS));
	return 0;
}
