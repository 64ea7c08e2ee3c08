/*
 * From wake-up to running, on two CPUs, in microseconds.
 * `wake_latency`: a thread woken through a futex by one that a timer wakes, beside two hogs a CPU.
 * `hog_sleeper`: one hog a CPU and a thread that sleeps to the next millisecond again and again: how late it runs.
 */
#include "../hogs.h"

#define WAKES 500

static volatile uint64_t woken_at;
static uint64_t late[WAKES];

static void *woken(void *arg)
{
	for (int i = 0; i < WAKES; i++) {
		futex_take(1);
		late[i] = now_ns() - woken_at;
		futex_give(0);
	}
	return arg;
}

static void wake_latency(void)
{
	pthread_t hogs[4], thread;
	check(pthread_create(&thread, NULL, woken, NULL) == 0, "pthread_create");
	start_hogs(hogs, 4);
	for (int i = 0; i < WAKES; i++) {
		sleep_ms(2);
		woken_at = now_ns();
		futex_give(1);
		futex_take(0);
	}
	end_hogs(hogs, 4);
	pthread_join(thread, NULL);
	result("wake_latency_p50", percentile(late, WAKES, 50) / 1e3);
	result("wake_latency_p99", percentile(late, WAKES, 99) / 1e3);
}

static void hog_sleeper(void)
{
	pthread_t hogs[2];
	start_hogs(hogs, 2);
	sleep_ms(100);
	uint64_t next = now_ns();
	for (int i = 0; i < WAKES; i++) {
		next = next + 1000000 > now_ns() ? next + 1000000 : now_ns() + 1000000;
		struct timespec until = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		late[i] = now_ns() - next;
	}
	end_hogs(hogs, 2);
	result("hog_sleeper_p50", percentile(late, WAKES, 50) / 1e3);
	result("hog_sleeper_p99", percentile(late, WAKES, 99) / 1e3);
}

int main(void)
{
	wake_latency();
	hog_sleeper();
	return 0;
}
