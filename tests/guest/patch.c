/* System calls from the same places again and again, by several threads at once, so that a kernel which rewrites call sites does so under
 * load. Whatever it does must not show: results, registers, red zone, signals, restarts, children, changed and moved code. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

#define SITES 40
#define STRIDE 32
#define THREADS 4
/* Where in a site with a comparison that is. */
#define COMPARE_AT 7

/* Sites of two kinds: the number right before the call, and a comparison right behind it. */
__asm__(".text\n .balign 4096\n .globl numbers\n numbers:\n"
	".rept 40\n .balign 32\n mov $110, %eax\n syscall\n ret\n .endr\n"
	".balign 32\n .globl compares\n compares:\n"
	".rept 40\n .balign 32\n mov %edi, %eax\n mov %r12, %rdi\n syscall\n cmp $-4095, %rax\n jae 1f\n ret\n 1: mov $-1, %rax\n ret\n .endr\n"
	".balign 4096\n .globl sites_end\n sites_end:\n"
	/* checked(site, number, argument): calls a site with known registers; -2 if one changed. */
	".globl checked\n checked:\n"
	"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"mov %rdi, %rax\n mov %esi, %edi\n mov %rdx, %r12\n"
	"mov $0x1111, %ebx\n mov $0x2222, %ebp\n mov $0x3333, %r13d\n mov $0x4444, %r14d\n mov $0x5555, %r15d\n"
	"lea byte(%rip), %rsi\n mov $1, %edx\n mov $0x6666, %r10d\n mov $0x7777, %r8d\n mov $0x8888, %r9d\n"
	"movq %rbx, %xmm0\n movq %rbp, %xmm1\n movq %r13, %xmm7\n movq %r14, %xmm8\n movq %r15, %xmm15\n"
	"movq $0x1234, -16(%rsp)\n movq $0x5678, -128(%rsp)\n movq $0x9abc, -64(%rsp)\n"
	"call *%rax\n"
	"cmpq $0x1234, -16(%rsp)\n jne 2f\n cmpq $0x5678, -128(%rsp)\n jne 2f\n cmpq $0x9abc, -64(%rsp)\n jne 2f\n"
	"cmp $0x1111, %rbx\n jne 2f\n cmp $0x2222, %rbp\n jne 2f\n cmp $0x3333, %r13\n jne 2f\n cmp $0x4444, %r14\n jne 2f\n cmp $0x5555, %r15\n jne 2f\n"
	"lea byte(%rip), %rcx\n cmp %rcx, %rsi\n jne 2f\n cmp $1, %rdx\n jne 2f\n cmp $0x6666, %r10\n jne 2f\n cmp $0x7777, %r8\n jne 2f\n cmp $0x8888, %r9\n jne 2f\n"
	"movq %xmm0, %rcx\n cmp %rbx, %rcx\n jne 2f\n movq %xmm1, %rcx\n cmp %rbp, %rcx\n jne 2f\n movq %xmm7, %rcx\n cmp %r13, %rcx\n jne 2f\n"
	"movq %xmm8, %rcx\n cmp %r14, %rcx\n jne 2f\n movq %xmm15, %rcx\n cmp %r15, %rcx\n jne 2f\n"
	"jmp 3f\n 2: mov $-2, %rax\n 3: pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
	".section .data\n byte: .quad 0\n .text\n");

extern char numbers[], compares[], sites_end[];
long checked(const char *site, int number, long argument);

static pid_t parent, self;
static atomic_int wrong, odd_places, handled, traps;
static atomic_bool stop, ended, let_go;
/* How far from the code as it was linked a copy lies, beside the libraries. */
static long copy;

/* Where the program's code was when it began: nothing else may ever be seen in a signal frame. */
static struct { unsigned long start, end; } code[64];
static int code_count;

static void note_code(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], rights[8];
	unsigned long start, end;
	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx %7s", &start, &end, rights) == 3 && rights[2] == 'x' && code_count < 64)
			code[code_count].start = start, code[code_count++].end = end;
	if (maps)
		fclose(maps);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	unsigned long rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	int found = 0;
	for (int i = 0; i < code_count; i++)
		found |= rip >= code[i].start && rip < code[i].end;
	odd_places += !found;
	handled++;
	(void)sig, (void)info;
}

