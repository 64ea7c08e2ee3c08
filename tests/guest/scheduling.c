/* Scheduling policies, nice values, affinity: what may be asked for, and what order it gives. All threads that are compared run on
 * one CPU, so the order does not depend on time. */
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int first_cpu(void)
{
	cpu_set_t set;
	sched_getaffinity(0, sizeof(set), &set);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set))
			return cpu;
	return 0;
}

static int pin(void)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(first_cpu(), &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

static int set_policy(int policy, int priority)
{
	struct sched_param param = { .sched_priority = priority };
	return sched_setscheduler(0, policy, &param);
}

struct order {
	char text[64];
	int at;
};

static struct order order;

static void note(char c)
{
	order.text[order.at++] = c;
}

struct job {
	char name;
	int policy, priority, yields;
	pthread_t thread;
};

static void *work(void *argument)
{
	struct job *job = argument;
	for (int i = 0; i <= job->yields; i++) {
		note(job->name);
		sched_yield();
	}
	return NULL;
}

/* Starts the jobs below the caller's own priority, which is real-time, and shows in which order they run once it waits. */
static const char *run(struct job *jobs, int count)
{
	memset(&order, 0, sizeof(order));
	for (int i = 0; i < count; i++) {
		pthread_attr_t attr;
		struct sched_param param = { .sched_priority = jobs[i].priority };
		pthread_attr_init(&attr);
		pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(&attr, jobs[i].policy);
		pthread_attr_setschedparam(&attr, &param);
		CHECK(pthread_create(&jobs[i].thread, &attr, work, &jobs[i]) == 0);
	}
	for (int i = 0; i < count; i++)
		pthread_join(jobs[i].thread, NULL);
	return order.text;
}

static void fifo_order(void)
{
	struct job jobs[] = {
		{ 'a', SCHED_FIFO, 10, 0, 0 }, { 'b', SCHED_FIFO, 20, 0, 0 }, { 'c', SCHED_FIFO, 30, 0, 0 }, { 'd', SCHED_FIFO, 20, 0, 0 },
	};
	printf("%s\n", run(jobs, 4));
	/* Equals take turns when they yield; a higher one does not let lower ones in. */
	struct job turns[] = { { 'x', SCHED_FIFO, 10, 2, 0 }, { 'y', SCHED_FIFO, 10, 2, 0 }, { 'z', SCHED_RR, 11, 2, 0 } };
	printf("%s\n", run(turns, 3));
}

static sem_t go, stop;

static void *wait_and_note(void *argument)
{
	sem_wait(&go);
	note(*(char *)argument);
	sem_post(&stop);
	return NULL;
}

/* A thread of higher priority runs as soon as it is woken, one of equal or lower priority when the waker waits. */
static void wakeups(void)
{
	static const struct {
		int priority;
		const char *expected;
	} cases[] = { { 60, "w>" }, { 50, ">w" }, { 40, ">w" } };
	for (unsigned i = 0; i < 3; i++) {
		pthread_t thread;
		pthread_attr_t attr;
		struct sched_param param = { .sched_priority = cases[i].priority };
		memset(&order, 0, sizeof(order));
		sem_init(&go, 0, 0);
		sem_init(&stop, 0, 0);
		pthread_attr_init(&attr);
		pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
		pthread_attr_setschedparam(&attr, &param);
		CHECK(set_policy(SCHED_FIFO, 1) == 0);
		CHECK(pthread_create(&thread, &attr, wait_and_note, "w") == 0);
		/* At the lowest priority this thread is past the next line only when the other one waits. */
		CHECK(set_policy(SCHED_FIFO, 50) == 0);
		sem_post(&go);
		note('>');
		sem_wait(&stop);
		pthread_join(thread, NULL);
		CHECK(strcmp(order.text, cases[i].expected) == 0);
	}
}

/* Raising another thread above oneself gives it the CPU at once; so does stepping down oneself. */
static void changes(void)
{
	struct sched_param high = { .sched_priority = 70 };
	static struct job job = { 'j', SCHED_FIFO, 10, 0, 0 };
	pthread_attr_t attr;
	struct sched_param low = { .sched_priority = 10 };
	memset(&order, 0, sizeof(order));
	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &low);
	CHECK(set_policy(SCHED_FIFO, 50) == 0);
	CHECK(pthread_create(&job.thread, &attr, work, &job) == 0);
	note('1');
	CHECK(pthread_setschedparam(job.thread, SCHED_FIFO, &high) == 0);
	note('2');
	pthread_join(job.thread, NULL);
	CHECK(strcmp(order.text, "1j2") == 0);
	memset(&order, 0, sizeof(order));
	CHECK(pthread_create(&job.thread, &attr, work, &job) == 0);
	note('1');
	CHECK(set_policy(SCHED_FIFO, 5) == 0);
	note('2');
	pthread_join(job.thread, NULL);
	CHECK(strcmp(order.text, "1j2") == 0);
}

