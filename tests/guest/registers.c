/* What must survive system calls, preemption and signals: general registers, red zone, vector registers, x87, MXCSR. */
#include "check.h"
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

static volatile int stop, damaged_red, damaged_gpr, damaged_xmm, damaged_ymm, damaged_round;
static volatile int signals;

static void tick(int signal)
{
	/* Dirty what a handler may dirty. */
	volatile double x = signals;
	for (int i = 0; i < 8; i++)
		x = x * 1.5 + i;
	__asm__ volatile("pcmpeqd %%xmm0,%%xmm0; pcmpeqd %%xmm7,%%xmm7; pcmpeqd %%xmm15,%%xmm15" ::: "xmm0", "xmm7", "xmm15");
	signals++;
	(void)signal;
}

/* Writes 16 words below RSP, does a system call (or spins), and reads them back. Returns the number of changed words. */
__attribute__((noinline, naked)) static long red_zone(long seed __attribute__((unused)), long number __attribute__((unused)))
{
	__asm__ volatile(
		"mov %rdi, %r8\n"
		"lea -128(%rsp), %r9\n"
		"xor %ecx, %ecx\n"
		"1: mov %r8, (%r9,%rcx,8)\n inc %r8\n inc %ecx\n cmp $16, %ecx\n jb 1b\n"
		"mov %rsi, %rax\n test %rsi, %rsi\n js 2f\n syscall\n jmp 3f\n"
		"2: mov $2000, %ecx\n 4: dec %ecx\n jnz 4b\n"
		"3: mov %rdi, %r8\n xor %ecx, %ecx\n xor %eax, %eax\n"
		"5: cmp %r8, (%r9,%rcx,8)\n je 6f\n inc %eax\n 6: inc %r8\n inc %ecx\n cmp $16, %ecx\n jb 5b\n"
		"ret\n");
}

