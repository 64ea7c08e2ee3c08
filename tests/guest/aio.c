/* Asynchronous I/O by Linux's own calls, and the ring of events that the program may empty by itself. */
#include "check.h"
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

struct ring {
	unsigned id, nr, head, tail, magic, compat, incompat, header_length;
	struct io_event events[];
};

static long setup(unsigned nr, aio_context_t *ctx)
{
	return syscall(SYS_io_setup, nr, ctx);
}
static long destroy(aio_context_t ctx)
{
	return syscall(SYS_io_destroy, ctx);
}
static long submit(aio_context_t ctx, long nr, struct iocb **list)
{
	return syscall(SYS_io_submit, ctx, nr, list);
}
static long events(aio_context_t ctx, long min, long nr, struct io_event *out, struct timespec *timeout)
{
	return syscall(SYS_io_getevents, ctx, min, nr, out, timeout);
}
static long cancel(aio_context_t ctx, struct iocb *cb)
{
	struct io_event result;
	return syscall(SYS_io_cancel, ctx, cb, &result);
}
static struct iocb request(int op, int fd, const void *buf, size_t len, off_t at)
{
	struct iocb cb = {.aio_data = 0x1234 + op, .aio_lio_opcode = op, .aio_fildes = fd, .aio_buf = (uintptr_t)buf, .aio_nbytes = len, .aio_offset = at};
	return cb;
}
/* Submits one request. */
static long one(aio_context_t ctx, struct iocb *cb)
{
	return submit(ctx, 1, &cb);
}
/* Submits one request and waits for what it comes to. */
static long result(aio_context_t ctx, struct iocb cb)
{
	struct io_event event;
	long n = one(ctx, &cb);
	if (n != 1)
		return n == -1 ? -1000 - errno : -2;
	if (events(ctx, 1, 1, &event, NULL) != 1 || event.data != cb.aio_data || event.obj != (uintptr_t)&cb || event.res2 != 0)
		return -3;
	return event.res;
}
static int scratch(void)
{
	int fd = memfd_create("aio", 0);
	CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10);
	return fd;
}
static void nothing(int signal)
{
	(void)signal;
}

static void contexts(void)
{
	aio_context_t ctx = 0, other = 0, kept = 77;
	struct ring *ring;
	struct timespec zero = {0, 0};
	struct io_event event;
	long most = 0;
	FILE *file = fopen("/proc/sys/fs/aio-max-nr", "r");

	CHECK(file && fscanf(file, "%ld", &most) == 1 && most > 0 && fclose(file) == 0);
	FAILS(setup(0, &ctx), EINVAL);
	FAILS(setup(1, &kept), EINVAL);
	FAILS(setup(1, NULL), EFAULT);
	FAILS(setup(10000000, &ctx), EINVAL);
	FAILS(setup(0x80000000, &ctx), EAGAIN);
	CHECK(ctx == 0 && setup(8, &ctx) == 0 && setup(8, &other) == 0 && ctx != other);
	ring = (struct ring *)ctx;
	CHECK(ring->magic == 0xa10a10a1 && ring->compat == 1 && ring->incompat == 0 && ring->header_length == 32);
	CHECK(ring->nr > 8 && ring->head == 0 && ring->tail == 0);
	CHECK(events(ctx, 0, 1, &event, NULL) == 0 && events(ctx, 1, 1, &event, &zero) == 0);
	FAILS(events(ctx, 2, 1, &event, &zero), EINVAL);
	FAILS(events(ctx, -1, 1, &event, &zero), EINVAL);
	FAILS(events(ctx, 1, 1, &event, (void *)8), EFAULT);
	FAILS(events(ctx + 8, 1, 1, &event, &zero), EINVAL);
	CHECK(submit(ctx, 0, NULL) == 0);
	FAILS(submit(ctx, -1, NULL), EINVAL);
	FAILS(submit(ctx, 1, NULL), EFAULT);
	FAILS(submit(0, 0, NULL), EINVAL);
	CHECK(destroy(other) == 0);
	FAILS(destroy(other), EINVAL);
	FAILS(submit(other, 0, NULL), EINVAL);
	FAILS(destroy(0), EINVAL);
	/* The ring has left memory. */
	FAILS(msync((void *)other, 4096, MS_ASYNC), ENOMEM);
	CHECK(destroy(ctx) == 0);
}