/* The C library does not declare it. */
struct sched_attr {
	uint32_t size, sched_policy;
	uint64_t sched_flags;
	int32_t sched_nice;
	uint32_t sched_priority;
	uint64_t sched_runtime, sched_deadline, sched_period;
	uint32_t sched_util_min, sched_util_max;
};

static int get_attr(struct sched_attr *attr)
{
	memset(attr, 0xff, sizeof(*attr));
	return syscall(SYS_sched_getattr, 0, attr, sizeof(*attr), 0);
}

static int set_attr(struct sched_attr attr)
{
	attr.size = sizeof(attr);
	return syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void attributes(void)
{
	struct sched_attr attr;
	CHECK(set_policy(SCHED_OTHER, 0) == 0);
	CHECK(set_attr((struct sched_attr){ .sched_policy = SCHED_BATCH, .sched_nice = 7 }) == 0);
	CHECK(get_attr(&attr) == 0 && attr.sched_policy == SCHED_BATCH && attr.sched_nice == 7 && attr.sched_priority == 0);
	CHECK(getpriority(PRIO_PROCESS, 0) == 7);
	CHECK(set_attr((struct sched_attr){ .sched_policy = SCHED_RR, .sched_priority = 5, .sched_flags = 1 }) == 0);
	CHECK(get_attr(&attr) == 0 && attr.sched_policy == SCHED_RR && attr.sched_priority == 5 && attr.sched_flags == 1);
	CHECK(sched_getscheduler(0) == (SCHED_RR | SCHED_RESET_ON_FORK));
	CHECK(set_attr((struct sched_attr){ .sched_policy = SCHED_OTHER, .sched_priority = 1 }) == -1 && errno == EINVAL);
	CHECK(set_attr((struct sched_attr){ .sched_policy = 4 }) == -1 && errno == EINVAL);
	CHECK(set_attr((struct sched_attr){ .sched_policy = SCHED_FIFO, .sched_priority = 100 }) == -1 && errno == EINVAL);
	CHECK(set_attr((struct sched_attr){ .sched_flags = 1 << 20 }) == -1 && errno == EINVAL);
	attr.size = 8;
	CHECK(syscall(SYS_sched_setattr, 0, &attr, 0) == -1 && errno == E2BIG && attr.size >= 48);
	CHECK(syscall(SYS_sched_getattr, 0, &attr, 47, 0) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_sched_getattr, 0, NULL, 48, 0) == -1 && errno == EINVAL);
	pid_t child = fork();
	if (child == 0)
		_exit(sched_getscheduler(0) == SCHED_OTHER && getpriority(PRIO_PROCESS, 0) == 0 ? 0 : 1);
	int status;
	waitpid(child, &status, 0);
	CHECK(status == 0);
	CHECK(set_policy(SCHED_IDLE, 0) == 0 && sched_getscheduler(0) == SCHED_IDLE);
	CHECK(set_policy(SCHED_OTHER, 0) == 0);
}

