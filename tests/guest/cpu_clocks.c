// CPU time: by clock, by mode, of threads and children; timers and sleeps that count it.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Says something only when it does not hold: most of these are in loops. */
#define NEED(cond) ((cond) ? 1 : check_(0, #cond, __LINE__))
#define MS 1000000LL

static long long now(clockid_t clock)
{
	struct timespec ts;
	NEED(clock_gettime(clock, &ts) == 0);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static struct timespec timespec_of(long long ns)
{
	return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static volatile unsigned sink;

static void burn_in_program(long long ns)
{
	long long end = now(CLOCK_THREAD_CPUTIME_ID) + ns;
	while (now(CLOCK_THREAD_CPUTIME_ID) < end)
		for (int i = 0; i < 20000; i++)
			sink = sink * 3 + 1;
}

static void burn_in_kernel(long long ns)
{
	static char buffer[1 << 20];
	int zero = open("/dev/zero", O_RDONLY);
	NEED(zero >= 0);
	long long end = now(CLOCK_THREAD_CPUTIME_ID) + ns;
	while (now(CLOCK_THREAD_CPUTIME_ID) < end)
		NEED(read(zero, buffer, sizeof buffer) == sizeof buffer);
	close(zero);
}

struct times {
	long long user, system;
};

static struct times used_by(int who)
{
	struct rusage usage;
	NEED(getrusage(who, &usage) == 0);
	return (struct times){usage.ru_utime.tv_sec * 1000000000LL + usage.ru_utime.tv_usec * 1000LL,
			      usage.ru_stime.tv_sec * 1000000000LL + usage.ru_stime.tv_usec * 1000LL};
}

/* Whether most of what a stretch of work used was counted where it was used. Samples tell, so a machine that is stopped may mislead one stretch. */
static int is_told_apart(void)
{
	struct times start = used_by(RUSAGE_THREAD);
	burn_in_program(200 * MS);
	struct times middle = used_by(RUSAGE_THREAD);
	burn_in_kernel(400 * MS);
	struct times end = used_by(RUSAGE_THREAD);
	NEED(end.user + end.system - start.user - start.system >= 590 * MS);
	return middle.user - start.user > middle.system - start.system && end.system - middle.system > end.user - middle.user;
}

static void modes(void)
{
	int attempts = 10;
	while (attempts > 0 && !is_told_apart())
		attempts--;
	NEED(attempts > 0);
	struct tms tms;
	NEED(times(&tms) != (clock_t)-1 && tms.tms_utime > 0 && tms.tms_stime > 0);
	puts("user and system time are told apart");
}

static void never_falls(void)
{
	struct times last = used_by(RUSAGE_SELF);
	for (int i = 0; i < 200; i++) {
		if (i % 2)
			burn_in_kernel(MS / 2);
		else
			burn_in_program(MS / 2);
		struct times next = used_by(RUSAGE_SELF);
		NEED(next.user >= last.user && next.system >= last.system);
		last = next;
	}
	puts("neither falls");
}

static void child(void)
{
	struct times before = used_by(RUSAGE_CHILDREN);
	pid_t pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		burn_in_kernel(100 * MS);
		_exit(0);
	}
	struct rusage usage;
	int status;
	NEED(wait4(pid, &status, 0, &usage) == pid && status == 0);
	struct times after = used_by(RUSAGE_CHILDREN);
	NEED(after.user + after.system - before.user - before.system >= 95 * MS);
	NEED(usage.ru_utime.tv_sec * 1000000LL + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec * 1000000LL + usage.ru_stime.tv_usec >= 95000);
	puts("a child's time is its parent's to see");
}

static volatile sig_atomic_t fired;

static void handler(int signal)
{
	(void)signal;
	fired++;
}

static void on_signal(int signal)
{
	struct sigaction action = {.sa_handler = handler};
	NEED(sigaction(signal, &action, NULL) == 0);
	fired = 0;
}

static void timer(const char *name, clockid_t clock)
{
	on_signal(SIGUSR1);
	timer_t id;
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	NEED(timer_create(clock, &event, &id) == 0);
	long long start = now(clock);
	struct itimerspec setting = {.it_value = timespec_of(30 * MS)}, left;
	NEED(timer_settime(id, 0, &setting, NULL) == 0);
	NEED(timer_gettime(id, &left) == 0 && left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 30 * MS);
	while (!fired)
		burn_in_program(MS);
	NEED(now(clock) - start >= 30 * MS);
	fired = 0;
	setting.it_value = timespec_of(now(clock) + 10 * MS);
	NEED(timer_settime(id, TIMER_ABSTIME, &setting, NULL) == 0);
	while (!fired)
		burn_in_program(MS);
	NEED(now(clock) >= setting.it_value.tv_sec * 1000000000LL + setting.it_value.tv_nsec);
	NEED(timer_delete(id) == 0);
	printf("a timer on %s\n", name);
}

static void interval_timer(const char *name, int which, int signal)
{
	on_signal(signal);
	struct itimerval setting = {.it_interval = {0, 10000}, .it_value = {0, 10000}}, off = {{0, 0}, {0, 0}};
	NEED(setitimer(which, &setting, NULL) == 0);
	while (fired < 3)
		burn_in_program(MS);
	NEED(setitimer(which, &off, NULL) == 0);
	printf("%s\n", name);
}

static volatile int stop;

static void *burner(void *arg)
{
	while (!stop)
		burn_in_program(MS);
	return arg;
}

static void sleeper(void)
{
	pthread_t thread;
	NEED(pthread_create(&thread, NULL, burner, NULL) == 0);
	long long start = now(CLOCK_PROCESS_CPUTIME_ID);
	struct timespec time = timespec_of(20 * MS);
	NEED(clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &time, NULL) == 0);
	NEED(now(CLOCK_PROCESS_CPUTIME_ID) - start >= 20 * MS);
	clockid_t other;
	NEED(pthread_getcpuclockid(thread, &other) == 0);
	timer_t id;
	on_signal(SIGUSR2);
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
	NEED(timer_create(other, &event, &id) == 0);
	struct itimerspec setting = {.it_value = timespec_of(20 * MS)};
	NEED(timer_settime(id, 0, &setting, NULL) == 0);
	while (!fired)
		usleep(1000);
	stop = 1;
	NEED(pthread_join(thread, NULL) == 0 && timer_delete(id) == 0);
	NEED(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &time, NULL) != 0);
	puts("a sleep by CPU time, a timer on another thread's");
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	modes();
	never_falls();
	child();
	timer("the process's clock", CLOCK_PROCESS_CPUTIME_ID);
	timer("the thread's clock", CLOCK_THREAD_CPUTIME_ID);
	interval_timer("ITIMER_VIRTUAL", ITIMER_VIRTUAL, SIGVTALRM);
	interval_timer("ITIMER_PROF", ITIMER_PROF, SIGPROF);
	sleeper();
	return failures != 0;
}
