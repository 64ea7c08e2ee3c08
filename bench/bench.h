/* Shared by the measured programs. Under `-icount shift=0` the time-stamp counter counts guest instructions. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t counter(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

static inline uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* The runner looks for these lines. */
static inline void result(const char *name, double value)
{
	printf("RESULT %s %.1f\n", name, value);
	fflush(stdout);
}

/* One point of a series: its cost at size x. */
static inline void point(const char *series, long x, double value)
{
	printf("POINT %s %ld %.1f\n", series, x, value);
	fflush(stdout);
}

/* The system cannot do what the metric is about. */
static inline void unsupported(const char *name, const char *why)
{
	printf("UNSUPPORTED %s %s\n", name, why);
	fflush(stdout);
}

/* For steps without which there is nothing to measure. */
static inline void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static inline int pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof set, &set);
}

static inline int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* Sorts and returns the value below which `percent` of the samples lie. */
static inline uint64_t percentile(uint64_t *samples, size_t count, unsigned percent)
{
	qsort(samples, count, sizeof *samples, ascending);
	return samples[(count - 1) * percent / 100];
}
