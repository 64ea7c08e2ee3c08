/* epoll beyond the ordinary: nesting, EXCLUSIVE, many waiters, pwait2, what /proc shows; poll, select and their masks. */
#include "check.h"
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

static int control(int ep, int op, int fd, unsigned events)
{
	struct epoll_event e = {.events = events, .data.u64 = fd};
	return epoll_ctl(ep, op, fd, &e);
}
static int look(int ep)
{
	struct epoll_event e[8];
	return epoll_wait(ep, e, 8, 0);
}

static int ep, ev;
static volatile int woken;
static void *waiter(void *arg)
{
	struct epoll_event e;
	uint64_t value;
	(void)arg;
	/* Each takes one of what is there, and goes on until told to stop. */
	while (epoll_wait(ep, &e, 1, -1) == 1) {
		if (read(ev, &value, 8) == 8)
			__atomic_add_fetch(&woken, 1, __ATOMIC_SEQ_CST);
		else if (errno == EAGAIN && __atomic_load_n(&woken, __ATOMIC_SEQ_CST) >= 400)
			break;
		if (__atomic_load_n(&woken, __ATOMIC_SEQ_CST) >= 400)
			break;
	}
	return NULL;
}

static void nesting(void)
{
	int inner = epoll_create1(0), outer = epoll_create1(0), event = eventfd(0, EFD_NONBLOCK);
	uint64_t value;

	CHECK(control(inner, EPOLL_CTL_ADD, event, EPOLLIN) == 0 && control(outer, EPOLL_CTL_ADD, inner, EPOLLIN) == 0);
	FAILS(control(inner, EPOLL_CTL_ADD, outer, EPOLLIN), ELOOP);
	FAILS(control(inner, EPOLL_CTL_ADD, inner, EPOLLIN), EINVAL);
	FAILS(control(outer, EPOLL_CTL_MOD, inner, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
	CHECK(look(outer) == 0 && eventfd_write(event, 1) == 0 && look(outer) == 1 && look(inner) == 1 && look(outer) == 1);
	struct pollfd pfd = {outer, POLLIN, 0};
	CHECK(poll(&pfd, 1, 0) == 1 && pfd.revents == POLLIN && read(event, &value, 8) == 8 && poll(&pfd, 1, 0) == 0 && look(outer) == 0);
	/* A chain: each watches the one before. */
	int chain[8], made = 0;
	for (int i = 0; i < 8; i++)
		chain[i] = epoll_create1(0);
	for (int i = 1; i < 8 && control(chain[i], EPOLL_CTL_ADD, chain[i - 1], EPOLLIN) == 0; i++)
		made++;
	/* Four or five, as the kernel's version has it. */
	CHECK(errno == ELOOP && (made == 4 || made == 5));
	for (int i = 0; i < 8; i++)
		close(chain[i]);
	/* A closed descriptor is watched no more; a copy of it still is. */
	int copy = dup(event);
	CHECK(eventfd_write(event, 1) == 0 && close(event) == 0 && look(inner) == 1 && close(copy) == 0 && look(inner) == 0);
	close(inner), close(outer);
}

static void flags(void)
{
	struct epoll_event e;
	char path[64], line[256];
	int p[2];

	ep = epoll_create1(0);
	CHECK(pipe(p) == 0 && control(ep, EPOLL_CTL_ADD, p[0], EPOLLIN | EPOLLEXCLUSIVE | EPOLLET) == 0);
	FAILS(control(ep, EPOLL_CTL_MOD, p[0], EPOLLIN), EINVAL);
	FAILS(control(ep, EPOLL_CTL_ADD, p[1], EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT), EINVAL);
	FAILS(control(ep, EPOLL_CTL_ADD, p[1], EPOLLOUT | EPOLLEXCLUSIVE | EPOLLRDHUP), EINVAL);
	CHECK(control(ep, EPOLL_CTL_ADD, p[1], EPOLLOUT | EPOLLWAKEUP | EPOLLET | EPOLLONESHOT) == 0);
	CHECK(look(ep) == 1 && look(ep) == 0 && control(ep, EPOLL_CTL_MOD, p[1], EPOLLOUT | EPOLLONESHOT) == 0 && look(ep) == 1 && look(ep) == 0);
	CHECK(write(p[1], "x", 1) == 1 && look(ep) == 1 && look(ep) == 0 && write(p[1], "y", 1) == 1 && look(ep) == 1);
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", ep);
	FILE *file = fopen(path, "r");
	int tfd, found = 0;
	unsigned events;
	while (file && fgets(line, sizeof line, file))
		found += sscanf(line, "tfd: %d events: %x", &tfd, &events) == 2 && tfd == p[0] && (events & EPOLLIN);
	CHECK(found == 1);
	fclose(file);
	FAILS(epoll_wait(ep, &e, 0, 0), EINVAL);
	FAILS(epoll_wait(p[0], &e, 1, 0), EINVAL);
	FAILS(epoll_ctl(ep, 9, p[0], &e), EINVAL);
	FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], NULL), EFAULT);
	CHECK(write(p[1], "z", 1) == 1);
	FAILS(syscall(SYS_epoll_wait, ep, 8, 1, 0), EFAULT);
	struct timespec none = {0, 0}, bad = {0, -1};
	FAILS(syscall(SYS_epoll_pwait2, ep, &e, 1, &bad, NULL, 8), EINVAL);
	CHECK(write(p[1], "z", 1) == 1 && syscall(SYS_epoll_pwait2, ep, &e, 1, &none, NULL, 8) == 1);
	close(p[0]), close(p[1]), close(ep);
}

