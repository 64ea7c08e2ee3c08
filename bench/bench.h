/* Shared by the measured programs. Under `-icount shift=0` the time-stamp counter counts guest instructions. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static inline uint64_t counter(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

/* The runner looks for this line. */
static inline void result(const char *name, double value)
{
	printf("RESULT %s %.1f\n", name, value);
	fflush(stdout);
}
