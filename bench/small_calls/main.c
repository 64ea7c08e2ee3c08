/* Guest instructions of calls that do little, made as a program makes them, through the C library. */
#include "../batches.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#define COUNT 500

static int zero, file, ends[2], event, polled;
static char page[4096];

static void zero_read(void)
{
	check(read(zero, page, 1) == 1, "read");
}

static void file_status(void)
{
	struct stat status;
	check(fstat(file, &status) == 0, "fstat");
}

static void through_pipe(void)
{
	check(write(ends[1], page, 1) == 1 && read(ends[0], page, 1) == 1, "pipe");
}

static void through_event(void)
{
	uint64_t one = 1;
	check(write(event, &one, 8) == 8 && read(event, &one, 8) == 8, "eventfd");
}

static void wait_for_ready(void)
{
	struct epoll_event ready;
	check(epoll_wait(polled, &ready, 1, -1) == 1, "epoll_wait");
}

static void page_read(void)
{
	check(pread(file, page, sizeof page, 0) == sizeof page, "pread");
}

/* So short that even a call more would show. */
static void measure_clock(void)
{
	struct timespec now;
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 30; i++) {
		uint64_t start = counter();
		for (int j = 0; j < COUNT; j++)
			clock_gettime(CLOCK_MONOTONIC, &now);
		best = smaller(best, counter() - start);
	}
	result("clock_gettime", (double)best / COUNT);
}

static void measure(const char *name, void (*call)(void))
{
	result(name, best_batch(COUNT, call));
}

int main(void)
{
	zero = open("/dev/zero", O_RDONLY);
	file = open("/tmp/small_calls", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (file < 0)
		file = open("/small_calls", O_RDWR | O_CREAT | O_TRUNC, 0600);
	check(zero >= 0 && write(file, page, sizeof page) == sizeof page, "files");
	check(pipe(ends) == 0, "pipe");
	event = eventfd(0, 0);
	polled = epoll_create1(0);
	int ready = eventfd(1, 0);
	struct epoll_event interest = {.events = EPOLLIN};
	check(event >= 0 && polled >= 0 && epoll_ctl(polled, EPOLL_CTL_ADD, ready, &interest) == 0, "epoll");
	measure_clock();
	measure("read_zero", zero_read);
	measure("fstat", file_status);
	measure("pipe_write_read", through_pipe);
	measure("eventfd_write_read", through_event);
	measure("epoll_ready", wait_for_ready);
	measure("pread_4k", page_read);
	return 0;
}
