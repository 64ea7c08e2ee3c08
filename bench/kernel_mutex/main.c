/*
 * The kernel's own mutexes under contention: two, four and eight threads on two CPUs write 64 bytes to the start of one file in memory
 * (the lock of the file), or a byte to one eventfd and take it again (the lock of the descriptor): nanoseconds per pass.
 */
#include "../sections.h"
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define PASSES 100000

static int file, event;

static void write_file(void)
{
	static const char bytes[64];
	check(pwrite(file, bytes, sizeof bytes, 0) == sizeof bytes, "pwrite");
}

static void write_event(void)
{
	uint64_t count = 1;
	check(write(event, &count, sizeof count) == sizeof count && read(event, &count, sizeof count) == sizeof count, "eventfd");
}

int main(void)
{
	check((file = memfd_create("bench", 0)) >= 0, "memfd_create");
	check((event = eventfd(0, EFD_SEMAPHORE)) >= 0, "eventfd");
	result("kernel_mutex_file_2", pass_cost(2, PASSES, write_file, now_ns));
	result("kernel_mutex_file_4", pass_cost(4, PASSES, write_file, now_ns));
	result("kernel_mutex_file_8", pass_cost(8, PASSES, write_file, now_ns));
	result("kernel_mutex_event_2", pass_cost(2, PASSES, write_event, now_ns));
	result("kernel_mutex_event_4", pass_cost(4, PASSES, write_event, now_ns));
	result("kernel_mutex_event_8", pass_cost(8, PASSES, write_event, now_ns));
	return 0;
}
