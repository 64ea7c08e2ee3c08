/* adjtimex and its relatives: a clock that nobody synchronises, what is remembered of it, what is refused. Only for oxv: it sets the clock. */
#include "check.h"
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>

static void *volatile bad = (void *)1;

static int ask(struct timex *timex, unsigned modes)
{
	timex->modes = modes;
	return adjtimex(timex);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* By how many whole seconds a request moves the clock, which goes on meanwhile. */
static long moved(struct timex *timex, unsigned modes)
{
	double before = now();
	if (ask(timex, modes) < 0)
		return -1;
	return (long)(now() - before + 1e6) - 1000000;
}

static void refused(void)
{
	struct timex timex = { .freq = 65536 };
	struct timeval second = { 1, 0 };
	FAILS(ask(&timex, ADJ_FREQUENCY), ENOSYS);
	timex = (struct timex){ .tick = 10001 };
	FAILS(ask(&timex, ADJ_TICK), ENOSYS);
	timex.tick = 8999;
	FAILS(ask(&timex, ADJ_TICK), EINVAL);
	FAILS(adjtime(&second, NULL), ENOSYS);
	FAILS(ask(&timex, 0x8000), EINVAL);
	timex.time.tv_usec = -1;
	FAILS(ask(&timex, ADJ_SETOFFSET), EINVAL);
	timex.time.tv_usec = 1000000;
	FAILS(ask(&timex, ADJ_SETOFFSET), EINVAL);
	timex.time.tv_usec = 1000000000;
	FAILS(ask(&timex, ADJ_SETOFFSET | ADJ_NANO), EINVAL);
	FAILS(adjtimex(bad), EFAULT);
	FAILS(clock_adjtime(CLOCK_REALTIME, bad), EFAULT);
	FAILS(clock_adjtime(CLOCK_MONOTONIC, &timex), EOPNOTSUPP);
	FAILS(clock_adjtime(77, &timex), EINVAL);
}

/* What anybody may do; returns whether the rest is denied. */
static int as_other(void)
{
	struct timex timex = { 0 };
	struct timeval none = { 0, 0 }, left;
	int asks = setuid(1000) == 0 && ask(&timex, 0) >= 0 && adjtime(NULL, &left) == 0;
	int status = ask(&timex, ADJ_STATUS) == -1 && errno == EPERM;
	int offset = ask(&timex, ADJ_SETOFFSET) == -1 && errno == EPERM;
	return asks && status && offset && adjtime(&none, NULL) == -1 && errno == EPERM;
}

int main(void)
{
	struct timex timex = { 0 };
	struct timeval left = { 9, 9 }, none = { 0, 0 };
	int status;

	CHECK(ask(&timex, 0) == TIME_ERROR && timex.status == STA_UNSYNC && timex.freq == 0 && timex.offset == 0);
	CHECK(timex.maxerror == 16000000 && timex.esterror == 16000000 && timex.constant == 2 && timex.tai == 0);
	CHECK(timex.precision == 1 && timex.tolerance == 500 << 16 && timex.tick == 10000 && timex.time.tv_usec < 1000000);
	CHECK(labs(timex.time.tv_sec - time(NULL)) <= 1);
	CHECK(adjtime(NULL, &left) == 0 && left.tv_sec == 0 && left.tv_usec == 0 && adjtime(&none, NULL) == 0);
	refused();

	timex = (struct timex){ .time = { 1000, 900000000 } };
	CHECK(moved(&timex, ADJ_SETOFFSET | ADJ_NANO) / 10 == 100 && timex.status == (STA_UNSYNC | STA_NANO));
	timex = (struct timex){ .time = { -1001, 100000 } };
	CHECK(moved(&timex, ADJ_SETOFFSET | ADJ_MICRO) / 10 == -100 && timex.status == STA_UNSYNC);

	timex = (struct timex){ .maxerror = 1000, .esterror = 100, .constant = 3 };
	CHECK(ask(&timex, ADJ_STATUS | ADJ_MAXERROR | ADJ_ESTERROR | ADJ_TIMECONST | ADJ_FREQUENCY) == TIME_OK);
	timex = (struct timex){ .status = 0xff00 | STA_INS };
	CHECK(clock_adjtime(CLOCK_REALTIME, &timex) == TIME_OK && timex.status == 0 && timex.esterror == 100 && timex.constant == 7);
	CHECK(timex.maxerror >= 1000 && timex.maxerror < 1000000);
	/* An offset is only made up for where the clock is to follow it. */
	timex.offset = 5000;
	CHECK(ask(&timex, ADJ_OFFSET) == TIME_OK && timex.offset == 0);
	timex = (struct timex){ .offset = 5000, .status = STA_PLL };
	FAILS(ask(&timex, ADJ_OFFSET | ADJ_STATUS), ENOSYS);
	timex.maxerror = 1L << 60;
	CHECK(ask(&timex, ADJ_MAXERROR) >= 0 && timex.maxerror == 16000000);
	/* It grows with each second, and then the clock is no longer right. */
	while (ask(&timex, 0) == TIME_OK)
		sleep_ms(50);
	CHECK(ask(&timex, 0) == TIME_ERROR && timex.status == STA_UNSYNC && timex.maxerror == 16000000);

	pid_t pid = fork();
	if (pid == 0)
		_exit(as_other() ? 3 : 4);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 3);
	return DONE();
}
