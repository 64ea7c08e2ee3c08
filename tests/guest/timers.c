/* POSIX timers: what a signal that was not taken in time has missed; and waits that a stop interrupts, which go on for the time that is left. */
#include "check.h"
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static timer_t make(int signal, int value)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal, .sigev_value.sival_int = value };
	timer_t timer = NULL;
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	return timer;
}

static void every_millisecond(timer_t timer)
{
	struct itimerspec each = { { 0, 1000000 }, { 0, 1000000 } };
	CHECK(timer_settime(timer, 0, &each, NULL) == 0);
}

static void stop(timer_t timer)
{
	struct itimerspec never = { { 0, 0 }, { 0, 0 } };
	CHECK(timer_settime(timer, 0, &never, NULL) == 0);
}

static sigset_t block(int first, int second)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, first);
	sigaddset(&set, second);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return set;
}

static void taken_late(int signal)
{
	sigset_t set = block(signal, signal);
	siginfo_t info;
	timer_t timer = make(signal, 77);
	every_millisecond(timer);
	sleep_ms(40);
	CHECK(sigwaitinfo(&set, &info) == signal);
	CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 77);
	CHECK(info.si_overrun >= 30);
	CHECK(timer_getoverrun(timer) == info.si_overrun);
	stop(timer);
	CHECK(timer_getoverrun(timer) == 0);
	timer_delete(timer);
	sigtimedwait(&set, &info, &(struct timespec){ 0, 0 });
}

static timer_t handled_timer;
static volatile int handled, overrun_in_handler;
static void handler(int number, siginfo_t *info, void *context)
{
	if (handled++ == 0)
		overrun_in_handler = info->si_overrun == timer_getoverrun(handled_timer) ? info->si_overrun : -1;
	(void)number, (void)context;
}

static void handled_late(void)
{
	sigset_t set = block(SIGUSR2, SIGUSR2);
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
	sigaction(SIGUSR2, &action, NULL);
	handled_timer = make(SIGUSR2, 0);
	every_millisecond(handled_timer);
	sleep_ms(40);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	stop(handled_timer);
	CHECK(handled >= 1 && overrun_in_handler >= 30);
	timer_delete(handled_timer);
}

/* Nothing handles it, but who blocks it may yet come to. */
static void ignored_by_default(void)
{
	sigset_t set = block(SIGCONT, SIGCONT);
	timer_t timer = make(SIGCONT, 0);
	every_millisecond(timer);
	sleep_ms(40);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	CHECK(timer_getoverrun(timer) >= 30);
	timer_delete(timer);
}

/* Each timer has its own signal on the way, also if it is the same one. */
static void two_timers(void)
{
	sigset_t set = block(SIGALRM, SIGALRM);
	siginfo_t info;
	struct itimerspec once = { { 0, 0 }, { 0, 1000000 } };
	timer_t one = make(SIGALRM, 1), other = make(SIGALRM, 2);
	CHECK(timer_settime(one, 0, &once, NULL) == 0 && timer_settime(other, 0, &once, NULL) == 0);
	sleep_ms(20);
	int values = 0;
	for (int i = 0; i < 2; i++)
		if (sigtimedwait(&set, &info, &(struct timespec){ 10, 0 }) == SIGALRM)
			values += info.si_value.sival_int;
	CHECK(values == 3);
	CHECK(sigtimedwait(&set, &info, &(struct timespec){ 0, 0 }) == -1);
	timer_delete(one);
	timer_delete(other);
}

static long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Stopped for longer than it was to wait: it waits no more. */
static void stopped_in_a_wait(void)
{
	static unsigned word;
	int ready[2], over[2], status;
	long when;
	CHECK(pipe(ready) == 0 && pipe(over) == 0);
	pid_t child = fork();
	if (child == 0) {
		struct timespec wait = { 3, 0 };
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		long result = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &wait);
		int error = errno;
		when = now_ms();
		_exit(write(over[1], &when, sizeof when) == sizeof when && result == -1 && error == ETIMEDOUT ? 3 : 1);
	}
	char byte;
	CHECK(read(ready[0], &byte, 1) == 1);
	sleep_ms(500);
	kill(child, SIGSTOP);
	CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
	sleep_ms(3100);
	long continued = now_ms();
	kill(child, SIGCONT);
	CHECK(read(over[0], &when, sizeof when) == sizeof when);
	CHECK(when - continued < 2800);
	CHECK(waitpid(child, &status, 0) == child && status == 3 << 8);
}

int main(void)
{
	taken_late(SIGUSR1);
	taken_late(SIGRTMIN + 2);
	handled_late();
	ignored_by_default();
	two_timers();
	stopped_in_a_wait();
	return DONE();
}
