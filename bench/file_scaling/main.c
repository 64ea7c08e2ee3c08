/*
 * 4 KiB reads of one file in memory by one thread and by two on two CPUs, each with a descriptor of its own: nanoseconds per read, all
 * threads together. Two that do not hinder each other take half of what one takes.
 */
#include "../sections.h"
#include <fcntl.h>
#include <sys/stat.h>

#define PASSES 100000
#define FILE_NAME "/tmp/bench-shared"

static __thread int file = -1;

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
	result("file_scaling_1", pass_cost(1, PASSES, read_page, now_ns));
	result("file_scaling_2", pass_cost(2, PASSES, read_page, now_ns));
	return 0;
}
