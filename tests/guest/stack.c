/* Stacks: growth to megabytes, large frames, contexts switched in user space, long jumps. */
#include "check.h"
#include <alloca.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/resource.h>
#include <ucontext.h>

__attribute__((noinline)) static long deep(int depth)
{
	volatile char pad[1000];
	pad[depth % 1000] = 1;
	return depth ? deep(depth - 1) + pad[depth % 1000] : 0;
}
static ucontext_t contexts[3];
static int visits[2];
static void coroutine(int id)
{
	for (int i = 0; i < 100; i++) {
		visits[id]++;
		swapcontext(&contexts[id], &contexts[1 - id]);
	}
}
static void *thread(void *arg)
{
	return (void *)deep((long)arg);
}
static jmp_buf jump;
__attribute__((noinline)) static void leave(int n)
{
	if (n == 0)
		longjmp(jump, 7);
	leave(n - 1);
}

int main(void)
{
	CHECK(deep(6000) == 6000);
	char *p = alloca(1 << 20);
	memset(p, 3, 1 << 20);
	CHECK(p[12345] == 3);
	static char stacks[2][65536];
	for (int i = 0; i < 2; i++) {
		getcontext(&contexts[i]);
		contexts[i].uc_stack.ss_sp = stacks[i];
		contexts[i].uc_stack.ss_size = sizeof stacks[i];
		contexts[i].uc_link = &contexts[2];
		makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
	}
	swapcontext(&contexts[2], &contexts[0]);
	CHECK(visits[0] == 100 && visits[1] >= 99);
	CHECK(setjmp(jump) ? 1 : (leave(50), 0));
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16 << 20);
	pthread_t t;
	void *result;
	CHECK(pthread_create(&t, &attr, thread, (void *)14000L) == 0 && pthread_join(t, &result) == 0 && result == (void *)14000);
	return DONE();
}
