/* Memory that 1,000 sleeping threads take: free memory before less after, in KiB a thread; glibc's default stacks. */
#include "../sleepers.h"
#include <sys/sysinfo.h>

#define THREADS 1000

static double free_kib(void)
{
	struct sysinfo info;
	check(sysinfo(&info) == 0, "sysinfo");
	return (double)info.freeram * info.mem_unit / 1024;
}

int main(void)
{
	static pthread_t threads[THREADS];
	double before = free_kib();
	for (int i = 0; i < THREADS; i++)
		check(pthread_create(&threads[i], NULL, sleeper, NULL) == 0, "pthread_create");
	sleep_ms(100); /* they reach their wait */
	double after = free_kib();
	let_go(threads, THREADS);
	result("thread_memory", (before - after) / THREADS);
	return 0;
}
