/* Signals, deaths and new threads that come while a process executes a program: none is forgotten, nothing is left behind. */
#include "check.h"
#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define ROUNDS 60
/* How long something is waited for that hangs. */
#define PATIENCE_US 60000000

static char *self, spinner[] = "/tmp/exec_signals.XXXXXX";
static int gate[2];

static long now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}
/* Makes a program that computes from its first instruction on, for seconds, then exits with 9. */
static int make_spinner(void)
{
	static const struct {
		Elf64_Ehdr header;
		Elf64_Phdr segment;
		/* mov $2000000000, %rcx; dec %rcx; jne back; mov $9, %edi; mov $SYS_exit_group, %eax; syscall */
		uint8_t code[27];
	} file = {
		{
			.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = 0x400000 + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr),
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 1,
		},
		{.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_vaddr = 0x400000, .p_filesz = sizeof file, .p_memsz = sizeof file, .p_align = 4096},
		{0x48, 0xb9, 0x00, 0x94, 0x35, 0x77, 0, 0, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xfb, 0xbf, 9, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05},
	};
	int fd = mkstemp(spinner);
	return write(fd, &file, sizeof file) == sizeof file && fchmod(fd, 0700) == 0 && close(fd) == 0;
}
static int execute(const char *what)
{
	execl(self, self, what, NULL);
	return errno;
}
static int execute_spinner(void)
{
	execl(spinner, spinner, NULL);
	return errno;
}
/* Denser at the beginning. */
static long delay_us(int round)
{
	return 2L * round * round;
}
static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}
static void *end_at_once(void *unused)
{
	return unused;
}
static void *make_threads(void *unused)
{
	pthread_t t;
	for (;;)
		if (pthread_create(&t, NULL, end_at_once, NULL) == 0)
			pthread_join(t, NULL);
	return unused;
}
static void start(void *(*body)(void *), int count)
{
	pthread_t t;
	while (count-- > 0)
		pthread_create(&t, NULL, body, NULL);
}
/* Says that it is about to execute. */
static void ready(void)
{
	char byte = 0;
	if (write(gate[1], &byte, 1) != 1)
		_exit(8);
}
/* Starts `child` and sends it `signal` some time after it is ready: how it ends. */
static int interrupt(void (*child)(void), int signal, long after_us)
{
	char byte;
	int status = -1;
	pid_t pid = fork();
	if (pid == 0) {
		child();
		_exit(7);
	}
	if (read(gate[0], &byte, 1) == 1)
		for (long end = now_us() + after_us; now_us() < end;)
			;
	kill(pid, signal);
	return waitpid(pid, &status, 0) == pid ? status : -1;
}
static void spin(void)
{
	ready();
	execute_spinner();
}
static void spin_alone(void)
{
	start(wait_for_ever, 3);
	spin();
}

static int record_file, semaphore;
static void hold_things(void)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
	struct sembuf take = {.sem_num = 0, .sem_op = -1, .sem_flg = SEM_UNDO | IPC_NOWAIT};
	if (fcntl(record_file, F_SETLK, &lock) != 0 || semop(semaphore, &take, 1) != 0) {
		ready();
		_exit(6);
	}
	spin_alone();
}

/* How often the end was not by `signal`. */
static int ends_otherwise(void (*child)(void), int signal)
{
	int others = 0;
	for (int i = 0; i < ROUNDS; i++) {
		int status = interrupt(child, signal, delay_us(i));
		others += !WIFSIGNALED(status) || WTERMSIG(status) != signal;
	}
	return others;
}

static int leave_things_behind(void)
{
	int left = 0;
	for (int i = 0; i < ROUNDS; i++) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
		interrupt(hold_things, SIGKILL, delay_us(i));
		left += fcntl(record_file, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
		left += semctl(semaphore, 0, GETVAL) != 1;
	}
	return left;
}

/* Waits for a child that ends with 42, for so long as a hang takes. */
static int ends_well(pid_t pid)
{
	int status;
	for (long end = now_us() + PATIENCE_US; now_us() < end; sleep_ms(1))
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) && WEXITSTATUS(status) == 42;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return 0;
}
static int executed_among_new_threads(void)
{
	int done = 0;
	for (int i = 0; i < ROUNDS; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			start(make_threads, 3);
			usleep(delay_us(i));
			_exit(execute("quiet"));
		}
		done += ends_well(pid);
	}
	return done;
}

/* A signal that is pending for the thread is so in the new program. */
static int keep_pending(int by_thread)
{
	int status = -1;
	sigset_t set;
	pid_t pid = fork();
	if (pid == 0) {
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigaddset(&set, SIGRTMIN);
		sigprocmask(SIG_BLOCK, &set, NULL);
		if (by_thread)
			raise(SIGUSR1), raise(SIGRTMIN), raise(SIGRTMIN);
		else
			kill(getpid(), SIGUSR1), kill(getpid(), SIGRTMIN), kill(getpid(), SIGRTMIN);
		_exit(execute("pending"));
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
static int count_pending(void)
{
	int usr = 0, rt = 0;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN);
	for (struct timespec none = {0}; ;) {
		int signal = sigtimedwait(&set, NULL, &none);
		if (signal < 0)
			return usr * 10 + rt;
		usr += signal == SIGUSR1;
		rt += signal == SIGRTMIN;
	}
}
/* The alarm goes on. */
static int alarm_ends_it(void)
{
	int status = -1;
	pid_t pid = fork();
	if (pid == 0) {
		ualarm(1000, 0);
		_exit(execute_spinner());
	}
	return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "quiet") == 0)
		return 42;
	if (argc > 1 && strcmp(argv[1], "pending") == 0)
		return count_pending();
	char path[] = "/tmp/exec_signals.XXXXXX";
	self = realpath("/proc/self/exe", NULL);
	CHECK(self && pipe(gate) == 0 && make_spinner());
	CHECK((record_file = mkstemp(path)) >= 0 && unlink(path) == 0);
	CHECK((semaphore = semget(IPC_PRIVATE, 1, 0600)) >= 0 && semctl(semaphore, 0, SETVAL, 1) == 0);
	CHECK(keep_pending(1) == 12);
	CHECK(keep_pending(0) == 12);
	CHECK(alarm_ends_it());
	CHECK(ends_otherwise(spin, SIGTERM) == 0);
	CHECK(ends_otherwise(spin_alone, SIGTERM) == 0);
	CHECK(ends_otherwise(spin_alone, SIGKILL) == 0);
	CHECK(leave_things_behind() == 0);
	CHECK(executed_among_new_threads() == ROUNDS);
	CHECK(semctl(semaphore, 0, IPC_RMID) == 0 && unlink(spinner) == 0);
	return DONE();
}
