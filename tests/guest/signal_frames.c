/* What a handler makes of the extended state in its frame: changed registers come back changed, a frame without it or with the oldest part alone is
 * taken, and one that the processor refuses is a SIGSEGV. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

static enum { CHANGE, OLDEST, NONE, REFUSED, UNALIGNED } what;
static volatile int refused;
static sigjmp_buf back;

static void handler(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	char *state = (char *)uc->uc_mcontext.fpregs;
	uint64_t *xmm3 = (uint64_t *)(state + 160 + 3 * 16);
	(void)signal, (void)info;
	switch (what) {
	case CHANGE:
		xmm3[0] = 0x1111, xmm3[1] = 0x2222;
		break;
	case OLDEST: /* No magic number: 512 bytes. */
		*(uint32_t *)(state + 464) = 0;
		xmm3[0] = 0x3333;
		break;
	case NONE:
		uc->uc_mcontext.fpregs = NULL;
		break;
	case REFUSED: /* A component that there is not. */
		*(uint64_t *)(state + 512) |= 1ull << 61;
		break;
	case UNALIGNED:
		uc->uc_mcontext.fpregs = (void *)(state + 8);
		break;
	}
}

static void segv(int signal)
{
	(void)signal;
	refused++;
	siglongjmp(back, 1);
}

/* Raises the signal with known values in xmm3 and returns what they are afterwards. */
static void through(uint64_t out[2])
{
	static const uint64_t in[2] = { 0xaaaa, 0xbbbb };
	long result;
	__asm__ volatile("movdqu (%1), %%xmm3\n mov %2, %%rax\n syscall\n movdqu %%xmm3, (%3)"
			 : "=&a"(result)
			 : "r"(in), "r"(200L), "r"(out), "D"((long)getpid()), "S"((long)SIGUSR1)
			 : "rcx", "r11", "xmm3", "memory");
	CHECK(result == 0);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
	struct sigaction fault = { .sa_handler = segv };
	uint64_t out[2];
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGSEGV, &fault, NULL) == 0);
	what = CHANGE;
	through(out);
	CHECK(out[0] == 0x1111 && out[1] == 0x2222);
	what = OLDEST;
	through(out);
	CHECK(out[0] == 0x3333 && out[1] == 0xbbbb);
	what = NONE;
	through(out);
	CHECK(out[0] == 0 && out[1] == 0);
	for (what = REFUSED; what <= UNALIGNED; what++)
		if (sigsetjmp(back, 1) == 0)
			through(out);
	CHECK(refused == 2);
	return DONE();
}
