/* A thousand threads alive at once. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT 1000
static pthread_barrier_t barrier;
static long sum;

static void *thread(void *arg)
{
	char page[2000];
	for (int i = 0; i < 2000; i++)
		page[i] = (char)(long)arg;
	pthread_barrier_wait(&barrier);
	__atomic_add_fetch(&sum, (long)arg + page[1999] - (char)(long)arg, __ATOMIC_RELAXED);
	pthread_barrier_wait(&barrier);
	return arg;
}

int main(void)
{
	static pthread_t threads[COUNT];
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	pthread_barrier_init(&barrier, NULL, COUNT + 1);
	for (long i = 0; i < COUNT; i++) {
		int error = pthread_create(&threads[i], &attr, thread, (void *)i);
		if (error) {
			printf("thread %ld: error %d\n", i, error);
			return 1;
		}
	}
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	long joined = 0;
	for (long i = 0; i < COUNT; i++) {
		void *result;
		pthread_join(threads[i], &result);
		joined += result == (void *)i;
	}
	printf("sum %ld, joined %ld\n", sum, joined);
	return 0;
}
