/*
 * Guest instructions of calls on files: the best batch of twenty, the loop included. The files lie in a tmpfs directory of the root, as
 * /tmp does in Linux. The system calls go through the C library's functions.
 */
#include "../bench.h"
#include <fcntl.h>
#include <sys/stat.h>

#define COUNT 200
#define BATCHES 20
#define FILE_NAME "/tmp/bench-file"
#define NEW_FILE "/tmp/bench-new"

static char page[4096];
static int file, zero;

static void do_fstat(void)
{
	struct stat stat;
	check(fstat(file, &stat) == 0, "fstat");
}

static void do_stat(void)
{
	struct stat found;
	check(stat(FILE_NAME, &found) == 0, "stat");
}

static void open_close(void)
{
	int opened = open(FILE_NAME, O_RDONLY);
	check(opened >= 0 && close(opened) == 0, "open, close");
}

static void open_read_close(void)
{
	int opened = open(FILE_NAME, O_RDONLY);
	check(opened >= 0 && read(opened, page, sizeof page) == sizeof page && close(opened) == 0, "open, read, close");
}

static void pread_page(void)
{
	check(pread(file, page, sizeof page, 0) == sizeof page, "pread");
}

static void read_zero(void)
{
	char byte;
	check(read(zero, &byte, 1) == 1, "read");
}

static void create_file(void)
{
	int made = open(NEW_FILE, O_WRONLY | O_CREAT | O_EXCL, 0644);
	check(made >= 0 && write(made, page, sizeof page) == sizeof page && close(made) == 0, "create, write");
}

static void remove_file(void)
{
	check(unlink(NEW_FILE) == 0, "unlink");
}

static void measure(const char *name, void (*call)(void))
{
	uint64_t best = UINT64_MAX;
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < COUNT; i++)
			call();
		best = smaller(best, counter() - start);
	}
	result(name, (double)best / COUNT);
}

/* Two calls that undo each other, each measured by itself. */
static void measure_pair(const char *name, void (*call)(void), const char *undo_name, void (*undo)(void))
{
	uint64_t best = UINT64_MAX, undo_best = UINT64_MAX;
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t cost = 0, undo_cost = 0;
		for (int i = 0; i < COUNT; i++) {
			uint64_t start = counter();
			call();
			uint64_t between = counter();
			undo();
			cost += between - start;
			undo_cost += counter() - between;
		}
		best = smaller(best, cost);
		undo_best = smaller(undo_best, undo_cost);
	}
	result(name, (double)best / COUNT);
	result(undo_name, (double)undo_best / COUNT);
}

int main(void)
{
	/* Where the root is no tmpfs, or /tmp is missing. */
	mkdir("/tmp", 01777);
	check((file = open(FILE_NAME, O_RDWR | O_CREAT, 0644)) >= 0, FILE_NAME);
	check(write(file, page, sizeof page) == sizeof page, "write");
	check((zero = open("/dev/zero", O_RDONLY)) >= 0, "/dev/zero");
	measure("file_fstat", do_fstat);
	measure("file_stat", do_stat);
	measure("file_open_close", open_close);
	measure("file_open_read_close", open_read_close);
	measure("file_pread_4k", pread_page);
	measure("file_read_zero", read_zero);
	measure_pair("file_create_4k", create_file, "file_unlink", remove_file);
	return 0;
}
