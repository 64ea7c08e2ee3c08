/* Two, four and eight threads on one CPU pass through one glibc mutex: guest instructions per pass, the section's own included. */
#include "../sections.h"

#define PASSES 400000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile long shared[8];

static void short_section(void)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 8; i++)
		shared[i]++;
	pthread_mutex_unlock(&lock);
}

int main(void)
{
	result("mutex_contended_2", pass_cost(2, PASSES, short_section, counter));
	result("mutex_contended_4", pass_cost(4, PASSES, short_section, counter));
	result("mutex_contended_8", pass_cost(8, PASSES, short_section, counter));
	return 0;
}
