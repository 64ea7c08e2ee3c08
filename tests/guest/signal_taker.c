/* A signal for the process is taken by some thread that can, also when the one that was told of it blocks it or ends before. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define ROUNDS 1500
#define PATIENCE_US 60000000

static volatile int round_now, done, taken;

static long now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}
static void handler(int signal)
{
	(void)signal;
	__atomic_add_fetch(&taken, 1, __ATOMIC_SEQ_CST);
}
static void mask(int how)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(how, &set, NULL);
}
/* Can take the signal for a moment at the beginning of each round. */
static void *opens_and_shuts(void *unused)
{
	for (int seen = 0; !done;) {
		int now = __atomic_load_n(&round_now, __ATOMIC_SEQ_CST);
		if (now == seen)
			continue;
		seen = now;
		mask(SIG_UNBLOCK);
		for (volatile int i = 0; i < seen % 97 * 8; i++)
			;
		mask(SIG_BLOCK);
	}
	return unused;
}
/* Can take it until it ends, soon after it began. */
static void *short_lived(void *unused)
{
	mask(SIG_UNBLOCK);
	return unused;
}
static void *sleeper(void *unused)
{
	mask(SIG_UNBLOCK);
	while (!done)
		usleep(100000000);
	return unused;
}

/* Sends a signal in each round, with a thread that is about to end if `makes_threads`; how many nobody took. */
static int lost(int makes_threads)
{
	int missing = 0;
	for (int i = 1; i <= ROUNDS && missing == 0; i++) {
		pthread_t t;
		int before = __atomic_load_n(&taken, __ATOMIC_SEQ_CST);
		__atomic_store_n(&round_now, round_now + 1, __ATOMIC_SEQ_CST);
		if (makes_threads && pthread_create(&t, NULL, short_lived, NULL) != 0)
			return -1;
		for (volatile int spin = 0; spin < i * 7 % 1500; spin++)
			;
		kill(getpid(), SIGUSR1);
		for (long end = now_us() + PATIENCE_US; __atomic_load_n(&taken, __ATOMIC_SEQ_CST) == before;)
			if (now_us() > end) {
				missing++;
				break;
			}
		if (makes_threads)
			pthread_join(t, NULL);
	}
	return missing;
}

int main(void)
{
	pthread_t first, last;
	struct sigaction action = {.sa_handler = handler};
	mask(SIG_BLOCK);
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	/* The sleeper is looked at last. */
	CHECK(pthread_create(&first, NULL, opens_and_shuts, NULL) == 0 && pthread_create(&last, NULL, sleeper, NULL) == 0);
	CHECK(lost(0) == 0);
	done = 1;
	CHECK(pthread_join(first, NULL) == 0);
	done = 0;
	CHECK(lost(1) == 0);
	done = 1;
	CHECK(pthread_kill(last, SIGUSR1) == 0 && pthread_join(last, NULL) == 0);
	return DONE();
}
