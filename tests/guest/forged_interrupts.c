/* `int n` with vectors that a kernel in ring 0 uses itself: SIGSEGV on Linux, perhaps nothing elsewhere, and never harm to what waits for such an interrupt. */
#include "check.h"
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define ROUNDS 3000

static volatile int done;

/* Goes on behind the instruction. */
static void skip(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}
static void *forge(void *unused)
{
	while (!done) {
		__asm__ volatile("int $0xf0" ::: "memory");
		__asm__ volatile("int $0xf1" ::: "memory");
		__asm__ volatile("int $0xf2" ::: "memory");
		__asm__ volatile("int $0xf3" ::: "memory");
	}
	return unused;
}

int main(void)
{
	pthread_t t;
	int passed = 0, flushed = 0;
	struct sigaction action = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
	CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
	CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
	CHECK(pthread_create(&t, NULL, forge, NULL) == 0);
	for (int i = 0; i < ROUNDS; i++) {
		passed += syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
		char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		*page = 1;
		flushed += mprotect(page, 4096, PROT_READ) == 0 && munmap(page, 4096) == 0;
	}
	CHECK(passed == ROUNDS);
	CHECK(flushed == ROUNDS);
	done = 1;
	CHECK(pthread_join(t, NULL) == 0);
	return DONE();
}
