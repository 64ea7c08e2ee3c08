/*
 * `/init` of the Linux guest: runs the programs of /bench one after the other in the order of /bench/list, each in a process of its own with
 * as many seconds of guest time as the list says, then switches the machine off. The limits on threads, which would keep Linux out of a series, are lifted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void put(const char *path, const char *text)
{
	int file = open(path, O_WRONLY);
	if (file < 0 || write(file, text, strlen(text)) < 0)
		printf("linux_init: %s: %s\n", path, strerror(errno));
	close(file);
}

static void run(const char *name, int seconds)
{
	char path[128];
	sigset_t child_ended;
	int status = 0;
	snprintf(path, sizeof path, "/bench/%s", name);
	printf("BEGIN %s\n", name);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		sigemptyset(&child_ended);
		sigprocmask(SIG_SETMASK, &child_ended, NULL);
		execl(path, name, (char *)NULL);
		_exit(127);
	}
	sigemptyset(&child_ended);
	sigaddset(&child_ended, SIGCHLD);
	if (sigtimedwait(&child_ended, NULL, &(struct timespec){.tv_sec = seconds}) < 0)
		kill(child, SIGKILL);
	waitpid(child, &status, 0);
	printf("END %s %d\n", name, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	fflush(stdout);
}

int main(void)
{
	char name[64];
	int seconds;
	sigset_t child_ended;
	sigemptyset(&child_ended);
	sigaddset(&child_ended, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_ended, NULL);
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	put("/proc/sys/kernel/threads-max", "100000");
	put("/proc/sys/kernel/pid_max", "100000");
	FILE *list = fopen("/bench/list", "r");
	while (list && fscanf(list, "%63s %d", name, &seconds) == 2)
		run(name, seconds);
	printf("DONE\n");
	fflush(stdout);
	reboot(RB_POWER_OFF);
	return 0;
}