static void reads_and_writes(void)
{
	char a[16] = "", b[16] = "";
	struct iovec two[2] = {{a, 2}, {b, 3}};
	struct iocb first, second, *list[3] = {&first, &second, (void *)8};
	struct io_event got[4] = {{0}};
	aio_context_t ctx = 0;
	int fd = scratch(), readonly = open("/proc/self/exe", O_RDONLY), directory = open("/", O_RDONLY);

	CHECK(setup(4, &ctx) == 0);
	CHECK(result(ctx, request(IOCB_CMD_PREAD, fd, a, 4, 3)) == 4 && memcmp(a, "3456", 4) == 0);
	CHECK(result(ctx, request(IOCB_CMD_PREAD, fd, a, 4, 8)) == 2 && result(ctx, request(IOCB_CMD_PREAD, fd, a, 4, 80)) == 0);
	CHECK(result(ctx, request(IOCB_CMD_PWRITE, fd, "xyz", 3, 9)) == 3 && lseek(fd, 0, SEEK_CUR) == 10);
	CHECK(result(ctx, request(IOCB_CMD_PREADV, fd, two, 2, 8)) == 4 && memcmp(a, "8x", 2) == 0 && memcmp(b, "yz", 2) == 0);
	CHECK(result(ctx, request(IOCB_CMD_PWRITEV, fd, two, 2, 0)) == 5 && pread(fd, a, 5, 0) == 5 && memcmp(a, "8xyz", 4) == 0);
	CHECK(result(ctx, request(IOCB_CMD_FSYNC, fd, NULL, 0, 0)) == 0 && result(ctx, request(IOCB_CMD_FDSYNC, fd, NULL, 0, 0)) == 0);
	/* Wrong from the start: the call fails. */
	CHECK(result(ctx, request(IOCB_CMD_PREAD, 999, a, 4, 0)) == -1000 - EBADF);
	CHECK(result(ctx, request(IOCB_CMD_PWRITE, readonly, a, 4, 0)) == -1000 - EBADF);
	CHECK(result(ctx, request(IOCB_CMD_PREAD, fd, a, -1, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_PREAD, fd, a, 4, -1)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_PREAD, directory, a, 4, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_PREADV, fd, two, 1025, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_PREADV, fd, (void *)8, 1, 0)) == -1000 - EFAULT);
	CHECK(result(ctx, request(IOCB_CMD_FSYNC, fd, a, 0, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_NOOP, fd, NULL, 0, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(99, fd, NULL, 0, 0)) == -1000 - EINVAL);
	first = request(IOCB_CMD_PREAD, fd, a, 4, 0);
	first.aio_reserved2 = 1;
	FAILS(one(ctx, &first), EINVAL);
	first = request(IOCB_CMD_PREAD, fd, a, 4, 0);
	first.aio_rw_flags = 0x40000000;
	FAILS(one(ctx, &first), EOPNOTSUPP);
	/* Wrong when it is tried: the event says so. */
	CHECK(result(ctx, request(IOCB_CMD_PREAD, fd, (void *)64, 4, 0)) == -EFAULT);
	/* Several at once; what comes before a wrong one is done. */
	first = request(IOCB_CMD_PWRITE, fd, "AB", 2, 0);
	second = request(IOCB_CMD_PREAD, fd, a, 2, 0);
	CHECK(submit(ctx, 3, list) == 2 && events(ctx, 2, 4, got, NULL) == 2);
	CHECK(got[0].obj == (uintptr_t)&first && got[1].obj == (uintptr_t)&second && got[0].res == 2 && memcmp(a, "AB", 2) == 0);
	/* RWF_APPEND, O_APPEND: at the end, wherever. */
	first = request(IOCB_CMD_PWRITE, fd, "end", 3, 0);
	first.aio_rw_flags = RWF_APPEND;
	CHECK(result(ctx, first) == 3 && lseek(fd, 0, SEEK_END) == 15);
	CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0 && result(ctx, request(IOCB_CMD_PWRITE, fd, "!", 1, 0)) == 1 && lseek(fd, 0, SEEK_END) == 16);
	CHECK(destroy(ctx) == 0);
	close(fd);
	close(readonly);
	close(directory);
}

