/* Clocks, sleeping and timers; the vDSO and the system call must agree. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

static long long ns(struct timespec t)
{
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}
static long long now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return ns(t);
}
static long long trap(clockid_t clock)
{
	struct timespec t;
	syscall(SYS_clock_gettime, clock, &t);
	return ns(t);
}

static long long last;
static long backward;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void *across(void *arg)
{
	for (int i = 0; i < 5000; i++) {
		pthread_mutex_lock(&mutex);
		long long t = i % 2 ? now(CLOCK_MONOTONIC) : trap(CLOCK_MONOTONIC);
		if (t < last)
			backward++;
		last = t;
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}
static volatile int ticks;
static void on_tick(int signal)
{
	(void)signal;
	ticks++;
}

int main(void)
{
	static const clockid_t all[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME };
	struct timespec t;
	long wrong = 0;
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
		long long before = now(all[i]);
		for (int j = 0; j < 2000; j++) {
			long long next = j % 2 ? now(all[i]) : trap(all[i]);
			wrong += next < before;
			before = next;
		}
		CHECK(wrong == 0);
	}
	CHECK(now(CLOCK_REALTIME) > 1600000000ll * 1000000000);
	CHECK(now(CLOCK_REALTIME) - now(CLOCK_REALTIME_COARSE) < 20000000);
	CHECK(clock_getres(CLOCK_MONOTONIC, &t) == 0 && t.tv_sec == 0 && t.tv_nsec == 1);
	FAILS(clock_gettime(99, &t), EINVAL);
	FAILS(clock_getres(99, &t), EINVAL);
	struct timeval tv;
	long long real = now(CLOCK_REALTIME);
	CHECK(gettimeofday(&tv, NULL) == 0 && tv.tv_sec * 1000000000ll + tv.tv_usec * 1000 >= real - 1000);
	CHECK(time(NULL) - real / 1000000000 <= 1);

	/* Sleeps are never short. */
	for (int ms = 1; ms <= 40; ms *= 3) {
		long long start = now(CLOCK_MONOTONIC);
		t = (struct timespec){ 0, ms * 1000000 };
		nanosleep(&t, NULL);
		wrong += now(CLOCK_MONOTONIC) - start < ms * 1000000;
	}
	CHECK(wrong == 0);
	long long goal = now(CLOCK_MONOTONIC) + 20000000;
	t = (struct timespec){ goal / 1000000000, goal % 1000000000 };
	CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == 0 && now(CLOCK_MONOTONIC) >= goal);
	goal = now(CLOCK_REALTIME) + 20000000;
	t = (struct timespec){ goal / 1000000000, goal % 1000000000 };
	CHECK(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL) == 0 && now(CLOCK_REALTIME) >= goal);
	t.tv_nsec = 1000000000;
	FAILS(nanosleep(&t, NULL), EINVAL);

	/* Time of the process and of the thread. */
	long long cpu = now(CLOCK_PROCESS_CPUTIME_ID), thread = now(CLOCK_THREAD_CPUTIME_ID);
	for (volatile long i = 0; i < 30000000; i++)
		;
	CHECK(now(CLOCK_PROCESS_CPUTIME_ID) > cpu && now(CLOCK_THREAD_CPUTIME_ID) > thread);
	cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	sleep_ms(200);
	CHECK(now(CLOCK_PROCESS_CPUTIME_ID) - cpu < 150000000);

	/* The same clock on every CPU. */
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, across, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK(backward == 0);

	/* POSIX timers. */
	timer_t timer;
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	struct itimerspec spec = { { 0, 5000000 }, { 0, 5000000 } };
	signal(SIGRTMIN, on_tick);
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &spec, NULL) == 0);
	while (ticks < 5)
		pause();
	CHECK(timer_delete(timer) == 0);
	/* A blocked signal waits although nobody handles it, and what the timer misses meanwhile is counted. */
	sigset_t cont, pending;
	sigemptyset(&cont);
	sigaddset(&cont, SIGCONT);
	event.sigev_signo = SIGCONT;
	CHECK(sigprocmask(SIG_BLOCK, &cont, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &spec, NULL) == 0);
	do
		sleep_ms(50);
	while (sigpending(&pending) == 0 && !sigismember(&pending, SIGCONT));
	sleep_ms(50);
	CHECK(sigprocmask(SIG_UNBLOCK, &cont, NULL) == 0 && timer_getoverrun(timer) >= 5 && timer_delete(timer) == 0);
	/* An interval timer of consumed time. */
	ticks = 0;
	signal(SIGVTALRM, on_tick);
	struct itimerval it = { { 0, 10000 }, { 0, 10000 } };
	CHECK(setitimer(ITIMER_VIRTUAL, &it, NULL) == 0);
	long long limit = now(CLOCK_MONOTONIC) + 20000000000ll;
	while (ticks < 3 && now(CLOCK_MONOTONIC) < limit)
		;
	CHECK(ticks >= 3);
	return DONE();
}
