/*
 * 4 KiB reads of one file in memory by one thread and by two on two CPUs, each with a descriptor of its own: nanoseconds per read, all
 * threads together. Two that do not hinder each other take half of what one takes; the share says so in per cent.
 */
#include "../sections.h"
#include <fcntl.h>
#include <sys/stat.h>

#define PASSES 100000
#define FILE_NAME "/tmp/bench-shared"

static __thread int file = -1;

static double least(double a, double b)
{
	return a < b ? a : b;
}

static void read_page(void)
{
	char page[4096];
	if (file < 0)
		check((file = open(FILE_NAME, O_RDONLY)) >= 0, FILE_NAME);
	check(pread(file, page, sizeof page, 0) == sizeof page, "pread");
}

int main(void)
{
	static const char page[4096];
	mkdir("/tmp", 01777);
	int made = open(FILE_NAME, O_WRONLY | O_CREAT, 0644);
	check(made >= 0 && write(made, page, sizeof page) == sizeof page, FILE_NAME);
	/* The best of five: the others met the host's own threads. */
	double one = 1e9, two = 1e9;
	for (int i = 0; i < 5; i++) {
		one = least(one, pass_cost(1, PASSES, read_page, now_ns));
		two = least(two, pass_cost(2, PASSES, read_page, now_ns));
	}
	result("file_scaling_1", one);
	result("file_scaling_2", two);
	result("file_scaling_share", 100 * two / one);
	return 0;
}
