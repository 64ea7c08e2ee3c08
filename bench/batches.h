/* What a call costs in guest instructions, its loop included: the best of thirty batches. */
#include "bench.h"

static inline double best_batch(int count, void (*call)(void))
{
	uint64_t best = UINT64_MAX;
	for (int batch = 0; batch < 30; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < count; i++)
			call();
		best = smaller(best, counter() - start);
		/* Whoever rewrites code may need the CPU for it. */
		if (batch < 5)
			sleep_ms(20);
	}
	return (double)best / count;
}
