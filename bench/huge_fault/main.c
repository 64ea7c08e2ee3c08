/*
 * Making 2 MiB of anonymous memory present with MADV_HUGEPAGE: guest instructions for touching all of its 4 KiB pages, a second
 * round over the same pages subtracted. A system with large pages pays once, one without pays 512 times; the count is fair to both.
 * `huge_fault`: the mean of a row of sixteen, best of four rows, after 256 MiB have used up what the system had cleared beforehand.
 * `huge_fault_idle`: after an idle second, in which it may have cleared pages again; one at a time, the median of nine.
 */
#include "../bench.h"
#include <sys/mman.h>

#define HUGE (2ul << 20)
#define ROW 16
#define CLEARED_BEFOREHAND (256ul << 20)

static uint64_t touch(volatile char *from, size_t size)
{
	uint64_t start = counter();
	for (size_t at = 0; at < size; at += 4096)
		from[at] = 1;
	return counter() - start;
}

/* Maps and touches; returns what the first touches cost more than the second. */
static uint64_t make_present(size_t size, char **region)
{
	*region = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(*region != MAP_FAILED, "mmap");
	char *aligned = (char *)(((uintptr_t)*region + HUGE - 1) & -HUGE);
	madvise(aligned, size, MADV_HUGEPAGE); /* advice: a system without large pages refuses it */
	uint64_t first = touch(aligned, size), second = touch(aligned, size);
	return first > second ? first - second : 0;
}

static uint64_t make_present_for_a_while(size_t size)
{
	char *region;
	uint64_t took = make_present(size, &region);
	munmap(region, size + HUGE);
	return took;
}

int main(void)
{
	uint64_t best = UINT64_MAX, idle[9];
	char *kept;
	make_present(CLEARED_BEFOREHAND, &kept);
	for (int i = 0; i < 4; i++)
		best = smaller(best, make_present_for_a_while(ROW * HUGE));
	result("huge_fault", (double)best / ROW);
	for (int i = 0; i < 9; i++) {
		sleep_ms(1000);
		idle[i] = make_present_for_a_while(HUGE);
	}
	result("huge_fault_idle", percentile(idle, 9, 50));
	return 0;
}