static void errors(void)
{
	struct sched_param param = { .sched_priority = 0 };
	struct timespec interval;
	cpu_set_t none;
	CPU_ZERO(&none);
	CHECK(sched_setscheduler(0, SCHED_FIFO, &param) == -1 && errno == EINVAL);
	CHECK(sched_setscheduler(-1, SCHED_OTHER, &param) == -1 && errno == EINVAL);
	CHECK(sched_setscheduler(0, 77, &param) == -1 && errno == EINVAL);
	CHECK(sched_setscheduler(3999999, SCHED_OTHER, &param) == -1 && errno == ESRCH);
	CHECK(sched_getscheduler(-1) == -1 && errno == EINVAL);
	CHECK(sched_getscheduler(3999999) == -1 && errno == ESRCH);
	CHECK(sched_getparam(0, NULL) == -1 && errno == EINVAL);
	CHECK(sched_setaffinity(0, sizeof(none), &none) == -1 && errno == EINVAL);
	CHECK(sched_setaffinity(3999999, sizeof(none), &none) == -1 && errno == ESRCH);
	CHECK(getpriority(9, 0) == -1 && errno == EINVAL);
	CHECK(setpriority(PRIO_PROCESS, 3999999, 0) == -1 && errno == ESRCH);
	CHECK(sched_get_priority_max(SCHED_FIFO) == 99 && sched_get_priority_min(SCHED_RR) == 1);
	CHECK(sched_get_priority_max(SCHED_OTHER) == 0 && sched_get_priority_max(33) == -1 && errno == EINVAL);
	CHECK(set_policy(SCHED_FIFO, 3) == 0);
	CHECK(sched_rr_get_interval(0, &interval) == 0 && interval.tv_sec == 0 && interval.tv_nsec == 0);
	CHECK(set_policy(SCHED_RR, 3) == 0);
	CHECK(sched_rr_get_interval(0, &interval) == 0 && interval.tv_sec == 0 && interval.tv_nsec == 100000000);
	CHECK(sched_getparam(0, &param) == 0 && param.sched_priority == 3);
	CHECK(set_policy(SCHED_OTHER, 0) == 0);
}

static void niceness(void)
{
	CHECK(setpriority(PRIO_PROCESS, 0, 100) == 0 && getpriority(PRIO_PROCESS, 0) == 19);
	CHECK(setpriority(PRIO_PROCESS, 0, -100) == 0 && getpriority(PRIO_PROCESS, 0) == -20);
	CHECK(setpriority(PRIO_PGRP, 0, 3) == 0 && getpriority(PRIO_PGRP, 0) <= 3);
	errno = 0;
	CHECK(nice(2) == 5 && errno == 0);
	CHECK(setpriority(PRIO_PROCESS, 0, 0) == 0);
}

/* Not the super-user: the limits rule. */
static void without_rights(void)
{
	pid_t child = fork();
	if (child == 0) {
		struct rlimit none = { 0, 0 };
		int bad = 0;
		setrlimit(RLIMIT_RTPRIO, &none);
		setrlimit(RLIMIT_NICE, &none);
		bad |= setpriority(PRIO_PROCESS, 0, 10) != 0;
		bad |= (setresuid(1000, 1000, 1000) != 0) << 1;
		bad |= (setpriority(PRIO_PROCESS, 0, 9) != -1 || errno != EACCES) << 2;
		bad |= (setpriority(PRIO_PROCESS, 0, 11) != 0) << 3;
		bad |= (set_policy(SCHED_FIFO, 1) != -1 || errno != EPERM) << 4;
		bad |= (set_policy(SCHED_BATCH, 0) != 0) << 5;
		bad |= (set_policy(SCHED_IDLE, 0) != 0) << 6;
		/* Back from SCHED_IDLE needs the right to the nice value one has. */
		bad |= (set_policy(SCHED_OTHER, 0) != -1 || errno != EPERM) << 7;
		_exit(bad);
	}
	int status;
	waitpid(child, &status, 0);
	CHECK(status == 0);
}

/* A timed wait wakes up where it may, also when the mask changes while it sleeps; and a thread that runs when it changes has moved before the call
   returns. */
static volatile int mask_set;

static void *sleeper(void *argument)
{
	cpu_set_t *set = argument;
	struct timespec time = { 0, 20000000 };
	do
		nanosleep(&time, NULL);
	while (!mask_set);
	return (void *)(long)CPU_ISSET(sched_getcpu(), set);
}

static void affinity(void)
{
	cpu_set_t all, one;
	void *on_it;
	sched_getaffinity(0, sizeof(all), &all);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		pthread_t thread;
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		mask_set = 0;
		if (pthread_create(&thread, NULL, sleeper, &one) != 0 || pthread_setaffinity_np(thread, sizeof(one), &one) != 0)
			CHECK(!"thread");
		mask_set = 1;
		pthread_join(thread, &on_it);
		if (!on_it || sched_setaffinity(0, sizeof(one), &one) != 0 || sched_getcpu() != cpu)
			CHECK(!"moved");
	}
	CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
}

int main(void)
{
	affinity();
	CHECK(pin() == 0);
	errors();
	niceness();
	attributes();
	without_rights();
	CHECK(set_policy(SCHED_FIFO, 50) == 0);
	fifo_order();
	wakeups();
	changes();
	return DONE();
}
