/* Talks to a terminal: `tty lines` echoes lines, `tty signals` reports signals, `tty raw` reads keys, `tty wait` waits, `tty continues` tells when it was continued. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static void size(void)
{
	struct winsize w;
	ioctl(0, TIOCGWINSZ, &w);
	printf("size %d %d\n", w.ws_row, w.ws_col);
}

static volatile sig_atomic_t got;
static void on_signal(int signal)
{
	got = signal;
}

static void on_continue(int signal)
{
	(void)signal;
	(void)!write(1, "continued\n", 10);
}

int main(int argc, char **argv)
{
	char line[200];
	const char *how = argc > 1 ? argv[1] : "lines";
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("isatty %d %d %d\n", isatty(0), isatty(1), isatty(2));
	size();
	printf("ready\n");
	if (!strcmp(how, "lines") || !strcmp(how, "continues")) {
		if (!strcmp(how, "continues")) {
			struct sigaction sa = { .sa_handler = on_continue, .sa_flags = SA_RESTART };
			sigaction(SIGCONT, &sa, NULL);
			printf("reading\n");
		}
		while (fgets(line, sizeof line, stdin)) {
			line[strcspn(line, "\n")] = 0;
			printf("got [%s]\n", line);
		}
		printf("end of file\n");
	} else if (!strcmp(how, "signals")) {
		struct sigaction sa = { .sa_handler = on_signal };
		sigset_t all, none;
		sigfillset(&all);
		sigemptyset(&none);
		sigprocmask(SIG_BLOCK, &all, NULL); /* delivered only while sigsuspend waits */
		sigaction(SIGINT, &sa, NULL);
		sigaction(SIGQUIT, &sa, NULL);
		sigaction(SIGWINCH, &sa, NULL);
		printf("handlers\n");
		for (int i = 0; i < 3; i++) {
			sigsuspend(&none);
			printf("signal %d\n", (int)got);
			if (got == SIGWINCH)
				size();
		}
	} else if (!strcmp(how, "raw")) {
		struct termios old, raw;
		tcgetattr(0, &old);
		raw = old;
		cfmakeraw(&raw);
		tcsetattr(0, TCSANOW, &raw);
		(void)!write(1, "raw\r\n", 5);
		for (int i = 0; i < 3; i++) {
			unsigned char c;
			if (read(0, &c, 1) == 1)
				dprintf(1, "key %d\r\n", c);
		}
		tcsetattr(0, TCSANOW, &old);
		printf("cooked\n");
	} else {
		for (;;)
			pause();
	}
	return 3;
}
