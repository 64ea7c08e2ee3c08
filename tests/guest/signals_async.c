/* Signals sent to oneself and between threads: masks, pending sets, queues, EINTR and SA_RESTART. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

static volatile sig_atomic_t count, last, value, nested_before;
static volatile int order[8], orders;

static void on_signal(int signal)
{
	count++;
	last = signal;
}

static void on_info(int signal, siginfo_t *info, void *context)
{
	(void)context;
	order[orders++ & 7] = signal;
	value = info->si_value.sival_int;
}

static void on_nested(int signal)
{
	if (count++ == 0) {
		raise(signal);
		nested_before = count;
	}
}

static void handle(int signal, void (*handler)(int), int flags)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = flags };
	sigemptyset(&sa.sa_mask);
	sigaction(signal, &sa, NULL);
}

static pthread_t main_thread;
static int pipe_fds[2];
static volatile int waits;

/* Sends a signal to the main thread, which waits: one that came before would not end that. */
static void *poke(void *arg)
{
	while (!waits)
		sleep_ms(1);
	until_asleep(getpid());
	pthread_kill(main_thread, SIGUSR1);
	if (arg) {
		sleep_ms(100);
		(void)!write(pipe_fds[1], "x", 1);
	}
	return NULL;
}

/* The next thing that the caller sleeps in is what is to be interrupted. */
static pthread_t start_poking(void *arg)
{
	pthread_t t;
	waits = 0;
	pthread_create(&t, NULL, poke, arg);
	waits = 1;
	return t;
}

static volatile int stop;
static void *busy(void *arg)
{
	(void)arg;
	while (!stop)
		;
	return NULL;
}
static void on_stop(int signal)
{
	(void)signal;
	stop = 1;
}

int main(void)
{
	sigset_t set, old, pending;
	main_thread = pthread_self();

	handle(SIGUSR1, on_signal, 0);
	CHECK(raise(SIGUSR1) == 0 && count == 1 && last == SIGUSR1);
	CHECK(kill(getpid(), SIGUSR1) == 0 && count == 2);
	CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) == 0 && count == 3);
	CHECK(kill(getpid(), 0) == 0);
	FAILS(kill(getpid(), 65), EINVAL);

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0 && !sigismember(&old, SIGUSR1));
	raise(SIGUSR1);
	raise(SIGUSR1);
	sigpending(&pending);
	CHECK(count == 3 && sigismember(&pending, SIGUSR1));
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	CHECK(count == 4); /* standard signals do not queue */
	FAILS(sigaction(SIGKILL, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL), EINVAL);

	/* sigsuspend opens the mask only while it waits. */
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGUSR1);
	sigemptyset(&old);
	FAILS(sigsuspend(&old), EINTR);
	CHECK(count == 5);
	sigprocmask(SIG_BLOCK, NULL, &old);
	CHECK(sigismember(&old, SIGUSR1));

	/* Waiting for a blocked signal. */
	siginfo_t info;
	struct timespec soon = { 0, 20000000 };
	FAILS(sigtimedwait(&set, &info, &soon), EAGAIN);
	raise(SIGUSR1);
	CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_code == SI_USER && info.si_pid == getpid());
	kill(getpid(), SIGUSR1);
	CHECK(sigtimedwait(&set, &info, &soon) == SIGUSR1 && info.si_code == SI_USER);
	sigprocmask(SIG_UNBLOCK, &set, NULL);

	/* Real-time signals queue, lowest number first, values in order. */
	struct sigaction sa = { .sa_sigaction = on_info, .sa_flags = SA_SIGINFO };
	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, SIGRTMIN + 1);
	sigaddset(&sa.sa_mask, SIGRTMIN + 2);
	sigaction(SIGRTMIN + 1, &sa, NULL);
	sigaction(SIGRTMIN + 2, &sa, NULL);
	sigprocmask(SIG_BLOCK, &sa.sa_mask, NULL);
	sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ 3 });
	sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ 1 });
	sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ 2 });
	sigprocmask(SIG_UNBLOCK, &sa.sa_mask, NULL);
	CHECK(orders == 3);
	CHECK(order[0] == SIGRTMIN + 1 && order[1] == SIGRTMIN + 1 && order[2] == SIGRTMIN + 2 && value == 3);

	/* SA_NODEFER, SA_RESETHAND, SIG_IGN. */
	count = 0;
	handle(SIGUSR2, on_nested, SA_NODEFER);
	raise(SIGUSR2);
	CHECK(count == 2 && nested_before == 2);
	count = 0;
	handle(SIGUSR2, on_nested, 0);
	raise(SIGUSR2);
	CHECK(count == 2 && nested_before == 1);
	handle(SIGUSR2, on_signal, SA_RESETHAND);
	raise(SIGUSR2);
	sigaction(SIGUSR2, NULL, &sa);
	CHECK(sa.sa_handler == SIG_DFL);
	handle(SIGUSR2, SIG_IGN, 0);
	CHECK(raise(SIGUSR2) == 0);

	/* A blocked call and a signal: EINTR, or restarted. */
	char byte;
	pthread_t t;
	CHECK(pipe(pipe_fds) == 0);
	handle(SIGUSR1, on_signal, 0);
	count = 0;
	t = start_poking(NULL);
	FAILS(read(pipe_fds[0], &byte, 1), EINTR);
	pthread_join(t, NULL);
	CHECK(count == 1);
	handle(SIGUSR1, on_signal, SA_RESTART);
	t = start_poking((void *)1);
	CHECK(read(pipe_fds[0], &byte, 1) == 1 && byte == 'x' && count == 2);
	pthread_join(t, NULL);

	/* nanosleep is interrupted, with the rest of the time, even with SA_RESTART. */
	struct timespec want = { 1000, 0 }, rest = { 0, 0 };
	t = start_poking(NULL);
	FAILS(nanosleep(&want, &rest), EINTR);
	CHECK(rest.tv_sec >= 1 && rest.tv_sec < 1000);
	pthread_join(t, NULL);
	t = start_poking(NULL);
	FAILS(pause(), EINTR);
	pthread_join(t, NULL);

	/* Interval timer and alarm. */
	handle(SIGALRM, on_signal, 0);
	count = 0;
	struct itimerval every = { { 0, 10000 }, { 0, 10000 } }, off = { { 0, 0 }, { 0, 0 } };
	setitimer(ITIMER_REAL, &every, NULL);
	while (count < 5)
		pause();
	setitimer(ITIMER_REAL, &off, NULL);
	CHECK(count >= 5 && last == SIGALRM);
	CHECK(alarm(1000) == 0);
	CHECK(alarm(0) > 500);

	/* A thread in a busy loop is reached (Go preempts so). */
	handle(SIGURG, on_stop, SA_RESTART);
	pthread_create(&t, NULL, busy, NULL);
	sleep_ms(50);
	CHECK(pthread_kill(t, SIGURG) == 0);
	CHECK(pthread_join(t, NULL) == 0 && stop == 1);
	return DONE();
}
