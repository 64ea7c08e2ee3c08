/* Handlers on an alternate stack; a stack overflow caught there. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>

static sigjmp_buf back;
static char *stack;
static const size_t size = 65536;
static volatile int on_alternate, said_on_stack;

static void handler(int signal)
{
	char here;
	stack_t now;
	(void)signal;
	on_alternate = &here >= stack && &here < stack + size;
	sigaltstack(NULL, &now);
	said_on_stack = (now.ss_flags & SS_ONSTACK) != 0;
}

static void overflow_handler(int signal)
{
	handler(signal);
	siglongjmp(back, 1);
}

__attribute__((noinline)) static int recurse(int depth)
{
	volatile char pad[4096];
	pad[0] = depth;
	pad[4095] = depth;
	return recurse(depth + 1) + pad[0];
}

int main(void)
{
	stack = malloc(size);
	stack_t ss = { .ss_sp = stack, .ss_size = size }, old;
	CHECK(sigaltstack(&ss, NULL) == 0);
	CHECK(sigaltstack(NULL, &old) == 0 && old.ss_sp == stack && old.ss_size == size && old.ss_flags == 0);

	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
	CHECK(on_alternate && said_on_stack);
	sa.sa_flags = 0;
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
	CHECK(!on_alternate && !said_on_stack);

	struct rlimit limit = { 1 << 20, 1 << 20 };
	getrlimit(RLIMIT_STACK, &limit);
	limit.rlim_cur = 1 << 20;
	setrlimit(RLIMIT_STACK, &limit);
	sa.sa_handler = overflow_handler;
	sa.sa_flags = SA_ONSTACK;
	sigaction(SIGSEGV, &sa, NULL);
	for (int i = 0; i < 3; i++) {
		on_alternate = 0;
		if (!sigsetjmp(back, 1))
			recurse(0);
		CHECK(on_alternate);
	}
	ss.ss_flags = SS_DISABLE;
	CHECK(sigaltstack(&ss, NULL) == 0);
	CHECK(sigaltstack(NULL, &old) == 0 && old.ss_flags == SS_DISABLE);
	ss.ss_flags = 0;
	ss.ss_size = 100;
	FAILS(sigaltstack(&ss, NULL), ENOMEM);
	return DONE();
}
