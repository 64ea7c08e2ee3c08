/* epoll, eventfd, timerfd and signalfd. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int event;
static void *later(void *arg)
{
	sleep_ms(50);
	eventfd_write(event, (long)arg);
	return NULL;
}

static volatile int signals;
static void on_signal(int signal)
{
	signals += signal == SIGUSR1;
}

static int ep;
static struct epoll_event got[8];
static int wait_for(int ms)
{
	memset(got, 0, sizeof got);
	return epoll_wait(ep, got, 8, ms);
}
static int control(int op, int fd, unsigned events, long data)
{
	struct epoll_event e = { .events = events, .data.u64 = data };
	return epoll_ctl(ep, op, fd, &e);
}

int main(void)
{
	eventfd_t value;
	char buf[16];
	int p[2];
	pthread_t t;

	/* eventfd */
	event = eventfd(3, EFD_NONBLOCK);
	CHECK(eventfd_read(event, &value) == 0 && value == 3);
	FAILS(eventfd_read(event, &value), EAGAIN);
	CHECK(eventfd_write(event, 5) == 0 && eventfd_write(event, 6) == 0 && eventfd_read(event, &value) == 0 && value == 11);
	FAILS(read(event, buf, 4), EINVAL);
	CHECK(eventfd_write(event, 0xfffffffffffffffe) == 0);
	FAILS(eventfd_write(event, 1), EAGAIN);
	eventfd_read(event, &value);
	int semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
	CHECK(eventfd_read(semaphore, &value) == 0 && value == 1 && eventfd_read(semaphore, &value) == 0 && value == 1);
	FAILS(eventfd_read(semaphore, &value), EAGAIN);

	/* Level-triggered. */
	ep = epoll_create1(EPOLL_CLOEXEC);
	CHECK(ep >= 0 && pipe(p) == 0);
	CHECK(control(EPOLL_CTL_ADD, p[0], EPOLLIN, 1) == 0 && control(EPOLL_CTL_ADD, event, EPOLLIN, 2) == 0);
	FAILS(control(EPOLL_CTL_ADD, p[0], EPOLLIN, 1), EEXIST);
	FAILS(control(EPOLL_CTL_MOD, p[1], EPOLLIN, 1), ENOENT);
	FAILS(control(EPOLL_CTL_DEL, p[1], 0, 0), ENOENT);
	FAILS(control(EPOLL_CTL_ADD, 99, EPOLLIN, 1), EBADF);
	FAILS(control(EPOLL_CTL_ADD, ep, EPOLLIN, 1), EINVAL);
	FAILS(epoll_wait(ep, got, 0, 0), EINVAL);
	FAILS(epoll_wait(p[0], got, 1, 0), EINVAL);
	CHECK(wait_for(0) == 0 && wait_for(10) == 0);
	CHECK(write(p[1], "ab", 2) == 2 && wait_for(-1) == 1 && got[0].data.u64 == 1 && got[0].events == EPOLLIN);
	CHECK(wait_for(0) == 1 && read(p[0], buf, 1) == 1 && wait_for(0) == 1 && read(p[0], buf, 1) == 1 && wait_for(0) == 0);
	pthread_create(&t, NULL, later, (void *)4);
	CHECK(wait_for(-1) == 1 && got[0].data.u64 == 2);
	pthread_join(t, NULL);
	CHECK(wait_for(0) == 1 && eventfd_read(event, &value) == 0 && value == 4 && wait_for(0) == 0);

	/* Edge-triggered and one-shot. */
	CHECK(control(EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 3) == 0);
	CHECK(write(p[1], "abc", 3) == 3 && wait_for(0) == 1 && got[0].data.u64 == 3 && wait_for(0) == 0);
	CHECK(write(p[1], "d", 1) == 1 && wait_for(0) == 1 && wait_for(0) == 0);
	CHECK(control(EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 3) == 0 && wait_for(0) == 1);
	CHECK(control(EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 4) == 0 && wait_for(0) == 1 && wait_for(0) == 0);
	CHECK(control(EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 5) == 0 && wait_for(0) == 1 && got[0].data.u64 == 5);
	CHECK(control(EPOLL_CTL_DEL, p[0], 0, 0) == 0 && wait_for(0) == 0);

	/* Hang-up, both ends, removal by close, nesting. */
	CHECK(control(EPOLL_CTL_ADD, p[0], 0, 6) == 0 && wait_for(0) == 0);
	close(p[1]);
	CHECK(wait_for(0) == 1 && got[0].events == EPOLLHUP);
	close(p[0]);
	CHECK(wait_for(0) == 0);
	int outer = epoll_create1(0), inner = ep;
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 9 };
	CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &e) == 0 && epoll_wait(outer, got, 8, 0) == 0);
	eventfd_write(event, 1);
	CHECK(epoll_wait(outer, got, 8, -1) == 1 && got[0].data.u64 == 9);
	eventfd_read(event, &value);
	CHECK(epoll_wait(outer, got, 8, 0) == 0);
	int file = open("/tmp", O_RDONLY);
	FAILS(control(EPOLL_CTL_ADD, file, EPOLLIN, 1), EPERM);

	/* timerfd */
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct itimerspec later = { { 0, 0 }, { 1000, 0 } }, spec = { { 0, 20000000 }, { 0, 20000000 } };
	uint64_t ticks;
	CHECK(timer >= 0 && timerfd_settime(timer, 0, &later, NULL) == 0 && control(EPOLL_CTL_ADD, timer, EPOLLIN, 7) == 0);
	FAILS(read(timer, &ticks, 8), EAGAIN);
	CHECK(timerfd_settime(timer, 0, &spec, NULL) == 0);
	CHECK(wait_for(5000) == 1 && got[0].data.u64 == 7 && read(timer, &ticks, 8) == 8 && ticks >= 1);
	sleep_ms(70);
	CHECK(read(timer, &ticks, 8) == 8 && ticks >= 3);
	memset(&spec, 0, sizeof spec);
	CHECK(timerfd_settime(timer, 0, &spec, NULL) == 0);
	read(timer, &ticks, 8) < 0 ? (void)0 : (void)0;
	sleep_ms(30);
	FAILS(read(timer, &ticks, 8), EAGAIN);

	/* signalfd */
	sigset_t set;
	struct signalfd_siginfo info;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int sfd = signalfd(-1, &set, SFD_NONBLOCK);
	FAILS(read(sfd, &info, sizeof info), EAGAIN);
	CHECK(control(EPOLL_CTL_ADD, sfd, EPOLLIN, 8) == 0 && wait_for(0) == 0);
	kill(getpid(), SIGUSR1);
	CHECK(wait_for(1000) == 1 && got[0].data.u64 == 8 && read(sfd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1);

	/* epoll_pwait's mask. */
	sigset_t none;
	sigemptyset(&none);
	signal(SIGUSR1, on_signal);
	CHECK(control(EPOLL_CTL_DEL, sfd, 0, 0) == 0);
	kill(getpid(), SIGUSR1);
	CHECK(signals == 0);
	FAILS(epoll_pwait(ep, got, 8, 5000, &none), EINTR);
	CHECK(signals == 1);
	return DONE();
}
