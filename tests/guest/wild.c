/* Things a program must not do, each in a child that has to die of a signal (or survive) as under Linux; none may reach the
   kernel, which runs at the same privilege. With arguments: only the cases of these numbers. */
#include "check.h"
#include <fenv.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>

#define NON_CANONICAL 0xdeadbeefdeadbeefUL
#define KERNEL_HALF 0xffffd00000000000UL
#define TOP_OF_USER 0x7ffffffffff0UL

static void jump_to(unsigned long address)
{
	__asm__ volatile("jmp *%0" : : "r"(address));
}

static void return_to(unsigned long address)
{
	__asm__ volatile("push %0\n\tret" : : "r"(address));
}

static void with_stack(unsigned long address)
{
	__asm__ volatile("mov %0, %%rsp\n\tpush %%rax" : : "r"(address));
}

static void syscall_with_stack(unsigned long address)
{
	__asm__ volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tmov $39, %%eax\n\tsyscall\n\tmov %%rbx, %%rsp"
			 : : "r"(address) : "rax", "rbx", "rcx", "r11", "memory");
}

static void handler_at(unsigned long address)
{
	signal(SIGUSR1, (void (*)(int))address);
	raise(SIGUSR1);
}

static void fault_handler_at(unsigned long address)
{
	signal(SIGSEGV, (void (*)(int))address);
	*(volatile char *)8 = 0;
}

static unsigned long forged_rip, forged_rsp, forged_flags;
static int forged_state;

static void forge(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	(void)signal, (void)info;
	if (forged_rip)
		uc->uc_mcontext.gregs[REG_RIP] = (long)forged_rip;
	if (forged_rsp)
		uc->uc_mcontext.gregs[REG_RSP] = (long)forged_rsp;
	if (forged_flags)
		uc->uc_mcontext.gregs[REG_EFL] = (long)forged_flags;
	if (forged_state) {
		char *state = (char *)uc->uc_mcontext.fpregs;
		memset(state + 24, 0xff, 4);  /* MXCSR */
		memset(state + 512, 0xff, 64); /* XSAVE header */
	}
}

static void forge_return(void)
{
	struct sigaction action = { .sa_sigaction = forge, .sa_flags = SA_SIGINFO };
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
}

static void flags(unsigned long value)
{
	__asm__ volatile("push %0\n\tpopfq\n\tnop\n\tnop" : : "r"(value) : "cc", "memory");
}

static void *touch(void *memory)
{
	for (int i = 0; i < 64; i++)
		((volatile char *)memory)[i * 4096] = 1;
	return memory;
}

static void run(int number)
{
	switch (number) {
	case 1: jump_to(NON_CANONICAL); break;
	case 2: jump_to(-1UL); break;
	case 3: jump_to(KERNEL_HALF); break;
	case 4: jump_to(TOP_OF_USER); break;
	case 5: return_to(NON_CANONICAL); break;
	case 6: handler_at(NON_CANONICAL); break;
	case 7: handler_at(-1UL); break;
	case 8: handler_at(KERNEL_HALF); break;
	case 9: fault_handler_at(NON_CANONICAL); break;
	case 10: fault_handler_at(TOP_OF_USER); break;
	case 11: forged_rip = NON_CANONICAL; forge_return(); break;
	case 12: forged_rip = KERNEL_HALF; forge_return(); break;
	case 13: forged_rsp = NON_CANONICAL; forge_return(); break;
	case 14: forged_rip = TOP_OF_USER; forge_return(); break;
	case 15: with_stack(NON_CANONICAL); break;
	case 16: with_stack(KERNEL_HALF); break;
	case 17: with_stack(64); break;
	case 18: __asm__ volatile("int $0x60"); break;
	case 19: __asm__ volatile("int $13"); break;
	case 20: __asm__ volatile("int $14"); break;
	case 21: __asm__ volatile("int $0xe3"); break;
	case 22: __asm__ volatile("int $0x20"); break;
	case 23: flags(0x302); break; /* single step */
	case 24: __asm__ volatile("int3"); break;
	}
}

