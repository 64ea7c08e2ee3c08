/*
 * Reading /proc/self/maps (`maps_area`) and smaps (`smaps_area`) of a thousand mappings of one touched page each, whole: guest
 * instructions per mapping, best of five. Neighbours differ in protection, so that they stay apart.
 */
#include "../bench.h"
#include <fcntl.h>
#include <sys/mman.h>

#define AREAS 1000
#define TIMES 5

static double per_area(const char *path)
{
	static char buffer[65536];
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < TIMES; i++) {
		uint64_t start = counter();
		int fd = open(path, O_RDONLY);
		check(fd >= 0, path);
		ssize_t n;
		while ((n = read(fd, buffer, sizeof buffer)) > 0)
			;
		check(n == 0, "read");
		close(fd);
		best = smaller(best, counter() - start);
	}
	return (double)best / AREAS;
}

int main(void)
{
	char *at = mmap(NULL, AREAS * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(at != MAP_FAILED, "mmap");
	for (int i = 0; i < AREAS; i++)
		((volatile char *)at)[i * 4096] = 1;
	for (int i = 0; i < AREAS; i += 2)
		check(mprotect(at + i * 4096, 4096, PROT_READ) == 0, "mprotect");
	result("maps_area", per_area("/proc/self/maps"));
	result("smaps_area", per_area("/proc/self/smaps"));
	return 0;
}
