/* Guest instructions of getppid, the loop around it subtracted: the best batch of twenty. */
#include "../bench.h"

#define COUNT 1000

static uint64_t calls(void)
{
	uint64_t start = counter();
	for (int i = 0; i < COUNT; i++) {
		long value;
		__asm__ volatile("mov $110, %%eax\n syscall" : "=a"(value)::"rcx", "r11", "memory");
	}
	return counter() - start;
}

static uint64_t nothing(void)
{
	uint64_t start = counter();
	for (int i = 0; i < COUNT; i++) {
		long value;
		__asm__ volatile("mov $110, %%eax" : "=a"(value)::"rcx", "r11", "memory");
	}
	return counter() - start;
}

int main(void)
{
	uint64_t best = UINT64_MAX, empty = UINT64_MAX;
	for (int i = 0; i < 20; i++) {
		uint64_t with = calls(), without = nothing();
		best = with < best ? with : best;
		empty = without < empty ? without : empty;
	}
	result("null_syscall", (double)(best - empty) / COUNT);
	return 0;
}
