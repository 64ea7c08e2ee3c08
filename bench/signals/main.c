/* A signal's way into its handler and back, in guest instructions: sent to the own process, to the own thread, and raised by a load that faults
 * (a null check, as a JVM makes it: the handler gives the register an address that can be read). */
#include "../batches.h"
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

static volatile long handled;
static pid_t process;
static const long good;

static void handler(int signal)
{
	(void)signal;
	handled++;
}

static void repair(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = (long)&good;
	handled++;
}

static void to_process(void)
{
	kill(process, SIGUSR1);
}

static void to_thread(void)
{
	syscall(SYS_tgkill, process, process, SIGUSR1);
}

static void null_check(void)
{
	long value, at = 8;
	__asm__ volatile("mov (%1), %0" : "=&r"(value), "+a"(at) : : "memory");
}

/* Each call leads to one run of a handler. */
static void measure(const char *name, void (*raise)(void))
{
	handled = 0;
	double cost = best_batch(200, raise);
	check(handled == 30 * 200, name);
	result(name, cost);
}

int main(void)
{
	struct sigaction action = {.sa_handler = handler}, repairing = {.sa_sigaction = repair, .sa_flags = SA_SIGINFO};
	process = getpid();
	check(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGSEGV, &repairing, NULL) == 0, "sigaction");
	measure("signal_process", to_process);
	measure("signal_thread", to_thread);
	measure("signal_fault", null_check);
	return 0;
}
