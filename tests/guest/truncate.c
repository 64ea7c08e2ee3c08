/* Files that are mapped and then lose pages: SIGBUS beyond the end, in every mapping; new zero pages after growing. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define P 4096ul
#define RW (PROT_READ | PROT_WRITE)

static __thread sigjmp_buf escape;
static __thread siginfo_t last;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	last = *info;
	siglongjmp(escape, 1);
}

/* Whether reading is a bus error at that address. */
static int bus(volatile char *p)
{
	if (sigsetjmp(escape, 1))
		return last.si_signo == SIGBUS && last.si_code == BUS_ADRERR && last.si_addr == p;
	(void)*p;
	return 0;
}

static char *map(int fd, size_t pages, int flags)
{
	return mmap(NULL, pages * P, RW, flags, fd, 0);
}

static int all(const char *p, size_t n, char value)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != value)
			return 0;
	return 1;
}

static void fill(int fd, size_t pages, char value)
{
	char page[4096];
	memset(page, value, sizeof page);
	for (size_t i = 0; i < pages; i++)
		pwrite(fd, page, P, i * P);
}

static int racing_fd;
static atomic_int stop;

static void *toucher(void *arg)
{
	char *m = arg;
	long seen = 0;
	while (!stop)
		for (int i = 0; i < 8; i++)
			seen += !bus(m + i * P);
	return (void *)(seen > 0);
}

static void whole_life(int fd)
{
	fill(fd, 6, 'x');
	char *shared = map(fd, 6, MAP_SHARED), *again = map(fd, 6, MAP_SHARED), *private = map(fd, 6, MAP_PRIVATE);
	char *upper = mmap(NULL, 2 * P, PROT_READ, MAP_SHARED, fd, 4 * P);
	CHECK(all(shared, 6 * P, 'x') && all(again, 6 * P, 'x') && all(private, 6 * P, 'x') && all(upper, 2 * P, 'x'));
	private[5 * P] = 'p';
	private[1] = 'p';
	CHECK(ftruncate(fd, 4 * P + 10) == 0);
	CHECK(bus(shared + 5 * P) && bus(again + 5 * P + 7) && bus(private + 5 * P) && bus(upper + P));
	CHECK(all(shared + 4 * P, 10, 'x') && all(shared + 4 * P + 10, P - 10, 0) && all(upper + 10, P - 10, 0));
	CHECK(private[1] == 'p' && private[0] == 'x');
	char *moved = mremap(again, 6 * P, 12 * P, MREMAP_MAYMOVE);
	CHECK(ftruncate(fd, 2 * P) == 0 && bus(moved + 2 * P) && bus(moved + 11 * P) && bus(upper) && moved[2 * P - 1] == 'x');
	CHECK(ftruncate(fd, 7 * P) == 0 && all(shared + 2 * P, 4 * P, 0) && all(private + 2 * P, 4 * P, 0) && all(upper, 2 * P, 0));
	shared[5 * P] = 's';
	CHECK(moved[5 * P] == 's' && upper[P] == 's' && private[5 * P] == 's' && bus(moved + 7 * P));

	/* Holes: zeros, also in unchanged private pages; changed ones stay. */
	fill(fd, 6, 'h');
	CHECK(all(private + P, P, 'h'));
	private[3 * P] = 'p';
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, P - 1, 4 * P) == 0);
	CHECK(shared[P - 2] == 'h' && all(shared + P - 1, 4 * P, 0) && shared[5 * P] == 'h' && all(moved + P - 1, 4 * P, 0));
	CHECK(all(private + P, 2 * P, 0) && private[3 * P] == 'p' && private[3 * P + 1] == 'h');
	shared[P] = 'n';
	char byte;
	CHECK(moved[P] == 'n' && pread(fd, &byte, 1, P) == 1 && byte == 'n');

	/* In a child. */
	pid_t child = fork();
	if (child == 0) {
		while (*(volatile char *)shared != 'g')
			usleep(1000);
		_exit(bus(shared + 3 * P) && bus(private + 3 * P) ? 7 : 8);
	}
	CHECK(ftruncate(fd, P) == 0);
	shared[0] = 'g';
	int status = 0;
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	CHECK(munmap(shared, 6 * P) == 0 && munmap(private, 6 * P) == 0 && munmap(upper, 2 * P) == 0);
	CHECK(ftruncate(fd, 0) == 0 && bus(moved) && munmap(moved, 12 * P) == 0);
	CHECK(ftruncate(fd, P) == 0 && ftruncate(fd, 0) == 0);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);

	int fd = open("/tmp/truncate-file", O_RDWR | O_CREAT | O_TRUNC, 0600);
	whole_life(fd);
	int memory = memfd_create("truncate", 0);
	whole_life(memory);

	fill(fd, 2, 'o');
	char *m = map(fd, 2, MAP_SHARED);
	CHECK(m[P] == 'o' && truncate("/tmp/truncate-file", P) == 0 && bus(m + P) && m[0] == 'o');
	int other = open("/tmp/truncate-file", O_WRONLY | O_TRUNC);
	CHECK(bus(m) && write(other, "new", 3) == 3 && !memcmp(m, "new\0", 4));
	CHECK(unlink("/tmp/truncate-file") == 0 && ftruncate(fd, 0) == 0 && bus(m));

	/* System calls report pages that are not there. */
	fill(memory, 2, 'e');
	char *half = map(memory, 2, MAP_SHARED);
	CHECK(half[P] == 'e' && ftruncate(memory, P) == 0);
	FAILS(write(fd, half + P, 10), EFAULT);

	/* Threads that touch all the time never keep a page that is gone. */
	racing_fd = memfd_create("racing", 0);
	char *racing = map(racing_fd, 8, MAP_SHARED);
	pthread_t threads[3];
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, toucher, racing);
	int kept = 0, lost = 0;
	for (int round = 0; round < 300; round++) {
		ftruncate(racing_fd, 8 * P);
		pwrite(racing_fd, "r", 1, 7 * P);
		lost += racing[7 * P] != 'r';
		if (round % 10 == 0)
			usleep(1000);
		ftruncate(racing_fd, P);
		for (int i = 1; i < 8; i++)
			kept += !bus(racing + i * P);
	}
	stop = 1;
	int touched = 0;
	for (int i = 0; i < 3; i++) {
		void *seen;
		pthread_join(threads[i], &seen);
		touched += seen != NULL;
	}
	CHECK(kept == 0 && lost == 0 && touched == 3);
	return DONE();
}
