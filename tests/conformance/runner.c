/* Runs test programs, several at a time, below /tmp/runner.PID, and prints how each ended:
 *
 *     runner LIST SECONDS PARALLEL [local] [urgent] [by PROGRAM ARGUMENT...]
 *
 * LIST holds a line per program: a name, its path, its arguments. For each, a line `NAME begin 0`, and `NAME exit N`, `NAME signal N` or
 * `NAME timeout 0` when it has ended. Each runs in a session
 * and a directory of its own, with default signals and nothing to read; what it prints last is shown behind the line, or what a Rust program says
 * when it panics. With `local` the programs can make no sockets but those of AF_UNIX; with `urgent` the runner
 * itself goes before them at a real-time priority. With `by`, PROGRAM does all this, given LIST, SECONDS and PARALLEL behind its arguments. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16, LINE = 1024, TAIL = 400, MUCH = 16384, WORDS = 64 };

struct job {
	pid_t pid;
	time_t until;
	int late;
	char line[LINE], *words[WORDS], output[64];
};

static struct job jobs[MOST];

static time_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* The words of a line; how many. */
static int split(struct job *job)
{
	int n = 0;
	for (char *word = strtok(job->line, " \n"); word && n < WORDS - 1; word = strtok(NULL, " \n"))
		job->words[n++] = word;
	job->words[n] = NULL;
	return n;
}

static void default_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int signal = 1; signal < 65; signal++)
		(void)!sigaction(signal, &(struct sigaction) { .sa_handler = SIG_DFL }, NULL);
}

static void begin(struct job *job, int slot, int seconds)
{
	char where[32];
	snprintf(job->output, sizeof job->output, "out.%d", slot);
	snprintf(where, sizeof where, "dir.%d", slot);
	mkdir(where, 0777);
	job->late = 0;
	job->until = now() + seconds;
	printf("%s begin 0\n", job->words[0]);
	fflush(stdout);
	job->pid = fork();
	if (job->pid != 0)
		return;
	default_signals();
	setsid();
	int in = open("/dev/null", O_RDONLY), out = open(job->output, O_RDWR | O_CREAT | O_TRUNC, 0666);
	dup2(in, 0);
	dup2(out, 1);
	dup2(out, 2);
	for (int fd = 3; fd < 20; fd++)
		close(fd);
	(void)!chdir(where);
	execv(job->words[1], job->words + 1);
	_exit(127);
}

/* What a program said in the end: the message of a panic, or the last line. Cut to TAIL, without control characters. */
static void last_words(const char *name, char *text)
{
	static char buffer[MUCH];
	int fd = open(name, O_RDONLY);
	off_t size = lseek(fd, 0, SEEK_END);
	ssize_t n = pread(fd, buffer, sizeof buffer - 1, size > MUCH ? size - MUCH : 0);
	close(fd);
	buffer[n > 0 ? n : 0] = 0;
	while (n > 0 && (buffer[n - 1] == '\n' || buffer[n - 1] == '\r'))
		buffer[--n] = 0;
	char *words = strstr(buffer, "panicked at "), *line = strrchr(buffer, '\n');
	if (words) {
		char *end = strstr(words, "\nnote: ");
		if (end)
			*end = 0;
	} else {
		words = line ? line + 1 : buffer;
	}
	size_t length = strnlen(words, TAIL - 1);
	memcpy(text, words, length);
	text[length] = 0;
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
}

/* Sockets of other families than AF_UNIX are refused as by a kernel that has none, to this process and its children. */
static int only_local_sockets(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAFNOSUPPORT),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof code / sizeof code[0], .filter = code };
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void report(struct job *job, int status)
{
	char text[TAIL] = "";
	last_words(job->output, text);
	/* What it left running. */
	kill(-job->pid, SIGKILL);
	if (job->late)
		printf("%s timeout 0 %s\n", job->words[0], text);
	else if (WIFEXITED(status))
		printf("%s exit %d %s\n", job->words[0], WEXITSTATUS(status), text);
	else
		printf("%s signal %d %s\n", job->words[0], WTERMSIG(status), text);
	fflush(stdout);
	job->pid = 0;
}

/* Takes what has ended, and ends what is late; how many run on. */
static int look(int parallel)
{
	int running = 0, status;
	for (int slot = 0; slot < parallel; slot++) {
		struct job *job = &jobs[slot];
		if (job->pid && waitpid(job->pid, &status, WNOHANG) == job->pid)
			report(job, status);
		if (job->pid && now() >= job->until) {
			job->late = 1;
			kill(-job->pid, SIGKILL);
			kill(job->pid, SIGKILL);
		}
		running += job->pid != 0;
	}
	return running;
}

static struct job *free_slot(int parallel, int *slot)
{
	for (*slot = 0; *slot < parallel; ++*slot)
		if (!jobs[*slot].pid)
			return &jobs[*slot];
	return NULL;
}

static char **find(char **words, const char *word)
{
	while (*words && strcmp(*words, word))
		words++;
	return words;
}

static int has(char **words, const char *word)
{
	return *find(words, word) != NULL;
}

/* Becomes the program at `words`, with the list, the seconds and how many at a time. */
static int hand_over(char **words, char **list)
{
	char *all[WORDS];
	int n = 0;
	while (*words && n < WORDS - 4)
		all[n++] = *words++;
	for (int i = 0; i < 3; i++)
		all[n++] = list[i];
	all[n] = NULL;
	default_signals();
	execv(all[0], all);
	perror(all[0]);
	return 127;
}

int main(int argc, char **argv)
{
	if (argc < 4 || (has(argv + 4, "local") && only_local_sockets()))
		return 2;
	FILE *list = fopen(argv[1], "re");
	int seconds = atoi(argv[2]), parallel = atoi(argv[3]), more = 1, running = 0;
	if (!list || parallel < 1 || parallel > MOST)
		return 2;
	/* Programs that hog the processors at real-time priorities must not keep it from ending them; they do not inherit this. */
	struct sched_param most = { .sched_priority = sched_get_priority_max(SCHED_FIFO) };
	if (has(argv + 4, "urgent"))
		sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &most);
	char where[32];
	snprintf(where, sizeof where, "/tmp/runner.%d", getpid());
	if (mkdir(where, 0755) || chdir(where))
		return 2;
	char **by = find(argv + 4, "by");
	if (*by)
		return hand_over(by + 1, argv + 1);
	while (more || running) {
		int slot;
		struct job *job = more ? free_slot(parallel, &slot) : NULL;
		if (job) {
			more = fgets(job->line, LINE, list) != NULL;
			if (more && split(job) >= 2)
				begin(job, slot, seconds);
		} else {
			usleep(20000);
		}
		running = look(parallel);
	}
	printf("runner done\n");
	return 0;
}
