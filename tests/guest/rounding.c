/* A new thread and a child start with their maker's rounding mode; a new program with the default one. */
#include <fenv.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *mode(void *unused)
{
	(void)unused;
	return (void *)(long)fegetround();
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		printf("after exec: %d\n", fegetround() == FE_TONEAREST);
		return 0;
	}
	fesetround(FE_UPWARD);
	pthread_t thread;
	void *found;
	pthread_create(&thread, NULL, mode, NULL);
	pthread_join(thread, &found);
	printf("thread: %d\n", (long)found == FE_UPWARD);
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		_exit(fegetround() == FE_UPWARD ? 5 : 1);
	int status;
	waitpid(pid, &status, 0);
	printf("child: %d\n", WEXITSTATUS(status));
	fflush(stdout);
	execl("/proc/self/exe", argv[0], "again", (char *)NULL);
	return 1;
}