/* Those that must go on. */
static void survive(int number)
{
	void *memory = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec short_time = { 0, 1000000 };
	switch (number) {
	case 1: /* Linux keeps the interrupt flag out of a program's reach. */
		flags(2);
		touch(memory);
		_exit(0);
	case 2:
		flags(2);
		_exit(clock_gettime(CLOCK_REALTIME, &short_time) || syscall(SYS_clock_gettime, 0, memory) ? 1 : 0);
	case 3: { /* A period that never ends. */
		struct itimerval timer = { { __LONG_MAX__, 0 }, { 0, 1000 } };
		signal(SIGALRM, SIG_IGN);
		_exit(setitimer(ITIMER_REAL, &timer, NULL) || (usleep(20000), 0));
	}
	case 4: { /* As far as a system call can see, any stack pointer will do. */
		syscall_with_stack(NON_CANONICAL);
		syscall_with_stack(KERNEL_HALF);
		_exit(0);
	}
	case 5: { /* An x87 exception that waits while the thread sleeps. */
		volatile long double zero = 0;
		feenableexcept(FE_DIVBYZERO);
		__asm__ volatile("fld1\n\tfldz\n\tfdivrp" ::: "memory");
		syscall(SYS_nanosleep, &short_time, NULL);
		(void)zero;
		__asm__ volatile("fwait");
		_exit(1);
	}
	case 6: /* RT timers and futexes with extreme arguments. */
		syscall(SYS_futex, memory, FUTEX_WAKE, -1, NULL, NULL, 0);
		syscall(SYS_futex, memory, FUTEX_WAIT, 1, NULL, NULL, 0);
		syscall(SYS_poll, memory, -1, 0);
		syscall(SYS_select, -1, memory, memory, memory, memory);
		syscall(SYS_writev, 1, memory, -1);
		syscall(SYS_getdents64, 0, memory, -1);
		syscall(SYS_mmap, -4096L, -1L, 7, 0x22, -1, 0);
		syscall(SYS_munmap, 4096, -4096L);
		syscall(SYS_mprotect, 4096, -4096L, 3);
		syscall(SYS_mremap, memory, 4096, -4096L, 1, 0);
		syscall(SYS_madvise, 4096, -4096L, 4);
		syscall(SYS_clock_nanosleep, 1, 1, &(struct timespec){ 0, 0 }, NULL);
		_exit(0);
	}
}

static int status_of(void (*body)(int), int number)
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		alarm(20);
		body(number);
		_exit(77);
	}
	return waitpid(child, &status, 0) == child ? status : -1;
}

int main(int argc, char **argv)
{
	static const int deadly[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24 };
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1) {
		int n = atoi(argv[1]);
		int status = n < 100 ? status_of(run, n) : status_of(survive, n - 100);
		printf("case %d: signal %d, exit %d\n", n, WTERMSIG(status), WEXITSTATUS(status));
		return 0;
	}
	for (unsigned i = 0; i < sizeof deadly / sizeof *deadly; i++) {
		int status = status_of(run, deadly[i]);
		/* QEMU's emulator raises #GP, not #SS, for a stack that is not canonical. */
		int signal = WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
		printf("deadly %d: signal %d\n", deadly[i], signal == SIGBUS ? SIGSEGV : signal);
		failures += !WIFSIGNALED(status);
	}
	for (int number = 1; number <= 6; number++) {
		int status = status_of(survive, number);
		printf("survives %d: %d\n", number, status);
		failures += status != (number == 5 ? SIGFPE : 0);
	}
	/* The state may be refused or made harmless. */
	forged_state = 1;
	int status = status_of((void (*)(int))forge_return, 0);
	printf("forged state: %s\n", WIFEXITED(status) || WTERMSIG(status) == SIGSEGV ? "no harm" : "harm");
	return DONE();
}