/* Lets a signal frame lie around that leads behind a call. */
static void on_pause(int sig)
{
	while (!let_go)
		usleep(1000);
	(void)sig;
}

static void on_trap(int sig)
{
	traps++;
	(void)sig;
}

/* All sites once: those at `delta` from where they were linked. */
static int pass(long delta, long pid)
{
	int bad = 0;
	for (int i = 0; i < SITES; i++) {
		bad += checked(numbers + delta + i * STRIDE, 0, 0) != parent;
		bad += checked(compares + delta + i * STRIDE, SYS_getpid, 0) != pid;
		bad += checked(compares + delta + i * STRIDE, 1000, 0) != -1;
	}
	return bad;
}

static void *caller(void *arg)
{
	for (int i = 0; i < 150 || !stop; i++)
		wrong += pass(i % 2 ? copy : 0, self);
	return arg;
}

static void *pesterer(void *arg)
{
	pthread_t *victims = arg;
	while (!ended) {
		for (int i = 0; i < THREADS; i++)
			pthread_kill(victims[i], SIGUSR1);
		usleep(300);
	}
	return NULL;
}

static int pipe_fds[2];
#define BYTES 300

/* Reads through a site with a comparison; the signals must not be seen. */
static void *reader(void *arg)
{
	for (long got = 0; got < BYTES; got++)
		wrong += checked(compares + copy, SYS_read, pipe_fds[0]) != 1;
	return arg;
}

static int patched(void)
{
	FILE *file = fopen("/proc/oxv/calls", "r");
	unsigned long value, sum = 0, compared = 0;
	char name[64];
	if (!file)
		return 1;
	while (fscanf(file, "%63s %lu", name, &value) == 2) {
		sum += strncmp(name, "patched_", 8) == 0 ? value : 0;
		compared += strcmp(name, "patched_compare") == 0 ? value : 0;
	}
	fclose(file);
	return sum >= SITES && compared >= SITES / 2;
}

static void under_load(void)
{
	pthread_t threads[THREADS], pest;
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, caller, NULL);
	pthread_create(&pest, NULL, pesterer, threads);
	for (int i = 0; i < 6000 && !patched(); i++)
		sleep_ms(10);
	stop = 1;
	ended = 1;
	pthread_join(pest, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	CHECK(wrong == 0);
	CHECK(odd_places == 0);
	CHECK(patched());
}

static void restarted(void)
{
	pthread_t thread;
	CHECK(pipe(pipe_fds) == 0);
	pthread_create(&thread, NULL, reader, NULL);
	int written = 0;
	for (int i = 0; i < BYTES; i++) {
		if (i % 3 == 0)
			usleep(200);
		pthread_kill(thread, SIGUSR1);
		written += write(pipe_fds[1], "x", 1);
	}
	pthread_join(thread, NULL);
	CHECK(written == BYTES);
	CHECK(wrong == 0);
	CHECK(odd_places == 0);
}

/* Calls that wait while their sites are rewritten: they go on behind the `syscall`, at once or from a signal frame. */
static pthread_t late_threads[SITES + 1];

static void *late(void *arg)
{
	long i = (long)arg;
	long got = checked(compares + copy + i % SITES * STRIDE, SYS_read, pipe_fds[0]);
	wrong += got != 1 && !(i == SITES && got == -1);
	return arg;
}

static void begin_late(void)
{
	CHECK(pipe(pipe_fds) == 0);
	for (long i = 0; i <= SITES; i++)
		pthread_create(&late_threads[i], NULL, late, (void *)i);
	sleep_ms(50);
	/* Its call fails if it has begun. */
	pthread_kill(late_threads[SITES], SIGUSR2);
}

