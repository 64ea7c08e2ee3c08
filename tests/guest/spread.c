/* Where threads run: a burst spreads over all CPUs, and a thread whose time has come does not wait for its last CPU. Everything here
 * becomes true at some time, however slow the machine; if it never does, the test does not end. */
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <time.h>

#define MOST 64

static cpu_set_t all;
static int cpus;
static volatile int at[MOST], spread;

/* Every thread is on a CPU of its own. */
static int distinct(void)
{
	for (int i = 0; i < cpus; i++)
		for (int j = 0; j <= i; j++)
			if (at[i] < 0 || (i != j && at[i] == at[j]))
				return 0;
	return 1;
}

static void *hog(void *argument)
{
	int self = (int)(long)argument;
	while (!spread) {
		at[self] = sched_getcpu();
		if (distinct())
			spread = 1;
	}
	return NULL;
}

static void burst(void)
{
	pthread_t threads[MOST];
	for (int i = 0; i < cpus; i++)
		at[i] = -1;
	for (int i = 0; i < cpus; i++)
		pthread_create(&threads[i], NULL, hog, (void *)(long)i);
	for (int i = 0; i < cpus; i++)
		pthread_join(threads[i], NULL);
	CHECK(spread);
}

static sem_t begin;
static volatile int woken;

static int pin(int cpu)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one);
}

static int first_cpu(void)
{
	int cpu = 0;
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	return cpu;
}

/* Takes its CPU until the sleeper has run. */
static void *occupant(void *argument)
{
	struct sched_param param = { .sched_priority = 50 };
	pin(first_cpu());
	sched_setscheduler(0, SCHED_FIFO, &param);
	sem_post(&begin);
	while (!woken)
		;
	return argument;
}

static void *sleeper(void *argument)
{
	struct timespec time = { 0, 100000000 };
	pin(first_cpu());
	sched_setaffinity(0, sizeof(all), &all);
	sem_post(&begin);
	nanosleep(&time, NULL);
	woken = 1;
	return argument;
}

/* The sleeper falls asleep on a CPU that is then taken for good. */
static void taken_cpu(void)
{
	pthread_t threads[2];
	sem_init(&begin, 0, 0);
	pthread_create(&threads[0], NULL, sleeper, NULL);
	sem_wait(&begin);
	pthread_create(&threads[1], NULL, occupant, NULL);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
}

int main(void)
{
	sched_getaffinity(0, sizeof(all), &all);
	cpus = CPU_COUNT(&all) < MOST ? CPU_COUNT(&all) : MOST;
	burst();
	/* With one CPU there is nowhere else to wake. */
	if (cpus > 1)
		taken_cpu();
	CHECK(woken == (cpus > 1));
	return DONE();
}