static void streams(void)
{
	aio_context_t ctx = 0;
	int pipes[2], counter = eventfd(3, 0);
	uint64_t value = 0;
	char a[8];

	signal(SIGPIPE, SIG_IGN);
	CHECK(setup(4, &ctx) == 0 && pipe(pipes) == 0);
	CHECK(result(ctx, request(IOCB_CMD_PWRITE, pipes[1], "hello", 5, 0)) == 5);
	CHECK(result(ctx, request(IOCB_CMD_PREAD, pipes[0], a, 8, 3)) == 5 && memcmp(a, "hello", 5) == 0);
	CHECK(result(ctx, request(IOCB_CMD_FSYNC, pipes[0], NULL, 0, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_PREAD, counter, &value, 8, 0)) == 8 && value == 3);
	CHECK(result(ctx, request(IOCB_CMD_PWRITE, counter, &value, 8, 0)) == -1000 - EINVAL);
	CHECK(fcntl(pipes[0], F_SETFL, O_NONBLOCK) == 0 && result(ctx, request(IOCB_CMD_PREAD, pipes[0], a, 8, 0)) == -EAGAIN);
	close(pipes[0]);
	CHECK(result(ctx, request(IOCB_CMD_PWRITE, pipes[1], "x", 1, 0)) == -EPIPE);
	close(pipes[1]);
	close(counter);
	CHECK(destroy(ctx) == 0);
}

static void ring_and_eventfd(void)
{
	aio_context_t ctx = 0;
	struct timespec zero = {0, 0};
	struct io_event event;
	struct iocb cb;
	struct ring *ring;
	int fd = scratch(), counter = eventfd(0, EFD_NONBLOCK), taken = 0, wrong = 0;
	long submitted = 0, n;
	uint64_t value = 0;
	char a[4];

	CHECK(setup(4, &ctx) == 0);
	ring = (struct ring *)ctx;
	cb = request(IOCB_CMD_PREAD, fd, a, 4, 0);
	cb.aio_flags = IOCB_FLAG_RESFD;
	cb.aio_resfd = counter;
	cb.aio_key = 99;
	CHECK(one(ctx, &cb) == 1 && cb.aio_key == 0 && read(counter, &value, 8) == 8 && value == 1);
	CHECK(one(ctx, &cb) == 1 && one(ctx, &cb) == 1 && read(counter, &value, 8) == 8 && value == 2);
	cb.aio_resfd = fd;
	FAILS(one(ctx, &cb), EINVAL);
	cb.aio_resfd = 999;
	FAILS(one(ctx, &cb), EBADF);
	/* Taken without a call: the kernel sees it. */
	CHECK(ring->head == 0 && ring->tail == 3 && ring->events[2].res == 4 && ring->events[2].obj == (uintptr_t)&cb);
	__atomic_store_n(&ring->head, 2, __ATOMIC_RELEASE);
	CHECK(events(ctx, 1, 1, &event, NULL) == 1 && ring->head == 3 && events(ctx, 0, 1, &event, &zero) == 0);
	/* Full: no request more than the ring has room for, until events are taken, by whom ever. */
	cb.aio_flags = 0;
	while ((n = one(ctx, &cb)) == 1)
		submitted++;
	CHECK(n == -1 && errno == EAGAIN && submitted >= 4 && submitted < ring->nr);
	while (ring->head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE)) {
		wrong += ring->events[ring->head].res != 4;
		__atomic_store_n(&ring->head, (ring->head + 1) % ring->nr, __ATOMIC_RELEASE);
		taken++;
	}
	CHECK(taken == submitted && wrong == 0);
	/* Around the end, many times. */
	for (int i = 0; i < 500; i++)
		wrong += result(ctx, request(IOCB_CMD_PREAD, fd, a, 1 + i % 4, 0)) != 1 + i % 4;
	CHECK(wrong == 0);
	CHECK(one(ctx, &cb) == 1);
	FAILS(events(ctx, 1, 1, (void *)64, NULL), EFAULT);
	CHECK(events(ctx, 1, 1, &event, NULL) == 1 && event.res == 4);
	CHECK(destroy(ctx) == 0);
	close(fd);
	close(counter);
}