static void end_late(void)
{
	char bytes[SITES + 1];
	let_go = 1;
	memset(bytes, 'x', sizeof bytes);
	CHECK(write(pipe_fds[1], bytes, sizeof bytes) == sizeof bytes);
	for (int i = 0; i <= SITES; i++)
		pthread_join(late_threads[i], NULL);
	CHECK(wrong == 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

/* What stands behind a `syscall` never changes: somebody may come there at any time. */
static void behind_the_call(const char *before)
{
	int same = 0, right = 0;
	for (int i = 0; i < SITES; i++) {
		const char *site = compares + copy + i * STRIDE, *then = before + (compares - numbers) + i * STRIDE;
		same += memcmp(site + COMPARE_AT, then + COMPARE_AT, STRIDE - COMPARE_AT) == 0;
		long failed = -22, fine = 7;
		__asm__ volatile("sub $128, %%rsp\n call *%1\n add $128, %%rsp" : "+a"(failed) : "r"(site + COMPARE_AT) : "memory", "cc");
		__asm__ volatile("sub $128, %%rsp\n call *%1\n add $128, %%rsp" : "+a"(fine) : "r"(site + COMPARE_AT) : "memory", "cc");
		right += failed == -1 && fine == 7;
	}
	CHECK(same == SITES);
	CHECK(right == SITES);
}

static void in_children(void)
{
	int good = 0;
	for (int i = 0; i < 8; i++) {
		pid_t child = fork();
		if (child == 0) {
			parent = getppid(), self = getpid();
			int bad = 0;
			for (int round = 0; round < 20; round++)
				bad += pass(0, self) + pass(copy, self);
			_exit(bad == 0 ? 7 : 1);
		}
		int status;
		good += waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7;
	}
	CHECK(good == 8);
}

static void changed_code(const char *before, size_t len)
{
	CHECK(mprotect(numbers, len, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	CHECK(memcmp(numbers, before, len) == 0);
	CHECK(pass(0, self) == 0);
	numbers[1] = SYS_getpid;
	CHECK(checked(numbers, 0, 0) == self);
	numbers[1] = SYS_getppid;
	CHECK(mprotect(numbers, len, PROT_READ | PROT_EXEC) == 0);
	int bad = 0;
	for (int i = 0; i < 100; i++)
		bad += pass(0, self);
	CHECK(bad == 0);
}

/* A copy of the code in a file of its own: used, moved, removed, there again. */
static void moved_code(const char *before, size_t len)
{
	char path[] = "/tmp/patchXXXXXX";
	int fd = mkstemp(path), bad = 0;
	unlink(path);
	CHECK(write(fd, before, len) == (ssize_t)len);
	for (int round = 0; round < 4; round++) {
		char *at = mmap(NULL, len, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
		for (int i = 0; i < 90; i++)
			bad += pass(at - numbers, self);
		char *room = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		char *moved = mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, room);
		bad += moved != room;
		for (int i = 0; i < 90; i++)
			bad += pass(moved - numbers, self);
		bad += munmap(moved, len) != 0;
	}
	char *written = malloc(len);
	CHECK(pread(fd, written, len, 0) == (ssize_t)len && bad == 0);
	CHECK(memcmp(written, before, len) == 0);
	free(written);
	close(fd);
}

/* Code of a file that nobody writes to, near the libraries. */
static void make_copy(const char *before, size_t len)
{
	char path[] = "/tmp/patchXXXXXX";
	int fd = mkstemp(path);
	unlink(path);
	CHECK(write(fd, before, len) == (ssize_t)len);
	char *at = mmap(NULL, len, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	CHECK(at != MAP_FAILED);
	copy = at - numbers;
	close(fd);
}

int main(void)
{
	size_t len = sites_end - numbers;
	char *before = malloc(len);
	memcpy(before, numbers, len);
	parent = getppid(), self = getpid();
	make_copy(before, len);
	note_code();
	sigaction(SIGUSR1, &(struct sigaction){.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART}, NULL);
	sigaction(SIGUSR2, &(struct sigaction){.sa_handler = on_pause}, NULL);
	signal(SIGTRAP, on_trap);
	begin_late();
	under_load();
	behind_the_call(before);
	end_late();
	restarted();
	in_children();
	changed_code(before, len);
	moved_code(before, len);
	__asm__ volatile("int3");
	CHECK(traps == 1);
	return DONE();
}
