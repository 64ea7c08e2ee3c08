/* What a program pays for being able to fork, in guest instructions: a first touch of a page and a short system call before it ever forked, while it has a
 * child, and after the child has ended. The pages are fresh each time: what a fork shares must be copied by whoever writes to it. */
#include "../batches.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGES 512

static int zero;

static void touch(const char *name)
{
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		char *region = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(region != MAP_FAILED, "mmap");
		madvise(region, PAGES * 4096, MADV_NOHUGEPAGE);
		uint64_t start = counter();
		for (int page = 0; page < PAGES; page++)
			((volatile char *)region)[page * 4096] = 1;
		best = smaller(best, counter() - start);
		munmap(region, PAGES * 4096);
	}
	result(name, (double)best / PAGES);
}

static void read_byte(void)
{
	char byte;
	check(read(zero, &byte, 1) == 1, "read");
}

static void call(const char *name)
{
	result(name, best_batch(200, read_byte));
}

int main(void)
{
	int status;
	zero = open("/dev/zero", O_RDONLY);
	touch("fault_before_fork");
	call("call_before_fork");
	pid_t child = fork();
	if (child == 0) {
		pause();
		_exit(1);
	}
	touch("fault_beside_child");
	call("call_beside_child");
	check(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child, "child");
	touch("fault_after_fork");
	call("call_after_fork");
	return 0;
}