/* getppid with known values in every register that a system call must keep. */
static long general_registers(void)
{
	long bad = 0;
	__asm__ volatile(
		"push %%rbp\n"
		"mov $0x1001,%%rbx; mov $0x1002,%%rbp; mov $0x1003,%%rdi; mov $0x1004,%%rsi; mov $0x1005,%%rdx\n"
		"mov $0x1006,%%r8; mov $0x1007,%%r9; mov $0x1008,%%r10; mov $0x1009,%%r12; mov $0x100a,%%r13; mov $0x100b,%%r14; mov $0x100c,%%r15\n"
		"mov $110,%%eax; syscall; xor %%eax,%%eax\n"
		"cmp $0x1001,%%rbx; setne %%cl; or %%cl,%%al\n cmp $0x1002,%%rbp; setne %%cl; or %%cl,%%al\n"
		"cmp $0x1003,%%rdi; setne %%cl; or %%cl,%%al\n cmp $0x1004,%%rsi; setne %%cl; or %%cl,%%al\n"
		"cmp $0x1005,%%rdx; setne %%cl; or %%cl,%%al\n cmp $0x1006,%%r8; setne %%cl; or %%cl,%%al\n"
		"cmp $0x1007,%%r9; setne %%cl; or %%cl,%%al\n cmp $0x1008,%%r10; setne %%cl; or %%cl,%%al\n"
		"cmp $0x1009,%%r12; setne %%cl; or %%cl,%%al\n cmp $0x100a,%%r13; setne %%cl; or %%cl,%%al\n"
		"cmp $0x100b,%%r14; setne %%cl; or %%cl,%%al\n cmp $0x100c,%%r15; setne %%cl; or %%cl,%%al\n"
		"pop %%rbp\n"
		: "=a"(bad) : : "rbx", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory");
	return bad;
}

#define EACH16(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#define LOAD_X(n) "movdqu " #n "*16(%0), %%xmm" #n "\n"
#define STORE_X(n) "movdqu %%xmm" #n ", " #n "*16(%1)\n"
#define LOAD_Y(n) "vmovdqu " #n "*32(%0), %%ymm" #n "\n"
#define STORE_Y(n) "vmovdqu %%ymm" #n ", " #n "*32(%1)\n"
#define XMMS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* Loads all vector registers, makes the system call (number >= 0) or spins, and stores them. */
static void through_xmm(const void *in, void *out, long number)
{
	__asm__ volatile(EACH16(LOAD_X) "mov %2,%%rax; test %%rax,%%rax; js 1f; syscall; jmp 2f; 1: mov $2000,%%ecx; 3: dec %%ecx; jnz 3b; 2:\n" EACH16(STORE_X)
			 : : "r"(in), "r"(out), "r"(number), "D"(0L), "S"(0L), "d"(0L) : "rax", "rcx", "r11", "memory", XMMS);
}

__attribute__((target("avx"))) static void through_ymm(const void *in, void *out, long number)
{
	__asm__ volatile(EACH16(LOAD_Y) "mov %2,%%rax; test %%rax,%%rax; js 1f; syscall; jmp 2f; 1: mov $2000,%%ecx; 3: dec %%ecx; jnz 3b; 2:\n" EACH16(STORE_Y) "vzeroupper\n"
			 : : "r"(in), "r"(out), "r"(number), "D"(0L), "S"(0L), "d"(0L) : "rax", "rcx", "r11", "memory", XMMS);
}

#define LOAD_FROM(n) "movdqu " #n "*16(%1), %%xmm" #n "\n"
#define STORE_TO(n) "movdqu %%xmm" #n ", " #n "*16(%2)\n"

/* A system call with arguments and known values in the vector registers; its result, or -1000 if one of them has changed. */
__attribute__((noinline)) static long call_with_xmm(long number, long a, long b, long c, long d)
{
	static unsigned char in[256], out[256];
	static unsigned seed;
	long result;
	register long r10 __asm__("r10") = d;
	for (int i = 0; i < 256; i++)
		in[i] = seed * 13 + i * 7;
	seed++;
	__asm__ volatile(EACH16(LOAD_FROM) "syscall\n" EACH16(STORE_TO)
			 : "=&a"(result) : "r"(in), "r"(out), "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory", XMMS);
	return memcmp(in, out, 256) ? -1000 : result;
}

/* Calls that move little, on files that need no waiting; first as `syscall` instructions, later perhaps as jumps. */
static void short_calls(void)
{
	int ends[2], event = eventfd(0, 0), zero = open("/dev/zero", O_RDWR), file = memfd_create("registers", 0), set = epoll_create1(0), ready = eventfd(1, 0);
	struct epoll_event interest = { .events = EPOLLIN, .data.u64 = 77 }, found;
	struct stat status, again;
	char byte;
	CHECK(pipe(ends) == 0 && ftruncate(file, 5000) == 0 && epoll_ctl(set, EPOLL_CTL_ADD, ready, &interest) == 0);
	int wrong = 0;
	for (int i = 0; i < 400; i++) {
		char sent = i;
		uint64_t add = i + 1, count = 0;
		wrong += call_with_xmm(SYS_write, ends[1], (long)&sent, 1, 0) != 1;
		wrong += call_with_xmm(SYS_read, ends[0], (long)&byte, 1, 0) != 1 || byte != sent;
		wrong += call_with_xmm(SYS_write, event, (long)&add, 8, 0) != 8;
		wrong += call_with_xmm(SYS_read, event, (long)&count, 8, 0) != 8 || count != add;
		byte = 1;
		wrong += call_with_xmm(SYS_read, zero, (long)&byte, 1, 0) != 1 || byte != 0;
		wrong += call_with_xmm(SYS_write, zero, (long)&byte, 1, 0) != 1;
		wrong += call_with_xmm(SYS_fstat, file, (long)&status, 0, 0) != 0 || status.st_size != 5000 || status.st_uid != getuid();
		wrong += call_with_xmm(SYS_newfstatat, file, (long)"", (long)&again, AT_EMPTY_PATH) != 0 || memcmp(&status, &again, sizeof status);
		memset(&found, 0, sizeof found);
		wrong += call_with_xmm(SYS_epoll_wait, set, (long)&found, 1, -1) != 1 || found.events != EPOLLIN || found.data.u64 != 77;
	}
	CHECK(wrong == 0);
	/* The same with errors: nothing is lost, and the errno is the right one. */
	CHECK(call_with_xmm(SYS_write, ends[1], (long)"x", 1, 0) == 1);
	CHECK(call_with_xmm(SYS_read, ends[0], 16, 1, 0) == -EFAULT);
	CHECK(call_with_xmm(SYS_read, ends[1], (long)&byte, 1, 0) == -EBADF);
	CHECK(call_with_xmm(SYS_read, ends[0], (long)&byte, 1, 0) == 1 && byte == 'x');
	CHECK(call_with_xmm(SYS_read, event, (long)&byte, 1, 0) == -EINVAL);
	CHECK(call_with_xmm(SYS_epoll_wait, set, 16, 1, -1) == -EFAULT);
	CHECK(call_with_xmm(SYS_epoll_wait, set, (long)&found, 0, -1) == -EINVAL);
	CHECK(call_with_xmm(SYS_fstat, file, 16, 0, 0) == -EFAULT);
	CHECK(call_with_xmm(SYS_fstat, -1, (long)&status, 0, 0) == -EBADF);
}

/* Bytes to and from another process, which waits for them: a write that wakes somebody, a read that waits. */
static void short_calls_and_waits(void)
{
	int there[2], back[2], wrong = 0;
	CHECK(pipe(there) == 0 && pipe(back) == 0);
	pid_t child = fork();
	if (child == 0) {
		char byte;
		close(there[1]);
		while (call_with_xmm(SYS_read, there[0], (long)&byte, 1, 0) == 1)
			if (call_with_xmm(SYS_write, back[1], (long)&byte, 1, 0) != 1)
				_exit(1);
		_exit(0);
	}
	for (int i = 0; i < 300; i++) {
		char sent = i, byte = ~i;
		wrong += call_with_xmm(SYS_write, there[1], (long)&sent, 1, 0) != 1;
		wrong += call_with_xmm(SYS_read, back[0], (long)&byte, 1, 0) != 1 || byte != sent;
	}
	CHECK(wrong == 0);
	close(there[1]);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* Preemption may come anywhere: every thread runs this with a pattern of its own. */
static void *worker(void *arg)
{
	long id = (long)arg;
	unsigned char in[512], out[512];
	static const int modes[] = { FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO };
	const int avx = __builtin_cpu_supports("avx");
	fesetround(modes[id & 3]);
	for (long turn = 0; !stop; turn++) {
		long number = turn % 3 == 0 ? SYS_sched_yield : turn % 3 == 1 ? SYS_getppid : -1;
		for (int i = 0; i < 512; i++)
			in[i] = id * 31 + i * 7 + turn;
		if (red_zone(id * 1000 + turn, number))
			__atomic_add_fetch(&damaged_red, 1, __ATOMIC_RELAXED);
		if (general_registers())
			__atomic_add_fetch(&damaged_gpr, 1, __ATOMIC_RELAXED);
		through_xmm(in, out, number);
		if (memcmp(in, out, 256))
			__atomic_add_fetch(&damaged_xmm, 1, __ATOMIC_RELAXED);
		if (avx) {
			through_ymm(in, out, number);
			if (memcmp(in, out, 512))
				__atomic_add_fetch(&damaged_ymm, 1, __ATOMIC_RELAXED);
		}
		volatile double one = 1.0, three = 3.0;
		volatile long double big = 1.0L, small = 3.0L;
		double q = one / three;
		long double lq = big / small;
		if (fegetround() != modes[id & 3] || (q > 0.333333333333333314) != (modes[id & 3] == FE_UPWARD) || lq == 0)
			__atomic_add_fetch(&damaged_round, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

int main(void)
{
	CHECK(red_zone(77, SYS_getpid) == 0);
	CHECK(general_registers() == 0);
	short_calls();
	short_calls_and_waits();
	struct sigaction sa = { .sa_handler = tick, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &sa, NULL);
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } }, off = { { 0, 0 }, { 0, 0 } };
	setitimer(ITIMER_REAL, &every, NULL);
	pthread_t threads[6];
	for (long i = 0; i < 6; i++)
		pthread_create(&threads[i], NULL, worker, (void *)i);
	struct timespec start, now;
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		sleep_ms(100); /* cut short by the signals */
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - start.tv_sec < 2);
	stop = 1;
	for (int i = 0; i < 6; i++)
		pthread_join(threads[i], NULL);
	setitimer(ITIMER_REAL, &off, NULL);
	CHECK(signals > 20);
	CHECK(damaged_red == 0);
	CHECK(damaged_gpr == 0);
	CHECK(damaged_xmm == 0);
	CHECK(damaged_ymm == 0);
	CHECK(damaged_round == 0);
	return DONE();
}
