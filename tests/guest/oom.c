/* When memory runs out, the process with the most of it dies, unless its oom_score_adj says otherwise; the others go on. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ul << 20)

static void touch(size_t bytes)
{
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        _exit(100);
    for (size_t i = 0; i < bytes; i += 4096)
        at[i] = 1;
}

static void adjust(const char *value)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    if (fd < 0 || write(fd, value, strlen(value)) != (ssize_t)strlen(value))
        _exit(101);
    close(fd);
}

/* A child that has `bytes` and then waits for ever. */
static pid_t sleeper(size_t bytes, const char *adjustment)
{
    int ready[2];
    if (pipe(ready) != 0)
        exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        adjust(adjustment);
        touch(bytes);
        if (write(ready[1], "x", 1) != 1)
            _exit(102);
        for (;;)
            pause();
    }
    char x;
    if (read(ready[0], &x, 1) != 1)
        exit(1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static const char *fate(pid_t pid, int options)
{
    int status = 0;
    pid_t got = waitpid(pid, &status, options);
    if (got == 0)
        return "lives";
    return got == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? "killed" : "ended";
}

int main(int argc, char **argv)
{
    size_t step = MIB * (size_t)(argc > 1 ? atoi(argv[1]) : 0);
    if (step == 0) {
        puts("usage: oom MIB: takes 3.75 times that, which must be more than there is; 2.75 times must not");
        return 2;
    }
    pid_t protected = sleeper(step * 3 / 2, "-1000");
    pid_t large = sleeper(step, "0");
    pid_t small = sleeper(step / 4, "0");
    touch(step / 2);
    /* This one does not fit. It is itself smaller than the large one, which therefore dies for it. */
    touch(step / 2);
    printf("large: %s\n", fate(large, 0));
    printf("protected: %s\n", fate(protected, WNOHANG));
    printf("small: %s\n", fate(small, WNOHANG));
    kill(protected, SIGKILL);
    kill(small, SIGKILL);
    return 0;
}