static void polls(void)
{
	aio_context_t ctx = 0;
	struct timespec zero = {0, 0}, soon = {0, 20000000}, long_ = {60, 0};
	struct io_event event = {0};
	struct iocb cb, other;
	int pipes[2], counter = eventfd(0, 0), fd = scratch();
	uint64_t value;

	CHECK(setup(4, &ctx) == 0 && pipe(pipes) == 0);
	CHECK(result(ctx, request(IOCB_CMD_POLL, pipes[1], (void *)POLLOUT, 0, 0)) == POLLOUT);
	CHECK(result(ctx, request(IOCB_CMD_POLL, fd, (void *)POLLIN, 0, 0)) == POLLIN);
	CHECK(result(ctx, request(IOCB_CMD_POLL, fd, (void *)POLLPRI, 0, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_POLL, pipes[0], (void *)0x10000, 0, 0)) == -1000 - EINVAL);
	CHECK(result(ctx, request(IOCB_CMD_POLL, pipes[0], (void *)POLLIN, 1, 0)) == -1000 - EINVAL);
	/* One that waits, while others are done. */
	cb = request(IOCB_CMD_POLL, pipes[0], (void *)POLLIN, 0, 0);
	cb.aio_flags = IOCB_FLAG_RESFD;
	cb.aio_resfd = counter;
	CHECK(one(ctx, &cb) == 1 && events(ctx, 1, 1, &event, &zero) == 0 && events(ctx, 1, 1, &event, &soon) == 0);
	CHECK(write(pipes[1], "x", 1) == 1 && events(ctx, 1, 1, &event, &long_) == 1);
	CHECK(event.obj == (uintptr_t)&cb && (event.res & POLLIN) && read(counter, &value, 8) == 8 && value == 1);
	/* Once only. */
	CHECK(write(pipes[1], "x", 1) == 1 && events(ctx, 1, 1, &event, &soon) == 0);
	CHECK(read(pipes[0], &value, 8) == 2);
	/* Cancelled: the event comes all the same, with nothing. */
	other = request(IOCB_CMD_POLL, pipes[0], (void *)POLLIN, 0, 0);
	CHECK(one(ctx, &other) == 1);
	FAILS(cancel(ctx, &cb), EINVAL);
	FAILS(cancel(ctx, &other), EINPROGRESS);
	CHECK(events(ctx, 1, 1, &event, &long_) == 1 && event.obj == (uintptr_t)&other && event.res == 0);
	FAILS(cancel(ctx, &other), EINVAL);
	other.aio_key = 1;
	FAILS(cancel(ctx, &other), EINVAL);
	FAILS(cancel(ctx, NULL), EFAULT);
	/* The other end is gone. */
	cb.aio_flags = 0;
	CHECK(one(ctx, &cb) == 1 && close(pipes[1]) == 0 && events(ctx, 1, 1, &event, &long_) == 1 && event.res == POLLHUP);
	/* A chain: each poll tells the eventfd that the next one waits for. */
	{
		enum { LINKS = 40 };
		int links[LINKS + 1];
		struct iocb chain[LINKS], *list[LINKS];
		struct io_event all[LINKS];
		aio_context_t many = 0;
		long sum = 0;
		for (int i = 0; i <= LINKS; i++)
			links[i] = eventfd(0, 0);
		for (int i = 0; i < LINKS; i++) {
			chain[i] = request(IOCB_CMD_POLL, links[i], (void *)POLLIN, 0, 0);
			chain[i].aio_flags = IOCB_FLAG_RESFD;
			chain[i].aio_resfd = links[i + 1];
			list[i] = &chain[i];
		}
		CHECK(setup(LINKS, &many) == 0 && submit(many, LINKS, list) == LINKS);
		value = 1;
		CHECK(write(links[0], &value, 8) == 8 && read(links[LINKS], &value, 8) == 8 && value == 1);
		CHECK(events(many, LINKS, LINKS, all, NULL) == LINKS);
		for (int i = 0; i < LINKS; i++)
			sum += (all[i].res & POLLIN) && all[i].obj == (uintptr_t)&chain[i];
		CHECK(sum == LINKS && destroy(many) == 0);
		for (int i = 0; i <= LINKS; i++)
			close(links[i]);
	}
	/* Left waiting when the context ends. */
	CHECK(pipe(pipes) == 0);
	cb = request(IOCB_CMD_POLL, pipes[0], (void *)POLLIN, 0, 0);
	CHECK(one(ctx, &cb) == 1 && destroy(ctx) == 0 && write(pipes[1], "x", 1) == 1);
	close(pipes[0]);
	close(pipes[1]);
	close(counter);
	close(fd);
}