static void many(void)
{
	pthread_t threads[4];

	ep = epoll_create1(0);
	ev = eventfd(0, EFD_NONBLOCK | EFD_SEMAPHORE);
	CHECK(control(ep, EPOLL_CTL_ADD, ev, EPOLLIN) == 0);
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, waiter, NULL);
	for (int i = 0; i < 200; i++)
		eventfd_write(ev, 2);
	while (__atomic_load_n(&woken, __ATOMIC_SEQ_CST) < 400)
		sleep_ms(1);
	/* All see what stays, and end. */
	eventfd_write(ev, 100);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK(woken >= 400);
	close(ep), close(ev);
}

static volatile int caught;
static void on_signal(int signal)
{
	(void)signal;
	caught++;
}

/* A blocked signal that is pending is let in by the mask of the wait, and only by it. */
static void masks(void)
{
	sigset_t usr1, empty;
	struct timespec second = {1, 0}, none = {0, 0};
	int p[2], s[2];
	fd_set set;

	sigemptyset(&empty);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	signal(SIGUSR1, on_signal);
	CHECK(pipe(p) == 0);
	struct pollfd pfd = {p[0], POLLIN, 0};
	raise(SIGUSR1);
	CHECK(poll(&pfd, 1, 0) == 0 && caught == 0);
	FAILS(ppoll(&pfd, 1, &second, &empty), EINTR);
	CHECK(caught == 1);
	raise(SIGUSR1);
	FD_ZERO(&set);
	FD_SET(p[0], &set);
	FAILS(pselect(p[0] + 1, &set, NULL, NULL, &second, &empty), EINTR);
	CHECK(caught == 2);
	struct epoll_event e;
	ep = epoll_create1(0);
	raise(SIGUSR1);
	FAILS(epoll_pwait(ep, &e, 1, 1000, &empty), EINTR);
	CHECK(caught == 3 && ppoll(&pfd, 1, &none, &empty) == 0);
	/* Something ready comes before a signal. */
	raise(SIGUSR1);
	CHECK(write(p[1], "x", 1) == 1 && ppoll(&pfd, 1, &second, &usr1) == 1 && caught == 3);
	CHECK(ppoll(&pfd, 1, &second, &empty) == 1);
	sigprocmask(SIG_UNBLOCK, &usr1, NULL);
	CHECK(caught == 4);

	/* What select makes of a closed socket, and of bad arguments. */
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && close(s[1]) == 0);
	fd_set readable, writable, exceptional;
	FD_ZERO(&readable);
	FD_ZERO(&writable);
	FD_ZERO(&exceptional);
	FD_SET(s[0], &readable), FD_SET(s[0], &writable), FD_SET(s[0], &exceptional);
	CHECK(select(s[0] + 1, &readable, &writable, &exceptional, NULL) == 2 && !FD_ISSET(s[0], &exceptional));
	close(s[0]);
	FAILS(select(s[0] + 1, &readable, NULL, NULL, NULL), EBADF);
	FAILS(select(-1, NULL, NULL, NULL, NULL), EINVAL);
	struct pollfd closed[2] = {{s[0], POLLIN, 7}, {-1, POLLIN, 7}};
	CHECK(poll(closed, 2, 1000) == 1 && closed[0].revents == POLLNVAL && closed[1].revents == 0);
	close(p[0]), close(p[1]), close(ep);
}

/* Which file a set watches. */
static void watched(void)
{
	int set = epoll_create1(0), event = eventfd(0, 0), other = eventfd(0, 0), moved;
	struct kcmp_epoll_slot slot = {set, event, 0};
	CHECK(control(set, EPOLL_CTL_ADD, event, EPOLLIN) == 0);
	int without = syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, event, &slot) == -1 && (errno == ENOSYS || errno == EPERM);
	CHECK(without || syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, event, &slot) == 0);
	CHECK(without || syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, other, &slot) > 0);
	/* The second file that is watched under one number. */
	CHECK((moved = dup(event)) >= 0 && dup2(other, event) == event && control(set, EPOLL_CTL_ADD, event, EPOLLIN) == 0);
	int found[2] = {0, 0};
	for (slot.toff = 0; slot.toff < 2; slot.toff++) {
		found[0] += syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, moved, &slot) == 0;
		found[1] += syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, other, &slot) == 0;
	}
	CHECK(without || (found[0] == 1 && found[1] == 1));
	CHECK(without || (syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, moved, &slot) == -1 && errno == ENOENT));
	slot.efd = event;
	CHECK(without || (syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, moved, &slot) == -1 && errno == EINVAL));
	slot.efd = 999;
	CHECK(without || (syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, moved, &slot) == -1 && errno == EBADF));
	CHECK(without || (syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, moved, NULL) == -1 && errno == EFAULT));
	close(set);
	close(event);
	close(other);
	close(moved);
}

int main(void)
{
	watched();
	nesting();
	flags();
	many();
	masks();
	return DONE();
}
