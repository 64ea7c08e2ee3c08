/* Uses up the machine's memory in different ways, in a small virtual machine: errors where there are some, SIGKILL otherwise, and everything
 * works again after giving back. On a large machine (the host) limits stand in for the lack of memory. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>

static int small;

static void limit(int what, rlim_t value)
{
	struct rlimit r = { value, value };
	setrlimit(what, &r);
}

/* Makes two descriptors, or says -1. */
static int pair(int kind, int fd[2])
{
	switch (kind) {
	case 0:
		return pipe(fd);
	case 1:
		return socketpair(AF_UNIX, SOCK_STREAM, 0, fd);
	case 2:
		return (fd[0] = epoll_create1(0)) < 0 || (fd[1] = eventfd(1, 0)) < 0 ||
			epoll_ctl(fd[0], EPOLL_CTL_ADD, fd[1], &(struct epoll_event){ .events = EPOLLIN }) ? -1 : 0;
	case 3:
		return (fd[0] = open("/", O_RDONLY)) < 0 || (fd[1] = open("/tmp/exhaust", O_RDWR | O_CREAT, 0600)) < 0 ? -1 : 0;
	default:
		return (fd[0] = fd[1] = memfd_create("exhaust", 0)) < 0 || write(fd[0], "12345678", 8) != 8 ? -1 : 0;
	}
}

static void descriptors(void)
{
	limit(RLIMIT_NOFILE, small ? 1 << 20 : 500);
	for (int kind = 0; kind < 5; kind++) {
		int fd[2], highest = 0, none = 0;
		while (pair(kind, fd) == 0)
			highest = fd[0] > fd[1] ? fd[0] : fd[1];
		CHECK(highest > 100 && (errno == ENOMEM || errno == ENFILE || errno == EMFILE));
		for (int i = 3; i < highest + 3; i++)
			none += close(i) != 0;
		CHECK(none < 5 && pair(kind, fd) == 0);
	}
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *waiter(void *arg)
{
	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
	return arg;
}

static void threads(void)
{
	static pthread_t thread[10000];
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16384);
	for (int round = 0; round < 2; round++) {
		int most = small ? 10000 : 500, n = 0, error = EAGAIN;
		pthread_mutex_lock(&gate);
		while (n < most && (error = pthread_create(&thread[n], &attributes, waiter, NULL)) == 0)
			n++;
		CHECK(n >= 200 && (error == EAGAIN || !small));
		pthread_mutex_unlock(&gate);
		int joined = 0;
		for (int i = 0; i < n; i++)
			joined += pthread_join(thread[i], NULL) == 0;
		CHECK(joined == n);
	}
}

/* As many processes as there is room for: then a refusal, and the same again. */
static void processes(void)
{
	static pid_t made[10000];
	for (int round = 0; round < 2; round++) {
		int most = small ? 10000 : 500, n = 0, ended = 0;
		while (n < most && (made[n] = fork()) >= 0) {
			if (made[n] == 0) {
				pause();
				_exit(1);
			}
			n++;
		}
		CHECK(n >= 100 && (n == most || errno == EAGAIN || errno == ENOMEM));
		for (int i = 0; i < n; i++) {
			int status;
			ended += kill(made[i], SIGKILL) == 0 && waitpid(made[i], &status, 0) == made[i] && WTERMSIG(status) == SIGKILL;
		}
		CHECK(ended == n);
	}
}

static void files(void)
{
	static char block[65536];
	signal(SIGXFSZ, SIG_IGN);
	if (!small)
		limit(RLIMIT_FSIZE, 1 << 20);
	for (int round = 0; round < 2; round++) {
		int fd = open("/tmp/exhaust-file", O_RDWR | O_CREAT | O_TRUNC, 0600);
		memset(block, 'x', sizeof block);
		while (write(fd, block, sizeof block) > 0)
			;
		CHECK(errno == ENOSPC || errno == EFBIG);
		CHECK(lseek(fd, 0, SEEK_CUR) >= 1 << 20 && pread(fd, block, 1, 12345) == 1 && block[0] == 'x');
		CHECK(close(fd) == 0 && unlink("/tmp/exhaust-file") == 0);
	}
}

int main(int argc, char **argv)
{
	struct sysinfo info;
	sysinfo(&info);
	small = info.totalram * info.mem_unit < 100ul << 20;
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "descriptors")) {
		descriptors();
	} else if (!strcmp(what, "threads")) {
		threads();
	} else if (!strcmp(what, "processes")) {
		processes();
	} else if (!strcmp(what, "files")) {
		files();
	} else {
		size_t size = 1ul << 30;
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
			(strcmp(what, "shared") ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		CHECK(p != MAP_FAILED);
		if (!small)
			raise(SIGKILL);
		if (!strcmp(what, "kernel"))
			/* The kernel touches the pages. */
			read(open("/dev/zero", O_RDONLY), p, size);
		else
			memset(p, 1, size);
		CHECK(!"still alive");
	}
	return DONE();
}