static aio_context_t shared;
static void *waiter(void *unused)
{
	struct io_event event;
	(void)unused;
	return (void *)(events(shared, 1, 1, &event, NULL) == 1 ? (long)event.res : -errno);
}

static void waits(void)
{
	struct io_event event;
	struct timespec soon = {0, 30000000};
	struct iocb cb;
	struct sigaction action = {.sa_handler = nothing};
	struct {
		sigset_t *mask;
		size_t size;
	} mask;
	sigset_t set, before;
	pthread_t thread;
	int pipes[2];
	void *value;

	CHECK(setup(4, &shared) == 0 && pipe(pipes) == 0);
	/* A thread waits for what another one submits. */
	CHECK(pthread_create(&thread, NULL, waiter, NULL) == 0);
	cb = request(IOCB_CMD_POLL, pipes[0], (void *)POLLIN, 0, 0);
	CHECK(one(shared, &cb) == 1 && write(pipes[1], "x", 1) == 1);
	CHECK(pthread_join(thread, &value) == 0 && ((long)value & POLLIN));
	/* A signal that was blocked ends a wait that lets it through. */
	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &before);
	raise(SIGUSR1);
	CHECK(events(shared, 1, 1, &event, &soon) == 0);
	mask.mask = &before;
	mask.size = 8;
	FAILS(syscall(SYS_io_pgetevents, shared, 1, 1, &event, NULL, &mask), EINTR);
	CHECK(sigpending(&set) == 0 && !sigismember(&set, SIGUSR1));
	mask.size = 4;
	FAILS(syscall(SYS_io_pgetevents, shared, 1, 1, &event, NULL, &mask), EINVAL);
	CHECK(syscall(SYS_io_pgetevents, shared, 1, 1, &event, &soon, NULL) == 0);
	/* The end of a context ends the wait. */
	CHECK(pthread_create(&thread, NULL, waiter, NULL) == 0);
	sleep_ms(30);
	CHECK(destroy(shared) == 0 && pthread_join(thread, &value) == 0 && (long)value == -EINVAL);
	close(pipes[0]);
	close(pipes[1]);
}

static void processes(char *self)
{
	aio_context_t ctx = 0, gone = 0;
	struct iocb cb;
	struct io_event event;
	int pipes[2], fd = scratch(), status;
	char a[4], text[32];
	pid_t child;

	CHECK(setup(4, &ctx) == 0 && pipe(pipes) == 0);
	cb = request(IOCB_CMD_PREAD, fd, a, 4, 0);
	if ((child = fork()) == 0) {
		/* A child has memory of its own, and no context in it. */
		int ok = one(ctx, &cb) == -1 && errno == EINVAL && destroy(ctx) == -1 && errno == EINVAL;
		ok = ok && setup(4, &gone) == 0 && result(gone, cb) == 4;
		/* Ends with a request that waits. */
		cb = request(IOCB_CMD_POLL, pipes[0], (void *)POLLIN, 0, 0);
		_exit(ok && one(gone, &cb) == 1 ? 0 : 1);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(one(ctx, &cb) == 1 && events(ctx, 1, 1, &event, NULL) == 1 && event.res == 4);
	if ((child = fork()) == 0) {
		/* A program that replaces this one has none either. */
		setup(4, &gone);
		snprintf(text, sizeof text, "%lu", (unsigned long)gone);
		execl(self, self, "after-exec", text, NULL);
		_exit(9);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(destroy(ctx) == 0);
}

int main(int argc, char **argv)
{
	if (argc == 3)
		return destroy(strtoul(argv[2], NULL, 10)) == -1 && errno == EINVAL ? 0 : 1;
	contexts();
	reads_and_writes();
	streams();
	ring_and_eventfd();
	polls();
	waits();
	processes(argv[0]);
	return DONE();
}
