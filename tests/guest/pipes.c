/* Pipes, descriptors, poll and select. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

static int fds[2];
static char big[200000];

static void *slow_writer(void *arg)
{
	for (long i = 0; i < (long)arg; i++) {
		sleep_ms(30);
		(void)!write(fds[1], "abc", 3);
	}
	close(fds[1]);
	return NULL;
}
static void *big_writer(void *arg)
{
	(void)arg;
	(void)!(write(fds[1], big, sizeof big) == sizeof big);
	close(fds[1]);
	return NULL;
}
static volatile int pipe_signals;
static void on_pipe(int signal)
{
	(void)signal;
	pipe_signals++;
}

int main(void)
{
	char buf[4096];
	struct stat st;
	int n;
	struct pollfd pfd;
	pthread_t t;

	CHECK(pipe2(fds, O_CLOEXEC) == 0);
	CHECK(fcntl(fds[0], F_GETFD) == FD_CLOEXEC && (fcntl(fds[0], F_GETFL) & O_ACCMODE) == O_RDONLY && (fcntl(fds[1], F_GETFL) & O_ACCMODE) == O_WRONLY);
	CHECK(fstat(fds[0], &st) == 0 && S_ISFIFO(st.st_mode));
	CHECK(write(fds[1], "hello", 5) == 5 && ioctl(fds[0], FIONREAD, &n) == 0 && n == 5);
	CHECK(read(fds[0], buf, 2) == 2 && read(fds[0], buf, 10) == 3 && !memcmp(buf, "llo", 3));
	FAILS(lseek(fds[0], 0, SEEK_SET), ESPIPE);
	FAILS(pread(fds[0], buf, 1, 0), ESPIPE);
	FAILS(write(fds[0], buf, 1), EBADF);
	FAILS(read(fds[1], buf, 1), EBADF);
	CHECK(fcntl(fds[1], F_GETPIPE_SZ) == 65536);

	/* Non-blocking, full, empty. */
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	FAILS(read(fds[0], buf, 1), EAGAIN);
	long wrote = 0, got = 0;
	while ((n = write(fds[1], big, 4096)) > 0)
		wrote += n;
	CHECK(n == -1 && errno == EAGAIN && wrote == 65536);
	pfd = (struct pollfd){ fds[1], POLLOUT, 0 };
	CHECK(poll(&pfd, 1, 0) == 0);
	pfd = (struct pollfd){ fds[0], POLLIN, 0 };
	CHECK(poll(&pfd, 1, 0) == 1 && pfd.revents == POLLIN);
	while ((n = read(fds[0], buf, sizeof buf)) > 0)
		got += n;
	CHECK(got == wrote);
	pfd = (struct pollfd){ fds[1], POLLOUT, 0 };
	CHECK(poll(&pfd, 1, 0) == 1 && pfd.revents == POLLOUT);

	/* Hang-up and broken pipe. */
	close(fds[1]);
	pfd = (struct pollfd){ fds[0], POLLIN, 0 };
	CHECK(poll(&pfd, 1, -1) == 1 && pfd.revents == POLLHUP);
	CHECK(read(fds[0], buf, 1) == 0);
	close(fds[0]);
	CHECK(pipe(fds) == 0);
	close(fds[0]);
	signal(SIGPIPE, on_pipe);
	FAILS(write(fds[1], "x", 1), EPIPE);
	CHECK(pipe_signals == 1);
	pfd = (struct pollfd){ fds[1], POLLOUT, 0 };
	CHECK(poll(&pfd, 1, -1) == 1 && pfd.revents == (POLLOUT | POLLERR));
	close(fds[1]);
	pfd = (struct pollfd){ fds[1], POLLOUT, 0 };
	CHECK(poll(&pfd, 1, -1) == 1 && pfd.revents == POLLNVAL);

	/* Blocking reads, a writer in another thread. */
	CHECK(pipe(fds) == 0);
	pthread_create(&t, NULL, slow_writer, (void *)3);
	got = 0;
	while ((n = read(fds[0], buf, sizeof buf)) > 0)
		got += n;
	CHECK(n == 0 && got == 9);
	pthread_join(t, NULL);
	close(fds[0]);

	/* A write larger than the pipe. */
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = i * 7 + i / 251;
	CHECK(pipe(fds) == 0);
	pthread_create(&t, NULL, big_writer, NULL);
	unsigned sum = 0, want = 0;
	for (size_t i = 0; i < sizeof big; i++)
		want = want * 31 + (unsigned char)big[i];
	for (got = 0; (n = read(fds[0], buf, 1000)) > 0; got += n)
		for (int i = 0; i < n; i++)
			sum = sum * 31 + (unsigned char)buf[i];
	CHECK(got == sizeof big && sum == want);
	pthread_join(t, NULL);
	close(fds[0]);

	/* readv, writev, dup. */
	CHECK(pipe(fds) == 0);
	struct iovec out[3] = { { "one", 3 }, { "", 0 }, { "two", 3 } }, in[2] = { { buf, 4 }, { buf + 10, 10 } };
	CHECK(writev(fds[1], out, 3) == 6);
	CHECK(readv(fds[0], in, 2) == 6 && !memcmp(buf, "onet", 4) && !memcmp(buf + 10, "wo", 2));
	FAILS(writev(fds[1], out, -1), EINVAL);
	FAILS(writev(fds[1], out, 1025), EINVAL);
	int copy = dup(fds[1]);
	CHECK(copy == fds[1] + 1 && dup2(copy, 50) == 50 && dup3(copy, 51, O_CLOEXEC) == 51);
	CHECK(fcntl(50, F_GETFD) == 0 && fcntl(51, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_DUPFD, 60) == 60 && fcntl(copy, F_DUPFD_CLOEXEC, 60) == 61);
	FAILS(dup2(99, 52), EBADF);
	FAILS(dup3(copy, copy, 0), EINVAL);
	CHECK(dup2(copy, copy) == copy);
	CHECK(write(61, "z", 1) == 1 && read(fds[0], buf, 5) == 1 && buf[0] == 'z');
	CHECK(close(copy) == 0 && close(50) == 0);
	FAILS(close(50), EBADF);

	/* select. */
	fd_set r, w;
	FD_ZERO(&r); FD_ZERO(&w);
	FD_SET(fds[0], &r); FD_SET(fds[1], &w);
	struct timeval tv = { 0, 10000 };
	CHECK(select(64, &r, &w, NULL, &tv) == 1 && !FD_ISSET(fds[0], &r) && FD_ISSET(fds[1], &w));
	FD_SET(fds[0], &r);
	tv = (struct timeval){ 0, 10000 };
	CHECK(select(64, &r, NULL, NULL, &tv) == 0 && !FD_ISSET(fds[0], &r) && tv.tv_usec == 0);
	/* A closed descriptor below the table's end: past it (64 here, or more with what the parent left open), Linux looks at nothing. */
	FD_SET(55, &r);
	FAILS(select(56, &r, NULL, NULL, NULL), EBADF);
	close(51); close(60); close(61);
	pthread_create(&t, NULL, slow_writer, (void *)1);
	FD_ZERO(&r);
	FD_SET(fds[0], &r);
	CHECK(select(64, &r, NULL, NULL, NULL) == 1 && FD_ISSET(fds[0], &r));
	CHECK(read(fds[0], buf, 5) == 3);
	pthread_join(t, NULL);
	struct timespec ts = { 0, 20000000 }, before, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	CHECK(ppoll(NULL, 0, &ts, NULL) == 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	CHECK((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec >= 20000000);
	return DONE();
}
