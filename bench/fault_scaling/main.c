/* First touches of 4 KiB pages by one thread and by two on two CPUs, each in mappings of its own: nanoseconds per fault, all threads together. */
#include "../sections.h"
#include <sys/mman.h>

#define PAGES 64

static void map_and_touch(void)
{
	volatile char *at = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(at != MAP_FAILED, "mmap");
	for (int page = 0; page < PAGES; page++)
		at[page * 4096] = 1;
	munmap((void *)at, PAGES * 4096);
}

int main(void)
{
	result("fault_scaling_1", pass_cost(1, 500, map_and_touch, now_ns) / PAGES);
	result("fault_scaling_2", pass_cost(2, 500, map_and_touch, now_ns) / PAGES);
	return 0;
}
