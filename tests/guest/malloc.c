/* Eight threads allocate, pass on and free. */
#include "check.h"
#include <malloc.h>
#include <pthread.h>

static void *slots[64];
static long damaged;
static void *churn(void *arg)
{
	unsigned random = (unsigned)(long)arg * 2654435761u;
	for (int i = 0; i < 20000; i++) {
		random = random * 1103515245 + 12345;
		size_t size = (random >> 8) % (i % 100 ? 2000 : 300000) + 16;
		unsigned char *p = malloc(size);
		*(size_t *)p = size;
		p[size - 1] = size & 0xff;
		p = __atomic_exchange_n(&slots[(random >> 4) % 64], p, __ATOMIC_ACQ_REL);
		if (p) {
			size = *(size_t *)p;
			if (p[size - 1] != (size & 0xff))
				__atomic_add_fetch(&damaged, 1, __ATOMIC_RELAXED);
			free(p);
		}
	}
	return NULL;
}
int main(void)
{
	pthread_t t[8];
	for (long i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, churn, (void *)(i + 1));
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	CHECK(damaged == 0);
	char *p = calloc(100 << 20, 1);
	CHECK(p && p[99 << 20] == 0);
	p = realloc(p, 200 << 20);
	CHECK(p && p[50 << 20] == 0);
	free(p);
	CHECK(malloc_trim(0) >= 0);
	return DONE();
}
