/* Signals raised by the program's own instructions: siginfo, ucontext, changing the context, leaving by longjmp. */
#include "check.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int last_signal, last_code, skip, write_bit;
static void *volatile last_address;
static volatile long last_trap;

static void handler(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	last_signal = signal;
	last_code = info->si_code;
	last_address = info->si_addr;
	last_trap = uc->uc_mcontext.gregs[REG_TRAPNO];
	write_bit = (uc->uc_mcontext.gregs[REG_ERR] & 2) != 0;
	if (skip)
		uc->uc_mcontext.gregs[REG_RIP] += skip;
	else
		siglongjmp(back, 1);
}

static volatile int repaired;
static const long good = 77;

static void repair(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	/* What the handler uses of the floating-point state is not the loop's. */
	volatile double any = info->si_code * 1.5;
	if (signal == SIGSEGV && any > 0 && info->si_addr == (void *)uc->uc_mcontext.gregs[REG_RAX])
		repaired = repaired + 1;
	uc->uc_mcontext.gregs[REG_RAX] = (long)&good;
}

static void install(int signal)
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
	sigaction(signal, &sa, NULL);
}

#define TRY(statement) do { last_signal = 0; if (!sigsetjmp(back, 1)) { statement; } } while (0)

int main(void)
{
	install(SIGSEGV); install(SIGBUS); install(SIGFPE); install(SIGILL); install(SIGTRAP);

	TRY(*(volatile int *)NULL);
	CHECK(last_signal == SIGSEGV && last_code == SEGV_MAPERR && last_address == NULL && !write_bit && last_trap == 14);
	TRY(*(volatile int *)0x123 = 1);
	CHECK(last_signal == SIGSEGV && last_code == SEGV_MAPERR && last_address == (void *)0x123 && write_bit);

	char *p = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p[0] == 0);
	TRY(p[5] = 1);
	CHECK(last_signal == SIGSEGV && last_code == SEGV_ACCERR && last_address == p + 5 && write_bit);
	mprotect(p, 4096, PROT_NONE);
	TRY((void)*(volatile char *)(p + 7));
	CHECK(last_signal == SIGSEGV && last_code == SEGV_ACCERR && last_address == p + 7);
	TRY((void)*(volatile char *)(p + 4097));
	CHECK(last_signal == 0);
	TRY(*(volatile int *)0xdead000000000000 = 1);
	CHECK(last_signal == SIGSEGV && last_code == SI_KERNEL && last_trap == 13);

	/* Execute a page that is not executable. */
	char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	code[0] = (char)0xc3;
	TRY(((void (*)(void))code)());
	CHECK(last_signal == SIGSEGV && last_code == SEGV_ACCERR && last_address == code);
	mprotect(code, 4096, PROT_READ | PROT_EXEC);
	TRY(((void (*)(void))code)());
	CHECK(last_signal == 0);

	/* A mapped file, past its end. */
	int fd = open("/tmp/signals_sync", O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(ftruncate(fd, 100) == 0);
	char *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(file[99] == 0 && file[4095] == 0);
	TRY((void)*(volatile char *)(file + 4096));
	CHECK(last_signal == SIGBUS && last_code == BUS_ADRERR && last_address == file + 4096);
	unlink("/tmp/signals_sync");

	volatile int zero = 0, result = 0;
	TRY(result = 70 / zero);
	CHECK(last_signal == SIGFPE && last_code == FPE_INTDIV && result == 0);
	TRY(__asm__ volatile("ud2"));
	CHECK(last_signal == SIGILL && last_code == ILL_ILLOPN);
	TRY(__asm__ volatile("hlt"));
	CHECK(last_signal == SIGSEGV && last_code == SI_KERNEL);

	/* The handler changes RIP: the program goes on after the instruction. */
	skip = 2;
	__asm__ volatile("ud2");
	CHECK(last_signal == SIGILL);
	last_signal = 0;
	__asm__ volatile("int3; nop; nop");
	CHECK(last_signal == SIGTRAP);
	skip = 0;

	/* Ten thousand null checks, as a JVM makes them. */
	volatile int caught = 0;
	for (volatile int i = 0; i < 10000; i++) {
		TRY(*(volatile int *)8 = i);
		caught = caught + (last_signal == SIGSEGV);
	}
	CHECK(caught == 10000);

	/* And ten thousand that the handler repairs: it gives the register an address that can be read. */
	struct sigaction repairing = { .sa_sigaction = repair, .sa_flags = SA_SIGINFO | SA_NODEFER };
	sigaction(SIGSEGV, &repairing, NULL);
	long sum = 0;
	for (long i = 0; i < 10000; i++) {
		long value, at = 8 * (i % 512);
		__asm__ volatile("mov (%%rax), %0" : "=&r"(value), "+a"(at) : : "memory");
		sum += value;
	}
	CHECK(repaired == 10000 && sum == 10000 * 77L);
	return DONE();
}
